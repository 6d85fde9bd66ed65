import { describe, expect, it } from 'vitest'
import { parseTenantId } from '../../../src/base/ids.ts'
import { systemTime } from '../../../src/base/time.ts'
import type { Clock } from '../../../src/clock/hlc.ts'
import { planFloor } from '../../../src/rem/floor.ts'
import { planDelete, planEntity } from '../../../src/rem/plan.ts'
import { compareDigests, setAsideSettled } from '../../../src/replication/anti-entropy.ts'
import { collectGarbage } from '../../../src/replication/collect.ts'
import { exportCopy, exportRecords } from '../../../src/replication/export.ts'
import type { TransferPart } from '../../../src/replication/peer.ts'
import { digestTenant, importTransfer, mergeTransferred } from '../../../src/replication/transfer.ts'
import { decodeEntry } from '../../../src/storage/codec.ts'
import { keys, prefixes, prefixRange, space } from '../../../src/storage/keys.ts'
import { collect, type KvEntry, type KvOperations, type KvRange, type KvWrite } from '../../../src/storage/kv.ts'
import { MemoryKv } from '../../../src/storage/memory.ts'
import { Tenant } from '../../../src/tenant/tenant.ts'

/** A store that can be held up: a write that is on disk and not answered, a scan that has its snapshot and has not ended, something that happens while a record is read. */
class HeldKv extends MemoryKv {
  afterWrite: () => Promise<void> = async () => {}
  afterScan: () => Promise<void> = async () => {}
  beforeGet: () => Promise<void> = async () => {}

  override async get(key: Buffer): Promise<Buffer | undefined> {
    if (key[0] === space.record) await this.beforeGet()
    return super.get(key)
  }

  override async *chunks(range: KvRange): AsyncIterable<KvEntry[]> {
    yield* super.chunks(range)
    if (range.gte.equals(prefixRange(prefixes.space(space.record)).gte)) await this.afterScan()
  }

  override async write(operations: KvOperations, options: KvWrite): Promise<void> {
    await super.write(operations, options)
    await this.afterWrite()
  }
}

const INCARNATION = '000000000001-0000000000000000'

async function openCopy(node: string) {
  const kv = new HeldKv()
  const tenant = await Tenant.open(parseTenantId('acme'), kv, {
    time: systemTime,
    origin: `${node}.d`,
    incarnation: INCARNATION,
    outboxEnabled: true,
    outboxBytesMax: 1e9,
    recordCacheBytes: 1e6,
    onCommit: () => {},
  })
  return { kv, tenant }
}

const put = (tenant: Tenant, id: string, to?: string) =>
  tenant.write(({ clock }) => ({
    ops: planEntity({ id, properties: { id }, ...(to ? { edges: [{ type: 'knows', to }] } : {}) }, clock),
    result: undefined,
  }))
const remove = (tenant: Tenant, id: string) =>
  tenant.write(({ clock }) => ({ ops: [planDelete('entity', id, clock)], result: undefined }))
const deliver = async (from: Tenant, to: Tenant) => {
  for (const [, value] of await collect(from, prefixRange(prefixes.space(space.outbox))))
    await to.apply(decodeEntry(value))
}
const moveFloor = async (tenant: Tenant, wall: number) => {
  const clock: Clock = { wall, counter: 0, origin: 'floor' }
  await tenant.write(() => ({ ops: [planFloor({ clock, vector: new Map(tenant.vector) })], result: undefined }))
}

/** A point at which something stands until it is let go. */
function gate() {
  let letGo = () => {}
  let arrive = () => {}
  const released = new Promise<void>(resolve => {
    letGo = resolve
  })
  const reached = new Promise<void>(resolve => {
    arrive = resolve
  })
  const stand = async () => {
    arrive()
    await released
  }
  return { stand, reached, letGo }
}

describe('copies with the same history', () => {
  it('do not seem to differ while one of them commits a write', async () => {
    const [a, b] = [await openCopy('a'), await openCopy('b')]
    await put(a.tenant, 'e')
    await deliver(a.tenant, b.tenant)
    const commit = gate()
    b.kv.afterWrite = commit.stand
    const writing = put(b.tenant, 'f')
    await commit.reached
    const digests = Promise.all([digestTenant(a.tenant), digestTenant(b.tenant)])
    setImmediate(commit.letGo)
    const [ofA, ofB] = await digests
    await writing
    expect(compareDigests(ofA, ofB).verdict).toBe('behind')
  })

  it('do not seem to differ when an edge is hidden while one of them is looked through', async () => {
    const [a, b] = [await openCopy('a'), await openCopy('b')]
    await put(a.tenant, 'e', 'f')
    await deliver(a.tenant, b.tenant)
    expect(compareDigests(await digestTenant(a.tenant), await digestTenant(b.tenant)).verdict).toBe('equal')
    let isDeleted = false
    b.kv.beforeGet = async () => {
      if (isDeleted) return
      isDeleted = true
      await remove(b.tenant, 'e')
    }
    const [ofA, ofB] = [await digestTenant(a.tenant), await digestTenant(b.tenant)]
    expect(isDeleted).toBe(true)
    expect(compareDigests(ofA, ofB).verdict).toBe('behind')
  })
})

