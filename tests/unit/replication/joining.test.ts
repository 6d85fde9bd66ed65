import { describe, expect, it } from 'vitest'
import { parseTenantId, type TenantId } from '../../../src/base/ids.ts'
import { Slicer } from '../../../src/base/slice.ts'
import { planEntity } from '../../../src/rem/plan.ts'
import type { Placement } from '../../../src/replication/placement.ts'
import { SimCluster, TIMES } from '../../sim/cluster.ts'
import { World } from '../../sim/world.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

/** Nodes of a simulated cluster that have joined. */
async function clusterOf(count: number): Promise<SimCluster> {
  // Simulated time does not wait for turns of the event loop.
  Slicer.sliceMs = Number.POSITIVE_INFINITY
  const world = new World(1)
  const cluster = new SimCluster(world, count)
  for (const node of cluster.nodes) node.start()
  await world.run(3500)
  return cluster
}

const replicaOf = (cluster: SimCluster, id: string) => cluster.node(id)!.process!.replica
const settled = async <T>(cluster: SimCluster, work: Promise<T>): Promise<T> => {
  const outcome = await cluster.world.settle(work, 20_000)
  if (outcome && 'value' in outcome) return outcome.value
  throw outcome?.error ?? new Error('it did not end')
}
const states = (cluster: SimCluster, tenant: TenantId) =>
  cluster.nodes.map(({ process }) => process?.replica.copies.state(tenant)).sort()

/** A placement whose only whole copy is on a node that nobody has seen. */
const hopeless = (n: number): Placement => ({
  tenant: parseTenantId(`hopeless-${n}`),
  incarnation: '0001',
  tier: 'small',
  holders: [
    { node: 'lost', state: 'active' },
    { node: 'n2', state: 'joining' },
  ],
  home: 'lost',
  epoch: 1,
  version: 1,
  changedAtMs: 0,
})

const write = (cluster: SimCluster, tenant: TenantId) =>
  cluster
    .node('n1')!
    .process!.handle(
      { tenant, ref: { kind: 'entity', key: ['e'] }, write: (_, clock) => planEntity({ id: 'e', type: 't' }, clock) },
      undefined,
    )

describe('a copy that is to be made', () => {
  it('of a tenant that was entered and never written is an empty one: its maker says that it has nothing', async () => {
    const cluster = await clusterOf(2)
    const tenant = parseTenantId('new')
    expect(await settled(cluster, replicaOf(cluster, 'n1').router.enter(tenant))).toBe(true)
    await cluster.world.run(3000)
    expect(states(cluster, tenant)).toEqual(['current', 'current'])
  })

  it('is an empty one also when the maker died before it wrote, whether it comes back or not', async () => {
    for (const isBack of [true, false]) {
      const cluster = await clusterOf(3)
      const tenant = parseTenantId('new')
      await settled(cluster, replicaOf(cluster, 'n1').router.enter(tenant))
      cluster.node('n1')!.process!.kill()
      await cluster.world.run(1000)
      if (isBack) cluster.node('n1')!.start()
      await cluster.world.run(60_000)
      expect(states(cluster, tenant).filter(state => state === 'current')).toHaveLength(2)
    }
  })

  it('and can never be is tried ever more seldom, at once when something changes, and others do not wait for it', async () => {
    const cluster = await clusterOf(2)
    const { world } = cluster
    const n2 = replicaOf(cluster, 'n2')
    for (let n = 0; n < 500; n++)
      void replicaOf(cluster, 'n1')
        .directory.create(hopeless(n))
        .catch(() => {})
    await world.run(60_000)
    expect(n2.copies.count('joining')).toBe(500)
    const before = n2.copies.counts.attempts
    await world.run(60_000)
    // By then each waits 32 times as long as at first, when there would have been 100,000.
    expect(n2.copies.counts.attempts - before).toBeLessThan(500 * (60_000 / (32 * TIMES.copyRetryMs) + 1))

    const real = parseTenantId('real')
    await settled(cluster, write(cluster, real))
    await world.run(1000)
    expect(states(cluster, real)).toEqual(['current', 'current'])

    // The directory says that there is nobody else any more: the first of them can be made.
    await settled(
      cluster,
      n2.directory.update(hopeless(0).tenant, current => ({
        ...current,
        holders: current.holders.filter(({ node }) => node === 'n2'),
        home: undefined,
      })),
    )
    await world.run(1000)
    expect(n2.copies.state(hopeless(0).tenant)).toBe('current')
  })
})

it('a copy is not judged by what its source says of another incarnation, of which it has a copy by the time that it is asked', async () => {
  const small = await SmallCluster.start({ settings: { antiEntropyMs: 1e9 } })
  let isOther = false
  for (const node of ['n1', 'n2']) {
    const { service } = small.process(node).replica
    const [transfer, status] = [service.transfer.bind(service), service.status.bind(service)]
    service.transfer = (...args) => {
      isOther = true
      return transfer(...args)
    }
    service.status = async tenant => {
      const own = await status(tenant)
      if (!own || !isOther) return own
      isOther = false
      const clock = { wall: small.process(node).time.now(), counter: 0, origin: 'floor' }
      return { ...own, incarnation: '000000000002-0000000000000000', floor: { clock, vector: new Map([['x.d', 9]]) } }
    }
  }
  await small.hold('n3', 'joining')
  await small.until('n3 is current', () => small.isCurrent('n3'))
  const { counts } = small.process('n3').replica.copies
  expect([isOther, counts.wiped, counts.joined]).toEqual([false, 0, 1])
})
