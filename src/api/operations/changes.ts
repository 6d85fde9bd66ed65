import { PercolateError } from '../../base/errors.ts'
import type { TenantId } from '../../base/ids.ts'
import { formatClock } from '../../clock/hlc.ts'
import { encodeBookmark, type FeedCursor, laterReading, parseFeedCursor, type Reading } from '../../session/bookmark.ts'
import { assertNothingStands } from '../../session/context.ts'
import { bookmarkOf } from '../../session/reached.ts'
import type { Session } from '../../session/session.ts'
import type { LoggedChange } from '../../tenant/change-log.ts'
import { ChangeReader, type FeedPosition, type FeedStep, LogGap } from '../../tenant/change-reader.ts'
import type { Tenant } from '../../tenant/tenant.ts'
import { type FeedLimits, FeedPlaces, feedsEnd } from '../feed-places.ts'
import type { OperationsContext } from './context.ts'

/** One entry of the feed: what one write changed, or what came from another copy at once. */
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

/** Of a tenant that is not there yet, whatever its incarnation will be. */
const BEFORE_ALL: FeedPosition = { vector: new Map(), lost: '' }
/** How soon a client may come back when the copy cannot be followed any more, seconds. */
const RETRY_S = 1

/**
 * The feed of a tenant's changes, in the order in which this copy learned them. A cursor is a version vector, so that it means the same on every holder: the feed goes on with what the vector lacks. Each
 * change comes at least once, or the feed ends with CHANGES_EXPIRED and a cursor to go on from; see {@link ChangeReader}. While it waits it keeps no tenant open.
 */
export class ChangeOperations {
  /** Also of the feeds that this node sends on: the protocols hold a place for each. */
  readonly places: FeedPlaces
  /** Characters of the longest cursor that a feed gave; beyond `BOOKMARK_CHARS_MAX` none can be taken. */
  longestCursor = 0
  readonly #context: OperationsContext

  constructor(context: OperationsContext, limits: FeedLimits) {
    this.#context = context
    this.places = new FeedPlaces(limits)
  }

  /** Ends with the call. */
  async *follow(call: Session, from: FeedStart, heartbeatMs: number): AsyncGenerator<ChangeEvent> {
    const release = this.places.hold(call.tenant, 'served')
    try {
      yield* this.#follow(call, from, heartbeatMs)
    } finally {
      release()
    }
  }

  async *#follow(call: Session, { cursor, field }: FeedStart, heartbeatMs: number): AsyncGenerator<ChangeEvent> {
    const { pool } = this.#context
    const signal = AbortSignal.any([call.signal, this.places.closing])
    let start: FeedCursor | 'earliest' | 'now' =
      cursor === undefined || cursor === '' ? 'now' : cursor === 'earliest' ? cursor : parseFeedCursor(cursor, field)
    let reader: ChangeReader | undefined
    let hasBegun = false
    let incarnation = typeof start === 'string' ? '' : start.incarnation
    /** The latest clock of what the client was told or may have read: its writes with a cursor are later. */
    let clock: Reading | undefined = typeof start === 'string' ? undefined : start.clock
    let hasAnswered = false
    /** The last cursor that the client has; what lies behind it may have been read, and not been told. */
    let given = typeof start === 'string' ? undefined : cursor
    const event = (cursor: string, changes?: readonly Change[]): ChangeEvent => {
      given = cursor
      return { cursor, ...(changes ? { changes } : {}) }
    }
    const throwIfEnded = () => {
      call.throwIfEnded()
      if (signal.aborted) throw feedsEnd()
    }
    const using = <T>(work: (tenant: Tenant) => Promise<T>) =>
      pool.use(call.tenant, async tenant => {
        incarnation ||= tenant.identity.incarnation
        if (tenant.identity.incarnation !== incarnation)
          throw await expired(tenant, field, 'the tenant was erased since')
        try {
          const done = await work(tenant)
          clock = laterReading(clock, tenant.state.clock)
          return done
        } catch (error) {
          if (error instanceof LogGap) throw await expired(tenant, field, error.message)
          throw error
        }
      })
    const at = (position: FeedPosition) => {
      const text = encodeBookmark({ incarnation, ...position, clock })
      this.longestCursor = Math.max(this.longestCursor, text.length)
      return text
    }
    while (!signal.aborted) {
      this.#assertAnswers(call.tenant, incarnation, reader && at(reader.position))
      const following = reader
      const from = reader?.position ?? (start as FeedPosition | 'earliest' | 'now')
      const watch = pool.watch(call.tenant, tenant => following?.isBehind(tenant) ?? true)
      try {
        let told = false
        // A copy that was made anew has another log; what it is asked for is told by the position alone.
        const steps = await using(async tenant => {
          if (!reader?.isOf(tenant)) {
            const near = await ChangeReader.startNear(tenant, from)
            if (!near) return 'far'
            reader = near
          }
          return readSome(reader, tenant)
        })
        if (steps === 'far') {
          // All of the log may have to be read for it.
          const begin = () =>
            using(async tenant => {
              reader = await ChangeReader.start(tenant, from, throwIfEnded)
            })
          await this.#context.heavyReads.runOpen(pool, call, begin).catch(error => {
            throw following ? withCursor(error, at(following.position)) : error
          })
          continue
        }
        const isFirst: boolean = steps !== undefined && !hasAnswered
        hasAnswered ||= isFirst
        // What the client has taken is let go of: it may take its time for the rest.
        for (let step = steps?.shift(); step && !signal.aborted; step = steps?.shift()) {
          told = true
          const { position, changes } = step
          yield event(at(position), changes?.flatMap(toChange))
        }
        if (signal.aborted) break
        if (steps === undefined && reader) throw gone(at(reader.position))
        if (told || isFirst) {
          if (!told && reader) yield event(at(reader.position))
          continue
        }
        if (steps === undefined) {
          // The tenant does not exist yet, anywhere; its first change will be the first event.
          if (typeof start === 'string') start = { incarnation: '', ...BEFORE_ALL }
          const standing = encodeBookmark(start)
          if (!hasBegun) assertNothingStands(this.#context, call)
          else if (!this.#isNowhere(call)) throw gone(standing)
          hasBegun = true
          yield event(standing)
        }
        // A heartbeat opens nothing: nothing has changed.
        while (!(await watch.wait(heartbeatMs, signal)) && !signal.aborted) {
          const cursorNow = reader ? at(reader.position) : encodeBookmark(start as FeedCursor)
          if (reader) this.#assertAnswers(call.tenant, incarnation, cursorNow)
          else if (!this.#isNowhere(call)) throw gone(cursorNow)
          yield event(cursorNow)
        }
      } finally {
        watch.stop()
      }
    }
    if (this.places.closing.aborted && !call.signal.aborted) throw feedsEnd(given)
  }

