import type { TenantId } from '../base/ids.ts'
import type { Time } from '../base/time.ts'

/** Tenants whose traffic is remembered; beyond, those whose window began first are forgotten. */
const TENANTS_MAX = 10_000

interface Traffic {
  sinceMs: number
  count: number
  /** Of the window before. */
  previous: number
}

/**
 * How many requests of each tenant entered at this node in the last window, which slides: of the window before, that part counts that is still inside. Steady traffic so has the same count at every moment, which is its
 * rate by the window.
 */
export class EntryTraffic {
  readonly #time: Time
  readonly #windowMs: number
  readonly #tenants = new Map<TenantId, Traffic>()

  constructor({ time, windowMs }: { readonly time: Time; readonly windowMs: number }) {
    this.#time = time
    this.#windowMs = windowMs
  }

  /** Counts one request more; returns how many there were in the window, this one among them. */
  add(tenant: TenantId): number {
    const traffic = this.#currentOf(tenant)
    traffic.count++
    const left = 1 - (this.#time.monotonic() - traffic.sinceMs) / this.#windowMs
    return traffic.count + traffic.previous * Math.max(0, left)
  }

  /** Counts anew from nothing. */
  reset(tenant: TenantId): void {
    this.#tenants.delete(tenant)
  }

  #currentOf(tenant: TenantId): Traffic {
    const now = this.#time.monotonic()
    const known = this.#tenants.get(tenant)
    const age = known ? now - known.sinceMs : Number.POSITIVE_INFINITY
    if (known && age < this.#windowMs) return known
    const isNext = known !== undefined && age < 2 * this.#windowMs
    const traffic = {
      sinceMs: isNext ? known.sinceMs + this.#windowMs : now,
      count: 0,
      previous: isNext ? known.count : 0,
    }
    // Behind all others, whose windows began before.
    this.#tenants.delete(tenant)
    this.#tenants.set(tenant, traffic)
    if (this.#tenants.size > TENANTS_MAX) this.#tenants.delete(this.#tenants.keys().next().value!)
    return traffic
  }
}
