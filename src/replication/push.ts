import type { TenantId } from '../base/ids.ts'
import type { VersionVector } from '../clock/vector.ts'
import { dominates } from '../clock/vector.ts'
import { decodeEntry } from '../storage/codec.ts'
import { keyAfter, prefixes, prefixRange, space } from '../storage/keys.ts'
import { collect } from '../storage/kv.ts'
import type { TenantPool } from '../tenant/pool.ts'
import type { PeerHandlers } from './peer.ts'
import { sameCopy, withCopy } from './with-copy.ts'

/** Entries in one push to a peer. */
const PUSH_ENTRIES = 64

/**
 * Gives another holder what is in a copy's outbox, in the order in which it was written, without the stream; true when that holder then has all of it, and nothing came to it meanwhile. The outbox stays
 * as it is. No lease is held while the holder is waited for. Throws what the holder answers.
 */
export async function pushOutbox(pool: TenantPool, tenant: TenantId, to: PeerHandlers): Promise<boolean> {
  const use = sameCopy(work => withCopy(pool, tenant, undefined, work))
  const { gte, lt } = prefixRange(prefixes.space(space.outbox))
  /** The last of each origin: what this copy wrote before it got another one may be there too. */
  const pushed = new Map<string, number>()
  let taken: VersionVector = new Map()
  for (let after: Buffer | undefined; ; ) {
    const from = after ? keyAfter(after) : gte
    const entries = await use(open => collect(open, { gte: from, lt, limit: PUSH_ENTRIES, verified: true }))
    if (entries.length === 0) break
    taken = await to.push(
      tenant,
      entries.map(([, value]) => value),
    )
    for (const { origin, sequence } of entries.map(([, value]) => decodeEntry(value))) pushed.set(origin, sequence)
    after = entries.at(-1)![0]
  }
  return use(async open => dominates(taken, pushed) && (taken.get(open.origin) ?? 0) >= open.state.sequence)
}
