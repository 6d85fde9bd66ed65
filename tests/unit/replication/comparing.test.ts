import pino from 'pino'
import { describe, expect, it } from 'vitest'
import { parseTenantId } from '../../../src/base/ids.ts'
import { systemTime } from '../../../src/base/time.ts'
import type { Clock } from '../../../src/clock/hlc.ts'
import { planFloor } from '../../../src/rem/floor.ts'
import { planDelete, planEntity } from '../../../src/rem/plan.ts'
import { compareDigests, repairFrom, setAsideSettled } from '../../../src/replication/anti-entropy.ts'
import { collectGarbage } from '../../../src/replication/collect.ts'
import { exportCopy, exportRecords, readSkipped } from '../../../src/replication/export.ts'
import { lateEntries } from '../../../src/replication/late.ts'
import type { PeerHandlers, TransferPart } from '../../../src/replication/peer.ts'
import { digestBucket, digestTenant, importTransfer, mergeTransferred } from '../../../src/replication/transfer.ts'
import { decodeEntry, decodeRecord } from '../../../src/storage/codec.ts'
import { keys, prefixes, prefixRange, space } from '../../../src/storage/keys.ts'
import { collect, type KvEntry, type KvOperations, type KvRange, type KvWrite } from '../../../src/storage/kv.ts'
import { MemoryKv } from '../../../src/storage/memory.ts'
import { TenantPool } from '../../../src/tenant/pool.ts'
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

