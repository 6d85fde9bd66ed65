import type { TenantId } from '../base/ids.ts'
import { hasAll, saidBy } from '../rem/late.ts'
import { EMPTY_RECORD, type LwwRecord, type RecordRef } from '../rem/record.ts'
import { decodeEntry, type Entry } from '../storage/codec.ts'
import { KeyReader, keyAfter, keys, prefixes, prefixRange, space } from '../storage/keys.ts'
import type { TenantPool } from '../tenant/pool.ts'
import type { Tenant } from '../tenant/tenant.ts'
import { splitVectors } from '../tenant/vectors.ts'
import { type Positions, positionsOf } from './manifest.ts'
import type { ParkedPosition } from './parked.ts'

/** Entries that are listed at once, and their bytes, about. */
const LATE_MAX = 10_000
const LATE_BYTES_MAX = 16 * 1024 * 1024
/** Bytes of entries that go to another node in one call, about. */
const MOVED_BYTES = 1024 * 1024
/** Entries of one page. */
const PAGE_MAX = 1000

/** Entries set aside in a copy, at most {@link LATE_MAX}: the rest shows when these are applied or discarded. */
export async function lateEntries(open: Tenant): Promise<Buffer[]> {
  const found: Buffer[] = []
  let bytes = 0
  for await (const chunk of open.chunks({ ...prefixRange(prefixes.space(space.quarantine)), limit: LATE_MAX }))
    for (const [, value] of chunk) {
      found.push(value)
      bytes += value.length
      if (bytes > LATE_BYTES_MAX) return found
    }
  return found
}

/** Entries that are set aside in a copy, a page of them in the order of their keys; none: there are no more behind `after`. */
export async function latePage(open: Tenant, after?: ParkedPosition): Promise<Buffer[]> {
  const from = after ? { gte: keyAfter(keys.quarantine(after.origin, after.sequence)) } : {}
  const found: Buffer[] = []
  let bytes = 0
  for await (const chunk of open.chunks({ ...prefixRange(prefixes.space(space.quarantine)), ...from, limit: PAGE_MAX }))
    for (const [, value] of chunk) {
      if (found.length > 0 && bytes + value.length > MOVED_BYTES) return found
      found.push(value)
      bytes += value.length
    }
  return found
}

/** Which entries are set aside in a copy. */
export async function latePositions(open: Tenant): Promise<Positions> {
  const found: ParkedPosition[] = []
  for await (const chunk of open.chunks({ ...prefixRange(prefixes.space(space.quarantine)), values: false }))
    for (const [key] of chunk) {
      const reader = new KeyReader(key)
      found.push({ origin: reader.text(), sequence: reader.u64() })
    }
  return positionsOf(found)
}

export async function countLate(open: Tenant): Promise<number> {
  let count = 0
  for await (const chunk of open.chunks({ ...prefixRange(prefixes.space(space.quarantine)), values: false }))
    count += chunk.length
  return count
}

/**
 * Forgets what is set aside of which nothing is missing: a copy that was emptied had perhaps published a write whose acknowledgement it never got, and has it back from the copy that it was made
 * of. Returns how many entries that were.
 */
export async function forgetArrived(open: Tenant): Promise<number> {
  let arrived = 0
  for (let after: ParkedPosition | undefined; ; ) {
    const page = await latePage(open, after)
    if (page.length === 0) return arrived
    const entries = page.map(decodeEntry)
    const all: Entry[] = []
    for (const entry of entries) if (await hasEntry(ref => open.record(ref), entry)) all.push(entry)
    if (all.length > 0)
      arrived += await open.change(async staging => {
        let count = 0
        for (const entry of all) {
          // In the writer's turn: what is read now does not change before the entry goes.
          if (!(await hasEntry(ref => staging.read(ref), entry))) continue
          staging.del(keys.quarantine(entry.origin, entry.sequence))
          count++
        }
        return count
      }, all.length)
    after = entries.at(-1)!
  }
}

async function hasEntry(read: (ref: RecordRef) => Promise<LwwRecord | undefined>, { ops }: Entry): Promise<boolean> {
  for (const { ref, record } of saidBy(ops.map(op => splitVectors(op).op)))
    if (!hasAll((await read(ref)) ?? EMPTY_RECORD, record)) return false
  return true
}

/** Hands what is set aside in a copy that goes to `keep`, part by part, with no lease held meanwhile; each part is forgotten here when it is kept there. */
export async function moveLate(
  pool: TenantPool,
  tenant: TenantId,
  keep: (entries: readonly Buffer[]) => Promise<void>,
): Promise<void> {
  for (;;) {
    const late = (await pool.use(tenant, lateEntries)) ?? []
    if (late.length === 0) return
    for (const part of partsOf(late)) {
      await keep(part)
      await pool.use(tenant, open =>
        open.change(async staging => {
          for (const entry of part.map(decodeEntry)) staging.del(keys.quarantine(entry.origin, entry.sequence))
        }),
      )
    }
  }
}

/** Entries in parts of about {@link MOVED_BYTES}, for calls to another node. */
export function* partsOf(entries: readonly Buffer[]): Generator<Buffer[]> {
  for (let at = 0; at < entries.length; ) {
    const part: Buffer[] = []
    for (
      let bytes = 0;
      at < entries.length && (part.length === 0 || bytes + entries[at]!.length <= MOVED_BYTES);
      at++
    ) {
      part.push(entries[at]!)
      bytes += entries[at]!.length
    }
    yield part
  }
}
