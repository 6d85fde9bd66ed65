import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Time } from '../base/time.ts'

/** A tenant that is to be opened when there is room, and who waits for that. */
export interface Wanted {
  readonly id: TenantId
  /** In the order in which they came; the first one that is woken has the place. */
  readonly waiters: Set<(hasPlace: boolean) => void>
  /** A place is kept for it by the one that was woken. */
  isServed: boolean
}

export interface PlacesOptions {
  readonly time: Time
  readonly waitersMax: number
  /** Places, those of tenants that are closing included, that are taken now. */
  readonly taken: () => number
  readonly placesMax: number
  /** Tenants that are closing: each gives its place back when it is closed. */
  readonly closing: () => number
  /** Begins to close a tenant that nobody uses; false: all are in use. */
  readonly evict: () => boolean
}

/**
 * Places for open tenants, given to those who wait in the order in which their tenants were first wanted. Nobody is woken in vain: the first of a tenant when there is a place, which is kept for it until it
 * opens the tenant ({@link opened}) or says that it has no use for it ({@link giveBack}); the others of that tenant when it is open.
 */
export class Places {
  readonly #options: PlacesOptions
  readonly #wanted = new Map<TenantId, Wanted>()
  /** Of these, those that a place is kept for. */
  #kept = 0
  #waiting = 0
  #exhaustedAtMs: number | undefined

  constructor(options: PlacesOptions) {
    this.#options = options
  }

  get isFull(): boolean {
    return this.#options.taken() + this.#kept >= this.#options.placesMax
  }

  get waiting(): number {
    return this.#waiting
  }

  /** How long all have been in use with somebody waiting for one, milliseconds; 0: they are not. */
  get exhaustedMs(): number {
    return this.#exhaustedAtMs === undefined ? 0 : this.#options.time.monotonic() - this.#exhaustedAtMs
  }

  /** Waits for a place, at most until then. Undefined: none is kept, but the tenant is open, or the pool stops. TOO_BUSY: none in time, or too many wait. */
  async wait(id: TenantId, untilMs: number): Promise<Wanted | undefined> {
    const { time, waitersMax } = this.#options
    if (this.#waiting >= waitersMax)
      throw new PercolateError('TOO_BUSY', `${waitersMax} requests wait for a tenant to be closed; retry in a moment.`)
    const wanted: Wanted = this.#wanted.get(id) ?? { id, waiters: new Set(), isServed: false }
    this.#wanted.set(id, wanted)
    let wake: (hasPlace: boolean) => void = () => {}
    const woken = new Promise<boolean>(resolve => {
      wake = resolve
    })
    wanted.waiters.add(wake)
    this.#waiting++
    this.assign()
    const done = new AbortController()
    const late = time
      .sleep(Math.max(0, untilMs - time.monotonic()), { signal: done.signal, ref: false })
      .catch(() => {})
      .then(() => undefined)
    try {
      let hasPlace = await Promise.race([woken, late])
      if (hasPlace === undefined) {
        if (wanted.waiters.delete(wake)) {
          this.#forgetUnwanted(wanted)
          throw new PercolateError(
            'TOO_BUSY',
            `All ${this.#options.placesMax} open tenants (PERCOLATE_OPEN_TENANTS_MAX) are in use; retry in a moment.`,
          )
        }
        // It was woken in the same moment.
        hasPlace = await woken
      }
      return hasPlace ? wanted : undefined
    } finally {
      this.#waiting--
      done.abort()
    }
  }

  /** To be called when a use has ended, a tenant is closed, or did not open: gives what is free to those who wait, and for the rest has tenants closed that nobody uses. */
  assign(): void {
    for (const wanted of this.#wanted.values()) {
      if (this.isFull) break
      if (wanted.isServed) continue
      wanted.isServed = true
      this.#kept++
      const [first] = wanted.waiters
      wanted.waiters.delete(first!)
      first!(true)
    }
    while (this.#unserved > this.#options.closing()) if (!this.#options.evict()) break
    if (this.#unserved <= this.#options.closing()) this.#exhaustedAtMs = undefined
    else this.#exhaustedAtMs ??= this.#options.time.monotonic()
  }

  /** A use has ended: they are not exhausted, or from now on. */
  freed(): void {
    this.#exhaustedAtMs = undefined
    this.assign()
  }

  /** The tenant takes its place; to be called in one go with taking it. */
  opened(id: TenantId): void {
    const wanted = this.#wanted.get(id)
    if (wanted) this.#settle(wanted)
  }

  /** What was kept is not needed: the next one gets it. */
  giveBack(wanted: Wanted): void {
    if (!wanted.isServed) return
    wanted.isServed = false
    this.#kept--
    this.#forgetUnwanted(wanted)
    this.assign()
  }

  /** Nobody gets a place any more: all look for themselves. */
  wakeAll(): void {
    for (const wanted of [...this.#wanted.values()]) this.#settle(wanted)
  }

  get #unserved(): number {
    return this.#wanted.size - this.#kept
  }

  #settle(wanted: Wanted): void {
    this.#wanted.delete(wanted.id)
    if (wanted.isServed) this.#kept--
    wanted.isServed = false
    for (const wake of wanted.waiters) wake(false)
    wanted.waiters.clear()
  }

  #forgetUnwanted(wanted: Wanted): void {
    const isUnwanted = wanted.waiters.size === 0 && !wanted.isServed
    if (isUnwanted && this.#wanted.get(wanted.id) === wanted) this.#wanted.delete(wanted.id)
  }
}
