import { describe, expect, it } from 'vitest'
import { planEntity } from '../../../src/rem/plan.ts'
import type { ReplicaSettings } from '../../../src/replication/replica.ts'
import { decodeEntry, encodeEntry } from '../../../src/storage/codec.ts'
import { SimObjects } from '../../sim/objects.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

/** Two nodes with a tenant whose home is n1, and an object store. */
const start = (settings: Partial<ReplicaSettings> = {}) =>
  SmallCluster.start({ objects: new SimObjects(), settings: { tombstoneMs: 1e9, ...settings } })

function entry(small: SmallCluster, sequence: number): Buffer {
  const { incarnation } = small.process('n1').replica.directory.placement(small.tenant)!
  const ops = planEntity({ id: `late${sequence}` }, { wall: 1, counter: sequence, origin: 'gone.d' })
  return encodeEntry({ tenant: small.tenant, incarnation, origin: 'gone.d', sequence, ops })
}

const setAside = (small: SmallCluster, node: string, sequences: readonly number[]) =>
  small.settle(
    small.process(node).replica.service.keepLate(
      small.tenant,
      sequences.map(n => entry(small, n)),
    ),
  )

const lateOn = async (small: SmallCluster, node: string): Promise<number[]> =>
  (await small.settle(small.process(node).replica.service.late(small.tenant))).map(bytes => decodeEntry(bytes).sequence)

const store = (small: SmallCluster, node: string) =>
  small.settle(small.process(node).replica.maintenance.snapshot(small.tenant))

async function loseDisks(small: SmallCluster): Promise<void> {
  for (const id of ['n1', 'n2']) small.cluster.node(id)!.process?.kill()
  for (const id of ['n1', 'n2']) small.cluster.node(id)!.loseDisk()
  await small.world.run(1000)
  for (const id of ['n1', 'n2']) small.cluster.node(id)!.start()
  await small.until('n1 is current', () => small.isCurrent('n1'))
}

describe('late writes that were set aside', () => {
  it('are listed after every disk was lost, but for those that were decided', async () => {
    const small = await start()
    await setAside(small, 'n1', [1, 2, 3])
    expect((await store(small, 'n1'))?.late).toEqual({ 'gone.d': [[1, 3]] })
    expect(await store(small, 'n1'), 'nothing has changed').toBeUndefined()
    await small.settle(small.process('n1').replica.service.dismissLate(small.tenant, 'gone.d', 2))
    expect((await store(small, 'n1'))?.late).toEqual({
      'gone.d': [
        [1, 1],
        [3, 3],
      ],
    })
    await loseDisks(small)
    expect(await lateOn(small, 'n1')).toEqual([1, 3])
  })

  it('are stored by the home, also those of another copy', async () => {
    const small = await start({ snapshotIntervalMs: 3000 })
    await setAside(small, 'n2', [1, 2])
    await small.world.run(15_000)
    expect(await lateOn(small, 'n1')).toEqual([1, 2])
    const { snapshots } = small.process('n1').replica.maintenance.counts
    await small.world.run(30_000)
    expect(small.process('n1').replica.maintenance.counts.snapshots, 'no more of them').toBe(snapshots)
    await loseDisks(small)
    expect(await lateOn(small, 'n1')).toEqual([1, 2])
  })
})
