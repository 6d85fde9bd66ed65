import type { PercolateError } from './errors.ts'

export interface HalfSharesOptions {
  /** What all of it together may be. */
  readonly max: number
  /** What is no larger than this is counted, and never refused. */
  readonly smallMax: number
  /** The refusal of one that does not fit. `ofTenant`: beside what its own tenant holds. */
  readonly refuse: (held: number, ofTenant: boolean) => PercolateError
}

/** One of those that are counted. */
export interface Share {
  /** What is counted of it now. */
  readonly amount: number
  /** More of it, or less, whatever there is room for. */
  count(amount: number): void
  /** It is held no more; calling that again does nothing. */
  release(): void
}

/** Memory, or what stands for it, that requests hold for as long as they last: bounded in all, and for one tenant to half of that. Alone each is taken, whatever its size. */
export class HalfShares {
  readonly #options: HalfSharesOptions
  readonly #byTenant = new Map<string, number>()
  #held = 0
  #refused = 0

  constructor(options: HalfSharesOptions) {
    this.#options = options
  }

  get held(): number {
    return this.#held
  }

  get refused(): number {
    return this.#refused
  }

  /** Throws the refusal when there is no room for that much beside what is held. `tenant`: whose share is looked at, too. */
  check(amount: number, tenant?: string): void {
    this.checkMore(amount, 0, tenant)
  }

  /** Counts it until what is returned is called; calling that again does nothing. Throws as {@link check}. */
  hold(amount: number, tenant?: string): () => void {
    this.check(amount, tenant)
    const share = this.begin(tenant)
    share.count(amount)
    return share.release
  }

  /** Counts what grows. */
  begin(tenant?: string): Share {
    let held = 0
    let isOver = false
    const count = (amount: number) => {
      if (isOver) return
      held += amount
      this.#held += amount
      if (tenant === undefined) return
      const left = this.#heldBy(tenant) + amount
      if (left > 0) this.#byTenant.set(tenant, left)
      else this.#byTenant.delete(tenant)
    }
    const release = () => {
      count(-held)
      isOver = true
    }
    return {
      get amount() {
        return held
      },
      count,
      release,
    }
  }

  /** As {@link check}, of what has `own` counted already. `times`: how often the bound may be filled. */
  protected checkMore(amount: number, own: number, tenant: string | undefined, times = 1): void {
    const full = this.fullFor(amount, own, tenant, times)
    if (!full) return
    this.#refused++
    throw this.#options.refuse(full.held, full.ofTenant)
  }

  /** What leaves no room for it, what its tenant holds or all that is held; undefined when there is room. `freed`: as if so much less of it were held. */
  protected fullFor(
    amount: number,
    own: number,
    tenant: string | undefined,
    times = 1,
    freed = { all: 0, ofTenant: 0 },
  ): { readonly held: number; readonly ofTenant: boolean } | undefined {
    if (own + amount <= this.#options.smallMax) return undefined
    const max = this.#options.max * times
    const isFull = (held: number, bound: number) => held > own && held + amount > bound
    const ofTenant = tenant === undefined ? 0 : this.#heldBy(tenant) - freed.ofTenant
    if (isFull(ofTenant, max / 2)) return { held: ofTenant, ofTenant: true }
    const all = this.#held - freed.all
    return isFull(all, max) ? { held: all, ofTenant: false } : undefined
  }

  #heldBy(tenant: string): number {
    return this.#byTenant.get(tenant) ?? 0
  }
}
