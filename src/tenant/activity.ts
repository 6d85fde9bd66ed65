import type { TenantId } from '../base/ids.ts'
import type { Time } from '../base/time.ts'

/** Tenants remembered at most; the least recently active are forgotten first. */
const TENANTS_MAX = 100_000

/** Which tenants asked for something lately: behind the gauge `percolate_active_tenants`, which decays by itself. */
export class Activity {
  readonly #time: Time
  readonly windowMs: number
  readonly #seenAtMs = new Map<TenantId, number>()

  constructor(time: Time, windowMs: number) {
    this.#time = time
    this.windowMs = windowMs
  }

  note(id: TenantId): void {
    // Re-inserting keeps the map in order of activity.
    this.#seenAtMs.delete(id)
    this.#seenAtMs.set(id, this.#time.monotonic())
    if (this.#seenAtMs.size > TENANTS_MAX) this.#seenAtMs.delete(this.#seenAtMs.keys().next().value!)
  }

  forget(id: TenantId): void {
    this.#seenAtMs.delete(id)
  }

  has(id: TenantId): boolean {
    return this.#seenAtMs.has(id)
  }

  active(): number {
    const before = this.#time.monotonic() - this.windowMs
    for (const [id, at] of this.#seenAtMs) {
      if (at > before) break
      this.#seenAtMs.delete(id)
    }
    return this.#seenAtMs.size
  }
}
