import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import type { Time } from '../base/time.ts'
import type { VersionVector } from '../clock/vector.ts'
import type { StreamPort } from '../stream/port.ts'
import { subjects } from '../stream/subjects.ts'
import type { Activity } from '../tenant/activity.ts'
import type { TenantHooks } from '../tenant/open-pool.ts'
import type { TenantPool } from '../tenant/pool.ts'
import type { StagedBatch } from '../tenant/staging.ts'
import type { StreamCursor } from '../tenant/state.ts'
import type { Tenant } from '../tenant/tenant.ts'
import { ActiveTenants } from './active-tenants.ts'
import { Applier } from './applier.ts'
import { Copies } from './copies.ts'
import type { CopyStore } from './copy-store.ts'
import { Directory, type DirectoryStore } from './directory.ts'
import { FirstCopies } from './first-copies.ts'
import { Follower } from './follower.ts'
import { Homes } from './homes.ts'
import { LeaseProof } from './lease-proof.ts'
import { Maintenance } from './maintenance.ts'
import { Membership } from './membership.ts'
import type { PeerPort, WholeFrom } from './peer.ts'
import { activeHolders, holderOf, type Member } from './placement.ts'
import { encodeHint, Publisher } from './publisher.ts'
import { pushOutbox } from './push.ts'
import { Reconciler } from './reconciler.ts'
import { Router } from './router.ts'
import { PeerService } from './service.ts'
import type { SnapshotStore } from './snapshots.ts'
import { SyncStreams } from './streams.ts'

/** What an operator can set; every one has a default in the settings table. */
export interface ReplicaSettings {
  readonly replicas: number
  readonly syncStreams: string
  readonly syncReplicas: number
  readonly syncMaxAgeMs: number
  readonly syncBytesMax: number
  readonly poolBytesMax: number
  readonly directoryBytesMax: number
  readonly heartbeatMs: number
  readonly leaseMs: number
  readonly clockSkewMsMax: number
  readonly consumerIdleMs: number
  readonly hintGraceMs: number
  readonly tombstoneMs: number
  readonly gcIntervalMs: number
  readonly antiEntropyMs: number
  readonly snapshotIntervalMs: number
  readonly maintenanceMs: number
  readonly moveAfterRequests: number
  readonly moveWindowMs: number
  readonly moveRestMs: number
  readonly handoverTimeoutMs: number
  readonly copyRetryMs: number
  readonly copiesWaitMs: number
  /** As the applier's; simulated clusters reach it with few entries. */
  readonly waitingEntriesMax?: number
  readonly waitingBytesMax?: number
  readonly parkedEntriesMax?: number
  /** As the peer service's; simulated copies then have several parts. */
  readonly partRecordsMax?: number
}

/** What the node keeps beside its tenants. */
export interface NodeStore extends DirectoryStore {
  loadCursor(stream: string): Promise<StreamCursor | undefined>
  saveCursor(stream: string, cursor: StreamCursor): Promise<void>
}

export interface ReplicaOptions {
  readonly identity: Pick<Member, 'node' | 'disk' | 'zone' | 'tier' | 'version' | 'routerHost' | 'pod'>
  /** Where other nodes reach this one; known when the servers listen. */
  readonly addresses: () => Pick<Member, 'http' | 'grpc'>
  readonly settings: ReplicaSettings
  readonly time: Time
  readonly logger: Logger
  readonly stream: StreamPort
  /** The node's tenants, opened as this part of it says. */
  readonly pool: (hooks: TenantHooks) => TenantPool
  readonly activity: Activity
  readonly copies: CopyStore
  readonly store: NodeStore
  /** How other nodes are reached; their addresses are in the directory. */
  readonly peers: (addressOf: (node: string) => string | undefined) => PeerPort
  readonly snapshots: SnapshotStore | undefined
}

const isOnly = (origins: WholeFrom, origin: string): boolean => origins.size === 1 && origins.has(origin)

