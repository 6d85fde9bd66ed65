import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import type { Time } from '../base/time.ts'
import type { TenantPool } from '../tenant/pool.ts'
import type { WriteGuard } from '../tenant/writer.ts'
import type { Applier } from './applier.ts'
import type { Copies } from './copies.ts'
import type { Directory } from './directory.ts'
import type { Follower } from './follower.ts'
import type { LeaseProof } from './lease-proof.ts'
import type { Membership } from './membership.ts'
import { hasParkedUpTo } from './parked.ts'
import type { PeerPort } from './peer.ts'
import { activeHolders, holderOf } from './placement.ts'

export interface HomesOptions {
  readonly node: string
  readonly time: Time
  readonly logger: Logger
  readonly directory: Directory
  readonly membership: Membership
  readonly copies: Copies
  readonly follower: Follower
  readonly pool: TenantPool
  readonly applier: Applier
  readonly peers: PeerPort
  readonly proof: LeaseProof
  readonly leaseMs: number
  readonly clockSkewMsMax: number
  readonly handoverTimeoutMs: number
  readonly moveRestMs: number
  /** Whether all that this node has written of the tenant is in its stream, as far as is known without opening it. */
  readonly isPublished: (tenant: TenantId) => boolean
  /** Told when this node has handed a home over. */
  readonly onLeft: (tenant: TenantId) => void
}

/** This node is not, or no longer surely, the home: another one is, or will be. */
export class NotHome extends PercolateError {
  constructor(message: string) {
    super('HOME_UNAVAILABLE', message)
  }
}

/** Homes that are handed over at once when a node leaves. */
const HANDOVERS_MAX = 32
/** How often a home is claimed whose placement changes meanwhile. */
const CLAIMS_MAX = 3
/** Homes that wait for what is parked and whose first attempt is remembered; others wait for what is parked meanwhile, too. */
const AWAITED_MAX = 10_000
/** Arrivals that are remembered. */
const ARRIVALS_MAX = 10_000

/**
 * Which tenants this node is the home of. A home decides on conditional writes, alone, while its node's lease lives. It is *held*, *handing over* (conditional writes
 * wait for the outcome as 503) or somebody else's. A home whose node's lease is proven to be over ({@link LeaseProof}) is taken by a holder, with a higher epoch, after it has
 * read the stream to its end, or heard the other holders when that may have lost something.
 */
export class Homes {
  readonly #options: HomesOptions
  /** Handovers by this node that are under way; bounded in time. */
  readonly #leaving = new Map<TenantId, Promise<boolean>>()
  /** The epoch that this node has claimed, and the term of its lease in which it did. */
  readonly #claims = new Map<TenantId, { readonly epoch: number; readonly term: number }>()
  /** When a home was brought here by its traffic, by our monotonic clock. */
  readonly #arrivedAtMs = new Map<TenantId, number>()
  readonly #preparing = new Map<TenantId, Promise<boolean>>()
  /** Homes that could not be taken because of what is parked here: the clock that all of it must have come below, as of the first attempt at that epoch of that life of the directory. */
  readonly #awaited = new Map<TenantId, { readonly life: number; readonly epoch: number; readonly upToMs: number }>()
  handovers = 0
  takeovers = 0

  constructor(options: HomesOptions) {
    this.#options = options
  }

  isHome(tenant: TenantId): boolean {
    return this.#options.directory.placement(tenant)?.home === this.#options.node
  }

  /** Homes that this node has by the directory. */
  get count(): number {
    return this.#options.directory.placements().filter(({ home }) => home === this.#options.node).length
  }

  /** Whether this node may decide on conditional writes of the tenant at this moment. */
  holdsLease(tenant: TenantId): boolean {
    const placement = this.#options.directory.placement(tenant)
    return (
      placement?.home === this.#options.node &&
      this.#options.membership.hasLease &&
      !this.#leaving.has(tenant) &&
      this.#hasClaimed(tenant, placement.epoch) &&
      this.#options.copies.isCurrent(tenant)
    )
  }