  #isNowhere(call: Session): boolean {
    const { replica } = this.#context
    return replica === undefined || replica.router.isNew(call.tenant)
  }

  /**
   * A copy that takes no entries says nothing any more, while others take writes: one that goes, however long that takes, that is damaged, or is being made. Other holders do. Nor does one of another incarnation than the
   * directory tells of: who follows on elsewhere begins anew.
   */
  #assertAnswers(tenant: TenantId, incarnation: string, cursor: string | undefined): void {
    const { replica } = this.#context
    if (!replica || cursor === undefined) return
    const { copies } = replica
    const isFed = copies.isCurrent(tenant) || (copies.state(tenant) === 'verifying' && copies.takesEntries(tenant))
    const standing = replica.directory.placement(tenant)?.incarnation ?? incarnation
    if (!isFed || standing !== incarnation) throw gone(cursor)
  }
}

/** Items that say nothing to this reader are passed over in the same go, some at a time. */
async function readSome(reader: ChangeReader, tenant: Tenant): Promise<FeedStep[]> {
  for (;;) {
    const steps = await reader.read(tenant)
    if (steps.length > 0 || !reader.isBehind(tenant)) return steps
  }
}

function toChange({ kind, key, action, clock }: LoggedChange): Change[] {
  if (kind === 'setting') return []
  const [id, type, to] = key
  return [{ kind, id: id!, ...(type === undefined ? {} : { type, to: to! }), action, clock: formatClock(clock) }]
}

/** The cursor skips what this copy has, so what is read anew must have it too: another holder may not, unless it is asked with the bookmark of that position. */
async function expired(tenant: Tenant, field: string, why: string): Promise<PercolateError> {
  const { lacks, ...position } = await bookmarkOf(tenant)
  const cursor = encodeBookmark(position)
  return new PercolateError(
    'CHANGES_EXPIRED',
    `The change feed does not reach back that far (${why}). Read what you need anew with the bookmark given here as X-Percolate-Bookmark, then follow from the cursor given here.`,
    { field, extra: { cursor, bookmark: encodeBookmark({ ...position, lacks }) } },
  )
}

/** What ends a feed that has begun says where to go on. */
const withCursor = (error: unknown, cursor: string): unknown =>
  error instanceof PercolateError && error.extra?.cursor === undefined
    ? new PercolateError(error.code, error.message, {
        retryAfterS: error.retryAfterS ?? RETRY_S,
        extra: { ...error.extra, cursor },
        cause: error,
      })
    : error

const gone = (cursor: string) =>
  new PercolateError(
    'TENANT_UNAVAILABLE',
    'This node holds no copy of the tenant that it can follow; follow on from the cursor, at a holder.',
    {
      retryAfterS: RETRY_S,
      extra: { cursor },
    },
  )
