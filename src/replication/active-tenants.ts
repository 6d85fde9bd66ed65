import type { TenantId } from '../base/ids.ts'
import type { Time } from '../base/time.ts'
import type { Activity } from '../tenant/activity.ts'
import type { Directory } from './directory.ts'
import type { Homes } from './homes.ts'
import type { PeerPort } from './peer.ts'

export interface ActiveTenantsOptions {
  readonly node: string
  readonly time: Time
  readonly activity: Activity
  readonly directory: Directory
  readonly homes: Homes
  readonly peers: PeerPort
}

/** Reports of one tenant in a window, so that the home's count does not run out between two of them. */
const REPORTS_PER_WINDOW = 4
/** Tenants whose last report is remembered. */
const REPORTED_MAX = 100_000

/**
 * The tenants that count as active at this node: those whose home it is, so that a sum over nodes counts each once. A holder that answers in the home's stead tells it, a few times in a
 * window; when the home can't be told, the holder counts.
 */
export class ActiveTenants {
  readonly #options: ActiveTenantsOptions
  readonly #reportedAtMs = new Map<TenantId, number>()

  constructor(options: ActiveTenantsOptions) {
    this.#options = options
  }

  /** This node answers a request of the tenant. */
  note(tenant: TenantId): void {
    const { node, directory, activity, homes, time, peers } = this.#options
    const placement = directory.placement(tenant)
    // Nobody has written it yet: whatever it asks for finds nothing.
    if (!placement) return
    const { home } = placement
    if (home === undefined || home === node || homes.isHome(tenant)) {
      activity.note(tenant)
      return
    }
    const now = time.monotonic()
    const before = this.#reportedAtMs.get(tenant)
    if (before !== undefined && now - before < activity.windowMs / REPORTS_PER_WINDOW) {
      if (activity.has(tenant)) activity.note(tenant)
      return
    }
    this.#reportedAtMs.delete(tenant)
    this.#reportedAtMs.set(tenant, now)
    if (this.#reportedAtMs.size > REPORTED_MAX) this.#reportedAtMs.delete(this.#reportedAtMs.keys().next().value!)
    peers
      .to(home)
      .noteActive(tenant)
      .catch(() => false)
      .then(isCounted => {
        if (isCounted) activity.forget(tenant)
        else activity.note(tenant)
      })
  }

  /** Another holder answered a request of it; false: this node is not the home now. */
  heard(tenant: TenantId): boolean {
    if (!this.#options.homes.isHome(tenant)) return false
    this.#options.activity.note(tenant)
    return true
  }

  /** Its home is elsewhere now, and counts it. */
  left(tenant: TenantId): void {
    this.#options.activity.forget(tenant)
  }
}
