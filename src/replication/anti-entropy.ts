import type { TenantId } from '../base/ids.ts'
import { compareClocks } from '../clock/hlc.ts'
import { dominates, sameVector } from '../clock/vector.ts'
import { latestClock } from '../rem/floor.ts'
import type { LwwRecord, Op, RecordRef, Value } from '../rem/record.ts'
import { encodeEntry } from '../storage/codec.ts'
import { keys, parseRecordKey } from '../storage/keys.ts'
import type { TenantPool } from '../tenant/pool.ts'
import type { Staging } from '../tenant/staging.ts'
import type { Tenant } from '../tenant/tenant.ts'
import { removeHiddenEdges } from './collect.ts'
import { claimedBy, hasAllOf } from './given-up.ts'
import { BUCKETS, type Digests, type PeerHandlers } from './peer.ts'
import { digestBucket, digestTenant, forgetMerging, mergeTransferred } from './transfer.ts'
import { withCopy } from './with-copy.ts'

/** Records that one repair fetches at once. */
const REPAIR_RECORDS = 200

export interface Comparison {
  /** `behind`: one of the two has entries that the other lacks, so that a difference says nothing. */
  readonly verdict: 'equal' | 'different' | 'behind'
  readonly buckets: readonly number[]
}

/** Compares two copies by the digests of their ranges. */
export function compareDigests(mine: Digests, theirs: Digests): Comparison {
  const sameFloor =
    mine.floor === theirs.floor ||
    (mine.floor !== undefined &&
      theirs.floor !== undefined &&
      compareClocks(mine.floor.clock, theirs.floor.clock) === 0)
  const comparable = sameVector(mine.vector, theirs.vector) && sameFloor && mine.collected && theirs.collected
  if (!comparable) return { verdict: 'behind', buckets: [] }
  const buckets: number[] = []
  for (let bucket = 0; bucket < BUCKETS; bucket++) {
    const at = bucket * 8
    if (!mine.buckets.subarray(at, at + 8).equals(theirs.buckets.subarray(at, at + 8))) buckets.push(bucket)
  }
  return { verdict: buckets.length === 0 ? 'equal' : 'different', buckets }
}

export interface Repair {
  readonly verdict: Comparison['verdict']
  /** Records that were taken over from the other copy. */
  readonly merged: number
  /** Records that the other copy has collected as garbage, set aside here. */
  readonly setAside: number
  /** A transfer into one of the two was cut short: that they differ is no surprise. */
  readonly isExpected: boolean
}

/**
 * Compares this copy with a peer's and takes over what differs. Both sides do so, each for itself. What the peer lacks and lies at or below the floor was deleted
 * and collected there: here it is taken out too, into the quarantine; and what only the peer has of that kind is not taken over, but left to the peer's own repair. So it does not matter which of the two goes first.
 */
export async function repairFrom(
  pool: TenantPool,
  tenant: TenantId,
  incarnation: string,
  peer: PeerHandlers,
): Promise<Repair> {
  const mine = await withCopy(pool, tenant, incarnation, digestTenant)
  const theirs = await peer.digests(tenant, incarnation)
  const { verdict, buckets } = compareDigests(mine, theirs)
  if (verdict === 'equal' && mine.merging) await withCopy(pool, tenant, incarnation, forgetMerging)
  let merged = 0
  let setAside = 0
  for (const bucket of buckets) {
    const [here, there] = await Promise.all([
      withCopy(pool, tenant, incarnation, open => digestBucket(open, bucket)),
      peer.bucket(tenant, incarnation, bucket),
    ])
    const known = new Map(here.map(({ key, digest }) => [key.toString('latin1'), digest]))
    const wanted = there.filter(({ key, digest }) => !known.get(key.toString('latin1'))?.equals(digest))
    for (let at = 0; at < wanted.length; at += REPAIR_RECORDS) {
      const { records, upTo } = await peer.records(
        tenant,
        incarnation,
        wanted.slice(at, at + REPAIR_RECORDS).map(({ key }) => key),
      )
      merged += await withCopy(pool, tenant, incarnation, open =>
        mergeTransferred(open, records, upTo ?? theirs.vector),
      )
    }
    const theirKeys = new Set(there.map(({ key }) => key.toString('latin1')))
    const onlyHere = here.filter(({ key }) => !theirKeys.has(key.toString('latin1'))).map(({ key }) => key)
    // What the other copy gave up for lost it may never have had: it takes that over when it compares, and nothing here is judged by what it lacks.
    if (onlyHere.length > 0 && theirs.floor && (await peer.status(tenant))?.skipped === 0)
      setAside += await withCopy(pool, tenant, incarnation, open => setAsideSettled(open, onlyHere, theirs))
  }
  return { verdict, merged, setAside, isExpected: mine.merging || theirs.merging }
}

