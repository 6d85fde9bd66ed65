import { PercolateError } from '../base/errors.ts'
import { FairSemaphore } from '../base/fair-semaphore.ts'
import type { PeerAuth } from '../replication/auth.ts'
import { activeHolders, type Member, protocolOf } from '../replication/placement.ts'
import type { Replica } from '../replication/replica.ts'
import type { Route } from '../replication/router.ts'
import { type Bookmark, foreignBookmark, namesNothing } from './bookmark.ts'
import { bookmarkNotReached, LACKS_BOOKMARK, NotTaken } from './forward.ts'
import { hasAll, isReached } from './reached.ts'
import type { SessionRequest } from './request.ts'
import { Session } from './session.ts'

export interface GateOptions {
  readonly replica: Replica
  readonly auth: PeerAuth
  readonly bookmarkWaitMs: number
}

/** How often one request is routed: by what this node remembers, then by what the directory says. A home may be handed over, and handed over once more, while a request is under way. */
const ROUTES_MAX = 3
/** Reads that wait at once for what their bookmarks name, and of those the ones of one tenant: a node that sent one here keeps a connection for it meanwhile, and who waits is looked at with every commit. */
const WAITS = { permits: 1024, perKeyMax: 256 }

/** The gate in front of every operation of a tenant, the same for every protocol: answer here, or forward. */
export class Gate {
  readonly auth: PeerAuth
  readonly #options: GateOptions
  readonly #waits = new FairSemaphore({ ...WAITS, waitersMax: 0, waitersPerKeyMax: 0, name: 'a bookmark' })

  constructor(options: GateOptions) {
    this.#options = options
    this.auth = options.auth
  }

  get node(): string {
    return this.#options.replica.service.node
  }

  /**
   * Answers a request: `here`, or by `forward` to the first of the targets that takes it (see `forward.ts`). When nobody takes it, neither here nor there, the directory is asked anew, at most
   * twice: a home that was handed over meanwhile may be here by now, a copy that was here elsewhere. What another node sent here goes back to it then, as MISDIRECTED.
   */
  async answer<T>(
    request: SessionRequest,
    here: () => Promise<T>,
    forward: (targets: readonly Member[]) => Promise<T>,
  ): Promise<T> {
    try {
      return await this.#answer(request, here, forward)
    } catch (error) {
      return this.answerAgain(request, error, here, forward)
    }
  }

  /** The further attempts of {@link answer}, for who makes the first itself; rethrows whatever else it failed for. */
  async answerAgain<T>(
    request: SessionRequest,
    error: unknown,
    here: () => Promise<T>,
    forward: (targets: readonly Member[]) => Promise<T>,
  ): Promise<T> {
    let last = error
    for (let routed = 1; routed < ROUTES_MAX && last instanceof NotTaken; routed++) {
      await this.#options.replica.router.refresh(request.tenant, endingOf(request))
      try {
        return await this.#answer(request, here, forward)
      } catch (error) {
        last = error
      }
    }
    throw last instanceof NotTaken ? refusalOf(request, last) : last
  }

  /** To be told of each request that got its answer, by this node or by another one, and no refusal: where such requests enter is where the home of their tenant should be. */
  answered({ tenant, forwardedBy, consistency: { needsHome } }: SessionRequest): void {
    this.#options.replica.router.answered({ tenant, needsHome, forwardedBy })
  }

