import { describe, expect, it } from 'vitest'
import { planEntity } from '../../../src/rem/plan.ts'
import { encodeEntry } from '../../../src/storage/codec.ts'
import { subjects } from '../../../src/stream/subjects.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

const ENTRIES = 5

/** Entries of an origin that is nowhere, in the stream, and in no copy: the nodes that have one can't read it now. */
async function unread(): Promise<SmallCluster> {
  const small = await SmallCluster.start()
  const { tenant, cluster } = small
  const { incarnation } = small.placement()
  for (const node of ['n1', 'n2']) cluster.node(node)!.natsCut = true
  for (let sequence = 1; sequence <= ENTRIES; sequence++) {
    const clock = { wall: small.process('n1').time.now(), counter: sequence, origin: 'gone.d1' }
    const ops = planEntity({ id: `e${sequence}`, properties: { n: sequence } }, clock)
    const data = encodeEntry({ tenant, incarnation, origin: 'gone.d1', sequence, ops })
    cluster.log.publish(subjects.syncOps(tenant), data, `${tenant}.${sequence}`)
  }
  return small
}

const join = (small: SmallCluster, node: string) =>
  small.settle(
    small.process(node).replica.directory.update(small.tenant, current => ({
      ...current,
      holders: [...current.holders.filter(holder => holder.node !== node), { node, state: 'joining' }],
    })),
  )
const vectorOf = (small: SmallCluster, node: string) => small.open(node, async open => open.vector.get('gone.d1'))

describe('what a node has read of a stream', () => {
  it('is nothing while it has no copy, and a copy that is made then begins with the first entry', async () => {
    const small = await unread()
    const { follower } = small.process('n3').replica
    // As whoever looked for something that the copy before this one lacked.
    expect(await small.settle(follower.readToEnd(small.tenant))).toBe(false)
    expect(follower.consumers).toBe(0)
    await join(small, 'n3')
    await small.until('n3 is current', () => small.isCurrent('n3'))
    expect(await vectorOf(small, 'n3')).toBe(ENTRIES)
  })

  it('goes with the copy, also when its reader is told to go on at that moment', async () => {
    const small = await unread()
    const { replica, pool } = small.process('n3')
    await join(small, 'n3')
    await small.until('n3 is current', () => small.isCurrent('n3'))
    const stream = small.cluster.log.streams.get(subjects.syncStream(small.tenant))!
    const hasRead = () => replica.follower.hasRead(small.tenant, stream.incarnation, stream.lastSequence)
    expect(hasRead()).toBe(true)
    replica.follower.forget(small.tenant)
    expect(hasRead()).toBe(false)
    // Its reader may write down how far it got when it ends; not in a copy that has come since.
    await small.world.run(100)
    expect((await small.settle(pool.use(small.tenant, async open => open.cursor)))?.sequence ?? 0).toBe(0)
    expect(await small.settle(replica.follower.readToEnd(small.tenant))).toBe(true)
    expect(hasRead()).toBe(true)
  })

  it('ends where the stream does, also when what was not read of it is gone, and that is had from another copy', async () => {
    const small = await SmallCluster.start({
      settings: { syncMaxAgeMs: 5000, consumerIdleMs: 1e9, antiEntropyMs: 1e9, gcIntervalMs: 1e9 },
    })
    const n2 = small.cluster.node('n2')!
    n2.natsCut = true
    await small.settle(small.put('n1', 'missed'))
    await small.world.run(10_000)
    const stream = small.cluster.log.streams.get(subjects.syncStream(small.tenant))!
    expect(stream.info().messages).toBe(0)
    n2.natsCut = false
    const { follower } = small.process('n2').replica
    expect(follower.consumers).toBe(1)
    // Nothing comes any more that would wake its reader.
    expect(await small.settle(follower.readToEnd(small.tenant, 10_000))).toBe(true)
    await small.world.run(5000)
    expect(await small.read('n2', 'missed')).toBeDefined()
  })
})