/** Between two questions to the other holders whether they have a write; and when nothing is heard of any of them. */
const ASK_REST_MS = 50
const SILENT_REST_MS = 500

export const durabilities = ['local', 'stream', 'replicated'] as const
export type Durability = (typeof durabilities)[number]

/** A node's part in the cluster: everything that replicates, put together. The simulator runs the same. */
export class Replica implements TenantHooks {
  readonly directory: Directory
  readonly membership: Membership
  readonly publisher: Publisher
  readonly applier: Applier
  readonly follower: Follower
  readonly reconciler: Reconciler
  readonly copies: Copies
  readonly firstCopies: FirstCopies
  readonly proof: LeaseProof
  readonly homes: Homes
  readonly active: ActiveTenants
  readonly router: Router
  readonly service: PeerService
  readonly maintenance: Maintenance
  readonly pool: TenantPool
  readonly peers: PeerPort
  readonly #options: Omit<ReplicaOptions, 'pool' | 'peers'> & { readonly pool: TenantPool; readonly peers: PeerPort }
  #streams: SyncStreams | undefined
  #state: Member['state'] = 'starting'
  #hasUnpublished = false
  #joining: Promise<void> | undefined
  #isLeaving = false

  constructor(options: ReplicaOptions) {
    const pool = options.pool(this)
    const peers = options.peers(node => this.directory.member(node)?.grpc)
    this.pool = pool
    this.peers = peers
    this.#options = { ...options, pool, peers }
    const { identity, settings, time, logger, stream, store, snapshots } = options
    const { node } = identity
    const streams = () => this.#syncStreams()
    this.directory = new Directory({
      stream,
      time,
      logger,
      replicas: settings.syncReplicas,
      bytesMax: settings.directoryBytesMax,
      leaseMs: settings.leaseMs,
      heartbeatMs: settings.heartbeatMs,
      store,
      syncStreams: settings.syncStreams,
    })
    this.membership = new Membership({
      directory: this.directory,
      time,
      logger,
      heartbeatMs: settings.heartbeatMs,
      leaseMs: settings.leaseMs,
      clockSkewMsMax: settings.clockSkewMsMax,
      identity: {
        ...identity,
        get http() {
          return options.addresses().http
        },
        get grpc() {
          return options.addresses().grpc
        },
      },
      describe: () => ({
        state: this.#state,
        unpublished: this.#hasUnpublished,
        tenants: this.copies.tenants().length,
        reported: this.copies.unreported === 0 ? this.directory.filledGeneration : 0,
      }),
    })
    this.applier = new Applier({
      time,
      logger,
      clockSkewMsMax: settings.clockSkewMsMax,
      waitingEntriesMax: settings.waitingEntriesMax,
      waitingBytesMax: settings.waitingBytesMax,
      parkedEntriesMax: settings.parkedEntriesMax,
      onParked: tenant => this.maintenance.parked(tenant),
    })
    this.follower = new Follower({
      stream,
      pool,
      time,
      logger,
      applier: this.applier,
      streams,
      takesEntries: tenant => this.copies.takesEntries(tenant),
      holds: tenant => this.copies.state(tenant) !== 'absent',
      onHole: tenant => {
        this.copies.onHole(tenant)
        // A loss is made up for when all others have been compared with.
        this.maintenance.changed(tenant, { data: false, floor: false })
      },
      idleMs: settings.consumerIdleMs,
      hintGraceMs: settings.hintGraceMs,
      cursors: { load: name => store.loadCursor(name), save: (name, cursor) => store.saveCursor(name, cursor) },
    })
    this.publisher = new Publisher({
      stream,
      pool,
      time,
      logger,
      streams,
      mayPublish: tenant => this.copies.isCurrent(tenant) || this.copies.state(tenant) === 'dropping',
    })
    this.reconciler = new Reconciler({
      node,
      logger,
      pool,
      directory: this.directory,
      applier: this.applier,
      peers,
      onBelowFloor: tenant => this.copies.demote(tenant),
      announce: hint => stream.announce(subjects.hint, encodeHint(hint)),
    })
    this.copies = new Copies({
      node,
      time,
      logger,
      pool,
      store: options.copies,
      directory: this.directory,
      follower: this.follower,
      applier: this.applier,
      peers,
      reconciler: this.reconciler,
      replicas: settings.replicas,
      snapshot: async (tenant, incarnation) => snapshots?.stored(tenant, incarnation),
      onCurrent: tenant => {
        this.publisher.notify(tenant)
        this.maintenance.parked(tenant)
        this.maintenance.changed(tenant, { data: true, floor: true })
      },
      retryMs: settings.copyRetryMs,
      unheardWaitMs: settings.copiesWaitMs,
    })
    this.firstCopies = new FirstCopies({ time, logger, copies: this.copies, waitMsMax: settings.copiesWaitMs })
    this.proof = new LeaseProof({ time, directory: this.directory, leaseMs: settings.leaseMs })
    this.homes = new Homes({
      proof: this.proof,
      applier: this.applier,
      clockSkewMsMax: settings.clockSkewMsMax,
      node,
      time,
      logger,
      directory: this.directory,
      membership: this.membership,
      copies: this.copies,
      follower: this.follower,
      pool,
      peers,
      leaseMs: settings.leaseMs,
      handoverTimeoutMs: settings.handoverTimeoutMs,
      moveRestMs: settings.moveRestMs,
      isPublished: tenant => this.publisher.isClean(tenant),
      onLeft: tenant => this.active.left(tenant),
    })
    this.active = new ActiveTenants({
      node,
      time,
      activity: options.activity,
      directory: this.directory,
      homes: this.homes,
      peers,
    })
    this.router = new Router({
      node,
      tier: identity.tier,
      time,
      logger,
      directory: this.directory,
      membership: this.membership,
      copies: this.copies,
      homes: this.homes,
      peers,
      replicas: settings.replicas,
      moveAfterRequests: settings.moveAfterRequests,
      moveWindowMs: settings.moveWindowMs,
      moveRestMs: settings.moveRestMs,
    })
    this.service = new PeerService({
      node,
      pool,
      reconciler: this.reconciler,
      copies: this.copies,
      applier: this.applier,
      homes: this.homes,
      active: this.active,
      follower: this.follower,
      partRecordsMax: settings.partRecordsMax,
    })
    this.maintenance = new Maintenance({
      node,
      reconciler: this.reconciler,
      time,
      logger,
      pool,
      directory: this.directory,
      copies: this.copies,
      homes: this.homes,
      applier: this.applier,
      peers,
      snapshots,
      checkMs: settings.maintenanceMs,
      tombstoneMs: settings.tombstoneMs,
      gcIntervalMs: settings.gcIntervalMs,
      antiEntropyMs: settings.antiEntropyMs,
      snapshotIntervalMs: settings.snapshotIntervalMs,
    })
  }

