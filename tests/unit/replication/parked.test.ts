import { describe, expect, it } from 'vitest'
import type { ObjectStore } from '../../../src/objects/port.ts'
import { planEntity } from '../../../src/rem/plan.ts'
import type { ReplicaSettings } from '../../../src/replication/replica.ts'
import { encodeEntry } from '../../../src/storage/codec.ts'
import { prefixes, prefixRange, space } from '../../../src/storage/keys.ts'
import { subjects } from '../../../src/stream/subjects.ts'
import { TIMES } from '../../sim/cluster.ts'
import { SimObjects } from '../../sim/objects.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

/** Further ahead than {@link TIMES} let a clock be, and than it takes to move a copy or two. */
const AHEAD_MS = TIMES.clockSkewMsMax + 60_000

/** Entries of an origin that is nowhere any more. */
function entries(small: SmallCluster, from: number, to: number, aheadMs = AHEAD_MS): Buffer[] {
  const { incarnation } = small.placement()
  return Array.from({ length: to - from + 1 }, (_, n) => {
    const sequence = from + n
    const clock = { wall: small.process('n1').time.now() + aheadMs, counter: sequence, origin: 'gone.d1' }
    const ops = planEntity({ id: `e${sequence}`, properties: { n: sequence } }, clock)
    return encodeEntry({ tenant: small.tenant, incarnation, origin: 'gone.d1', sequence, ops })
  })
}

function publish(small: SmallCluster, published: readonly Buffer[]): void {
  for (const data of published)
    small.cluster.log.publish(subjects.syncOps(small.tenant), data, data.subarray(0, 200).toString('latin1'))
}

const isParked = (small: SmallCluster, node: string) => small.process(node).replica.maintenance.hasParked(small.tenant)

async function parkedOn(small: SmallCluster, node: string): Promise<number> {
  const count = await small.open(node, async open => {
    let found = 0
    for await (const chunk of open.chunks({ ...prefixRange(prefixes.space(space.parked)), values: false }))
      found += chunk.length
    return found
  })
  return count ?? 0
}

const givenUp = (small: SmallCluster, nodes = ['n1', 'n2', 'n3']) =>
  nodes.reduce((sum, node) => sum + small.process(node).replica.copies.givenUp, 0)

const start = (options: { objects?: ObjectStore; settings?: Partial<ReplicaSettings> } = {}) =>
  SmallCluster.start({ ...options, settings: { tombstoneMs: 1e9, ...options.settings } })

async function store(small: SmallCluster, node: string): Promise<void> {
  expect(await small.settle(small.process(node).replica.maintenance.snapshot(small.tenant))).toBeDefined()
}

/** Those nodes come back with empty disks. */
async function loseDisks(small: SmallCluster, nodes: readonly string[]): Promise<void> {
  for (const id of nodes) small.cluster.node(id)!.process?.kill()
  for (const id of nodes) small.cluster.node(id)!.loseDisk()
  await small.world.run(1000)
  for (const id of nodes) small.cluster.node(id)!.start()
}

/** As the controller does with a stream that is idle and that every live holder has read. */
async function reap(small: SmallCluster): Promise<void> {
  const name = subjects.syncStream(small.tenant)
  const { incarnation, lastSequence } = small.cluster.log.streams.get(name)!
  for (const node of ['n1', 'n2'])
    expect(
      await small.settle(small.process(node).replica.service.hasRead(small.tenant, incarnation, lastSequence)),
      `${node} has read the stream`,
    ).toBeDefined()
  small.cluster.log.streams.delete(name)
}

