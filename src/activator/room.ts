import { PercolateError } from '../base/errors.ts'
import { HalfShares } from '../base/half-shares.ts'
import type { TenantId } from '../base/ids.ts'
import type { Time } from '../base/time.ts'
import { type Backend, Waiters, type WaitersOptions } from './waiters.ts'

export interface WaitingRoomOptions {
  readonly time: Time
  readonly picker: WaitersOptions['picker']
  readonly requestsMax: number
  readonly bytesMax: number
  readonly holdMs: number
  /** How long a tenant whose request was held counts as one that wants a node. */
  readonly wakeMs: number
}

/** Between two attempts at a node that is ready and not yet able to answer for the tenant: twice as long each time. */
const AGAIN_MS = 100
const AGAIN_MS_MAX = 2000
/** Tenants that are counted as waiting; more of them change nothing for a scaler. */
const WAITING_TENANTS_MAX = 100_000

/** Nothing was done with the request, and another attempt may do better. */
export class NotYet extends Error {
  /** Not before so many ms. */
  readonly afterMs: number

  constructor(afterMs = 0) {
    super('not yet')
    this.afterMs = afterMs
  }
}

/** Where the requests of one tier wait while it has no ready node, bounded in number, bytes and time. */
export class WaitingRoom {
  readonly counts = { forwarded: 0, refused: 0, expired: 0 }
  readonly #options: WaitingRoomOptions
  readonly #waiting = new Map<TenantId, number>()
  readonly #waiters: Waiters
  /** Of both a tenant has half at most. */
  readonly #places: HalfShares
  readonly #bytes: HalfShares
  #isClosed = false

  constructor(options: WaitingRoomOptions) {
    this.#options = options
    const { time, picker, requestsMax, bytesMax } = options
    this.#places = sharesOf(requestsMax)
    this.#bytes = sharesOf(bytesMax)
    this.#waiters = new Waiters({ time, picker, missed: tenant => this.#note(tenant) })
  }

  /** Requests that wait now. */
  get held(): number {
    return this.#places.held
  }

  get heldBytes(): number {
    return this.#bytes.held
  }

  /** Tenants with a request that waits, or did within `wakeMs`: what a tier is woken by, as a scaler polls it. */
  get tenants(): number {
    return this.waiting().size
  }

  /** Which these are. */
  waiting(): ReadonlySet<TenantId> {
    const now = this.#options.time.monotonic()
    for (const [tenant, untilMs] of this.#waiting) if (untilMs <= now) this.#waiting.delete(tenant)
    return new Set(this.#waiting.keys())
  }

  /**
   * Sends a request to a node as soon as there is one, again while `send` says {@link NotYet} (which it may do as long as `mayRetry`). TOO_BUSY when the room is full, or the tenant's half of it, TENANT_UNAVAILABLE when `holdMs` are over; `bytes` is
   * what the request holds in memory while it waits.
   */
  async through(
    tenant: TenantId,
    bytes: number,
    signal: AbortSignal,
    send: (backend: Backend, mayRetry: boolean) => Promise<void>,
  ): Promise<void> {
    const { time, picker, holdMs } = this.#options
    const untilMs = time.monotonic() + holdMs
    let backend = picker()?.(tenant)
    let pauseMs = AGAIN_MS
    for (let fromMs = 0; ; backend = undefined) {
      backend ??= await this.#hold(tenant, bytes, () => this.#node(tenant, fromMs, untilMs, signal))
      try {
        await send(backend, time.monotonic() < untilMs)
        this.counts.forwarded++
        return
      } catch (error) {
        if (!(error instanceof NotYet)) throw error
        // The last attempt says what the node says.
        fromMs = Math.min(untilMs, time.monotonic() + Math.max(pauseMs, error.afterMs))
        pauseMs = Math.min(AGAIN_MS_MAX, pauseMs * 2)
      }
    }
  }

  /** Everybody on the way out; who still waits is told so. */
  close(): void {
    this.#isClosed = true
    this.#waiters.rejectAll(goingAway())
  }

  async #hold<T>(tenant: TenantId, bytes: number, wait: () => Promise<T>): Promise<T> {
    const leave = this.#enter(tenant, bytes)
    try {
      return await wait()
    } finally {
      leave()
    }
  }

  #enter(tenant: TenantId, bytes: number): () => void {
    try {
      this.#bytes.check(bytes, tenant)
      const leavePlace = this.#places.hold(1, tenant)
      const leaveBytes = this.#bytes.hold(bytes, tenant)
      return () => {
        leavePlace()
        leaveBytes()
      }
    } catch (error) {
      this.counts.refused++
      throw error
    }
  }

  async #node(tenant: TenantId, fromMs: number, untilMs: number, signal: AbortSignal): Promise<Backend> {
    if (this.#isClosed) throw goingAway()
    this.#note(tenant)
    const backend = await this.#waiters.wait(tenant, fromMs, untilMs, signal)
    if (backend) return backend
    this.counts.expired++
    throw new PercolateError(
      'TENANT_UNAVAILABLE',
      `No database node of this tier got ready within ${Math.round(this.#options.holdMs / 1000)} s; retry in a moment.`,
      { retryAfterS: 5 },
    )
  }

  #note(tenant: TenantId): void {
    const { time, wakeMs } = this.#options
    if (this.#waiting.size >= WAITING_TENANTS_MAX && !this.#waiting.has(tenant)) return
    this.#waiting.set(tenant, time.monotonic() + wakeMs)
  }
}

const goingAway = () => new PercolateError('SHUTTING_DOWN', 'This end is going; retry at once.', { retryAfterS: 1 })

const sharesOf = (max: number) => new HalfShares({ max, smallMax: 0, refuse: (_, ofTenant) => full(ofTenant) })

const full = (ofTenant: boolean) =>
  new PercolateError(
    'TOO_BUSY',
    `No database node of this tier is running, and as many requests${ofTenant ? ' of this tenant' : ''} as can be held wait for one already; retry in a moment.`,
    { retryAfterS: 2 },
  )
