import { expect, it } from 'vitest'
import { TIMES } from '../../sim/cluster.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

const left = (small: SmallCluster, node: string) => small.process(node).replica.firstCopies.left()
const restarted = async (small: SmallCluster, node: string) => {
  small.cluster.node(node)!.start()
  await small.until('it has joined', () => small.process(node).replica.state === 'ready')
}

it('a node that starts says which of its copies cannot be used yet, until each could be once', async () => {
  const small = await SmallCluster.start()
  const n2 = small.cluster.node('n2')!
  n2.process!.kill()
  n2.disk.databases.clear()
  small.cluster.cuts.add('n1|n2')
  await restarted(small, 'n2')
  await small.world.run(10_000)
  // It takes requests, for which others answer.
  expect([small.state('n2'), left(small, 'n2')]).toEqual(['joining', 1])
  small.cluster.cuts.clear()
  await small.until('its copy is back', () => small.isCurrent('n2'))
  expect(left(small, 'n2')).toBe(0)
  // A copy that is ordered later is no reason to stop a rolling update.
  small.cluster.cuts.add('n3|n1')
  small.cluster.cuts.add('n3|n2')
  expect(left(small, 'n3')).toBe(0)
  await small.hold('n3', 'joining')
  await small.world.run(5000)
  expect([small.state('n3'), left(small, 'n3')]).toEqual(['joining', 0])
})

it('one that was on disk counts while it is being checked, but not for ever', async () => {
  const small = await SmallCluster.start()
  // As a copy of an earlier life of the tenant: it is kept, and never used by a process that knew of the later one when it looked.
  await small.settle(
    small.process('n1').replica.directory.update(small.tenant, current => ({ ...current, incarnation: 'another' })),
  )
  await small.until(
    'n2 knows',
    () => small.process('n2').replica.directory.placement(small.tenant)?.incarnation === 'another',
  )
  small.cluster.node('n2')!.process!.kill()
  await restarted(small, 'n2')
  await small.world.run(60_000)
  expect([small.state('n2'), left(small, 'n2')]).toEqual(['verifying', 1])
  await small.world.run(TIMES.copiesWaitMs)
  expect([small.state('n2'), left(small, 'n2')]).toEqual(['verifying', 0])
})