describe('entries from the future, whose writer and whose stream are gone', () => {
  it('are not lost with the copies that park them, when these move', async () => {
    const small = await start()
    publish(small, entries(small, 1, 3))
    await small.until('both have parked them', () => isParked(small, 'n1') && isParked(small, 'n2'))
    await small.world.run(1000)
    await reap(small)
    await small.hold('n3', 'joining')
    await small.until('n3 is current', () => small.isCurrent('n3'))
    for (const node of ['n2', 'n1']) {
      await small.hold(node, 'dropping')
      await small.until(`${node} is gone`, () => small.state(node) === 'absent')
    }
    expect(await small.read('n3', 'e1'), 'it is not due').toBeUndefined()
    expect(await small.open('n3', async open => open.vector.get('gone.d1'))).toBeUndefined()
    await small.world.run(AHEAD_MS + 5000)
    for (const n of [1, 2, 3]) expect(await small.read('n3', `e${n}`), `e${n}`).toBeDefined()
    expect(givenUp(small)).toBe(0)
  })

  it('are in a copy that is made from one that parks them', async () => {
    const small = await start()
    publish(small, entries(small, 1, 3))
    await small.until('both have parked them', () => isParked(small, 'n1') && isParked(small, 'n2'))
    await small.world.run(1000)
    await reap(small)
    await small.hold('n3', 'joining')
    await small.until('n3 is current', () => small.isCurrent('n3'))
    expect(await parkedOn(small, 'n3')).toBe(3)
    // Neither is there any more when they are due.
    for (const node of ['n1', 'n2']) small.cluster.node(node)!.process!.kill()
    await small.until('they are due', () => !isParked(small, 'n3'), 2 * AHEAD_MS)
    for (const n of [1, 2, 3]) expect(await small.read('n3', `e${n}`), `e${n}`).toBeDefined()
  })

  it('are handed on by a copy that alone has them, before it is dropped', async () => {
    const small = await start()
    await small.hold('n3', 'joining')
    await small.until('n3 is current', () => small.isCurrent('n3'))
    await small.settle(small.process('n2').replica.service.push(small.tenant, entries(small, 1, 3)))
    expect(await parkedOn(small, 'n2')).toBe(3)
    await small.hold('n2', 'dropping')
    await small.until('n2 is gone', () => small.state('n2') === 'absent')
    for (const node of ['n1', 'n3']) expect(await parkedOn(small, node), node).toBe(3)
    await small.until('they are due', () => !isParked(small, 'n1') && !isParked(small, 'n3'), 2 * AHEAD_MS)
    for (const node of ['n1', 'n3'])
      for (const n of [1, 2, 3]) expect(await small.read(node, `e${n}`), `e${n} on ${node}`).toBeDefined()
  })

  it('are not given up for lost by a copy that gets what comes behind them', async () => {
    const small = await start()
    await small.settle(small.process('n2').replica.service.push(small.tenant, entries(small, 1, 3)))
    publish(small, entries(small, 4, 5, 0))
    await small.world.run(10_000)
    expect(givenUp(small)).toBe(0)
    expect(await parkedOn(small, 'n1')).toBe(5)
    expect(small.process('n1').replica.applier.hasHole(small.tenant), 'it waits for no other').toBe(false)
    await small.until('they are due', () => !isParked(small, 'n1') && !isParked(small, 'n2'), 2 * AHEAD_MS)
    for (const node of ['n1', 'n2'])
      for (const n of [1, 3, 5]) expect(await small.read(node, `e${n}`), `e${n} on ${node}`).toBeDefined()
    expect(givenUp(small)).toBe(0)
  })

  it('survive in a copy that is emptied and made anew', async () => {
    const small = await SmallCluster.start()
    const n2 = small.cluster.node('n2')!
    await small.settle(small.process('n2').replica.service.push(small.tenant, entries(small, 1, 3)))
    // Cut off for so long that the others forget deletes that it never saw.
    n2.natsCut = true
    for (const other of ['n1', 'n3']) small.cluster.cuts.add(`n2|${other}`)
    await small.hold('n2', undefined)
    for (let n = 0; n < 4; n++) {
      await small.write('n1', `elsewhere-${n}`)
      await small.world.run(5000)
    }
    n2.natsCut = false
    small.cluster.cuts.clear()
    await small.until('n2 is made anew', () => small.process('n2').replica.copies.counts.wiped > 0)
    await small.until('n2 is current', () => small.isCurrent('n2'))
    await small.world.run(AHEAD_MS + 10_000)
    for (const node of ['n1', 'n2'])
      for (const n of [1, 2, 3]) expect(await small.read(node, `e${n}`), `e${n} on ${node}`).toBeDefined()
  })

  it('are saved from a damaged copy', async () => {
    const small = await start()
    await small.settle(small.process('n2').replica.service.push(small.tenant, entries(small, 1, 3)))
    small.cluster.node('n2')!.disk.databases.get(small.tenant)!.rot = 'records'
    await expect(small.read('n2', 'first')).rejects.toMatchObject({ code: 'DATA_CORRUPT' })
    await small.until('n2 is current again', () => small.isCurrent('n2'))
    await small.until('they are due', () => !isParked(small, 'n1') && !isParked(small, 'n2'), 2 * AHEAD_MS)
    await small.world.run(10_000)
    for (const node of ['n1', 'n2'])
      for (const n of [1, 2, 3]) expect(await small.read(node, `e${n}`), `e${n} on ${node}`).toBeDefined()
  })

  it('reach a holder that was away when they came, from the one that parks them', async () => {
    const small = await start()
    small.cluster.node('n2')!.process!.kill()
    await small.settle(small.process('n1').replica.service.push(small.tenant, entries(small, 1, 3)))
    small.cluster.node('n2')!.start()
    await small.until('n2 is current', () => small.isCurrent('n2'))
    expect(await parkedOn(small, 'n2')).toBe(3)
  })

  it('are in a stored snapshot, and in the copy that is made from it when every disk is lost', async () => {
    const small = await start({ objects: new SimObjects() })
    await store(small, 'n1')
    publish(small, entries(small, 1, 3))
    await small.until('both have parked them', () => isParked(small, 'n1') && isParked(small, 'n2'))
    await small.world.run(1000)
    await reap(small)
    // Nothing but what is parked is new.
    await store(small, 'n1')
    expect(await small.settle(small.process('n1').replica.maintenance.snapshot(small.tenant))).toBeUndefined()
    await loseDisks(small, ['n1', 'n2'])
    await small.until('n1 is current', () => small.isCurrent('n1'))
    expect(await parkedOn(small, 'n1')).toBe(3)
    expect(await small.read('n1', 'e1'), 'it is not due').toBeUndefined()
    await small.until('they are due', () => !isParked(small, 'n1'), 2 * AHEAD_MS)
    for (const n of [1, 2, 3]) expect(await small.read('n1', `e${n}`), `e${n}`).toBeDefined()
    expect(givenUp(small)).toBe(0)
  })

  it('are applied at once by a copy that is made from a snapshot when they are due', async () => {
    const small = await start({ objects: new SimObjects() })
    publish(small, entries(small, 1, 3))
    await small.until('both have parked them', () => isParked(small, 'n1') && isParked(small, 'n2'))
    await small.world.run(1000)
    await reap(small)
    await store(small, 'n1')
    for (const node of ['n1', 'n2']) small.process(node).kill()
    await small.world.run(2 * AHEAD_MS)
    await loseDisks(small, ['n1', 'n2'])
    await small.until('n1 is current', () => small.isCurrent('n1'))
    for (const n of [1, 2, 3]) expect(await small.read('n1', `e${n}`), `e${n}`).toBeDefined()
    expect(await parkedOn(small, 'n1')).toBe(0)
  })

  it('are taken from a stored snapshot by a copy that slept when they came', async () => {
    const small = await start({ objects: new SimObjects(), settings: { syncMaxAgeMs: 20_000 } })
    await small.world.run(10_000)
    small.process('n2').kill()
    await small.settle(small.process('n1').replica.service.push(small.tenant, entries(small, 1, 3, 10 * AHEAD_MS)))
    await small.settle(small.put('n1', 'second'))
    await small.world.run(40_000)
    await store(small, 'n1')
    small.process('n1').kill()
    small.cluster.node('n2')!.start()
    await small.until('n2 is current', () => small.isCurrent('n2'))
    expect(await small.read('n2', 'second')).toBeDefined()
    expect(await parkedOn(small, 'n2')).toBe(3)
  })

  it('are stored by the home, though nothing else has changed', async () => {
    const small = await start({ objects: new SimObjects(), settings: { snapshotIntervalMs: 3000 } })
    const { maintenance } = small.process('n1').replica
    await small.until('all else is stored', () => maintenance.counts.snapshots > 0)
    await small.world.run(10_000)
    const before = maintenance.counts.snapshots
    await small.settle(small.process('n1').replica.service.push(small.tenant, entries(small, 1, 3)))
    await small.until('they are stored', () => maintenance.counts.snapshots > before, 10_000)
    await small.world.run(10_000)
    expect(maintenance.counts.snapshots, 'once').toBe(before + 1)
  })

  it('are counted once, however often they come', async () => {
    const small = await start()
    const parked = entries(small, 1, 3)
    const { service, applier } = small.process('n2').replica
    for (let n = 0; n < 3; n++) await small.settle(service.push(small.tenant, parked))
    expect(applier.counts.parked).toBe(3)
  })
})

describe('an entry that waits in memory', () => {
  it('waits on disk as soon as one before it is parked, and holds nothing up', async () => {
    const small = await start()
    const { service, applier } = small.process('n2').replica
    await small.settle(service.push(small.tenant, entries(small, 4, 4, 0)))
    expect(applier.waiting.entries).toBe(1)
    await small.settle(service.push(small.tenant, entries(small, 2, 2)))
    expect(applier.waiting).toEqual({ entries: 0, bytes: 0 })
    expect(applier.hasHole(small.tenant)).toBe(false)
    expect(await parkedOn(small, 'n2')).toBe(2)
    await small.until('all is applied', () => !isParked(small, 'n2') && !applier.hasHole(small.tenant), 2 * AHEAD_MS)
    // What nobody has is given up only then.
    for (const n of [2, 4]) expect(await small.read('n2', `e${n}`), `e${n}`).toBeDefined()
  })
})
