import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import { Semaphore } from '../base/semaphore.ts'
import type { Time } from '../base/time.ts'
import { newIncarnation } from '../tenant/state.ts'
import type { Copies } from './copies.ts'
import type { Directory } from './directory.ts'
import { EntryTraffic } from './entry-traffic.ts'
import type { Homes } from './homes.ts'
import { Lookups, type Waiting } from './lookups.ts'
import type { Membership } from './membership.ts'
import type { PeerPort } from './peer.ts'
import { activeHolders, choosePlaces, holderOf, type Member, type Placement, PUT_BACK } from './placement.ts'

export interface RouterOptions {
  readonly node: string
  readonly tier: string
  readonly time: Time
  readonly logger: Logger
  readonly directory: Directory
  readonly membership: Membership
  readonly copies: Copies
  readonly homes: Homes
  readonly peers: PeerPort
  readonly replicas: number
  /** Requests within the window after which a tenant's home should be where its traffic enters. */
  readonly moveAfterRequests: number
  readonly moveWindowMs: number
  /** A home that has moved stays at least this long. */
  readonly moveRestMs: number
}

export interface RouteRequest {
  readonly tenant: TenantId
  /** Only the home can do it: `If-Match` and `If-None-Match` on writes, `X-Percolate-Consistency: home`. */
  readonly needsHome: boolean
  /** The node that forwarded the request, when one did: it goes no further. */
  readonly forwardedBy: string | undefined
  /** When nobody waits for it any more; not set: it is waited for to its end. */
  readonly ending?: Waiting | undefined
}

export type Route =
  | { readonly kind: 'local' }
  /** In the order of preference; the next one is asked when one refuses before anything was sent. */
  | { readonly kind: 'forward'; readonly targets: readonly Member[] }

/** Tenants that are being brought here or that rest after it; no further ones are brought here meanwhile. */
const MOVES_MAX = 10_000
/** How long after a move that came to nothing the next is tried. */
const MOVE_RETRY_MS = 1000
/** Tenants that a node enters into the directory at once, and that may wait for it; TOO_BUSY beyond. */
const CREATIONS_MAX = 32
const CREATIONS_WAITING_MAX = 1000
/** Tenants whose holders are asked at once, because nothing is heard of them; requests of more get 503. */
const ASKED_TENANTS_MAX = 256
/** How long a request waits for a copy that is about to be current, before it is forwarded or refused. */
const WAIT_MS = 1500
/** What a look at the directory fails with that the request is told as it is. */
const PASSED_ON = new Set(['TOO_BUSY', 'CANCELLED', 'PLACEMENT_UNKNOWN'])
/** How long a request waits for a look at the directory by a node whose lease has run out. */
const LAPSED_REFRESH_MS = 250

/**
 * Decides who answers a request. The mesh's choice of the entry node is a hint: a node with a current copy answers, another one forwards, once. "There is no such
 * tenant" is said only on the directory's word.
 */
