import { expect, it } from 'vitest'
import { activeHolders } from '../../../src/replication/placement.ts'
import { SimController } from '../../sim/cluster.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

it('a copy that was made where requests enter is not the one too many before the home could follow it', async () => {
  const small = await SmallCluster.start()
  const copies = () => activeHolders(small.placement()).map(({ node }) => node)
  new SimController(small.cluster, 'c9')
  await small.world.run(3000)
  await small.hold('n3', 'joining')
  await small.until('n3 is current', () => small.isCurrent('n3'))
  await small.world.run(2500)
  expect(copies()).toHaveLength(3)
  await small.until('one copy too many goes', () => copies().length === 2)
})
