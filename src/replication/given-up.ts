import type { TenantId } from '../base/ids.ts'
import type { VersionVector } from '../clock/vector.ts'
import { keys } from '../storage/keys.ts'
import { collect } from '../storage/kv.ts'
import type { Tenant } from '../tenant/tenant.ts'
import { readSkipped, SKIPPED_MAX } from './export.ts'
import type { PeerHandlers, TransferHead, WholeFrom } from './peer.ts'

type GivenUp = TransferHead['skipped']

/** What a copy counts in its vector, and what of it it gave up for lost. */
export interface Claimed {
  readonly incarnation: string
  readonly vector: VersionVector
  readonly skipped: GivenUp
}

export const claimedBy = async (open: Tenant): Promise<Claimed> => ({
  incarnation: open.identity.incarnation,
  vector: new Map(open.vector),
  skipped: await readSkipped(open),
})

/** What another copy counts and gave up, as the head of its transfer tells; undefined: it did not say. */
export async function askClaimed(
  peer: PeerHandlers,
  tenant: TenantId,
  incarnation: string,
): Promise<Claimed | undefined> {
  for await (const part of peer.transfer(tenant, incarnation, undefined))
    return 'head' in part ? { incarnation, vector: part.head.vector, skipped: part.head.skipped } : undefined
  return undefined
}

/** Whether an entry of one of these origins, from the first that matters up to the vector's, was given up for lost in the copy. */
export async function hasGivenUp(open: Tenant, whole: WholeFrom, vector: VersionVector): Promise<boolean> {
  if (open.state.lost.count === 0) return false
  for (const [origin, first] of whole) {
    const lt = keys.skipped(origin, (vector.get(origin) ?? 0) + 1)
    const found = await collect(open, { gte: keys.skipped(origin, first), lt, limit: 1, values: false })
    if (found.length > 0) return true
  }
  return false
}

/** Of `given`, which a copy gave up for lost, what `other` has. */
export function hadBy(given: GivenUp, { vector, skipped }: Claimed): GivenUp {
  // A list that is as long as one may be tells not of all.
  if (skipped.length >= SKIPPED_MAX) return []
  const lost = new Set(skipped.map(([origin, sequence]) => `${origin} ${sequence}`))
  return given.filter(
    ([origin, sequence]) => (vector.get(origin) ?? 0) >= sequence && !lost.has(`${origin} ${sequence}`),
  )
}

/**
 * Whether another copy, whose vector covers `own`, has all that `own` has: what was given up for lost counts in vectors too. `known`: how much it gave up, by its status.
 */
export async function hasAllOf(
  peer: PeerHandlers,
  tenant: TenantId,
  own: Claimed,
  known: number | undefined,
): Promise<boolean> {
  if (known === 0) return true
  const theirs = await askClaimed(peer, tenant, own.incarnation)
  if (!theirs || theirs.skipped.length >= SKIPPED_MAX) return false
  return own.skipped.length < SKIPPED_MAX && hadBy(theirs.skipped, own).length === 0
}
