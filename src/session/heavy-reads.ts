import { PercolateError } from '../base/errors.ts'
import { FairSemaphore } from '../base/fair-semaphore.ts'
import type { Tenant } from '../tenant/tenant.ts'
import type { SessionContext } from './context.ts'
import { read } from './read.ts'
import type { Session } from './session.ts'

export interface HeavyReadLimits {
  /** Reads that compute at once on this node. */
  readonly heavyReadsMax: number
  /** Reads that may wait for their turn; a quarter of them of one tenant. */
  readonly heavyReadsWaitingMax: number
}

/**
 * Where reads that compute for long (searches, answers, large listings, walks) take turns. Each is cut into slices, and a slice comes in each turn of the event loop: how many there are at once is how long
 * everybody else waits for a turn. Tenants are served in turn, and one of them never has the last place. While a read waits it keeps no tenant open.
 */
export class HeavyReads {
  readonly #places: FairSemaphore
  #refused = 0

  constructor({ heavyReadsMax, heavyReadsWaitingMax }: HeavyReadLimits) {
    this.#places = new FairSemaphore({
      permits: heavyReadsMax,
      perKeyMax: Math.max(1, heavyReadsMax - 1),
      waitersMax: heavyReadsWaitingMax,
      waitersPerKeyMax: Math.ceil(heavyReadsWaitingMax / 4),
      name: 'a place to compute (PERCOLATE_HEAVY_READS_MAX)',
    })
  }

  /** Reads that compute. */
  get running(): number {
    return this.#places.held
  }

  /** Reads that wait. */
  get waiting(): number {
    return this.#places.waiting
  }

  /** Reads refused because too many waited. */
  get refused(): number {
    return this.#refused
  }

  /** Does `work` when it is its turn; nothing in it may wait for another process. TOO_BUSY when too many wait, CANCELLED when the session ends first. */
  async run<T>(session: Session, work: () => Promise<T>): Promise<T> {
    const release = await this.#enter(session)
    try {
      return await work()
    } finally {
      release()
    }
  }

  async #enter({ tenant, signal }: Session): Promise<() => void> {
    try {
      return await this.#places.acquire(tenant, signal)
    } catch (error) {
      if (error instanceof PercolateError && error.code === 'TOO_BUSY') this.#refused++
      throw error
    }
  }
}

/** As {@link read}, when it is the session's turn. */
export const readInTurn = <T>(
  context: SessionContext & { readonly heavyReads: HeavyReads },
  session: Session,
  work: (tenant: Tenant) => Promise<T>,
  empty: () => NoInfer<T>,
): Promise<T> => context.heavyReads.run(session, () => read(context, session, work, empty))