export class Router {
  readonly #options: RouterOptions
  readonly #traffic: EntryTraffic
  /** Tenants that are being brought here, or that rest after an attempt, until when. */
  readonly #moves = new Map<TenantId, number>()
  /** Tenants that this node is entering into the directory. */
  readonly #creations = new Map<TenantId, Promise<Placement>>()
  /** Questions to holders of whom nothing is heard, by tenant. */
  readonly #asking = new Map<TenantId, Promise<string[]>>()
  readonly #turns = new Semaphore({
    permits: CREATIONS_MAX,
    waitersMax: CREATIONS_WAITING_MAX,
    name: 'new tenants to be made',
  })
  readonly lookups: Lookups
  forwarded = 0

  constructor(options: RouterOptions) {
    this.#options = options
    this.#traffic = new EntryTraffic({ time: options.time, windowMs: options.moveWindowMs })
    this.lookups = new Lookups(async tenant => {
      const found = await options.directory.fetch(tenant)
      if (!found && !(await options.directory.confirmComplete())) throw rebuilding()
      return found
    })
  }

  async route(request: RouteRequest): Promise<Route> {
    const { tenant, needsHome } = request
    const { directory, copies, membership, node } = this.#options
    if (membership.isFenced) throw fenced()
    // The directory may show a tenant before its copy is here. How that ended for the request that makes it is not this one's matter.
    await this.#creations.get(tenant)?.catch(() => undefined)
    let placement = directory.placement(tenant)
    if (!placement || copies.state(tenant) === 'absent')
      placement = (await this.#lookUp(request, placement)) ?? directory.placement(tenant)
    if (!placement) {
      if (copies.state(tenant) !== 'absent') {
        // There is a copy on this disk that the directory has not been told of yet: it is neither empty nor to be made.
        if (await copies.whenCurrent(tenant, WAIT_MS)) return { kind: 'local' }
        copies.assertCurrent(tenant)
      }
      // There is nothing: reads are empty, and a first write makes the tenant, here, when all of it has been looked at.
      return { kind: 'local' }
    }
    if (copies.isCurrent(tenant) && !needsHome) return { kind: 'local' }
    if (needsHome) {
      let home = await this.#options.homes.find(tenant)
      if (membership.hasLease && (home === undefined || (home !== node && request.forwardedBy !== undefined))) {
        // There may have been a handover that this node's watch has not told of yet; who sent the request here may have read of it. Without a lease this node cannot be the
        // home, whatever is read.
        await this.refresh(tenant, request.ending)
        home = await this.#options.homes.find(tenant)
      }
      if (home === node) return { kind: 'local' }
      if (request.forwardedBy !== undefined)
        throw new PercolateError('MISDIRECTED', 'This node is not the home of the tenant now.')
      const member = home === undefined ? undefined : directory.member(home)
      if (!member) throw noHome()
      // One of the others may have become the home meanwhile; who is not refuses.
      const others = activeHolders(placement)
        .filter(holder => holder.node !== node && holder.node !== home && directory.isLive(holder.node))
        .flatMap(holder => directory.member(holder.node) ?? [])
      return this.#forward([member, ...others])
    }
    return this.#elsewhere(request, placement)
  }

  /** Asks the bucket when the cache may be behind it. Undefined: there is no such tenant. */
  async #lookUp(
    { tenant, ending }: Pick<RouteRequest, 'tenant' | 'ending'>,
    cached: Placement | undefined,
  ): Promise<Placement | undefined> {
    if (cached && this.#options.directory.isWatching) return cached
    try {
      return await this.lookups.look(tenant, ending)
    } catch (error) {
      const known = cached ?? this.#options.directory.placement(tenant)
      if (known) return known
      if (error instanceof PercolateError && PASSED_ON.has(error.code)) throw error
      throw new PercolateError(
        'PLACEMENT_UNKNOWN',
        'Whether the tenant exists cannot be known now: the cluster directory is away.',
        { cause: error },
      )
    }
  }

  /**
   * Looks at the tenant's place in the bucket, whatever the cache says; what it fails for is no matter. A node whose lease has run out has not been answered by the directory for long: it does not keep a
   * request waiting for that.
   */
  async refresh(tenant: TenantId, ending?: Waiting): Promise<void> {
    const { membership, time } = this.#options
    const looked = new AbortController()
    const ends = [looked.signal, ...(ending ? [ending.signal] : [])]
    if (!membership.hasLease)
      time.sleep(LAPSED_REFRESH_MS, { signal: looked.signal }).then(
        () => looked.abort(),
        () => {},
      )
    const waiting = { signal: AbortSignal.any(ends), hasEnded: ending?.hasEnded ?? false }
    await this.lookups.look(tenant, waiting).catch(() => undefined)
    looked.abort()
  }

  /** Whether a tenant of which there is no database here has nothing anywhere: its copy here is new, or the directory knows no such tenant. */
  isNew(tenant: TenantId): boolean {
    const { directory, copies } = this.#options
    return copies.isCurrent(tenant) || (copies.state(tenant) === 'absent' && !directory.placement(tenant))
  }

  /** Enters a tenant into the directory that is about to be written for the first time; false when others hold it. Looks again at what {@link route} saw, which may be long ago. */
  async enter(tenant: TenantId): Promise<boolean> {
    const { directory, copies, membership } = this.#options
    if (membership.isFenced) throw fenced()
    // The directory may show a tenant before its copy is here.
    await this.#creations.get(tenant)?.catch(() => undefined)
    if (copies.isCurrent(tenant)) return true
    // What the cache lacks is said to be nowhere by the bucket, when the cache does not follow it.
    if (!directory.placement(tenant) && !directory.isComplete) {
      await this.#lookUp({ tenant }, undefined)
      if (membership.isFenced) throw fenced()
      if (copies.isCurrent(tenant)) return true
    }
    if (directory.placement(tenant)) return false
    if (copies.state(tenant) !== 'absent') copies.assertCurrent(tenant)
    await this.#created(tenant)
    return copies.isCurrent(tenant)
  }

  /** One attempt at a time: first writes often come together. */
  #created(tenant: TenantId): Promise<Placement> {
    const standing = this.#creations.get(tenant)
    if (standing) return standing
    const creation = this.#inTurn(() => this.#create(tenant)).finally(() => this.#creations.delete(tenant))
    this.#creations.set(tenant, creation)
    return creation
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const release = await this.#turns.acquire()
    try {
      return await work()
    } finally {
      release()
    }
  }

  /** Enters a new tenant into the directory, with this node as its home if it is of the tier; others join as holders. */
  async #create(tenant: TenantId): Promise<Placement> {
    const { directory, node, tier, replicas, time, copies, homes } = this.#options
    const candidates = directory
      .members()
      .filter(({ member, isLive }) => isLive && member.state === 'ready' && member.tier === tier)
      .map(({ member }) => member)
    const places = choosePlaces(tenant, candidates, Math.max(1, replicas), [node])
    const others = places.filter(place => place !== node).map(place => ({ node: place, state: 'joining' as const }))
    const wanted: Placement = {
      tenant,
      incarnation: newIncarnation(time),
      tier,
      holders: [{ node, state: 'active' }, ...others],
      home: node,
      epoch: 1,
      generation: directory.cluster?.generation ?? PUT_BACK,
      version: 1,
      changedAtMs: time.now(),
    }
    return copies.creating(wanted, async () => {
      const { term } = this.#options.membership
      const standing = await directory.create(wanted)
      if (standing.incarnation === wanted.incarnation && copies.state(tenant) === 'absent') {
        homes.created(tenant, standing.epoch, term)
        copies.created(standing)
      }
      return standing
    })
  }

  async #elsewhere(request: RouteRequest, placement: Placement): Promise<Route> {
    const { copies, directory, node } = this.#options
    const { tenant } = request
    const others = activeHolders(placement)
      .map(holder => holder.node)
      .filter(other => other !== node)
    let answering = others.filter(other => directory.isLive(other))
    if (request.forwardedBy !== undefined || answering.length === 0) {
      const asked = request.forwardedBy === undefined ? this.#ask(tenant, others) : []
      if (await copies.whenCurrent(tenant, WAIT_MS)) return { kind: 'local' }
      if (request.forwardedBy !== undefined)
        throw new PercolateError('MISDIRECTED', 'This node does not serve the tenant now; another holder does.')
      answering = await asked
      if (answering.length === 0)
        throw new PercolateError(
          'TENANT_UNAVAILABLE',
          `No node that holds the tenant can answer now (${copies.reason(tenant).replace(/\.$/, '')}).`,
          { retryAfterS: 2 },
        )
    }
    const targets = answering
      .map(other => directory.member(other))
      .filter((member): member is Member => member !== undefined)
      .sort((a, b) => rank(b, placement) - rank(a, placement))
    return this.#forward(targets)
  }

  /**
   * Those of the nodes that say that their copy of the tenant is current. That nothing is heard of a node proves nothing: the directory may be slow, or this node's watch of it. Requests that come together share the
   * question, whose answer is a hint: who is asked then looks for himself.
   */
  #ask(tenant: TenantId, nodes: readonly string[]): Promise<string[]> {
    const standing = this.#asking.get(tenant)
    if (standing) return standing
    if (nodes.length === 0 || this.#asking.size >= ASKED_TENANTS_MAX) return Promise.resolve([])
    const asking = this.#currentOf(tenant, nodes).finally(() => this.#asking.delete(tenant))
    this.#asking.set(tenant, asking)
    return asking
  }

  async #currentOf(tenant: TenantId, nodes: readonly string[]): Promise<string[]> {
    const { peers } = this.#options
    const isCurrent = async (node: string) => (await peers.to(node).status(tenant))?.state === 'current'
    const answers = await Promise.all(nodes.map(node => isCurrent(node).catch(() => false)))
    return nodes.filter((_, n) => answers[n])
  }

  #forward(targets: readonly Member[]): Route {
    this.forwarded++
    return { kind: 'forward', targets }
  }

  /**
   * Says of a request that entered here that it was answered, and not with a refusal, which shows nothing of where a tenant is used. Sustained traffic brings a tenant's home, and a copy before that, to the node
   * where it enters. At most one copy more than wanted is made, and a home that moved rests, so that a scan over tenants or a balancer that spreads forwards instead of copying.
   */
  answered({ tenant, needsHome, forwardedBy }: Omit<RouteRequest, 'ending'>): void {
    const { node, time, directory, moveAfterRequests, moveRestMs, logger } = this.#options
    if (forwardedBy !== undefined || needsHome) return
    const placement = directory.placement(tenant)
    if (!placement || placement.home === node) return
    if (this.#traffic.add(tenant) < moveAfterRequests || !this.#mayMove(tenant)) return
    this.#moves.set(tenant, Number.POSITIVE_INFINITY)
    this.#move(tenant, placement)
      .catch(error => {
        logger.debug({ tenant, reason: String(error) }, 'a tenant could not be brought here')
        return false
      })
      .then(hasMoved => {
        this.#traffic.reset(tenant)
        this.#moves.set(tenant, time.monotonic() + (hasMoved ? moveRestMs : Math.min(MOVE_RETRY_MS, moveRestMs)))
      })
  }

  /** Whether the tenant neither moves nor rests. */
  #mayMove(tenant: TenantId): boolean {
    const now = this.#options.time.monotonic()
    const untilMs = this.#moves.get(tenant)
    if (untilMs !== undefined && now < untilMs) return false
    this.#moves.delete(tenant)
    if (this.#moves.size >= MOVES_MAX)
      for (const [other, restsUntilMs] of this.#moves) if (restsUntilMs <= now) this.#moves.delete(other)
    return this.#moves.size < MOVES_MAX
  }

  /** Whether the home is here now. */
  async #move(tenant: TenantId, placement: Placement): Promise<boolean> {
    const { node, tier, replicas, directory, copies, homes, peers, logger } = this.#options
    if (placement.tier !== tier || directory.member(node)?.state !== 'ready') return false
    if (!holderOf(placement, node)) {
      const standing = await directory.update(tenant, current =>
        holderOf(current, node) || current.holders.length > replicas
          ? undefined
          : { ...current, holders: [...current.holders, { node, state: 'joining' }] },
      )
      if (!holderOf(standing, node)) return false
      if (!(await copies.whenCurrent(tenant, this.#options.moveRestMs))) return false
    }
    const home = directory.placement(tenant)?.home
    if (!copies.isCurrent(tenant) || home === node) return home === node
    const moved =
      home !== undefined && directory.isLive(home)
        ? await peers.to(home).requestHome(tenant, node)
        : await homes.take(tenant)
    if (!moved) return false
    homes.arrived(tenant)
    logger.info({ tenant, from: home }, 'the home of a tenant moved to where its requests enter')
    return true
  }
}

/** The home first, a draining node last. */
const rank = (member: Member, placement: Placement): number =>
  (member.node === placement.home ? 2 : 0) + (member.state === 'ready' ? 1 : -2)

const fenced = () =>
  new PercolateError('NODE_ID_IN_USE', 'Another process took over the id of this node; it answers nothing.')

const rebuilding = () =>
  new PercolateError('PLACEMENT_UNKNOWN', 'The cluster directory is being rebuilt; retry in a moment.')
const noHome = () =>
  new PercolateError('HOME_UNAVAILABLE', "The tenant's home cannot be reached now; plain writes and reads go on.")
