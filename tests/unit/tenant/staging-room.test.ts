import { describe, expect, it } from 'vitest'
import { LARGE_BATCH_TEXT_BYTES } from '../../../src/base/limits.ts'
import { StagingRoom } from '../../../src/tenant/staging-room.ts'

const LARGE = LARGE_BATCH_TEXT_BYTES + 1

/** Enters, and tells when it has been let in. */
function enter(room: StagingRoom, bytes: number) {
  const visit = { isIn: false, leave: () => {} }
  const entered = room.enter(bytes).then(leave => {
    visit.isIn = true
    visit.leave = leave ?? (() => {})
  })
  return { visit, entered }
}

/** Lets whoever may go in do so. */
const settle = () => new Promise<void>(resolve => setImmediate(resolve))

describe('the room in which large batches are made', () => {
  it('holds no more text than its bound, and lets those in that wait as it is left', async () => {
    const room = new StagingRoom(2 * LARGE)
    const visits = [1, 2, 3, 4].map(() => enter(room, LARGE).visit)
    await settle()
    expect(visits.map(({ isIn }) => isIn)).toEqual([true, true, false, false])
    expect([room.waiting, room.heldBytes]).toEqual([2, 2 * LARGE])
    visits[1]!.leave()
    await settle()
    expect(visits.map(({ isIn }) => isIn)).toEqual([true, true, true, false])
    visits[0]!.leave()
    visits[2]!.leave()
    await settle()
    expect([visits[3]!.isIn, room.waiting, room.heldBytes]).toEqual([true, 0, LARGE])
  })

  it('is entered in the order of coming: what would fit passes nobody that waits for more', async () => {
    const room = new StagingRoom(3 * LARGE)
    const [first, second] = [enter(room, LARGE).visit, enter(room, LARGE).visit]
    const wide = enter(room, 3 * LARGE).visit
    const narrow = enter(room, LARGE).visit
    await settle()
    first.leave()
    await settle()
    expect([wide.isIn, narrow.isIn]).toEqual([false, false])
    second.leave()
    await settle()
    expect([wide.isIn, narrow.isIn]).toEqual([true, false])
    wide.leave()
    await settle()
    expect(narrow.isIn).toBe(true)
  })

  it('takes one that is larger than all of it, alone, and lets small ones pass', async () => {
    const room = new StagingRoom(2 * LARGE)
    const huge = enter(room, 10 * LARGE).visit
    const large = enter(room, LARGE).visit
    const small = enter(room, LARGE_BATCH_TEXT_BYTES).visit
    await settle()
    expect([huge.isIn, large.isIn, small.isIn]).toEqual([true, false, true])
    huge.leave()
    await settle()
    expect(large.isIn).toBe(true)
  })
})
