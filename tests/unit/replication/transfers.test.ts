import { describe, expect, it } from 'vitest'
import { parseTenantId } from '../../../src/base/ids.ts'
import { systemTime } from '../../../src/base/time.ts'
import { planFloor } from '../../../src/rem/floor.ts'
import { planDelete, planEntity } from '../../../src/rem/plan.ts'
import { collectGarbage } from '../../../src/replication/collect.ts'
import { exportCopy, readSkipped } from '../../../src/replication/export.ts'
import type { TransferPart } from '../../../src/replication/peer.ts'
import { decodePart, encodePart, importTransfer, readProgress } from '../../../src/replication/transfer.ts'
import type { UseCopy } from '../../../src/replication/with-copy.ts'
import { decodeEntry } from '../../../src/storage/codec.ts'
import { prefixes, prefixRange, space } from '../../../src/storage/keys.ts'
import { collect } from '../../../src/storage/kv.ts'
import { MemoryKv } from '../../../src/storage/memory.ts'
import { Tenant } from '../../../src/tenant/tenant.ts'

const INCARNATION = '000000000001-0000000000000000'
const PART_RECORDS = 3

const openCopy = (node: string, copy = false) =>
  Tenant.open(parseTenantId('acme'), new MemoryKv(), {
    time: systemTime,
    origin: `${node}.d`,
    incarnation: INCARNATION,
    copy,
    outboxEnabled: true,
    outboxBytesMax: 1e9,
    recordCacheBytes: 1e6,
    onCommit: () => {},
  })
const put = (tenant: Tenant, id: string) =>
  tenant.write(({ clock }) => ({ ops: planEntity({ id, properties: { id } }, clock), result: undefined }))
const fill = async (tenant: Tenant, count: number) => {
  for (let n = 0; n < count; n++) await put(tenant, `e${n}`)
}
const outbox = (tenant: Tenant) => collect(tenant, prefixRange(prefixes.space(space.outbox)))
/** What was published of one copy comes to another. */
const deliver = async (from: Tenant, to: Tenant) => {
  for (const [, value] of await outbox(from)) await to.apply(decodeEntry(value))
}
const exists = async (tenant: Tenant, id: string) => {
  const record = await tenant.record({ kind: 'entity', key: [id] })
  return record?.put !== undefined && record.del === undefined
}

/** The copy of `tenants[0]`, until `switchNow` is called; then that of the next one. */
function changing(...tenants: Tenant[]): { use: UseCopy; switchNow: () => void } {
  let at = 0
  return { use: work => work(tenants[at]!), switchNow: () => void at++ }
}

/** The parts over the wire, with something done when the head has gone out, before any record is read. */
async function* sent(parts: AsyncIterable<TransferPart>, afterHead: () => Promise<unknown> = async () => {}) {
  for await (const part of parts) {
    yield decodePart(encodePart(part))
    if ('head' in part) await afterHead()
  }
}

