import { PercolateError } from '../../base/errors.ts'
import { derivedId } from '../../base/ids.ts'
import { IF_MATCH_CHARS_MAX } from '../../base/limits.ts'
import { type Clock, compareClocks, laterClock } from '../../clock/hlc.ts'
import type { LwwRecord } from '../../rem/record.ts'
import { encodeRecord } from '../../storage/codec.ts'

/** What a write demands of the one record that it is about (RFC 9110, 13.1); the tenant's home decides. */
export interface Conditions {
  /** ETags of which the record has one, or `*`: it exists. */
  readonly ifMatch?: string | undefined
  /** `*`: it does not exist. */
  readonly ifNoneMatch?: '*' | undefined
}

export const hasCondition = ({ ifMatch, ifNoneMatch }: Conditions): boolean =>
  ifMatch !== undefined || ifNoneMatch !== undefined

/** `*`, the only value that means something on a write. `field`: as the protocol names it. */
export function parseIfNoneMatch(value: unknown, field: string): '*' {
  if (typeof value === 'string' && value.trim() === '*') return '*'
  throw new PercolateError(
    'INVALID_ARGUMENT',
    `${field} must be "*" on a write: make it only when it does not exist. For "only as it was read" use If-Match.`,
    { field },
  )
}

/** ETags of a condition, as the protocol names its field. Throws INVALID_ARGUMENT when they are more than anybody can have read. */
export function checkTags(value: string, field: string): void {
  if (value.length <= IF_MATCH_CHARS_MAX) return
  throw new PercolateError(
    'INVALID_ARGUMENT',
    `${field} has ${value.length} characters; at most ${IF_MATCH_CHARS_MAX} are allowed. Send the ETag that a read of the record gave.`,
    { field },
  )
}

const etags = new WeakMap<LwwRecord, string>()

/** Names a record's state; computed once for a record that stays in the cache. */
export function etagOf(record: LwwRecord): string {
  let etag = etags.get(record)
  if (etag === undefined) {
    etag = `"${derivedId(encodeRecord(record)).slice(0, 20)}"`
    etags.set(record, etag)
  }
  return etag
}

/** Of an answer that shows more than its record: begins with the record's, and ends with what names the rest. `rest`: nothing, or what tells it from any other. */
export function etagWith(record: LwwRecord, rest: readonly string[]): string {
  const etag = etagOf(record)
  return rest.length === 0 ? etag : `${etag.slice(0, -1)}-${derivedId(...rest).slice(0, 20)}"`
}

/** The record's part of an ETag. */
const ofRecord = (etag: string): string => etag.replace(/-[0-9a-f]+"$/, '"')

/**
 * Throws PRECONDITION_FAILED when a condition does not hold for the record, and CLOCK_NOT_LATER when it holds and the write would not be seen. What does not exist (`isThere` false; a delete
 * may be remembered of it) has no state that could match.
 */
export function checkConditions(
  record: LwwRecord | undefined,
  isThere: boolean,
  conditions: Conditions,
  asOf: Clock | undefined,
): void {
  if (!hasCondition(conditions)) return
  const { ifMatch, ifNoneMatch } = conditions
  if (ifMatch !== undefined) checkIfMatch(isThere && record ? etagOf(record) : undefined, ifMatch)
  if (ifNoneMatch !== undefined && isThere && record)
    throw new PercolateError(
      'PRECONDITION_FAILED',
      `The record is there already: its ETag is ${etagOf(record)}. Read it, or leave If-None-Match out to merge.`,
      { field: 'If-None-Match' },
    )
  if (asOf) assertLater(record, asOf)
}

/**
 * Throws PRECONDITION_FAILED. `etag`: of the record as it is now, or of an answer about it; undefined: there is none, and nothing can match (RFC 9110, 13.1.1). Of what an answer shows beside the
 * record nothing is asked: the home would have to read all of it to decide.
 */
export function checkIfMatch(etag: string | undefined, ifMatch: string): void {
  if (etag === undefined)
    throw new PercolateError('PRECONDITION_FAILED', 'There is no such record now; leave If-Match out to make it.', {
      field: 'If-Match',
    })
  const wanted = ofRecord(etag)
  if (ifMatch.trim() === '*' || ifMatch.split(',').some(tag => ofRecord(tag.trim()) === wanted)) return
  throw new PercolateError(
    'PRECONDITION_FAILED',
    `The record has changed: its ETag is ${etag}. Read it again and decide anew.`,
    { field: 'If-Match' },
  )
}

/**
 * What a condition has decided must be seen: a write that carries a clock which the record is beyond would be merged away, leave the ETag as it is, and let the same condition hold again.
 * Throws CLOCK_NOT_LATER.
 */
export function assertLater(record: LwwRecord | undefined, asOf: Clock): void {
  if (!record) return
  let latest = laterClock(record.put, record.del)
  for (const { clock } of record.fields.values()) latest = laterClock(latest, clock)
  if (!latest || compareClocks(asOf, latest) > 0) return
  throw new PercolateError(
    'CLOCK_NOT_LATER',
    'The record has something later than X-Percolate-As-Of, which would overtake this write; leave X-Percolate-As-Of out to write as of now, or leave the condition out.',
    { field: 'X-Percolate-As-Of' },
  )
}
