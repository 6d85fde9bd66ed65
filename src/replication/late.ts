import type { TenantId } from '../base/ids.ts'
import { decodeEntry } from '../storage/codec.ts'
import { keys, prefixes, prefixRange, space } from '../storage/keys.ts'
import type { TenantPool } from '../tenant/pool.ts'
import type { Tenant } from '../tenant/tenant.ts'

/** Entries that are listed at once, and their bytes, about. */
const LATE_MAX = 10_000
const LATE_BYTES_MAX = 16 * 1024 * 1024
/** Bytes of entries that go to another node in one call, about. */
const MOVED_BYTES = 1024 * 1024

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

export async function countLate(open: Tenant): Promise<number> {
  let count = 0
  for await (const chunk of open.chunks({ ...prefixRange(prefixes.space(space.quarantine)), values: false }))
    count += chunk.length
  return count
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