/** Takes records out that a copy with the same vector and floor has collected. As in collecting, the edges that a delete hides go before it, or they would show again, and come back at the other copies. */
export async function setAsideSettled(tenant: Tenant, candidates: readonly Buffer[], theirs: Digests): Promise<number> {
  const { floor } = tenant
  if (!floor || !dominates(theirs.vector, floor.vector)) return 0
  for (const key of candidates) {
    const { kind, key: names } = parseRecordKey(key)
    const record = kind === 'entity' ? await tenant.record({ kind, key: names }) : undefined
    if (record?.del && compareClocks(record.del, floor.clock) <= 0)
      await removeHiddenEdges(tenant, names[0]!, record.del)
  }
  return tenant.change(async staging => {
    let count = 0
    for (const key of candidates) {
      const ref = parseRecordKey(key)
      const record = await staging.read(ref)
      const latest = record && latestClock(record)
      if (!record || !latest || compareClocks(latest, floor.clock) > 0) continue
      setAside(tenant, staging, ref, { ...record, del: undefined }, ++count)
      await staging.remove(ref, floor.clock)
    }
    staging.logMerged(new Map())
    return count
  }, candidates.length)
}

/** How long the copies that stay may take to get what this one has seen. */
const CATCH_UP_MS = 2000

/**
 * Before a copy is made anew: what it has, and none of `others` can get any more (it was in a stream that is gone), is set aside in it, record by record. What it never published is not
 * counted here: {@link wipeCopy} sets that aside. Returns the number of records.
 */
export async function setAsideUnknown(
  pool: TenantPool,
  tenant: TenantId,
  others: readonly PeerHandlers[],
): Promise<number> {
  const own = await pool.use(tenant, async open => ({
    incarnation: open.identity.incarnation,
    published: new Map([...open.vector, [open.origin, Math.min(open.state.sequence, open.outbox.published)]]),
    claimed: await claimedBy(open),
  }))
  if (!own) return 0
  const { incarnation, published, claimed } = own
  const hasAll = async (other: PeerHandlers): Promise<boolean> => {
    if (!(await other.awaitVector(tenant, incarnation, published, CATCH_UP_MS))) return false
    return hasAllOf(other, tenant, claimed, (await other.status(tenant))?.skipped)
  }
  for (const other of others) if (await hasAll(other).catch(() => false)) return 0
  const [other] = others
  if (!other) return 0
  let count = 0
  const mine = await withCopy(pool, tenant, incarnation, digestTenant)
  const theirs = await other.digests(tenant, incarnation)
  for (let bucket = 0; bucket < BUCKETS; bucket++) {
    const at = bucket * 8
    if (mine.buckets.subarray(at, at + 8).equals(theirs.buckets.subarray(at, at + 8))) continue
    const known = new Map(
      (await other.bucket(tenant, incarnation, bucket)).map(({ key, digest }) => [key.toString('latin1'), digest]),
    )
    count += await withCopy(pool, tenant, incarnation, async open => {
      const differing = (await digestBucket(open, bucket)).filter(
        ({ key, digest }) => !known.get(key.toString('latin1'))?.equals(digest),
      )
      await open.change(async staging => {
        for (const [n, { key }] of differing.entries()) {
          const ref = parseRecordKey(key)
          const record = await staging.read(ref)
          if (record) setAside(open, staging, ref, record, bucket * 1_000_000 + n)
        }
      }, differing.length)
      return differing.length
    })
  }
  return count
}

/** Puts all of a record into the quarantine, with its own clocks. `n` tells it from others that are set aside at this state of the copy. */
function setAside(tenant: Tenant, staging: Staging, ref: RecordRef, record: LwwRecord, n: number): void {
  const ops: Op[] = [...record.fields].map(([name, { clock, value }]) => ({
    ...ref,
    action: 'set',
    clock,
    fields: { [name]: value } as Record<string, Value>,
  }))
  if (record.put) ops.push({ ...ref, action: 'put', clock: record.put, fields: {} })
  if (record.del) ops.push({ ...ref, action: 'del', clock: record.del, fields: {} })
  if (ops.length === 0) return
  const { incarnation } = tenant.identity
  const origin = `repair.${tenant.origin}`
  const sequence = tenant.state.changes * 1000 + n
  staging.put(keys.quarantine(origin, sequence), encodeEntry({ tenant: tenant.id, incarnation, origin, sequence, ops }))
}
