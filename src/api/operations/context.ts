import { PercolateError } from '../../base/errors.ts'
import type { TenantId } from '../../base/ids.ts'
import type { Logger } from '../../base/logger.ts'
import type { Time } from '../../base/time.ts'
import { type Clock, formatClock, laterClock, parseClock } from '../../clock/hlc.ts'
import { joinVectors, type VersionVector } from '../../clock/vector.ts'
import type { Embedder } from '../../embedding/port.ts'
import { type Durability, durabilities, type Replica } from '../../replication/replica.ts'
import type { TenantPool } from '../../tenant/pool.ts'
import type { Tenant } from '../../tenant/tenant.ts'
import type { WriteOptions } from '../../tenant/writer.ts'
import { type Bookmark, encodeBookmark, joinBookmarks } from '../bookmark.ts'

/** What every operation gets from the protocol in front of it. */
export interface Call {
  readonly tenant: TenantId
  /** Ends when the client goes away or its deadline passes. */
  readonly signal: AbortSignal
  /** Whether the signal has fired, or would have; spares making it. */
  readonly hasEnded: boolean
  /** The clock to write with instead of now; see `X-Percolate-As-Of`. */
  readonly asOf?: Clock | undefined
  readonly consistency?: Consistency | undefined
  /** What a write came to; set by it, sent by the protocol. */
  outcome?: WriteOutcome | undefined
}

/** What a request asks of the cluster. */
export interface Consistency {
  readonly durability: Durability | undefined
  readonly bookmark: Bookmark | undefined
  /** `If-Match`, or the home's own word on a read. */
  readonly needsHome: boolean
}

export interface WriteOutcome {
  readonly reached: Durability
  readonly bookmark: string
  /** The latest clock that the write carries. */
  readonly clock: string
}

export interface OperationsContext {
  readonly time: Time
  readonly logger: Logger
  readonly pool: TenantPool
  readonly embedder: Embedder
  /** Called after a write that left resources without embeddings. */
  readonly onPending: (tenant: TenantId) => void
  /** The node's part in a cluster; a node without a stream has none. */
  readonly replica: Replica | undefined
  readonly durability: Durability
  readonly durabilityTimeoutMs: number
}

/** Reads of a tenant that was never written are empty; nothing is made on disk for them. */
export async function read<T>(
  context: OperationsContext,
  call: Call,
  work: (tenant: Tenant) => Promise<T>,
  empty: () => NoInfer<T>,
): Promise<T> {
  throwIfCancelled(call)
  const result = await context.pool.use(call.tenant, async tenant => ({ value: await work(tenant) }))
  return result === undefined ? empty() : result.value
}

/** What the writer of a call's commands is told beside them. */
export type Commit = (options?: Omit<WriteOptions, 'asOf' | 'onCommitted'>) => WriteOptions

export async function write<T>(
  context: OperationsContext,
  call: Call,
  work: (tenant: Tenant, commit: Commit) => Promise<T>,
): Promise<T> {
  throwIfCancelled(call)
  const writing = new Writing(context, call)
  return writing.finish(
    await context.pool.use(call.tenant, tenant => work(tenant, writing.begin(tenant)), { create: true }),
  )
}

/** A write in a tenant that was never written finds nothing, and makes nothing. */
export async function writeExisting<T>(
  context: OperationsContext,
  call: Call,
  missing: PercolateError,
  work: (tenant: Tenant, commit: Commit) => Promise<T>,
): Promise<T> {
  throwIfCancelled(call)
  const writing = new Writing(context, call)
  const result = await context.pool.use(call.tenant, async tenant => ({
    value: await work(tenant, writing.begin(tenant)),
  }))
  if (result === undefined) throw missing
  return writing.finish(result.value)
}

/** One write of a call: where it got to, whether its condition was decided by the home, how durable it is. */
class Writing {
  readonly #context: OperationsContext
  readonly #call: Call
  #epoch: number | undefined
  #position: VersionVector | undefined
  readonly #origins = new Set<string>()
  #incarnation = ''
  #clock: Clock | undefined

