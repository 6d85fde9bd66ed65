import { expect, it } from 'vitest'
import { subjects } from '../../../src/stream/subjects.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

it('two placements of one version, from two lives of the directory, become one that every node has', async () => {
  const small = await SmallCluster.start()
  const { cluster, tenant, world } = small
  const nodes = cluster.nodes.map(({ id }) => id)
  const cut = (names: readonly string[]) => {
    for (const node of cluster.nodes) node.natsCut = names.includes(node.id)
  }
  cut(['n2', 'n3'])
  const changed = await small.settle(
    small.process('n1').replica.directory.update(tenant, current => ({ ...current, home: 'n2' })),
  )
  cut(nodes)
  cluster.log.dropBucket(subjects.clusterBucket)
  // Who missed that puts back what it knows, with the next version, which is the one that n1 has seen before.
  cut(['n1', 'n3'])
  await small.until('n2 puts it back', () => small.placement('n2').version === changed!.version)
  expect(small.placement('n2').home).toBe('n1')
  cut([])
  await world.run(15_000)
  const [first, ...others] = nodes.map(node => small.placement(node))
  for (const other of others) expect(other).toEqual(first)
  expect(first!.version).toBeGreaterThan(changed!.version)
})
