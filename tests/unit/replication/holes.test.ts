import { describe, expect, it } from 'vitest'
import { planEntity } from '../../../src/rem/plan.ts'
import { readSkipped } from '../../../src/replication/export.ts'
import { encodeEntry } from '../../../src/storage/codec.ts'
import { subjects } from '../../../src/stream/subjects.ts'
import { TIMES } from '../../sim/cluster.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

/** Entries of an origin that is nowhere any more, published straight into the stream. */
async function publish(
  small: SmallCluster,
  from: number,
  to: number,
  { tenant = small.tenant, aheadMs = 0 } = {},
): Promise<void> {
  const { replica } = small.process('n1')
  const { incarnation } = replica.directory.placement(tenant)!
  const isPooled = small.cluster.settings.syncStreams !== 'per-tenant'
  const subject = isPooled ? subjects.poolOps(0, tenant) : subjects.syncOps(tenant)
  for (let sequence = from; sequence <= to; sequence++) {
    const clock = { wall: small.process('n1').time.now() + aheadMs, counter: sequence, origin: 'gone.d1' }
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

const givenUpBy = (small: SmallCluster) =>
  ['n1', 'n2'].reduce((sum, node) => sum + small.process(node).replica.copies.givenUp, 0)

/** Further ahead than {@link TIMES} let a clock be, and than it takes to look at a hole a few times. */
const AHEAD_MS = TIMES.clockSkewMsMax + 15_000

describe.each(['per-tenant', 'pooled:1'])('entries from the future behind a gap (%s)', syncStreams => {
  const start = () => SmallCluster.start({ settings: { syncStreams, tombstoneMs: 1e9 } })
  const vectorOf = (small: SmallCluster, node: string) => small.open(node, async open => open.vector.get('gone.d1'))
  const isAtRest = (small: SmallCluster, node: string) => {
    const { maintenance, applier } = small.process(node).replica
    return !maintenance.hasParked(small.tenant) && !applier.hasHole(small.tenant)
  }

  it('are applied when they are due and the gap is given up, in every copy', async () => {
    const small = await start()
    await publish(small, 2, 4, { aheadMs: AHEAD_MS })
    await small.until('it is parked', () => small.process('n2').replica.maintenance.hasParked(small.tenant))
    await small.world.run(10_000)
    // Nothing is given up for an entry that is not due.
    expect(await vectorOf(small, 'n2')).toBeUndefined()
    expect(small.process('n2').replica.applier.hasHole(small.tenant)).toBe(false)
    await small.until('nothing is parked any more', () => ['n1', 'n2'].every(node => isAtRest(small, node)))
    for (const node of ['n1', 'n2']) {
      expect(await vectorOf(small, node), node).toBe(4)
      for (const n of [2, 3, 4]) expect(await small.read(node, `e${n}`), `e${n} on ${node}`).toBeDefined()
    }
    expect(givenUpBy(small)).toBeGreaterThan(0)
  })

  it('are a hole as long as a node that may have what is missing does not answer', async () => {
    const small = await start()
    await publish(small, 2, 2, { aheadMs: AHEAD_MS })
    await small.until('it is parked', () => small.process('n2').replica.maintenance.hasParked(small.tenant))
    small.cluster.cuts.add('n1|n2')
    await small.until('it is a hole', () => small.process('n2').replica.applier.hasHole(small.tenant))
    await small.world.run(1000)
    expect(await vectorOf(small, 'n2')).toBeUndefined()
    // It turns up after all.
    await publish(small, 1, 1)
    await small.until('it is filled', () => ['n1', 'n2'].every(node => isAtRest(small, node)))
    for (const node of ['n1', 'n2']) {
      expect(await vectorOf(small, node), node).toBe(2)
    }
    expect(givenUpBy(small)).toBe(0)
  })

  it('take what waits in memory behind them along', async () => {
    const small = await start()
    // As long as they can't ask each other nothing is given up.
    small.cluster.cuts.add('n1|n2')
    await publish(small, 3, 3)
    await small.until('it waits', () => small.process('n2').replica.applier.waiting.entries === 1)
    await publish(small, 1, 2, { aheadMs: AHEAD_MS })
    await small.until('all is applied', () => ['n1', 'n2'].every(node => isAtRest(small, node)))
    for (const node of ['n1', 'n2']) {
      expect(await vectorOf(small, node), node).toBe(3)
    }
    expect(givenUpBy(small)).toBe(0)
  })

  it('wait until they are due also when they were given up for lost before they came', async () => {
    const small = await start()
    await publish(small, 2, 2)
    await small.until('the gap is given up', () => givenUpBy(small) > 0)
    await small.until('both are at rest', () => ['n1', 'n2'].every(node => isAtRest(small, node)))
    await publish(small, 1, 1, { aheadMs: AHEAD_MS })
    await small.world.run(5000)
    expect(await small.read('n2', 'e1')).toBeUndefined()
    expect(small.process('n2').replica.maintenance.hasParked(small.tenant)).toBe(true)
    await small.until('it is applied', () => ['n1', 'n2'].every(node => isAtRest(small, node)))
    await small.world.run(2 * TIMES.antiEntropyMs)
    for (const node of ['n1', 'n2']) expect(await small.read(node, 'e1'), node).toBeDefined()
  })
})

describe('an entry that only a copy has of which the directory does not know', () => {
  it('is not given up while the node that has it can be asked, however silent it is in the directory', async () => {
    const small = await SmallCluster.start({ settings: { tombstoneMs: 1e9 } })
    await small.hold('n3', 'joining')
    await small.until('n3 is current', () => small.isCurrent('n3'))
    const entry = (sequence: number) => {
      const { incarnation } = small.placement()
      const clock = { wall: small.process('n1').time.now(), counter: sequence, origin: 'gone.d1' }
      const ops = planEntity({ id: `e${sequence}`, properties: { n: sequence } }, clock)
      return encodeEntry({ tenant: small.tenant, incarnation, origin: 'gone.d1', sequence, ops })
    }
    small.cluster.node('n3')!.natsCut = true
    await small.settle(small.process('n3').replica.service.push(small.tenant, [entry(1)]))
    await small.hold('n3', undefined)
    await small.world.run(2 * TIMES.leaseMs)
    await small.settle(small.process('n2').replica.service.push(small.tenant, [entry(2)]))
    small.process('n2').replica.copies.onHole(small.tenant)
    await small.world.run(10_000)
    expect(small.process('n2').replica.copies.givenUp).toBe(0)
    small.cluster.node('n3')!.natsCut = false
    await small.until('n2 has it', () => !small.process('n2').replica.applier.hasHole(small.tenant))
    expect(await small.read('n2', 'e1')).toBeDefined()
    expect(small.process('n2').replica.copies.givenUp).toBe(0)
  })
})

describe('entries behind several gaps, more than there is room for', () => {
  it('are given up only where they are in no stream', async () => {
    const small = await SmallCluster.start({ settings: { tombstoneMs: 1e9 } })
    small.cluster.trace = []
    // The highest come first and take all the room; the others are in the stream too.
    small.cluster.cuts.add('n1|n2')
    await publish(small, 60, 59 + TIMES.waitingEntriesMax!)
    await small.until('there is no more room', () =>
      ['n1', 'n2'].every(node => small.process(node).replica.applier.waiting.entries === TIMES.waitingEntriesMax),
    )
    for (const [from, to] of [
      [2, 5],
      [7, 9],
      [11, 30],
      [32, 59],
    ] as const)
      await publish(small, from, to)
    await small.world.run(2000)
    small.cluster.cuts.clear()
    await small.until('nothing is missing any more', () =>
      ['n1', 'n2'].every(node => !small.process(node).replica.applier.hasHole(small.tenant)),
    )
    for (const node of ['n1', 'n2']) {
      const skipped = await small.open(node, async open => (await readSkipped(open)).map(([, sequence]) => sequence))
      expect(skipped, node).toEqual([1, 6, 10, 31])
      for (const n of [2, 5, 7, 11, 30, 32, 59, 60]) expect(await small.read(node, `e${n}`), `e${n}`).toBeDefined()
    }
    const logged = small.cluster.trace.filter(line => line.includes('entries are lost'))
    const lost = logged.flatMap(line => (JSON.parse(line.slice(line.indexOf('{'))) as { lost: object[] }).lost)
    expect(lost.length).toBeGreaterThan(0)
    for (const range of lost)
      expect([1, 6, 10, 31].map(n => ({ origin: 'gone.d1', from: n, to: n }))).toContainEqual(range)
    expect(givenUpBy(small)).toBe(lost.length)
  })
})
