import { describe, expect, it } from 'vitest'
import type { Clock } from '../../../src/clock/hlc.ts'
import type { VersionVector } from '../../../src/clock/vector.ts'
import { planFloor } from '../../../src/rem/floor.ts'
import { planEntity } from '../../../src/rem/plan.ts'
import type { CopyStatus } from '../../../src/replication/peer.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

/** n1, the home, whose writes reach the others, and of which nothing is acknowledged: as far as it knows they wait to be published still. */
async function unacknowledged(): Promise<SmallCluster> {
  const small = await SmallCluster.start({ settings: { gcIntervalMs: 1e9 } })
  await small.until('all is published', () => !small.process('n1').replica.publisher.isBusy)
  small.cluster.natsDown = true
  return small
}

const floorNow = (small: SmallCluster): Clock => ({
  wall: small.process('n1').time.now(),
  counter: 0,
  origin: 'floor',
})

async function isBelow(small: SmallCluster, clock: Clock, vector: VersionVector): Promise<boolean> {
  const { service, reconciler } = small.process('n1').replica
  const status = await small.settle(service.status(small.tenant))
  const theirs: CopyStatus = { ...status!, node: 'n2', floor: { clock, vector } }
  return small.settle(reconciler.isBelowFloor(small.tenant, [theirs]))
}

describe('a copy whose writes are not acknowledged, and another one with a floor', () => {
  it('is not below the floor that it wrote itself, and that came there before its acknowledgement came here', async () => {
    const small = await unacknowledged()
    const clock = floorNow(small)
    await small.world.run(1000)
    const vector = await small.open('n1', async open => {
      const everything = new Map(open.vector)
      await open.write(() => ({ ops: [planFloor({ clock, vector: everything })], result: undefined }))
      return everything
    })
    expect(await small.open('n1', async open => open.outbox.entries)).toBe(1)
    expect(await isBelow(small, clock, vector!)).toBe(false)
  })

  it('is below a floor that passed by a write of it that the others do not know', async () => {
    const small = await unacknowledged()
    const vector = await small.open('n1', async open => new Map(open.vector))
    // Also when a floor waits to be published before it.
    const clock = floorNow(small)
    await small.open('n1', open =>
      open.write(() => ({ ops: [planFloor({ clock, vector: vector! })], result: undefined })),
    )
    await small.open('n1', open =>
      open.write(({ clock }) => ({ ops: planEntity({ id: 'late', properties: {} }, clock), result: undefined })),
    )
    await small.world.run(1000)
    expect(await isBelow(small, floorNow(small), vector!)).toBe(true)
  })
})
