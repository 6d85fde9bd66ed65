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
/** Tenants that are counted as waiting; more of them change nothing for a scaler. */
const WAITING_TENANTS_MAX = 100_000

/** Where the requests of one tier wait while it has no ready node, bounded in number, bytes and time. */
export class WaitingRoom {
  readonly counts = { forwarded: 0, refused: 0, expired: 0 }
  readonly #options: WaitingRoomOptions
  readonly #waiting = new Map<TenantId, number>()
  #held = 0
  #bytes = 0

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
    const now = this.#options.time.monotonic()
    for (const [tenant, untilMs] of this.#waiting) if (untilMs <= now) this.#waiting.delete(tenant)
    return this.#waiting.size
  }

  /**
   * Waits for a node, at most `holdMs` since `sinceMs`. TOO_BUSY when the room is full, TENANT_UNAVAILABLE when the time is over; `bytes` is what the request
   * holds in memory meanwhile.
   */
  async backend(tenant: TenantId, bytes: number, sinceMs: number, signal: AbortSignal): Promise<Backend> {
    const { time, pick, requestsMax, bytesMax, holdMs } = this.#options
    const ready = pick(tenant)
    if (ready) return ready
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
      for (const untilMs = sinceMs + holdMs; time.monotonic() < untilMs; ) {
        this.#note(tenant)
        await time.sleep(LOOK_MS, { signal })
        const backend = pick(tenant)
        if (backend) return backend
      }
    } finally {
      this.#held--
      this.#bytes -= bytes
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
