import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Time } from '../base/time.ts'

/** A ready database node, where requests can be sent. */
export interface Backend {
  readonly node: string
  readonly http: string
  readonly grpc: string
}

export interface WaitingRoomOptions {
  readonly time: Time
  /** The node that a tenant's requests go to now; undefined while none is ready. */
  readonly pick: (tenant: TenantId) => Backend | undefined
  readonly requestsMax: number
  readonly bytesMax: number
  readonly holdMs: number
  /** How long a tenant whose request was held counts as one that wants a node. */
  readonly wakeMs: number
}

/** How often a held request looks for a node. */
const LOOK_MS = 20
/** Between two attempts at a node that is ready and not yet able to answer for the tenant. */
const AGAIN_MS = 100
/** Tenants that are counted as waiting; more of them change nothing for a scaler. */
const WAITING_TENANTS_MAX = 100_000

/** Nothing was done with the request, and another attempt may do better. */
export class NotYet extends Error {}

/** Where the requests of one tier wait while it has no ready node, bounded in number, bytes and time. */
export class WaitingRoom {
  readonly counts = { forwarded: 0, refused: 0, expired: 0 }
  readonly #options: WaitingRoomOptions
  readonly #waiting = new Map<TenantId, number>()
  #held = 0
  #bytes = 0
  #isClosed = false

  constructor(options: WaitingRoomOptions) {
    this.#options = options
  }

  /** Requests that wait now. */
  get held(): number {
    return this.#held
  }

  get heldBytes(): number {
    return this.#bytes
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
   * Sends a request to a node as soon as there is one, again while `send` says {@link NotYet} (which it may do as long as `mayRetry`). TOO_BUSY when the room is full, TENANT_UNAVAILABLE when `holdMs` are over; `bytes` is
   * what the request holds in memory while it waits.
   */
  async through(
    tenant: TenantId,
    bytes: number,
    signal: AbortSignal,
    send: (backend: Backend, mayRetry: boolean) => Promise<void>,
  ): Promise<void> {
    const { time, pick, holdMs } = this.#options
    const untilMs = time.monotonic() + holdMs
    for (;;) {
      const backend = pick(tenant) ?? (await this.#hold(bytes, () => this.#node(tenant, untilMs, signal)))
      try {
        await send(backend, time.monotonic() < untilMs)
        this.counts.forwarded++
        return
      } catch (error) {
        if (!(error instanceof NotYet)) throw error
        await this.#hold(bytes, () => time.sleep(AGAIN_MS, { signal }))
      }
    }
  }

  /** Everybody on the way out; who still waits is told so. */
  close(): void {
    this.#isClosed = true
  }

  async #hold<T>(bytes: number, wait: () => Promise<T>): Promise<T> {
    const { requestsMax, bytesMax } = this.#options
    if (this.#held >= requestsMax || this.#bytes + bytes > bytesMax) {
      this.counts.refused++
      throw new PercolateError(
        'TOO_BUSY',
        'No database node of this tier is running, and as many requests as can be held wait for one already; retry in a moment.',
        { retryAfterS: 2 },
      )
    }
    this.#held++
    this.#bytes += bytes
    try {
      return await wait()
    } finally {
      this.#held--
      this.#bytes -= bytes
    }
  }

  async #node(tenant: TenantId, untilMs: number, signal: AbortSignal): Promise<Backend> {
    const { time, pick, holdMs } = this.#options
    while (time.monotonic() < untilMs) {
      if (this.#isClosed)
        throw new PercolateError('SHUTTING_DOWN', 'This end is going; retry at once.', { retryAfterS: 1 })
      this.#note(tenant)
      await time.sleep(LOOK_MS, { signal })
      const backend = pick(tenant)
      if (backend) return backend
    }
    this.counts.expired++
    throw new PercolateError(
      'TENANT_UNAVAILABLE',
      `No database node of this tier got ready within ${Math.round(holdMs / 1000)} s; retry in a moment.`,
      { retryAfterS: 5 },
    )
  }

  #note(tenant: TenantId): void {
    const { time, wakeMs } = this.#options
    if (this.#waiting.size >= WAITING_TENANTS_MAX && !this.#waiting.has(tenant)) return
    this.#waiting.set(tenant, time.monotonic() + wakeMs)
  }
}
