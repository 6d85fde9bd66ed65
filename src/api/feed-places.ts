import { setMaxListeners } from 'node:events'
import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'

export interface FeedLimits {
  /** Change feeds that one node serves or sends on at once. */
  readonly feedsMax: number
  /** And of one tenant. */
  readonly tenantFeedsMax: number
}

/** A feed that this node sends on has a place here as one that it serves: both hold a client, and the former a connection to another node too. */
export type FeedWay = 'served' | 'forwarded'

/** How soon a client may come back after a drain, seconds. */
const RETRY_S = 1

/** The change feeds that a node has open, over every protocol: bounded, since each lasts until somebody ends it; all of them end when the node drains. */
export class FeedPlaces {
  readonly #limits: FeedLimits
  readonly #open = { served: 0, forwarded: 0 }
  readonly #byTenant = new Map<TenantId, number>()
  readonly #closing = new AbortController()
  #refused = 0

  constructor(limits: FeedLimits) {
    this.#limits = limits
    // Every feed waits with it.
    setMaxListeners(0, this.#closing.signal)
  }

  /** Fires when every feed ends, for a drain. */
  get closing(): AbortSignal {
    return this.#closing.signal
  }

  get served(): number {
    return this.#open.served
  }

  get forwarded(): number {
    return this.#open.forwarded
  }

  /** Feeds for which there was no place. */
  get refused(): number {
    return this.#refused
  }

  /** Ends every feed, so that their clients turn to another node, and takes no new ones. */
  close(): void {
    this.#closing.abort()
  }

  /** A place for a feed, until what it returns is called; calling that again does nothing. TOO_BUSY when there is none, SHUTTING_DOWN when the node drains. */
  hold(tenant: TenantId, way: FeedWay): () => void {
    const { feedsMax, tenantFeedsMax } = this.#limits
    if (this.#closing.signal.aborted) throw feedsEnd()
    const ofTenant = this.#byTenant.get(tenant) ?? 0
    const why =
      this.served + this.forwarded >= feedsMax
        ? `This node has ${feedsMax} change feeds open, those that it sends on to other nodes included (PERCOLATE_FEEDS_MAX)`
        : ofTenant >= tenantFeedsMax
          ? `This node has ${tenantFeedsMax} change feeds of this tenant open, those that it sends on to other nodes included (PERCOLATE_TENANT_FEEDS_MAX)`
          : undefined
    if (why !== undefined) {
      this.#refused++
      throw new PercolateError('TOO_BUSY', `${why}; close one, or retry later.`, { retryAfterS: 5 })
    }
    this.#open[way]++
    this.#byTenant.set(tenant, ofTenant + 1)
    let isHeld = true
    return () => {
      if (!isHeld) return
      isHeld = false
      this.#open[way]--
      const left = this.#byTenant.get(tenant)! - 1
      if (left > 0) this.#byTenant.set(tenant, left)
      else this.#byTenant.delete(tenant)
    }
  }
}

/** How a feed ends on a node that drains. */
export const feedsEnd = (cursor?: string): PercolateError =>
  new PercolateError('SHUTTING_DOWN', 'This node is draining; follow on another, from the cursor if there is one.', {
    retryAfterS: RETRY_S,
    ...(cursor === undefined ? {} : { extra: { cursor } }),
  })
