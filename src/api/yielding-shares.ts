import { HalfShares, type HalfSharesOptions, type Share } from '../base/half-shares.ts'
import { systemTime, type Time } from '../base/time.ts'

export interface YieldingSharesOptions extends HalfSharesOptions {
  readonly time?: Pick<Time, 'monotonic'> | undefined
  /** After so long without news one gives way to another, ms. Default: never. */
  readonly patienceMs?: number | undefined
  /** And one that is only beginning. */
  readonly beginningMs?: number | undefined
}

/** In the order in which they were heard of last. */
interface Queue {
  readonly patienceMs: number
  readonly waiting: Map<Share, Waiting>
}

interface Waiting {
  readonly tenant: string | undefined
  readonly share: Share
  readonly sinceMs: number
  readonly giveWay: () => void
}

/**
 * Shares of which those that nothing was heard of for too long give way when another does not fit, the longest silent first, and only when that makes room for it. Those that are only beginning have a patience of
 * their own, and give way before the others.
 */
export class YieldingShares extends HalfShares {
  readonly #time: Pick<Time, 'monotonic'>
  readonly #beginning: Queue
  readonly #begun: Queue

  constructor({
    time = systemTime,
    patienceMs = Number.POSITIVE_INFINITY,
    beginningMs = Number.POSITIVE_INFINITY,
    ...options
  }: YieldingSharesOptions) {
    super(options)
    this.#time = time
    this.#beginning = { patienceMs: beginningMs, waiting: new Map() }
    this.#begun = { patienceMs, waiting: new Map() }
  }

  /** There is news of a share: its patience begins anew. `giveWay` ends what it is counted for; the share is released before. `isBeginning`: it has the patience of those that are. */
  protected heard(share: Share, tenant: string | undefined, giveWay: () => void, isBeginning = false): void {
    this.forget(share)
    // What holds nothing, or was released before, has nothing to give.
    if (share.amount === 0) return
    const { waiting } = isBeginning ? this.#beginning : this.#begun
    waiting.set(share, { tenant, share, sinceMs: this.#time.monotonic(), giveWay })
  }

  protected forget(share: Share): void {
    this.#beginning.waiting.delete(share)
    this.#begun.waiting.delete(share)
  }

  /** As {@link checkMore}, after what may give way for it has. `from`: the size of the smallest that may. `asking`: the share that is to grow, and does not give way to itself. */
  protected checkOrMakeRoom(
    amount: number,
    own: number,
    tenant: string | undefined,
    from: number,
    { times = 1, asking }: { times?: number; asking?: Share } = {},
  ): void {
    if (this.fullFor(amount, own, tenant, times)) {
      const giving = this.#thatMakeRoom(amount, own, tenant, from, times, asking)
      for (const { share, giveWay } of giving ?? []) {
        this.forget(share)
        share.release()
        giveWay()
      }
    }
    this.checkMore(amount, own, tenant, times)
  }

  /** Undefined: all that may give way would not be enough. Those of others do not, as long as it is its own tenant that has no room. */
  #thatMakeRoom(
    amount: number,
    own: number,
    tenant: string | undefined,
    from: number,
    times: number,
    asking: Share | undefined,
  ): Waiting[] | undefined {
    const now = this.#time.monotonic()
    const freed = { all: 0, ofTenant: 0 }
    const full = () => this.fullFor(amount, own, tenant, times, freed)
    const giving = new Set<Waiting>()
    for (const isOfTenant of [true, false])
      for (const { patienceMs, waiting: shares } of [this.#beginning, this.#begun])
        for (const waiting of shares.values()) {
          const why = full()
          if (!why) return [...giving]
          if (waiting.sinceMs > now - patienceMs || why.ofTenant !== isOfTenant) break
          if (
            giving.has(waiting) ||
            waiting.share === asking ||
            waiting.share.amount < from ||
            (isOfTenant && waiting.tenant !== tenant)
          )
            continue
          giving.add(waiting)
          freed.all += waiting.share.amount
          if (waiting.tenant === tenant) freed.ofTenant += waiting.share.amount
        }
    return full() ? undefined : [...giving]
  }
}