  /** The epoch of the lease; throws {@link NotHome} unless {@link holdsLease}. Asked before a condition is evaluated, and again before the answer. */
  assertHome(tenant: TenantId): number {
    if (!this.holdsLease(tenant))
      throw new NotHome(
        'This node is not, or no longer surely, the home of the tenant; the write may stand, its condition is not vouched for.',
      )
    return this.#claims.get(tenant)!.epoch
  }

  /** What a decision that was begun at `epoch` rests on, for the tenant's writer. Throws HOME_UNAVAILABLE when this node's clock is too far behind to follow the homes before it. */
  guard(tenant: TenantId, epoch: number): WriteGuard {
    const { directory, membership, time, clockSkewMsMax } = this.#options
    const aboveMs = Math.max(directory.placement(tenant)?.decidesAboveMs ?? 0, membership.inheritedMs)
    if (aboveMs > time.now() + clockSkewMsMax)
      throw new PercolateError(
        'HOME_UNAVAILABLE',
        'The home before this one may have decided with clocks that are ahead of what this node may write with; retry in a moment.',
        { retryAfterS: Math.ceil((aboveMs - time.now() - clockSkewMsMax) / 1000) },
      )
    return {
      aboveMs,
      check: wallMs => {
        if (this.assertHome(tenant) !== epoch)
          throw new NotHome('The home of the tenant changed before the condition was decided; read, and decide anew.')
        if (wallMs <= membership.decidesBelowMs) return
        membership.wantClock(wallMs)
        throw new PercolateError(
          'HOME_UNAVAILABLE',
          "The tenant's clock is ahead of what this home may decide with until its next heartbeat; retry in a moment.",
          { retryAfterS: 1 },
        )
      },
    }
  }