describe('a copy that is sent part by part', () => {
  it('has all that its head says, whatever is written meanwhile', async () => {
    const [source, target] = [await openCopy('a'), await openCopy('b', true)]
    await fill(source, 20)
    const { vector } = source
    let n = 0
    const parts = async function* () {
      for await (const part of exportCopy(work => work(source), 'a', undefined, PART_RECORDS)) {
        yield part
        await put(source, `e${n++ % 20}`)
        await put(source, `later ${n}`)
      }
    }
    const imported = await importTransfer(work => work(target), parts(), { resumable: true })
    expect(imported.vector).toEqual(vector)
    expect(target.vector).toEqual(vector)
    for (let id = 0; id < 20; id++) expect(await exists(target, `e${id}`)).toBe(true)
    // The rest comes by the stream, and both are equal then.
    await deliver(source, target)
    expect(target.vector).toEqual(source.vector)
    for (let later = 1; later <= n; later++) expect(await exists(target, `later ${later}`)).toBe(true)
  })

  it('does not bring back what its source deleted and forgot while it was sent', async () => {
    const [source, target] = [await openCopy('a'), await openCopy('b')]
    await fill(source, 10)
    await deliver(source, target)
    // The target never hears of this delete but by the transfer, which comes too late for it.
    await source.write(({ clock }) => ({ ops: [planDelete('entity', 'e5', clock)], result: undefined }))
    const before = new Map(target.vector)
    const collectNow = async () => {
      const floor = {
        clock: { wall: systemTime.now() + 1, counter: 0, origin: 'floor' },
        vector: new Map(source.vector),
      }
      await source.write(() => ({ ops: [planFloor(floor)], result: undefined }))
      expect(await collectGarbage(source)).toBeGreaterThan(0)
    }
    const parts = sent(
      exportCopy(work => work(source), 'a', undefined, PART_RECORDS),
      collectNow,
    )
    await expect(importTransfer(work => work(target), parts, { resumable: false })).rejects.toMatchObject({
      code: 'SNAPSHOT_INVALID',
    })
    expect(target.vector).toEqual(before)
  })

  it('says what an earlier source had given up, when the rest comes from one that has it', async () => {
    const [earlier, later, target] = [await openCopy('a'), await openCopy('b'), await openCopy('c', true)]
    await fill(earlier, 10)
    await deliver(earlier, later)
    // The record of the entry that one of them gave up comes in the first part.
    const lost: [string, number] = ['gone.d', 1]
    const clock = { wall: systemTime.now(), counter: 0, origin: 'gone.d' }
    const ops = planEntity({ id: 'e0', properties: { id: 'newer' } }, clock)
    await later.apply({ tenant: later.id, incarnation: INCARNATION, origin: lost[0], sequence: lost[1], ops })
    await earlier.change(async staging => staging.joinVector(new Map([lost]), [lost]))
    const cut = async function* () {
      let parts = 0
      for await (const part of sent(exportCopy(work => work(earlier), 'a', undefined, PART_RECORDS)))
        if (parts++ < 2) yield part
    }
    const use: UseCopy = work => work(target)
    await expect(importTransfer(use, cut(), { resumable: true })).rejects.toMatchObject({ code: 'SNAPSHOT_INVALID' })
    const progress = await readProgress(target)
    await importTransfer(use, sent(exportCopy(work => work(later), 'b', progress!.after, PART_RECORDS)), {
      resumable: true,
    })
    expect(target.vector.get(lost[0])).toBe(1)
    expect(await readSkipped(target)).toEqual([lost])
  })

  it('is given up when the source is another copy from one part to the next', async () => {
    const source = await openCopy('a')
    await fill(source, 10)
    const [empty, remade] = [await openCopy('a'), await openCopy('a', true)]
    for (const other of [empty, remade]) {
      const target = await openCopy('b', true)
      const { use, switchNow } = changing(source, other)
      const parts = sent(exportCopy(use, 'a', undefined, PART_RECORDS), async () => switchNow())
      await expect(importTransfer(work => work(target), parts, { resumable: true })).rejects.toMatchObject({
        code: 'TENANT_UNAVAILABLE',
      })
      expect([target.isJoining, target.vector.size]).toEqual([true, 0])
    }
  })

  it('goes into no copy that was made anew since it began', async () => {
    const source = await openCopy('a')
    await fill(source, 10)
    const [target, remade] = [await openCopy('b'), await openCopy('b', true)]
    const { use, switchNow } = changing(target, remade)
    const parts = sent(
      exportCopy(work => work(source), 'a', undefined, PART_RECORDS),
      async () => switchNow(),
    )
    await expect(importTransfer(use, parts, { resumable: false })).rejects.toMatchObject({ code: 'TENANT_UNAVAILABLE' })
    expect([await exists(remade, 'e0'), remade.vector.size]).toEqual([false, 0])
  })
})

describe('an entry that the stream has acknowledged', () => {
  it('goes from the outbox of a database that was opened again, and nothing else that has its number', async () => {
    const [before, now] = [await openCopy('a'), await openCopy('a')]
    await fill(before, 3)
    for (const id of ['these', 'are', 'other', 'writes']) await put(now, id)
    // The first entry is taken for the same in both, as if the database had been closed and opened; the others were written by another copy.
    const [first, ...others] = await outbox(now)
    const acknowledged = [first!, ...(await outbox(before)).slice(1)]
    expect(others.length).toBe(3)
    const { origin, sequence } = decodeEntry(acknowledged.at(-1)![1])
    expect(await now.removeFromOutbox(acknowledged, { origin, sequence }, { areOurs: false })).toBe(1)
    expect((await outbox(now)).map(([, value]) => decodeEntry(value).sequence)).toEqual([2, 3, 4])
    expect([now.outbox.entries, now.outbox.bytes]).toEqual([
      3,
      others.reduce((sum, [, value]) => sum + value.length, 0),
    ])
  })
})
