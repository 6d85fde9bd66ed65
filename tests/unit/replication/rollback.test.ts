import { expect, it } from 'vitest'
import { planEntity } from '../../../src/rem/plan.ts'
import { encodeEntry } from '../../../src/storage/codec.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

const originOf = (small: SmallCluster, node: string) => small.open(node, async open => open.origin)

/** An entry that the old disk of a node wrote, and its disk of now has not, comes to another holder by no stream, and cannot be applied there. */
async function tell(small: SmallCluster, to: string, origin: string, sequence: number): Promise<void> {
  const { incarnation } = small.placement()
  const clock = { wall: small.process(to).time.now(), counter: 0, origin }
  const ops = planEntity({ id: `old ${sequence}`, properties: {} }, clock)
  const bytes = encodeEntry({ tenant: small.tenant, incarnation, origin, sequence, ops })
  expect(await small.open(to, open => small.process(to).replica.applier.offer(open, bytes))).toBe('waiting')
}

async function restart(small: SmallCluster, node: string): Promise<void> {
  small.cluster.node(node)!.process!.kill()
  await small.world.run(500)
  small.cluster.node(node)!.start()
  await small.until(`${node} is current again`, () => small.isCurrent(node))
}

it('a node that starts as it was, with all others there, keeps its origin', async () => {
  const small = await SmallCluster.start()
  const before = await originOf(small, 'n1')
  await restart(small, 'n1')
  expect(await originOf(small, 'n1')).toBe(before)
})

it('a disk that went back in time takes a new origin also when what it wrote before only waits in another copy', async () => {
  const small = await SmallCluster.start()
  const before = await originOf(small, 'n1')
  const own = (await small.open('n1', async open => open.state.sequence))!
  await tell(small, 'n2', before!, own + 2)
  await restart(small, 'n1')
  expect(await originOf(small, 'n1')).not.toBe(before)
})

it('and when another copy has only got records of what it wrote, ahead of the entries', async () => {
  const small = await SmallCluster.start()
  const before = await originOf(small, 'n1')
  const own = (await small.open('n1', async open => open.state.sequence))!
  await small.open('n2', open => open.merge([], new Map([[before!, own + 2]])))
  await restart(small, 'n1')
  expect(await originOf(small, 'n1')).not.toBe(before)
})

it('a node takes a new origin when a copy is being made that may have been told of more', async () => {
  const small = await SmallCluster.start()
  const before = await originOf(small, 'n1')
  small.cluster.cuts.add('n1|n3')
  small.cluster.cuts.add('n2|n3')
  await small.hold('n3', 'joining')
  await restart(small, 'n1')
  expect(await originOf(small, 'n1')).not.toBe(before)
})