describe('a record that another copy has collected', () => {
  it('takes the edges that its delete hid along', async () => {
    const [a, b] = [(await openCopy('a')).tenant, (await openCopy('b')).tenant]
    await put(a, 'f')
    await put(a, 'e', 'f')
    await remove(a, 'e')
    await moveFloor(a, systemTime.now() + 1000)
    await deliver(a, b)
    await collectGarbage(a)
    await setAsideSettled(b, [keys.record({ kind: 'entity', key: ['e'] })], await digestTenant(a))
    expect(await b.get(keys.record({ kind: 'entity', key: ['e'] }))).toBeUndefined()
    expect(await b.get(keys.record({ kind: 'edge', key: ['e', 'knows', 'f'] }))).toBeUndefined()
  })

  it('is no sign of a difference while the floor that it lay below comes to the other', async () => {
    const [a, b] = [await openCopy('a'), await openCopy('b')]
    await put(a.tenant, 'e')
    await remove(a.tenant, 'e')
    await deliver(a.tenant, b.tenant)
    await moveFloor(a.tenant, systemTime.now() + 1000)
    await collectGarbage(a.tenant)
    const commit = gate()
    b.kv.afterWrite = commit.stand
    const arriving = deliver(a.tenant, b.tenant)
    await commit.reached
    const digests = digestTenant(b.tenant)
    setImmediate(commit.letGo)
    const ofB = await digests
    await arriving
    expect(compareDigests(ofB, await digestTenant(a.tenant)).verdict).toBe('behind')
  })
})

describe('a delete that was collected here and comes back with records of another copy', () => {
  const key = keys.record({ kind: 'entity', key: ['e'] })

  /** `target` has collected the delete of `e`; `source`, of the same history, has not. Both have a later floor, for which `target` has still to collect. */
  async function collectedAtOne() {
    const [source, target] = [await openCopy('a'), await openCopy('b')]
    await put(source.tenant, 'e')
    await put(source.tenant, 'f')
    await remove(source.tenant, 'e')
    const wall = systemTime.now() + 1000
    await moveFloor(source.tenant, wall)
    await deliver(source.tenant, target.tenant)
    await collectGarbage(target.tenant)
    expect(await target.tenant.get(key)).toBeUndefined()
    await moveFloor(source.tenant, wall + 1)
    await deliver(source.tenant, target.tenant)
    expect(target.tenant.isCollected).toBe(false)
    return { source: source.tenant, target: target.tenant, kv: target.kv }
  }

  async function* firstOf(parts: AsyncIterable<TransferPart>, count: number) {
    let n = 0
    for await (const part of parts) if (n++ < count) yield part
  }

  it.each([
    ['a whole transfer', Number.POSITIVE_INFINITY],
    ['a transfer that is cut short', 2],
  ])('is collected again: %s, while collecting is under way', async (_, count) => {
    const { source, target, kv } = await collectedAtOne()
    const scan = gate()
    kv.afterScan = scan.stand
    const collecting = collectGarbage(target)
    await scan.reached
    kv.afterScan = async () => {}
    const parts = firstOf(
      exportCopy(work => work(source), 'a', undefined, 3),
      count,
    )
    await importTransfer(work => work(target), parts, { resumable: false }).catch(error =>
      expect(error).toMatchObject({ code: 'SNAPSHOT_INVALID' }),
    )
    expect(await target.get(key)).toBeDefined()
    scan.letGo()
    await collecting
    expect(target.isCollected).toBe(false)
    await collectGarbage(target)
    expect(target.isCollected).toBe(true)
    expect(await target.get(key)).toBeUndefined()
  })

  it('is collected again: a transfer that is cut short, when collecting was done', async () => {
    const { source, target } = await collectedAtOne()
    await collectGarbage(target)
    const parts = firstOf(
      exportCopy(work => work(source), 'a', undefined, 3),
      2,
    )
    await expect(importTransfer(work => work(target), parts, { resumable: false })).rejects.toMatchObject({
      code: 'SNAPSHOT_INVALID',
    })
    expect(await target.get(key)).toBeDefined()
    expect(target.isCollected).toBe(false)
  })

  it('is collected again: a repair, when collecting was done', async () => {
    const { source, target } = await collectedAtOne()
    await collectGarbage(target)
    expect(target.isCollected).toBe(true)
    expect(await mergeTransferred(target, await exportRecords(source, [key]), source.vector)).toBe(1)
    expect(target.isCollected).toBe(false)
    await collectGarbage(target)
    expect(await target.get(key)).toBeUndefined()
  })
})
