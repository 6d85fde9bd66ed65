import { expect, it } from 'vitest'
import { PercolateError } from '../../../src/base/errors.ts'
import { parseTenantId } from '../../../src/base/ids.ts'
import { subjects } from '../../../src/stream/subjects.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

/** All servers lose the directory, and every node is stopped; `names` lose their disks too. */
function loseDirectory({ cluster }: SmallCluster, names: readonly string[]): void {
  for (const node of cluster.nodes) node.process!.kill()
  cluster.log.dropBucket(subjects.clusterBucket)
  for (const name of names) cluster.node(name)!.loseDisk()
}

const stateOf = (small: SmallCluster, node: string) => small.process(node).replica.state

it('a copy that can never be used holds up nobody: the directory knows its tenant, and that is all its node has to report', async () => {
  const small = await SmallCluster.start()
  const { cluster, world } = small
  loseDirectory(small, ['n2', 'n3'])
  for (const name of ['n2', 'n3']) cluster.node(name)!.start()
  await world.run(15_000)
  await small.write('n2', 'second')
  cluster.node('n1')!.start()
  await small.until('n1 finds out', () =>
    /it is kept, and not used/.test(small.process('n1').replica.copies.reason(small.tenant)),
  )
  for (const name of ['n2', 'n3']) {
    small.process(name).kill()
    await world.run(3000)
    cluster.node(name)!.start()
    await small.until(`${name} is ready`, () => stateOf(small, name) === 'ready')
  }
  expect(small.process('n3').replica.directory.cluster!.generation).toBe(2)
  expect(cluster.nodes.map(({ id }) => stateOf(small, id))).toEqual(['ready', 'ready', 'ready'])
  expect(small.state('n1')).toBe('verifying')
  // Also on n1 itself, which answers for nothing of the tenant whose other incarnation it has.
  for (const { id } of cluster.nodes)
    expect(await small.settle(small.process(id).replica.router.enter(parseTenantId(`new-${id}`)))).toBe(true)
  await expect(small.write('n1', 'third')).rejects.toMatchObject({ code: 'TENANT_UNAVAILABLE' })
})

it('a node has reported only when what it knows is in the directory: until then a tenant that is not found there may exist', async () => {
  const small = await SmallCluster.start()
  const { cluster, world } = small
  const { incarnation } = small.placement()
  loseDirectory(small, ['n2', 'n3'])
  // Everything is written but what n1 puts back.
  const write = cluster.log.write.bind(cluster.log)
  let isRefused = true
  cluster.log.write = (name, key, value) => {
    if (isRefused && key === subjects.tenantKey(small.tenant))
      throw new PercolateError('STREAM_UNAVAILABLE', 'The servers take their time.')
    return write(name, key, value)
  }
  for (const name of ['n1', 'n2']) cluster.node(name)!.start()
  await world.run(30_000)
  const { router, directory } = small.process('n2').replica
  const { member, isLive } = directory.members().find(other => other.member.node === 'n1')!
  expect([isLive, member.reported, directory.isComplete]).toEqual([true, 0, false])
  await expect(small.settle(router.enter(small.tenant))).rejects.toMatchObject({ code: 'PLACEMENT_UNKNOWN' })
  isRefused = false
  await small.until('n2 knows', () => directory.isComplete)
  expect(small.placement('n2').incarnation).toBe(incarnation)
})

it('nor before its disk was read: a copy that no directory tells of is entered first', async () => {
  const small = await SmallCluster.start()
  const { cluster, tenant, world } = small
  const { incarnation } = small.placement()
  loseDirectory(small, ['n2', 'n3'])
  const n1 = cluster.node('n1')!
  n1.disk.notes.delete(`placement.${tenant}`)
  for (const name of ['n1', 'n2']) cluster.node(name)!.start()
  const { pool, replica } = small.process('n1')
  const use = pool.use.bind(pool)
  let isUnreadable = true
  pool.use = async (...args) => {
    if (isUnreadable) throw new Error('EIO')
    return use(...args)
  }
  await world.run(30_000)
  const { directory } = small.process('n2').replica
  expect([replica.copies.unreported, directory.isComplete, directory.unreported]).toEqual([1, false, ['n1']])
  isUnreadable = false
  await small.until('n2 knows', () => directory.isComplete)
  expect([replica.copies.unreported, small.placement('n2').incarnation]).toEqual([0, incarnation])
})
