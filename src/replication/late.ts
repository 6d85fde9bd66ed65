import { prefixes, prefixRange, space } from '../storage/keys.ts'
import { collect } from '../storage/kv.ts'
import type { Tenant } from '../tenant/tenant.ts'

/** Entries set aside in a copy, at most {@link LATE_MAX}. */
export async function lateEntries(open: Tenant): Promise<Buffer[]> {
  const found = await collect(open, { ...prefixRange(prefixes.space(space.quarantine)), limit: LATE_MAX })
  return found.map(([, value]) => value)
}

const LATE_MAX = 10_000