  constructor(context: OperationsContext, call: Call) {
    this.#context = context
    this.#call = call
  }

  begin(tenant: Tenant): Commit {
    if (this.#call.consistency?.needsHome) this.#epoch ??= this.#context.replica?.homes.assertHome(this.#call.tenant)
    this.#incarnation = tenant.identity.incarnation
    const onCommitted = (position: VersionVector, clock: Clock, origin: string) => {
      this.#origins.add(origin)
      this.#clock = laterClock(this.#clock, clock)
      this.#position = this.#position ? joinVectors(this.#position, position) : position
    }
    return (options = {}) => ({ ...options, asOf: this.#call.asOf, onCommitted })
  }

  async finish<T>(result: T): Promise<T> {
    if (!this.#position) return result
    const { replica, durability: standard, durabilityTimeoutMs } = this.#context
    const { tenant, consistency } = this.#call
    const wanted = consistency?.durability ?? standard
    const position = this.#position
    const reached = replica
      ? await replica.reach(tenant, this.#origins, position, wanted, durabilityTimeoutMs)
      : 'local'
    const bookmark = joinBookmarks(consistency?.bookmark, { incarnation: this.#incarnation, vector: position })
    const clock = this.#clock ? formatClock(this.#clock) : ''
    this.#call.outcome = { reached, bookmark: encodeBookmark(bookmark), clock }
    // The same lease, from before the condition was looked at until now: nobody else decided meanwhile.
    if (this.#epoch !== undefined && replica?.homes.assertHome(tenant) !== this.#epoch)
      throw new PercolateError(
        'HOME_UNAVAILABLE',
        'The home of the tenant changed while the condition was decided; read, and decide anew.',
      )
    if (durabilities.indexOf(reached) >= durabilities.indexOf(wanted)) return result
    throw new PercolateError(
      'DURABILITY_NOT_REACHED',
      `The write stands and is durable at level "${reached}"; "${wanted}" was not reached in time. Repeating it is harmless.`,
      { extra: { durability: reached, bookmark: this.#call.outcome.bookmark } },
    )
  }
}

export function throwIfCancelled(call: Call): void {
  if (!call.hasEnded) return
  const reason: unknown = call.signal.reason
  throw reason instanceof PercolateError ? reason : new PercolateError('CANCELLED', 'The client went away.')
}

/** How far ahead of this node's clock a client's clock may be. */
const AS_OF_AHEAD_MS_MAX = 60_000

export function parseAsOf(text: string, nowMs: number): Clock {
  const field = 'X-Percolate-As-Of'
  const clock = parseClock(text)
  if (!clock) {
    throw new PercolateError(
      'INVALID_CLOCK',
      `${field} must look like 0193a1b2c3d4-00000000-origin: 12 hex digits of milliseconds, 8 of a counter, and a name.`,
      { field },
    )
  }
  if (clock.wall > nowMs + AS_OF_AHEAD_MS_MAX)
    throw new PercolateError('INVALID_CLOCK', `${field} is more than ${AS_OF_AHEAD_MS_MAX / 1000} s in the future.`, {
      field,
    })
  return clock
}

export function parseDurability(text: string): Durability {
  if ((durabilities as readonly string[]).includes(text)) return text as Durability
  throw new PercolateError('INVALID_ARGUMENT', `X-Percolate-Durability must be one of ${durabilities.join(', ')}.`, {
    field: 'X-Percolate-Durability',
  })
}

/** Whether the home must answer. */
export function parseConsistency(text: string): boolean {
  if (text === 'home' || text === 'any') return text === 'home'
  throw new PercolateError(
    'INVALID_ARGUMENT',
    'X-Percolate-Consistency must be "home", or "any", which is the default.',
    {
      field: 'X-Percolate-Consistency',
    },
  )
}

export const notFound = (what: string, id: string): PercolateError =>
  new PercolateError(
    'NOT_FOUND',
    `This tenant has no ${what} ${JSON.stringify(id.length > 80 ? `${id.slice(0, 80)}…` : id)}.`,
  )

export const isoTime = (timeMs: number): string => new Date(timeMs).toISOString()