async function openCopy(node: string, kv = new HeldKv()) {
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

const poolOf = (copy: Tenant) =>
  new TenantPool({
    time: systemTime,
    logger: pino({ level: 'silent' }),
    openMax: 1,
    memoryBytesMax: 1e9,
    tenantBytes: 1,
    idleMs: 0,
    waitMsMax: 1000,
    exists: async () => true,
    open: async () => copy,
  })

/** Another node, as far as a repair asks it. */
const peerOf = (copy: Tenant) =>
  ({
    status: async () => ({ skipped: (await readSkipped(copy)).length }),
    digests: () => digestTenant(copy),
    bucket: (_tenant, _incarnation, bucket) => digestBucket(copy, bucket),
    records: async (_tenant, _incarnation, wanted) => ({
      records: await exportRecords(copy, wanted),
      upTo: new Map(copy.reach),
    }),
  }) as Pick<PeerHandlers, 'digests' | 'bucket' | 'records'> as PeerHandlers

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

describe('a copy that took records over from one that was ahead of it', () => {
  /** `source` has a record that `target` has not heard of, and writes another one while it gives that out. */
  const twoCopies = async () => {
    const [source, target] = [(await openCopy('a')).tenant, (await openCopy('b')).tenant]
    await put(source, 'e')
    return { source, target }
  }
  const keyOf = (id: string) => keys.record({ kind: 'entity', key: [id] })
  const isMerging = async (copy: Tenant) => (await digestTenant(copy)).merging

  it('says so until the entries have come: by a repair', async () => {
    const { source, target } = await twoCopies()
    await mergeTransferred(target, await exportRecords(source, [keyOf('e')]), new Map(source.reach))
    expect(await isMerging(target)).toBe(true)
    await deliver(source, target)
    expect(await isMerging(target)).toBe(false)
  })

  it('says so until the entries have come: by a transfer, also when that has ended', async () => {
    const { source, target } = await twoCopies()
    async function* late() {
      for await (const part of exportCopy(work => work(source), 'a', undefined, 3)) {
        yield part
        // Behind the head, which says what is certain to be in it.
        if ('head' in part) await put(source, 'f')
      }
    }
    await importTransfer(work => work(target), late(), { resumable: false })
    expect(await target.get(keyOf('f'))).toBeDefined()
    expect(target.covers(source.vector)).toBe(false)
    expect(await isMerging(target)).toBe(true)
    await deliver(source, target)
    expect(await isMerging(target)).toBe(false)
  })

  it('says so until the entries have come: by a transfer that is cut short, of what was written since that began', async () => {
    const { source, target } = await twoCopies()
    await deliver(source, target)
    async function* cut() {
      for await (const part of exportCopy(work => work(source), 'a', undefined, 3)) {
        if ('end' in part) return
        yield part
        if ('head' in part) await put(source, 'f')
      }
    }
    await expect(importTransfer(work => work(target), cut(), { resumable: false })).rejects.toThrow(/cut short/)
    expect(await target.get(keyOf('f'))).toBeDefined()
    expect(await isMerging(target)).toBe(true)
    await deliver(source, target)
    expect(await isMerging(target)).toBe(false)
  })

  it('says so when they never come, until it has been found equal to another copy', async () => {
    const { source, target } = await twoCopies()
    await mergeTransferred(target, [], new Map([['gone.d', 7]]))
    await deliver(source, target)
    expect(await isMerging(target)).toBe(true)
    expect(await repairFrom(poolOf(target), target.id, INCARNATION, peerOf(source))).toMatchObject({ verdict: 'equal' })
    expect(await isMerging(target)).toBe(false)
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

  it('is not taken over by a repair', async () => {
    const { source, target } = await collectedAtOne()
    await collectGarbage(target)
    expect(await mergeTransferred(target, await exportRecords(source, [key]), source.vector)).toBe(0)
    expect(await target.get(key)).toBeUndefined()
    expect(target.isCollected).toBe(true)
  })

  it('is collected again: a repair of a record that was made anew since', async () => {
    const { source, target } = await collectedAtOne()
    await collectGarbage(target)
    await put(target, 'e')
    expect(target.isCollected).toBe(true)
    expect(await mergeTransferred(target, await exportRecords(source, [key]), source.vector)).toBe(1)
    expect(target.isCollected).toBe(false)
    await collectGarbage(target)
    expect((await target.record({ kind: 'entity', key: ['e'] }))?.del).toBeUndefined()
  })

  it.each(['a repair', 'a whole transfer'])(
    'leaves no copy that counts as collected when it crashes after %s',
    async by => {
      const { source, target, kv } = await collectedAtOne()
      await collectGarbage(target)
      await put(target, 'e')
      const crash = gate()
      kv.afterWrite = async () => {
        if (decodeRecord((await kv.get(key))!).del) await crash.stand()
      }
      const arriving =
        by === 'a repair'
          ? mergeTransferred(target, await exportRecords(source, [key]), source.vector)
          : importTransfer(
              work => work(target),
              exportCopy(work => work(source), 'a', undefined, 3),
              { resumable: false },
            )
      await crash.reached
      // What is on the disk now is all that the next process finds.
      expect((await openCopy('b', kv)).tenant.isCollected).toBe(false)
      crash.letGo()
      await arriving
    },
  )

  it('is collected again when it came between the look and its end', async () => {
    const { source, target, kv } = await collectedAtOne()
    await collectGarbage(target)
    await put(target, 'e')
    const [scan, commit] = [gate(), gate()]
    kv.afterWrite = commit.stand
    const arriving = mergeTransferred(target, await exportRecords(source, [key]), source.vector)
    await commit.reached
    expect(target.isCollected).toBe(false)
    kv.afterWrite = async () => {}
    kv.afterScan = scan.stand
    const collecting = collectGarbage(target)
    await scan.reached
    scan.letGo()
    setImmediate(commit.letGo)
    await Promise.all([arriving, collecting])
    // Whatever it saw of the batch: what is left to be collected is not forgotten.
    const del = async () => (await target.record({ kind: 'entity', key: ['e'] }))?.del
    expect(target.isCollected && (await del()) !== undefined).toBe(false)
    await collectGarbage(target)
    expect(await del()).toBeUndefined()
  })
})

describe('a record below the floor that only one of two copies has', () => {
  const ref = { kind: 'entity', key: ['e'] } as const
  const key = keys.record(ref)

  /** `a` has deleted and forgotten `e`; `b`, of the same vector and floor, has it, as if it had missed the delete. */
  async function oneMissedTheDelete() {
    const [a, b] = [(await openCopy('a')).tenant, (await openCopy('b')).tenant]
    await put(a, 'e')
    const missed = [{ ref, record: (await a.record(ref))!, vectors: [] }]
    await remove(a, 'e')
    await moveFloor(a, systemTime.now() + 1000)
    await deliver(a, b)
    for (const copy of [a, b]) await collectGarbage(copy)
    await b.merge(missed, b.vector)
    await collectGarbage(b)
    return { a, b }
  }

  const repair = (copy: Tenant, other: Tenant) => repairFrom(poolOf(copy), copy.id, INCARNATION, peerOf(other))

  it.each(['a', 'b'])('stays deleted, and is set aside where it is, when %s repairs itself first', async first => {
    const { a, b } = await oneMissedTheDelete()
    const order = first === 'a' ? [a, b] : [b, a]
    let [merged, setAside] = [0, 0]
    for (const copy of order) {
      const done = await repair(copy, copy === a ? b : a)
      merged += done.merged
      setAside += done.setAside
    }
    expect([merged, setAside]).toEqual([0, 1])
    for (const copy of [a, b]) expect(await copy.get(key)).toBeUndefined()
    expect(await lateEntries(b)).toHaveLength(1)
    expect((await repair(a, b)).verdict).toBe('equal')
  })

  it.each(['a', 'b'])('is taken over by a copy that gave something up, when %s repairs itself first', async first => {
    const { a, b } = await oneMissedTheDelete()
    await a.change(async staging => staging.joinVector(new Map([['gone.d', 1]]), [['gone.d', 1]]))
    await b.change(async staging => staging.joinVector(new Map([['gone.d', 1]])))
    const order = first === 'a' ? [a, b] : [b, a]
    for (const copy of order) await repair(copy, copy === a ? b : a)
    for (const copy of [a, b]) expect(await copy.get(key)).toBeDefined()
    await collectGarbage(a)
    expect((await repair(b, a)).verdict).toBe('equal')
  })
})