  async #answer<T>(
    request: SessionRequest,
    here: () => Promise<T>,
    forward: (targets: readonly Member[]) => Promise<T>,
  ): Promise<T> {
    const route = await this.pass(request)
    return route.kind === 'local' ? here() : forward(understanding(route.targets, request))
  }

  /** Where the request is answered. A read is answered by who has what its bookmark names: here, after a bounded wait, or by another holder. */
  async pass(request: SessionRequest): Promise<Route> {
    const { tenant, access, consistency, forwardedBy } = request
    const { replica } = this.#options
    const { needsHome, bookmark } = consistency
    const route = await replica.router.route({ tenant, needsHome, forwardedBy, ending: endingOf(request) })
    if (access !== 'read' || !bookmark || namesNothing(bookmark)) return route
    const placement = replica.directory.placement(tenant)
    const written = [...(bookmark.ahead ?? []).map(({ teller }) => teller), ...bookmark.vector.keys()]
    const byBookmark = (a: Member, b: Member) => rank(b, written, placement?.home) - rank(a, written, placement?.home)
    if (route.kind === 'forward')
      return needsHome ? route : { kind: 'forward', targets: [...route.targets].sort(byBookmark) }
    // Of a tenant that is neither in the directory, which was asked, nor on this disk, nobody has a bookmark.
    const isNowhere = placement === undefined && replica.copies.state(tenant) === 'absent'
    if (isNowhere || (placement && placement.incarnation !== bookmark.incarnation))
      throw foreignBookmark('X-Percolate-Bookmark')
    if (await this.#hasAll(request, bookmark)) return route
    const others = placement
      ? replica.directory.liveOrSilent(
          activeHolders(placement)
            .map(({ node }) => node)
            .filter(node => node !== this.node),
        )
      : []
    const targets = others.flatMap(node => replica.directory.member(node) ?? []).sort(byBookmark)
    // The others are not the home.
    if (forwardedBy === undefined && !needsHome && targets.length > 0) return { kind: 'forward', targets }
    // Who sent it here asks the next one.
    if (forwardedBy !== undefined && !needsHome)
      throw new PercolateError('MISDIRECTED', "This node's copy has not applied the bookmark yet.", {
        extra: { lacks: LACKS_BOOKMARK },
      })
    throw bookmarkNotReached()
  }

  /** Waits, for a bounded time, until the copy here has come so far; where too many wait, it only looks. What it gave up for lost is not waited for. */
  async #hasAll(request: SessionRequest, bookmark: Bookmark): Promise<boolean> {
    const { replica, bookmarkWaitMs } = this.#options
    const { pool } = replica
    const { tenant } = request
    const signal = endingOf(request)?.signal
    const isFull = this.#waits.isFull(tenant)
    const leave = isFull ? undefined : await this.#waits.acquire(tenant, signal)
    try {
      const options = { timeoutMs: isFull ? 0 : bookmarkWaitMs, ...(signal ? { signal } : {}) }
      if (!(await pool.waitFor(tenant, open => isReached(open, bookmark), options))) return false
      return (await pool.use(tenant, open => hasAll(open, bookmark))) ?? false
    } finally {
      leave?.()
    }
  }
}

/** What is said of a request that nobody took. */
function refusalOf({ consistency, forwardedBy }: SessionRequest, last: NotTaken): PercolateError {
  if (forwardedBy !== undefined)
    return new PercolateError('MISDIRECTED', 'This node stopped serving the tenant when it had the request.', {
      cause: last,
    })
  if (!consistency.needsHome || last.code !== 'TENANT_UNAVAILABLE') return last
  return new PercolateError('HOME_UNAVAILABLE', "The tenant's home takes nothing now; plain writes and reads go on.", {
    cause: last,
  })
}

/** Those of them that decide on the request's condition; one of the version before would do it as if it had none. HOME_UNAVAILABLE when the first, the home, is such a node. */
function understanding(
  targets: readonly Member[],
  { consistency: { protocol = 1 } }: SessionRequest,
): readonly Member[] {
  const [home] = targets
  if (home && protocolOf(home) < protocol)
    throw new PercolateError(
      'HOME_UNAVAILABLE',
      `The tenant's home, ${home.node}, runs a version that does not decide on this condition yet; retry when the upgrade has reached it, or leave the condition out.`,
      { retryAfterS: 5 },
    )
  return targets.filter(target => protocolOf(target) >= protocol)
}

/** Who wrote what the bookmark names has it for sure; then the home. */
const rank = (member: Member, origins: readonly string[], home: string | undefined): number =>
  (origins.some(origin => origin.startsWith(`${member.node}.`)) ? 2 : 0) + (member.node === home ? 1 : 0)

/** When nobody waits for it any more, of a request that knows. */
const endingOf = (request: SessionRequest): Session | undefined => (request instanceof Session ? request : undefined)