  /** The node to ask for what only the home can do, or undefined when nobody can be it now. May take the home over. */
  async find(tenant: TenantId): Promise<string | undefined> {
    const { directory, node } = this.#options
    await this.#leaving.get(tenant)
    const placement = directory.placement(tenant)
    if (!placement) return undefined
    if (placement.home === node) {
      if (await this.#prepare(tenant)) return node
    } else {
      if (placement.home !== undefined && !this.#isDoubted(placement.home)) return placement.home
      if (await this.take(tenant)) return node
    }
    // It may be another's, as was found out just now.
    const home = directory.placement(tenant)?.home
    return home === node ? undefined : home
  }

  /** This node has just made the placement with itself as home; `term` is its membership's from before it asked. */
  created(tenant: TenantId, epoch: number, term: number): void {
    this.#claims.set(tenant, { epoch, term })
  }

  /**
   * Takes the home when the lease of the one that is has been proven to be over, after reading the stream to its end. What stands in the bucket is read first, the proof comes then, and the write succeeds only if nobody
   * claimed it in between.
   */
  async take(tenant: TenantId): Promise<boolean> {
    for (let attempt = 0; attempt < CLAIMS_MAX; attempt++) {
      const outcome = await this.#tryTake(tenant)
      if (outcome !== 'overtaken') return outcome
    }
    return false
  }

  /** One attempt; *overtaken*: the placement changed in between, as when copies come and go, and all of it is to be looked at anew. */
  async #tryTake(tenant: TenantId): Promise<boolean | 'overtaken'> {
    const { directory, copies, follower, membership, proof, node, logger } = this.#options
    if (!copies.isCurrent(tenant) || !membership.mayClaim) return false
    const { term } = membership
    try {
      const standing = await directory.read(tenant)
      if (!standing || holderOf(standing.placement, node)?.state !== 'active') return false
      const { home, epoch, decidesAboveMs = 0 } = standing.placement
      const over = home === undefined || home === node ? { decidedBelowMs: 0 } : await proof.isOver(home)
      const life = await directory.settledLife()
      if (!over || life === undefined) return false
      // Asked for after the lease was over: whatever was decided under it and published is in the stream by now.
      if (!(await follower.catchUp(tenant))) return false
      if (!(await this.#hasAllDecided(tenant, life, epoch))) return false
      if (!(await copies.isVouchedFor(tenant, standing.placement))) return false
      // The revision that was read means nothing in a directory that was made anew meanwhile.
      if ((await directory.settledLife()) !== life) return false
      if (!copies.isCurrent(tenant) || !membership.mayClaim || membership.term !== term) return false
      const taken = await directory.replace(standing, {
        ...standing.placement,
        home: node,
        epoch: epoch + 1,
        decidesAboveMs: Math.max(decidesAboveMs, over.decidedBelowMs),
      })
      if (!taken) return 'overtaken'
      this.#claims.set(tenant, { epoch: taken.epoch, term })
      if (home === node) return true
      this.takeovers++
      logger.info({ tenant, from: home, epoch: taken.epoch }, 'took a home over')
      return true
    } catch (error) {
      logger.debug({ tenant, reason: String(error) }, 'a home could not be taken')
      return false
    }
  }

  /**
   * Whether nothing that an earlier home may have decided waits here for its clock: two clocks that are each within the bound differ by up to twice as much, and what has been read and is only *parked* counts in no
   * vector and shows in no condition (docs/decisions/0037-parked-decisions.md). Asked once the lease of the earlier home is over and the stream has been read: nobody has decided since, as long as `epoch` stands.
   */
  async #hasAllDecided(tenant: TenantId, life: number, epoch: number): Promise<boolean> {
    const { pool, applier, copies, membership } = this.#options
    const before = this.#awaited.get(tenant)
    const isSame = before?.life === life && before.epoch === epoch
    const awaited = isSame ? before : { life, epoch, upToMs: membership.decidedUpToMs }
    const isParked = await pool.use(tenant, async open => {
      if (!copies.takesEntries(tenant)) return true
      // What is due is looked for by a loop only now and then.
      return (await applier.applyDue(open)) > 0 && hasParkedUpTo(open, awaited.upToMs)
    })
    const hasHole = applier.hasHole(tenant)
    if (hasHole) copies.onHole(tenant)
    this.#awaited.delete(tenant)
    if (isParked === false && !hasHole) return true
    // What is written with clocks that run ahead from now on is no decision, and does not prolong the wait.
    this.#awaited.set(tenant, awaited)
    if (this.#awaited.size > AWAITED_MAX) this.#awaited.delete(this.#awaited.keys().next().value!)
    return false
  }

  /** The home was brought here by its traffic; it rests. */
  arrived(tenant: TenantId): void {
    this.#arrivedAtMs.delete(tenant)
    this.#arrivedAtMs.set(tenant, this.#options.time.monotonic())
    if (this.#arrivedAtMs.size > ARRIVALS_MAX) this.#arrivedAtMs.delete(this.#arrivedAtMs.keys().next().value!)
  }

  /** Another node wants the home, because traffic enters there. A home that came here a moment ago stays, so that traffic on two nodes does not toss it about. */
  async yieldTo(tenant: TenantId, successor: string): Promise<boolean> {
    const { time, moveRestMs } = this.#options
    const arrivedAtMs = this.#arrivedAtMs.get(tenant)
    if (arrivedAtMs !== undefined && time.monotonic() - arrivedAtMs < moveRestMs) return false
    return this.handOver(tenant, successor)
  }

  /** A planned handover, driven by the home that is: it stops deciding, lets the successor reach its vector, then writes the directory. */
  async handOver(tenant: TenantId, successor: string, timeoutMs = this.#options.handoverTimeoutMs): Promise<boolean> {
    const { directory, node } = this.#options
    const placement = directory.placement(tenant)
    if (placement?.home !== node || this.#leaving.has(tenant)) return false
    if (holderOf(placement, successor)?.state !== 'active' || !directory.isLive(successor)) return false
    const leaving = this.#leave(tenant, successor, timeoutMs).finally(() => this.#leaving.delete(tenant))
    this.#leaving.set(tenant, leaving)
    return leaving
  }

  async #leave(tenant: TenantId, successor: string, timeoutMs: number): Promise<boolean> {
    const { directory, node, logger } = this.#options
    try {
      if (!this.#isInStream(tenant) && !(await this.#isReached(tenant, successor, timeoutMs))) return false
      // Whatever becomes of the write and its answer: to decide again, this node has to claim anew.
      this.#claims.delete(tenant)
      const standing = await directory.update(tenant, current =>
        current.home === node && holderOf(current, successor)?.state === 'active'
          ? { ...current, home: successor, epoch: current.epoch + 1 }
          : undefined,
      )
      if (standing?.home !== successor) return false
      this.handovers++
      this.#options.onLeft(tenant)
      return true
    } catch (error) {
      logger.debug({ tenant, successor, reason: String(error) }, 'a handover did not come about')
      return false
    }
  }

  /**
   * Whatever this home decided is in the stream, and nothing is being decided: the tenant is not even open. The successor reads the stream to its end before it decides, so that neither node need open it now.
   */
  #isInStream(tenant: TenantId): boolean {
    const { pool, copies, isPublished } = this.#options
    return !pool.isOpen(tenant) && copies.isCurrent(tenant) && isPublished(tenant)
  }

  async #isReached(tenant: TenantId, successor: string, timeoutMs: number): Promise<boolean> {
    const { pool, peers } = this.#options
    const position = await pool.use(tenant, async open => ({
      incarnation: open.identity.incarnation,
      // In the writer's turn: after what was being decided when this node stopped to.
      vector: await open.change(async staging => staging.vector),
    }))
    if (!position) return false
    return peers.to(successor).awaitVector(tenant, position.incarnation, position.vector, timeoutMs)
  }

  /** Hands over every home to another live holder, several at a time, until the time is over: the node is leaving. The number of those that are left. */
  async handOverAll(timeoutMs: number): Promise<number> {
    const { directory, node, time, handoverTimeoutMs } = this.#options
    const until = time.monotonic() + timeoutMs
    const waiting = directory.placements().filter(({ home }) => home === node)
    // Those that need nobody to wait for anything go first.
    waiting.sort((a, b) => Number(this.#isInStream(a.tenant)) - Number(this.#isInStream(b.tenant)))
    let left = waiting.length
    const work = async () => {
      for (let next = waiting.pop(); next; next = waiting.pop()) {
        const { tenant } = next
        const heirs = activeHolders(next).filter(holder => holder.node !== node && directory.isLive(holder.node))
        for (const heir of heirs) {
          const leftMs = until - time.monotonic()
          if (leftMs <= 0) return
          if (!(await this.handOver(tenant, heir.node, Math.min(handoverTimeoutMs, leftMs)))) continue
          left--
          break
        }
      }
    }
    await Promise.all(Array.from({ length: HANDOVERS_MAX }, work))
    return left
  }

  /**
   * A home given to this node by another, or one that it had before its lease lapsed: it decides when it has read what there is, and has claimed the home by writing the directory. What it
   * knows of the directory may be old; a compare-and-set is not fooled.
   */
  #prepare(tenant: TenantId): Promise<boolean> {
    const known = this.#preparing.get(tenant)
    if (known) return known
    const preparing = this.#claim(tenant).finally(() => this.#preparing.delete(tenant))
    this.#preparing.set(tenant, preparing)
    return preparing
  }

  async #claim(tenant: TenantId): Promise<boolean> {
    const { directory, copies, membership } = this.#options
    const placement = directory.placement(tenant)
    if (!placement || !copies.isCurrent(tenant) || !membership.hasLease) return false
    if (this.#hasClaimed(tenant, placement.epoch)) return true
    // Another may have become the home since; then its lease is looked at.
    return (await this.take(tenant)) && this.holdsLease(tenant)
  }

  #hasClaimed(tenant: TenantId, epoch: number): boolean {
    const claim = this.#claims.get(tenant)
    return claim?.epoch === epoch && claim.term === this.#options.membership.term
  }

  /** Whether it is worth looking at its lease: nothing was heard of it for as long. That it is silent proves nothing yet. */
  #isDoubted(home: string): boolean {
    const { directory, leaseMs } = this.#options
    if (!directory.isWatching) return false
    return directory.member(home) === undefined || directory.silentMs(home) > leaseMs
  }
}
