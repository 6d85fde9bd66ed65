import { PercolateError } from '../../base/errors.ts'
import { formatClock } from '../../clock/hlc.ts'
import type { VersionVector } from '../../clock/vector.ts'
import { recordKinds } from '../../rem/record.ts'
import { type Bookmark, encodeBookmark, parseBookmark } from '../../session/bookmark.ts'
import type { Session } from '../../session/session.ts'
import { unpackValue } from '../../storage/codec.ts'
import { KeyReader, keys, prefixes, prefixRange, space } from '../../storage/keys.ts'
import type { Tenant } from '../../tenant/tenant.ts'
import type { OperationsContext } from './context.ts'

/** One entry of the feed: what one write changed. */
export interface ChangeEvent {
  /** Go on behind this event. */
  readonly cursor: string
  /** Undefined: nothing has changed for a while (a heartbeat). */
  readonly changes?: readonly Change[]
}

export interface Change {
  readonly kind: string
  readonly id: string
  /** For an edge: its type and where it leads. */
  readonly type?: string
  readonly to?: string
  readonly action: 'put' | 'set' | 'del'
  readonly clock: string
}

/** Where a feed begins. */
export interface FeedStart {
  /** From behind it; `earliest`: from as far back as the log reaches; undefined: from now. */
  readonly cursor: string | undefined
  /** What the client calls it. */
  readonly field: string
}

/** Feeds that one node serves at once. */
const FEEDS_MAX = 1000
/** Entries read from disk at once. */
const READ_ENTRIES = 128

interface LoggedEntry {
  readonly n: number
  readonly origin: string
  readonly sequence: number
  readonly changes: Change[]
}

/**
 * The feed of a tenant's changes, in the order in which this copy applied them. A cursor is a version vector, so that it means the same on every holder: the feed goes on with what the vector lacks. Each
 * change comes at least once.
 */
export class ChangeOperations {
  readonly #context: OperationsContext
  #feeds = 0

  constructor(context: OperationsContext) {
    this.#context = context
  }

  get feeds(): number {
    return this.#feeds
  }

  /** Ends with the call. */
  async *follow(call: Session, from: FeedStart, heartbeatMs: number): AsyncGenerator<ChangeEvent> {
    if (this.#feeds >= FEEDS_MAX)
      throw new PercolateError('TOO_BUSY', `This node serves ${FEEDS_MAX} change feeds; retry on another, or later.`)
    this.#feeds++
    try {
      yield* this.#follow(call, from, heartbeatMs)
    } finally {
      this.#feeds--
    }
  }

  async *#follow(call: Session, { cursor, field }: FeedStart, heartbeatMs: number): AsyncGenerator<ChangeEvent> {
    const { pool, time } = this.#context
    const { signal } = call
    let start: Bookmark | 'earliest' | undefined
    if (cursor === 'earliest') start = cursor
    else if (cursor) start = parseBookmark(cursor, field)
    let position: Map<string, number> | undefined
    let incarnation = ''
    let after = 0
    while (!signal.aborted) {
      const step = await pool.use(call.tenant, async tenant => {
        if (!position) {
          position = await startOf(tenant, start, field)
          incarnation = tenant.identity.incarnation
        }
        if (tenant.identity.incarnation !== incarnation) throw expired(tenant, field)
        const entries = await readLog(tenant, after)
        if (entries.length === 0) await tenant.waitUntil(() => tenant.state.changes > after, heartbeatMs, signal)
        return entries
      })
      if (signal.aborted) return
      if (!step) {
        // The tenant does not exist yet; its first change will be the first event.
        yield { cursor: '' }
        await time.sleep(Math.min(heartbeatMs, 1000), { signal, ref: false }).catch(() => {})
        start ??= 'earliest'
        continue
      }
      const seen = position!
      let isNews = false
      for (const { n, origin, sequence, changes } of step) {
        if (after > 0 && n > after + 1)
          throw new PercolateError('CHANGES_EXPIRED', 'The feed was read too slowly: changes in between are gone.', {
            extra: { cursor: encodeBookmark({ incarnation, vector: seen }) },
          })
        after = n
        if (sequence <= (seen.get(origin) ?? 0)) continue
        seen.set(origin, sequence)
        isNews = true
        yield { cursor: encodeBookmark({ incarnation, vector: seen }), changes }
      }
      if (!isNews && step.length === 0) yield { cursor: encodeBookmark({ incarnation, vector: seen }) }
    }
  }
}

/** Where a feed begins, when everything behind it is in the log. */
async function startOf(
  tenant: Tenant,
  start: Bookmark | 'earliest' | undefined,
  field: string,
): Promise<Map<string, number>> {
  if (start === undefined) return new Map(tenant.vector)
  const reaches = await reachOf(tenant)
  if (start === 'earliest') return new Map(reaches)
  const { incarnation, vector } = start
  if (incarnation !== tenant.identity.incarnation) throw expired(tenant, field)
  for (const [origin, sequence] of reaches) if ((vector.get(origin) ?? 0) < sequence) throw expired(tenant, field)
  return new Map(vector)
}

/** For each origin the last sequence that is not in the log without a gap up to now. */
async function reachOf(tenant: Tenant): Promise<VersionVector> {
  const reaches = new Map(tenant.vector)
  const range = prefixRange(prefixes.space(space.change))
  for await (const chunk of tenant.chunks({ ...range, reverse: true })) {
    for (const [, value] of chunk) {
      const [origin, sequence] = unpackValue(value) as [string, number]
      if (reaches.get(origin) === sequence) reaches.set(origin, sequence - 1)
    }
  }
  return reaches
}

const expired = (tenant: Tenant, field: string) => {
  const cursor = encodeBookmark({ incarnation: tenant.identity.incarnation, vector: tenant.vector })
  return new PercolateError(
    'CHANGES_EXPIRED',
    'The change feed does not reach back that far. Read what you need anew, then follow from the cursor given here.',
    { field, extra: { cursor } },
  )
}

async function readLog(tenant: Tenant, after: number): Promise<LoggedEntry[]> {
  const { lt } = prefixRange(prefixes.space(space.change))
  const entries: LoggedEntry[] = []
  for await (const chunk of tenant.chunks({ gte: keys.change(after + 1), lt, limit: READ_ENTRIES })) {
    for (const [key, value] of chunk) {
      const [origin, sequence, items] = unpackValue(value) as [
        string,
        number,
        [number, string[], Change['action'], [number, number, string]][],
      ]
      const changes = items.map(([kind, parts, action, [wall, counter, by]]) => ({
        kind: recordKinds[kind] ?? 'unknown',
        id: parts[0]!,
        ...(parts.length > 1 ? { type: parts[1]!, to: parts[2]! } : {}),
        action,
        clock: formatClock({ wall, counter, origin: by }),
      }))
      entries.push({
        n: new KeyReader(key).u64(),
        origin,
        sequence,
        changes: changes.filter(({ kind }) => kind !== 'setting'),
      })
    }
  }
  return entries
}
