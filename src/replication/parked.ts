import { createHash } from 'node:crypto'
import type { TenantId } from '../base/ids.ts'
import { decodeEntry, type Entry } from '../storage/codec.ts'
import { KeyReader, keyAfter, keys, prefixes, prefixRange, space } from '../storage/keys.ts'
import type { TenantPool } from '../tenant/pool.ts'
import type { Tenant } from '../tenant/tenant.ts'
import { type Positions, positionsOf } from './manifest.ts'

/** Bytes of parked entries that go to another node in one call, about; one entry may be larger. */
const PAGE_BYTES = 1024 * 1024
const PAGE_ENTRIES = 1000

/** What a copy keeps on disk until its clock is due. */
export interface ParkedSummary {
  readonly entries: number
  /** Tells which they are: equal for the same origins and sequences, empty for none. */
  readonly mark: string
}

export const NOTHING_PARKED: ParkedSummary = { entries: 0, mark: '' }

/** The place of an entry among those that are parked. */
export interface ParkedPosition {
  readonly origin: string
  readonly sequence: number
}

const range = () => prefixRange(prefixes.space(space.parked))

export async function summarizeParked(open: Tenant): Promise<ParkedSummary> {
  const hash = createHash('sha256')
  let entries = 0
  for await (const chunk of open.chunks({ ...range(), values: false }))
    for (const [key] of chunk) {
      hash.update(key)
      entries++
    }
  return entries === 0 ? NOTHING_PARKED : { entries, mark: hash.digest('hex').slice(0, 16) }
}

/** Which entries are parked in a copy. */
export async function parkedPositions(open: Tenant): Promise<Positions> {
  const found: ParkedPosition[] = []
  for await (const chunk of open.chunks({ ...range(), values: false }))
    for (const [key] of chunk) {
      const reader = new KeyReader(key)
      found.push({ origin: reader.text(), sequence: reader.u64() })
    }
  return positionsOf(found)
}

/** Entries that are parked in a copy, a page of them in the order of their keys; none: there are no more behind `after`. */
export async function parkedEntries(open: Tenant, after?: ParkedPosition): Promise<Buffer[]> {
  const from = after ? { gte: keyAfter(keys.parked(after.origin, after.sequence)) } : {}
  const found: Buffer[] = []
  let bytes = 0
  for await (const chunk of open.chunks({ ...range(), ...from, limit: PAGE_ENTRIES }))
    for (const [, value] of chunk) {
      if (found.length > 0 && bytes + value.length > PAGE_BYTES) return found
      found.push(value)
      bytes += value.length
    }
  return found
}

/** The lowest sequence of an origin that is parked, above `last`. */
export async function firstParked(open: Tenant, origin: string, last: number): Promise<number | undefined> {
  const first = { gte: keys.parked(origin, last + 1), lt: keyAfter(keys.parked(origin, Number.MAX_SAFE_INTEGER)) }
  for await (const chunk of open.chunks({ ...first, limit: 1 }))
    for (const [, value] of chunk) return decodeEntry(value).sequence
  return undefined
}

/**
 * Whether something is parked that its writer may have written with a wall clock of `wallMs`, milliseconds since the epoch, or less. One look at each origin: its clock never goes back, so that behind an entry from
 * beyond that everything is.
 */
export async function hasParkedUpTo(open: Tenant, wallMs: number): Promise<boolean> {
  for (let from: { gte?: Buffer } = {}; ; ) {
    let first: Entry | undefined
    for await (const chunk of open.chunks({ ...range(), ...from, limit: 1 }))
      for (const [, value] of chunk) first ??= decodeEntry(value)
    if (!first) return false
    if (first.ops.every(({ clock }) => clock.wall <= wallMs)) return true
    from = { gte: keyAfter(keys.parked(first.origin, Number.MAX_SAFE_INTEGER)) }
  }
}

/**
 * Hands all that is parked in a copy to each of `keepers`, page by page, with no lease held meanwhile. It stays here too: the copy may stay. What it was, for the caller to see at the last moment that
 * nothing has come since.
 */
export async function handOnParked(
  pool: TenantPool,
  tenant: TenantId,
  keep: (entries: readonly Buffer[]) => Promise<void>,
): Promise<ParkedSummary> {
  const summary = (await pool.use(tenant, summarizeParked)) ?? NOTHING_PARKED
  for (let after: ParkedPosition | undefined; summary.entries > 0; ) {
    const page = (await pool.use(tenant, open => parkedEntries(open, after))) ?? []
    if (page.length === 0) break
    await keep(page)
    after = decodeEntry(page.at(-1)!)
  }
  return summary
}
