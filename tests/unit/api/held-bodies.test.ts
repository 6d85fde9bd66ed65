import { describe, expect, it } from 'vitest'
import { HeldBodies, SMALL_BODY_BYTES } from '../../../src/api/held-bodies.ts'

const LARGE = SMALL_BODY_BYTES + 1

describe('the bodies that a node holds', () => {
  it('are bounded together, but one alone and small ones are taken', () => {
    const bodies = new HeldBodies(2 * LARGE)
    const huge = bodies.hold(10 * LARGE)
    expect(() => bodies.hold(LARGE)).toThrow(/PERCOLATE_HELD_BODY_BYTES_MAX/)
    const small = bodies.hold(SMALL_BODY_BYTES)
    huge()
    huge()
    expect([bodies.bytes, bodies.refused]).toEqual([SMALL_BODY_BYTES, 1])
    small()
    const both = [bodies.hold(LARGE), bodies.hold(LARGE)]
    expect(() => bodies.hold(LARGE)).toThrow(expect.objectContaining({ code: 'TOO_BUSY', retryAfterS: 1 }))
    both[0]!()
    bodies.hold(LARGE)()
    both[1]!()
    expect([bodies.bytes, bodies.refused]).toEqual([0, 2])
  })
})
