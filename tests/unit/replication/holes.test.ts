import { describe, expect, it } from 'vitest'
import { planEntity } from '../../../src/rem/plan.ts'
import { encodeEntry } from '../../../src/storage/codec.ts'
import { subjects } from '../../../src/stream/subjects.ts'
import { TIMES } from '../../sim/cluster.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

/** Entries of an origin that is nowhere any more, published straight into the stream. */
async function publish(small: SmallCluster, from: number, to: number, tenant = small.tenant): Promise<void> {
  const { replica } = small.process('n1')
  const { incarnation } = replica.directory.placement(tenant)!
  const isPooled = small.cluster.settings.syncStreams !== 'per-tenant'
  const subject = isPooled ? subjects.poolOps(0, tenant) : subjects.syncOps(tenant)
  for (let sequence = from; sequence <= to; sequence++) {
    const clock = { wall: small.process('n1').time.now(), counter: sequence, origin: 'gone.d1' }
    const ops = planEntity({ id: `e${sequence}`, properties: { n: sequence } }, clock)
    const data = encodeEntry({ tenant, incarnation, origin: 'gone.d1', sequence, ops })
    small.cluster.log.publish(subject, data, `${tenant}.${sequence}`)
  }
}

describe.each(['per-tenant', 'pooled:1'])('entries behind a gap, more than there is room for (%s)', syncStreams => {
  it('are all applied when the gap is given up, and the copy says until then that it is behind', async () => {
    const small = await SmallCluster.start({ settings: { syncStreams, tombstoneMs: 1e9 } })
    const { applier, follower } = small.process('n2').replica
    await publish(small, 2, 100)
    await small.until('there is no more room', () => applier.waiting.entries === TIMES.waitingEntriesMax)
    // As long as the node that wrote it may come back, nothing is given up.
    small.cluster.node('n3')!.process!.kill()
    await small.world.run(2000)
    expect(applier.hasHole(small.tenant)).toBe(true)
    const stream = [...small.cluster.log.streams.values()][0]!
    expect(follower.hasRead(small.tenant, stream.incarnation, stream.lastSequence)).toBe(false)
    small.cluster.node('n3')!.start()
    await small.until('both have let go of the gap', () =>
      ['n1', 'n2'].every(node => !small.process(node).replica.applier.hasHole(small.tenant)),
    )
    for (const node of ['n1', 'n2']) {
      expect(await small.open(node, async open => open.vector.get('gone.d1')), node).toBe(100)
      for (const n of [2, 9, 10, 11, 100]) expect(await small.read(node, `e${n}`), `e${n} on ${node}`).toBeDefined()
      expect(small.process(node).replica.applier.waiting).toEqual({ entries: 0, bytes: 0 })
    }
  })

  it('are all there after a restart in between', async () => {
    const small = await SmallCluster.start({ settings: { syncStreams, tombstoneMs: 1e9 } })
    await publish(small, 2, 100)
    await small.until(
      'there is no more room',
      () => small.process('n2').replica.applier.waiting.entries === TIMES.waitingEntriesMax,
    )
    small.cluster.node('n2')!.process!.kill()
    await publish(small, 1, 1)
    small.cluster.node('n2')!.start()
    await small.until(
      'n2 has all',
      () => small.isCurrent('n2') && !small.process('n2').replica.applier.hasHole(small.tenant),
    )
    expect(await small.open('n2', async open => open.vector.get('gone.d1'))).toBe(100)
    expect(await small.read('n2', 'e100')).toBeDefined()
  })
})
