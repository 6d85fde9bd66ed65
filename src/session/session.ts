import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Clock } from '../clock/hlc.ts'
import type { Durability } from '../replication/replica.ts'
import type { Bookmark } from './bookmark.ts'
import type { Access, Consistency, SessionRequest } from './request.ts'

/** When nobody waits for the answer any more. */
export interface Ending {
  /** Ends when the client goes away or its deadline passes. */
  readonly signal: AbortSignal
  /** Whether the signal has fired, or would have; spares making it. */
  readonly hasEnded: boolean
}

/** What a write came to. */
export interface WriteOutcome {
  readonly reached: Durability
  /** The position of the write, and all that the request's own bookmark names. */
  readonly bookmark: Bookmark
  /** The latest clock that the write carries. */
  readonly clock: Clock
}

/**
 * One request of a tenant, whatever protocol it came by: the same gate (`gate.ts`) lets it in or sends it on, and the same reads (`read.ts`) and writes (`write.ts`) answer it. Those who put
 * requests in (HTTP, gRPC, the simulator) translate, and decide nothing.
 */
export class Session implements SessionRequest, Ending {
  readonly tenant: TenantId
  readonly access: Access
  readonly consistency: Consistency
  readonly asOf: Clock | undefined
  readonly forwardedBy: string | undefined
  /** Set by a write, also by one that then fails for its durability; the protocol sends it. */
  outcome: WriteOutcome | undefined
  readonly #ending: Ending

  constructor({ tenant, access, consistency, asOf, forwardedBy }: SessionRequest, ending: Ending) {
    this.tenant = tenant
    this.access = access
    this.consistency = consistency
    this.asOf = asOf
    this.forwardedBy = forwardedBy
    this.#ending = ending
  }

  get signal(): AbortSignal {
    return this.#ending.signal
  }

  get hasEnded(): boolean {
    return this.#ending.hasEnded
  }

  throwIfEnded(): void {
    if (!this.hasEnded) return
    const reason: unknown = this.signal.reason
    throw reason instanceof PercolateError ? reason : new PercolateError('CANCELLED', 'The client went away.')
  }
}
