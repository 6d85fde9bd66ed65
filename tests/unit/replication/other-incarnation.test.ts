import { describe, expect, it } from 'vitest'
import { planEntity } from '../../../src/rem/plan.ts'
import { holderOf } from '../../../src/replication/placement.ts'
import type { Durability } from '../../../src/replication/replica.ts'
import { subjects } from '../../../src/stream/subjects.ts'
import { SimController } from '../../sim/cluster.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

/**
 * The directory, put back from a backup, lists n1 and n2 as holders and n2 as the home. n2 lost its disk meanwhile, could not reach n1, and made the tenant a second time: what it has on its disk is another incarnation. n1, which has the
 * tenant, is down yet.
 */
async function listedForAnother(options: { nodes: number }) {
  const small = await SmallCluster.start(options)
  const { cluster, tenant, world } = small
  expect(await small.settle(small.process('n1').replica.homes.handOver(tenant, 'n2'))).toBe(true)
  await world.run(1000)
  const { incarnation } = small.placement()
  const backup = [...cluster.log.bucket(subjects.clusterBucket).records.values()]
  for (const node of cluster.nodes) node.process!.kill()
  cluster.log.dropBucket(subjects.clusterBucket)
  for (const name of [...cluster.log.streams.keys()]) cluster.log.deleteStream(name)
  cluster.node('n2')!.loseDisk()
  cluster.node('n2')!.start()
  await world.run(15_000)
  await small.write('n2', 'second')
  const other = small.placement('n2').incarnation
  expect(other).not.toBe(incarnation)
  cluster.log.restoreBucket(subjects.clusterBucket, backup)
  await small.until('n2 knows', () => small.placement('n2').incarnation === incarnation)
  return { small, incarnation, other }
}

function startOthers({ cluster }: SmallCluster): void {
  for (const node of cluster.nodes) if (node.id !== 'n2') node.start()
}

const mine = (small: SmallCluster) => holderOf(small.placement('n2'), 'n2')?.state

/** A write that only the home may decide. */
async function decide(small: SmallCluster, node: string, durability: Durability) {
  const { tenant } = small
  const outcome = await small.settle(
    small.process(node).handle(
      {
        tenant,
        ref: { kind: 'entity', key: ['counter'] },
        write: (_, clock) => planEntity({ id: 'counter', properties: { node } }, clock),
        durability,
      },
      undefined,
    ),
  )
  return outcome.reached
}

describe('a node that the directory lists for a tenant of which it has another incarnation', () => {
  it('strikes itself off as holder and home, and another node takes its place; its database stays', async () => {
    const { small, other } = await listedForAnother({ nodes: 3 })
    startOthers(small)
    await small.until('it is struck off', () => mine(small) === undefined)
    expect(small.placement('n2').home).toBe(undefined)
    await small.hold('n3', 'joining')
    await small.until('n1 and n3 have copies', () => small.isCurrent('n1') && small.isCurrent('n3'))
    expect(await decide(small, 'n1', 'replicated')).toBe('replicated')
    expect(await small.read('n3', 'first')).toBeDefined()
    await small.world.run(30_000)
    expect([small.state('n2'), mine(small)]).toEqual(['verifying', undefined])
    expect(small.process('n2').replica.copies.reason(small.tenant)).toMatch(/it is kept, and not used/)
    expect(small.process('n2').replica.copies.others).toBe(1)
    expect(await small.open('n2', async open => open.identity.incarnation)).toBe(other)
    expect(await small.read('n2', 'second')).toBeDefined()
  })

  it('makes a copy when one is ordered, and sets its database aside for that, where it stays', async () => {
    const { small, incarnation, other } = await listedForAnother({ nodes: 2 })
    const { cluster, tenant } = small
    startOthers(small)
    new SimController(cluster, 'c9')
    await small.until('n2 has a copy of the tenant', () => small.isCurrent('n2'), 120_000)
    expect(await small.open('n2', async open => open.identity.incarnation)).toBe(incarnation)
    expect(await small.read('n2', 'first')).toBeDefined()
    expect(await small.read('n2', 'second')).toBeUndefined()
    expect([...cluster.node('n2')!.disk.others.keys()]).toEqual([`${tenant}.${other}`])
    expect(small.process('n2').replica.copies.others).toBe(0)
    expect(await decide(small, 'n2', 'replicated')).toBe('replicated')
  })

  it('stays listed as long as nobody else says that it has the tenant', async () => {
    const { small, other } = await listedForAnother({ nodes: 2 })
    const { directory } = small.process('n2').replica
    await small.world.run(60_000)
    expect([mine(small), small.placement('n2').home]).toEqual(['active', 'n2'])
    // Nor is room made for a copy that could be made of nothing.
    await small.settle(
      directory.update(small.tenant, now => ({
        ...now,
        holders: now.holders.map(holder => ({ ...holder, state: holder.node === 'n2' ? 'joining' : holder.state })),
      })),
    )
    await small.world.run(60_000)
    expect(await small.open('n2', async open => open.identity.incarnation)).toBe(other)
    startOthers(small)
    await small.until('n1 can be asked, and n2 makes its copy', () => small.isCurrent('n1') && small.isCurrent('n2'))
  })
})

it('a copy that was begun of another incarnation makes room for the one that is ordered, too', async () => {
  const small = await SmallCluster.start()
  const n3 = small.cluster.node('n3')!
  small.process('n3').kill()
  // What it remembers is from before a loss of the directory, and it can't look.
  const remembered = { ...small.placement(), incarnation: '0', version: 0, holders: [{ node: 'n3', state: 'joining' }] }
  n3.disk.notes.set(`placement.${small.tenant}`, JSON.stringify(remembered))
  n3.natsCut = true
  n3.start()
  await small.until('it wants a copy', () => small.state('n3') === 'joining')
  await small.settle(small.process('n3').pool.use(small.tenant, async () => {}, { create: true }))
  expect(await small.open('n3', async open => [open.isJoining, open.identity.incarnation])).toEqual([true, '0'])
  n3.natsCut = false
  await small.hold('n3', 'joining')
  await small.until('n3 has a copy', () => small.isCurrent('n3'), 120_000)
  expect(await small.read('n3', 'first')).toBeDefined()
  expect([...n3.disk.others.keys()]).toEqual([`${small.tenant}.0`])
})
