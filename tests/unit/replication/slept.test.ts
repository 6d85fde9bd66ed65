import { describe, expect, it } from 'vitest'
import type { ObjectStore } from '../../../src/objects/port.ts'
import { keys } from '../../../src/storage/keys.ts'
import { encodeCursorValue } from '../../../src/tenant/state.ts'
import { SimObjects } from '../../sim/objects.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

const STREAM_AGE_MS = 20_000
const WAIT_MS = 60_000

interface Slept {
  readonly holders?: 2 | 3
  readonly objects?: ObjectStore
  /** Whether its disk has how far it had read the stream. */
  readonly isNoted: boolean
}

/** n1, of two or three holders, went, and slept for longer than the stream keeps what the others wrote then; now it is alone. */
async function slept({ holders = 3, objects, isNoted }: Slept): Promise<SmallCluster> {
  const small = await SmallCluster.start({
    settings: { replicas: holders, syncMaxAgeMs: STREAM_AGE_MS, copiesWaitMs: WAIT_MS, gcIntervalMs: 1e9 },
    ...(objects ? { objects } : {}),
  })
  if (holders === 3) {
    await small.hold('n3', 'joining')
    await small.until('n3 is current', () => small.isCurrent('n3'))
  }
  await small.world.run(10_000)
  // Its position is written down when nothing has come for a while, and not fsynced: the disk may have it or not.
  await small.settle(small.process('n1').replica.follower.unfollow(small.tenant))
  const noted = await small.open('n1', async open => {
    const { cursor } = open
    const key = keys.meta('cursor')
    await open.change(async staging =>
      isNoted && cursor ? staging.put(key, encodeCursorValue(cursor)) : staging.del(key),
    )
    return cursor
  })
  expect(noted).toBeDefined()
  small.process('n1').kill()
  await small.settle(small.put('n2', 'missed'))
  await small.world.run(STREAM_AGE_MS * 2)
  if (holders === 3) expect(await small.read('n3', 'missed')).toBeDefined()
  if (objects) await small.settle(small.process('n2').replica.maintenance.snapshot(small.tenant))
  for (const node of ['n2', 'n3']) small.process(node).kill()
  small.cluster.node('n1')!.start()
  await small.world.run(5000)
  return small
}

const reason = (small: SmallCluster) => small.process('n1').replica.copies.reason(small.tenant)
const unvouched = (small: SmallCluster) => small.process('n1').replica.copies.counts.unvouched

describe.each([true, false])(
  'a copy that slept for longer than its stream keeps what others wrote (position noted: %s)',
  isNoted => {
    it('takes that from a stored snapshot, before it answers', async () => {
      const small = await slept({ isNoted, objects: new SimObjects() })
      expect(small.isCurrent('n1')).toBe(true)
      expect(await small.read('n1', 'missed')).toBeDefined()
      expect(unvouched(small)).toBe(0)
    })

    it('waits without one for another of those that have what is replicated', async () => {
      const small = await slept({ isNoted })
      expect(small.state('n1')).toBe('verifying')
      expect(reason(small)).toMatch(/n[23] and n[23] can't be asked/)
      small.cluster.node('n3')!.start()
      await small.until('it answers', () => small.isCurrent('n1'), WAIT_MS / 2)
      expect(await small.read('n1', 'missed')).toBeDefined()
      expect(unvouched(small)).toBe(0)
    })

    it('waits after a restart still, though it has read what the stream has left', async () => {
      const small = await slept({ isNoted })
      await small.world.run(15_000)
      expect(await small.open('n1', async open => open.cursor !== undefined)).toBe(true)
      small.process('n1').kill()
      small.cluster.node('n1')!.start()
      await small.world.run(5000)
      expect(small.state('n1')).toBe('verifying')
    })

    it('answers with what it has when nobody comes, says so, and gets the rest when they do', async () => {
      const small = await slept({ isNoted })
      expect(small.state('n1')).toBe('verifying')
      await small.until('it answers', () => small.isCurrent('n1'), WAIT_MS * 2)
      expect(await small.read('n1', 'first')).toBeDefined()
      expect(await small.read('n1', 'missed')).toBeUndefined()
      expect(unvouched(small)).toBe(1)
      small.cluster.node('n2')!.start()
      await small.world.run(30_000)
      expect(await small.read('n1', 'missed')).toBeDefined()
    })

    it('has itself all that is replicated, when there is one other holder', async () => {
      const small = await slept({ isNoted, holders: 2 })
      expect(small.isCurrent('n1')).toBe(true)
      expect(unvouched(small)).toBe(0)
    })
  },
)
