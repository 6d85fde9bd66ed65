import { readSkipped } from '../replication/export.ts'
import { NONE_LOST, splitMark, toggleLost } from '../tenant/change-log.ts'
import { UNSURE } from '../tenant/change-reader.ts'
import type { Tenant } from '../tenant/tenant.ts'
import type { Bookmark } from './bookmark.ts'

/** Whether the copy has come as far as the bookmark. What a feed told ahead of its vector, the copy that told it has. */
export const isReached = (tenant: Tenant, { vector, ahead = [] }: Bookmark): boolean =>
  tenant.covers(vector) && ahead.every(({ teller, vector }) => tenant.origin === teller || tenant.covers(vector))

/** Entries that a bookmark names as lacking, at most; of more it has only their mark, which tells whether a copy lacks just the same. */
const LACKS_MAX = 32

/** Of all that the copy has. */
export async function bookmarkOf(tenant: Tenant): Promise<Bookmark> {
  const { incarnation } = tenant.identity
  const { vector } = tenant
  const { clock, lost } = tenant.state
  const { mark, count } = lost
  // Later than the vector: what turns up meanwhile is had, and what is given up meanwhile lies above it.
  const lacks = count > 0 && count <= LACKS_MAX ? await readSkipped(tenant) : undefined
  return { incarnation, vector, lost: mark, lacks, clock }
}

/**
 * Whether the copy has all that the bookmark names. Entries that were given up for lost here count as applied, and are not here: one that the bookmark names, the last of its origin, is lacking; of a bookmark that
 * is the whole vector of a copy all are that the other one did not lack. What neither has hinders nobody.
 */
export async function hasAll(tenant: Tenant, bookmark: Bookmark): Promise<boolean> {
  if (!isReached(tenant, bookmark)) return false
  if (tenant.state.lost.count === 0) return true
  const { vector, lost, lacks } = bookmark
  // Later than the vector: what that counts only because it was given up is in the list.
  const skipped = (await readSkipped(tenant)).filter(([origin, sequence]) => sequence <= (vector.get(origin) ?? 0))
  if (lacks) {
    const known = new Set(lacks.map(([origin, sequence]) => `${origin} ${sequence}`))
    return skipped.every(([origin, sequence]) => known.has(`${origin} ${sequence}`))
  }
  const theirs = lost === undefined ? UNSURE : splitMark(lost).lost
  if (theirs === UNSURE) return !skipped.some(([origin, sequence]) => sequence === vector.get(origin))
  const { mark } = skipped.reduce((set, [origin, sequence]) => toggleLost(set, origin, sequence, 1), NONE_LOST)
  return mark === '' || mark === theirs
}
