import { PercolateError } from '../base/errors.ts'
import { FairSemaphore } from '../base/fair-semaphore.ts'
import type { TenantPool } from '../tenant/pool.ts'
import { type ReadBounds, ReadIsLarge, Reading } from '../tenant/reading.ts'
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

/** A read whose tenant was closed for others each time its turn came waits with the tenant open after so many. */
const LOST_TURNS_MAX = 2

/** What a read may read before it has to wait for its turn: small answers are not made slower by large ones. */
const LIGHT_READ: ReadBounds = { records: 256, bytes: 1024 * 1024 }

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

  /**
   * Does `work`, which begins by using the session's tenant, when it is its turn and the tenant is open: a place is never held while a tenant is opened, or is kept closed. The tenant is opened before the turn is waited for, and
   * not kept open meanwhile; when it has been closed by then, the place goes to the next, and the read opens it and waits anew. Errors as {@link run}, and those of the opening.
   */
  async runOpen<T>(pool: TenantPool, session: Session, work: () => Promise<T>): Promise<T> {
    for (let lost = 0; ; lost++) {
      // Who would be refused has nothing opened.
      if (this.#places.isFull(session.tenant)) (await this.#enter(session))()
      let begun: Promise<T> | undefined
      const begin = async (mustBeOpen: boolean) => {
        const release = await this.#enter(session)
        // Looked at and used in one go: it is leased before somebody else can close it.
        if (mustBeOpen && !pool.isReady(session.tenant)) return release()
        begun = this.#work(release, work)
        begun.catch(() => {})
      }
      const isThere = await pool.use(session.tenant, async () => {
        if (lost >= LOST_TURNS_MAX) await begin(true)
        return true
      })
      session.throwIfEnded()
      // There is nothing to open of one that is not there.
      if (!begun && (lost < LOST_TURNS_MAX || !isThere)) await begin(isThere === true)
      if (begun) return await begun
    }
  }

  /** Does `work` when it is its turn; nothing in it may wait for another process, or for a tenant. TOO_BUSY when too many wait, CANCELLED when the session ends first. */
  async run<T>(session: Session, work: () => Promise<T>): Promise<T> {
    return this.#work(await this.#enter(session), work)
  }

  async #work<T>(release: () => void, work: () => Promise<T>): Promise<T> {
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
): Promise<T> => context.heavyReads.runOpen(context.pool, session, () => read(context, session, work, empty))

/** As {@link read}, of what fits into {@link LIGHT_READ}: beyond that what `work` counts throws {@link ReadIsLarge}. It never waits for its turn. */
export const readBriefly = <T>(
  context: SessionContext,
  session: Session,
  work: (tenant: Tenant, reading: Reading) => Promise<T>,
  empty: () => NoInfer<T>,
): Promise<T> =>
  read(context, session, tenant => work(tenant, new Reading(() => session.throwIfEnded(), LIGHT_READ)), empty)

/**
 * A read that is small as a rule, and may be large: it begins at once, and when it turns out to be more than {@link LIGHT_READ} it is given up and made anew when it is the session's turn. `work` counts what it reads,
 * and changes nothing outside of itself.
 */
export async function readByWeight<T>(
  context: SessionContext & { readonly heavyReads: HeavyReads },
  session: Session,
  work: (tenant: Tenant, reading: Reading) => Promise<T>,
  empty: () => NoInfer<T>,
): Promise<T> {
  const light = await readBriefly<{ value: T } | undefined>(
    context,
    session,
    async (tenant, reading) => {
      try {
        return { value: await work(tenant, reading) }
      } catch (error) {
        if (error instanceof ReadIsLarge) return undefined
        throw error
      }
    },
    () => ({ value: empty() }),
  )
  if (light) return light.value
  return readInTurn(context, session, tenant => work(tenant, new Reading(() => session.throwIfEnded())), empty)
}