  get state(): Member['state'] {
    return this.#state
  }

  /** Reads what this node's own disk holds; before it takes any request. */
  load(): Promise<void> {
    return this.copies.load()
  }

  /** Joins the cluster, after {@link load}. The node takes requests when this resolves; copies that are not current yet are answered for by others. */
  async start(): Promise<void> {
    await this.directory.start()
    await this.membership.start()
    this.follower.start()
    this.copies.start()
    this.maintenance.start()
    this.#joining = this.#join()
    // A first request need not be refused only because the directory is young; NATS may be away for long.
    await Promise.race([this.#joining, this.#options.time.sleep(this.#options.settings.leaseMs, { ref: false })])
  }

  /**
   * Ready, for members and for routers, from when the directory has been read and its watch has told of something new: one that is deaf from its beginning is found out soon, and what it did not tell of is not known until then.
   * Never back from there: while the directory is away this node does what any other could.
   */
  async #join(): Promise<void> {
    const { time } = this.#options
    let hasAsked = false
    while (!(this.directory.isComplete && this.directory.isTelling) && !this.#isLeaving) {
      // What is written now comes back at once; the next heartbeat would do, too.
      if (!this.directory.isWatching) hasAsked = false
      else if (!hasAsked && this.directory.isComplete && this.membership.hasLease) {
        hasAsked = true
        void this.membership.beat().catch(() => {})
      }
      await time.sleep(20, { ref: false })
    }
    if (this.#isLeaving) return
    this.firstCopies.joined()
    this.#state = 'ready'
    this.#followPools()
    await this.membership.beat().catch(() => {})
  }

  /** For the pool: what the tenant has to publish waits for nobody. */
  opened(tenant: Tenant): void {
    if (tenant.outbox.entries > 0) this.publisher.notify(tenant.id)
  }

  /** For the pool: how the database of a tenant is to be made when there is none. */
  openOptions(tenant: TenantId): { incarnation: string | undefined; copy: boolean } {
    return {
      incarnation: this.directory.placement(tenant)?.incarnation,
      copy: this.copies.state(tenant) === 'joining',
    }
  }

  /** Throws unless this node may make a database for the tenant: nobody else's data is answered for by an empty one. */
  assertMayCreate(tenant: TenantId): void {
    const state = this.copies.state(tenant)
    if (state === 'current' || state === 'joining') return
    throw new PercolateError('TENANT_UNAVAILABLE', 'This node holds no copy of the tenant now.')
  }

  /** Throws TENANT_UNAVAILABLE when the copy is not current any more, CLOCK_SKEWED when a write would carry a clock that others take for the future. */
  admitWrite(tenant: Tenant): void {
    this.copies.assertCurrent(tenant.id)
    this.membership.admitWrite()
    if (tenant.clockAheadMs > this.#options.settings.clockSkewMsMax)
      throw new PercolateError(
        'CLOCK_SKEWED',
        `The tenant's clock here is ${Math.round(tenant.clockAheadMs / 1000)} s ahead, because this node's wall clock was; writes are refused until time has caught up.`,
        { retryAfterS: 5 },
      )
  }

  corrupt(tenant: TenantId, error: PercolateError, when: 'open' | 'use'): void {
    this.copies.onCorrupt(tenant, error, when)
  }

  /** Called after every commit of a tenant. */
  committed(tenant: Tenant, batch: StagedBatch): void {
    if (batch.outbox.entries > 0) this.publisher.notify(tenant.id)
    // It came without what it rests on.
    if (batch.floor && !tenant.covers(batch.floor.vector)) this.copies.onHole(tenant.id)
    this.maintenance.changed(tenant.id, {
      data: batch.changesData,
      floor: tenant.floor !== undefined && !tenant.isCollected,
    })
  }

  /**
   * Waits until own writes have the wanted durability, at most `timeoutMs`; the level that they have then. `origins` are those that the copy wrote them under: when it has another one by now,
   * it was made anew, or its disk went back in time, and what waited to be published may have been set aside.
   */
  async reach(
    tenant: TenantId,
    origins: WholeFrom,
    position: VersionVector,
    wanted: Durability,
    timeoutMs: number,
  ): Promise<Durability> {
    if (wanted === 'local') return 'local'
    const { pool, time } = this.#options
    const until = time.monotonic() + timeoutMs
    const isPublished = (open: Tenant) =>
      isOnly(origins, open.origin) && open.isPublished(position.get(open.origin) ?? 0)
    let published = false
    await pool.waitFor(
      tenant,
      open => {
        published = isPublished(open)
        return published || !isOnly(origins, open.origin)
      },
      { timeoutMs },
    )
    if (wanted === 'stream') return published ? 'stream' : 'local'
    const applied = await this.#appliedElsewhere(tenant, origins, position, Math.max(0, until - time.monotonic()))
    return applied ? 'replicated' : published ? 'stream' : 'local'
  }

  /** `origins`: those of the writes themselves, of whose entries nothing may be lacking there. What else the position counts may be given up for lost here as well. */
  async #appliedElsewhere(
    tenant: TenantId,
    origins: WholeFrom,
    position: VersionVector,
    timeoutMs: number,
  ): Promise<boolean> {
    const { peers, identity, time } = this.#options
    const until = time.monotonic() + timeoutMs
    for (;;) {
      const placement = this.directory.placement(tenant)
      const others = placement
        ? this.directory.liveOrSilent(
            activeHolders(placement)
              .map(({ node }) => node)
              .filter(node => node !== identity.node),
          )
        : []
      const leftMs = until - time.monotonic()
      if (placement && others.length > 0) {
        const asked = others.map(async node => {
          if (!(await peers.to(node).awaitVector(tenant, placement.incarnation, position, leftMs, origins)))
            throw new Error('not in time')
        })
        const answered = Promise.any(asked).then(
          () => true,
          () => false,
        )
        // A node that is gone without a word says nothing until the call to it is given up.
        const isAnswered = new AbortController()
        const over = time.sleep(leftMs, { ref: false, signal: isAnswered.signal }).then(
          () => false,
          () => false,
        )
        const isApplied = await Promise.race([answered, over])
        isAnswered.abort()
        if (isApplied) return true
      }
      const isSilent = others.length > 0 && !others.some(node => this.directory.isLive(node))
      const restMs = isSilent ? SILENT_REST_MS : ASK_REST_MS
      if (time.monotonic() + restMs >= until) return false
      await time.sleep(restMs, { ref: false })
    }
  }

  /** Announces that this node is going, so that routers and forwarders turn to others. It goes on answering. */
  async beginDrain(): Promise<void> {
    this.#isLeaving = true
    this.#state = 'draining'
    await this.membership.beat().catch(() => {})
  }

  /** While the node still answers: what it wrote is published, who makes a copy from it finishes, homes go to other holders. */
  async handOff(timeoutMs: number): Promise<void> {
    const { time } = this.#options
    const until = time.monotonic() + timeoutMs
    const isBusy = () => this.publisher.isBusy && this.publisher.failures === 0
    const handingOver = this.homes.handOverAll(timeoutMs).catch(() => 0)
    while ((isBusy() || this.#isAwaited()) && time.monotonic() < until) await time.sleep(20)
    await handingOver
    // Homes of which a successor was not ready, or was made, in the meantime.
    await this.homes.handOverAll(Math.max(0, until - time.monotonic())).catch(() => 0)
  }

  /**
   * Leaves the cluster after the last request: outboxes are published, or pushed to other holders when there is no stream; homes are handed over; tenants are
   * snapshotted when there is a store for it. Returns what could not be done.
   */
  async drain(timeoutMs: number): Promise<{ unpublished: number; homesKept: number; notSaved: number }> {
    const { time, logger } = this.#options
    this.#isLeaving = true
    await this.#joining
    const until = time.monotonic() + timeoutMs
    const handingOver = this.homes.handOverAll(timeoutMs).catch(() => this.homes.count)
    while (this.publisher.isBusy && this.publisher.failures === 0 && time.monotonic() < until) await time.sleep(10)
    const homesKept = await handingOver
    const notSaved = await this.#saveAll(until)
    let unpublished = 0
    for (const tenant of this.copies.tenants()) unpublished += await this.#pushOutbox(tenant)
    this.#hasUnpublished = unpublished > 0
    await this.maintenance.stop()
    await this.copies.stop()
    await this.follower.stop()
    await this.publisher.stop(0)
    if (this.#hasUnpublished) {
      logger.error(
        { entries: unpublished },
        'this disk holds writes that nobody else has: keep it until the node was back',
      )
      await this.membership.beat().catch(() => {})
      await this.membership.stop()
    } else {
      await this.membership.leave().catch(error => {
        logger.warn({ reason: String(error) }, 'could not sign off from the cluster; its lease ends by itself')
      })
    }
    await this.directory.stop()
    return { unpublished, homesKept, notSaved }
  }

  /** Whether another node is making its copy of a tenant that only this node has whole: nobody could answer for it when this one goes. */
  #isAwaited(): boolean {
    const { node } = this.#options.identity
    return this.directory.placements().some(placement => {
      if (holderOf(placement, node)?.state !== 'active') return false
      const live = placement.holders.filter(holder => holder.node !== node && this.directory.isLive(holder.node))
      return live.length > 0 && live.every(({ state }) => state === 'joining')
    })
  }

  /** Snapshots of what this node was home of: it may be the last to leave. */
  async #saveAll(until: number): Promise<number> {
    const { identity, time, snapshots, logger } = this.#options
    if (!snapshots) return 0
    let notSaved = 0
    const staying = await this.#stayingNodes()
    for (const placement of this.directory.placements()) {
      const isMine = placement.holders.some(holder => holder.node === identity.node && holder.state !== 'joining')
      if (!isMine || activeHolders(placement).some(({ node }) => staying.has(node))) continue
      try {
        if (time.monotonic() > until) throw new Error('the time for draining is over')
        await this.maintenance.snapshot(placement.tenant)
      } catch (error) {
        notSaved++
        logger.warn(
          { tenant: placement.tenant, reason: String(error) },
          'a snapshot could not be stored while draining',
        )
      }
    }
    return notSaved
  }

  /** The other nodes that stay, as the directory itself has them: what a watch told last may be old, and everybody may be leaving. Of whom that can't be known, it isn't assumed. */
  async #stayingNodes(): Promise<ReadonlySet<string>> {
    const { node } = this.#options.identity
    const others = this.directory.members().filter(({ member, isLive }) => isLive && member.node !== node)
    const records = await Promise.all(
      others.map(({ member }) => this.directory.readMember(member.node).catch(() => undefined)),
    )
    return new Set(
      records.flatMap(record =>
        record && record.member.state === 'ready' && !record.member.ended ? [record.member.node] : [],
      ),
    )
  }

  /** What is left in a tenant's outbox goes to another holder directly; the number of entries that nobody took. */
  async #pushOutbox(tenant: TenantId): Promise<number> {
    const { pool, peers, identity } = this.#options
    // Known to have nothing, without being opened for it.
    if (!pool.isOpen(tenant) && this.copies.isCurrent(tenant) && this.publisher.isClean(tenant)) return 0
    const placement = this.directory.placement(tenant)
    const others = placement ? activeHolders(placement).filter(({ node }) => node !== identity.node) : []
    const entries = async () => (await pool.use(tenant, async open => open.outbox.entries)) ?? 0
    for (const { node } of (await entries()) > 0 ? others : []) {
      // They stay in the outbox: other holders still have to get them by the stream when this node is back. When this one does not take them, the next holder may.
      if (await pushOutbox(pool, tenant, peers.to(node)).catch(() => false)) return 0
    }
    return entries()
  }

  #syncStreams(): SyncStreams | undefined {
    const mode = this.directory.cluster?.syncStreams
    if (mode === undefined) return this.#streams
    const { syncReplicas, syncMaxAgeMs, syncBytesMax, poolBytesMax } = this.#options.settings
    const bounds = { maxAgeMs: syncMaxAgeMs, bytesMax: syncBytesMax, poolBytesMax }
    this.#streams ??= new SyncStreams(mode, { replicas: syncReplicas, ...bounds })
    return this.#streams
  }

  /** Pool streams are read from the start on, by one consumer each. */
  #followPools(): void {
    const streams = this.#syncStreams()
    if (streams?.pools === undefined) return
    for (const tenant of this.copies.tenants()) this.follower.follow(tenant)
  }
}
