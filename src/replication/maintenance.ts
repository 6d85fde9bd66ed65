import type { TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import type { Time } from '../base/time.ts'
import type { Clock } from '../clock/hlc.ts'
import { dominates, joinVectors, type VersionVector } from '../clock/vector.ts'
import { planFloor } from '../rem/floor.ts'
import type { TenantPool } from '../tenant/pool.ts'
import { repairFrom } from './anti-entropy.ts'
import type { Applier } from './applier.ts'
import { collectGarbage } from './collect.ts'
import type { Copies } from './copies.ts'
import type { Directory } from './directory.ts'
import type { Homes } from './homes.ts'
import type { PeerPort } from './peer.ts'
import type { Placement } from './placement.ts'
import type { Reconciler } from './reconciler.ts'
import type { SnapshotInfo, SnapshotStore } from './snapshots.ts'

export interface MaintenanceOptions {
  readonly node: string
  readonly time: Time
  readonly logger: Logger
  readonly pool: TenantPool
  readonly directory: Directory
  readonly copies: Copies
  readonly reconciler: Reconciler
  readonly homes: Homes
  readonly applier: Applier
  readonly peers: PeerPort
  readonly snapshots: SnapshotStore | undefined
  readonly checkMs: number
  /** How long deletes are remembered. */
  readonly tombstoneMs: number
  readonly gcIntervalMs: number
  readonly antiEntropyMs: number
  readonly snapshotIntervalMs: number
}

/** What is due for a tenant, by our monotonic clock. */
interface Due {
  gcAtMs: number
  compareAtMs: number
  snapshotAtMs: number
}

export interface MaintenanceCounts {
  floors: number
  collected: number
  compared: number
  different: number
  repaired: number
  setAside: number
  snapshots: number
  snapshotFailures: number
}

/**
 * What has to be done for a tenant now and then, while it changes: entries from the future that are due, garbage collection, comparison with other holders, snapshots. Tenants that
 * nobody writes to cost nothing.
 */
export class Maintenance {
  readonly counts: MaintenanceCounts = {
    floors: 0,
    collected: 0,
    compared: 0,
    different: 0,
    repaired: 0,
    setAside: 0,
    snapshots: 0,
    snapshotFailures: 0,
  }
  readonly #options: MaintenanceOptions
  readonly #due = new Map<TenantId, Due>()
  readonly #parked = new Set<TenantId>()
  readonly #floors = new Set<TenantId>()
  readonly #saved = new Map<TenantId, VersionVector>()
  readonly #stop = new AbortController()
  #running: Promise<void> | undefined

  constructor(options: MaintenanceOptions) {
    this.#options = options
  }

  start(): void {
    this.#running = this.#run()
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#running
  }

  /** The tenant changed; `hasFloor` when its garbage collection floor may have. */
  changed(tenant: TenantId, hasFloor: boolean): void {
    if (hasFloor) this.#floors.add(tenant)
    if (this.#due.has(tenant)) return
    const { time, gcIntervalMs, antiEntropyMs, snapshotIntervalMs } = this.#options
    const now = time.monotonic()
    this.#due.set(tenant, {
      gcAtMs: now + gcIntervalMs,
      compareAtMs: now + antiEntropyMs,
      snapshotAtMs: now + snapshotIntervalMs,
    })
  }

  /** The copy has entries that wait for their clock. */
  parked(tenant: TenantId): void {
    this.#parked.add(tenant)
  }

  hasParked(tenant: TenantId): boolean {
    return this.#parked.has(tenant)
  }

  /** Stores a snapshot if anything changed since the last one. */
  async snapshot(tenant: TenantId): Promise<SnapshotInfo | undefined> {
    const { pool, snapshots, node, logger } = this.#options
    if (!snapshots) return undefined
    return pool.use(tenant, async open => {
      if (open.isJoining) return undefined
      const last = this.#saved.get(tenant) ?? (await snapshots.info(tenant, open.identity.incarnation))?.vector
      if (last && dominates(last, open.vector)) {
        this.#saved.set(tenant, last)
        return undefined
      }
      const info = await snapshots.save(open, node)
      this.#saved.set(tenant, info.vector)
      this.counts.snapshots++
      logger.info({ tenant, snapshot: info.id, records: info.records, bytes: info.bytes }, 'stored a snapshot')
      return info
    })
  }

  async #run(): Promise<void> {
    const { time, checkMs } = this.#options
    const { signal } = this.#stop
    while (!signal.aborted) {
      await time.sleep(checkMs, { signal, ref: false }).catch(() => {})
      for (const tenant of [...this.#parked])
        await this.#guarded(tenant, 'applying parked entries', () => this.#applyParked(tenant))
      for (const tenant of [...this.#floors])
        await this.#guarded(tenant, 'collecting garbage', () => this.#collect(tenant))
      for (const [tenant, due] of [...this.#due]) {
        if (signal.aborted) return
        await this.#tend(tenant, due)
      }
    }
  }

  async #tend(tenant: TenantId, due: Due): Promise<void> {
    const { time, copies, homes } = this.#options
    const now = time.monotonic()
    if (!copies.isCurrent(tenant)) return
    if (now >= due.gcAtMs) {
      due.gcAtMs = Number.POSITIVE_INFINITY
      await this.#guarded(tenant, 'moving the floor', () => this.#moveFloor(tenant))
    }
    if (now >= due.compareAtMs) {
      // What could not be compared now, or was behind, is compared again.
      due.compareAtMs = now + this.#options.antiEntropyMs
      await this.#guarded(tenant, 'comparing with another holder', async () => {
        if (await this.#compare(tenant)) due.compareAtMs = Number.POSITIVE_INFINITY
      })
    }
    if (now >= due.snapshotAtMs) {
      due.snapshotAtMs = Number.POSITIVE_INFINITY
      if (homes.isHome(tenant))
        await this.#guarded(
          tenant,
          'storing a snapshot',
          () => this.snapshot(tenant),
          () => {
            this.counts.snapshotFailures++
            due.snapshotAtMs = now + this.#options.snapshotIntervalMs / 4
          },
        )
    }
    if (Object.values(due).every(at => at === Number.POSITIVE_INFINITY)) this.#due.delete(tenant)
  }

  async #guarded(tenant: TenantId, what: string, work: () => Promise<unknown>, onFailure = () => {}): Promise<void> {
    try {
      if (!this.#stop.signal.aborted) await work()
    } catch (error) {
      onFailure()
      this.#options.logger.info({ tenant, reason: String(error) }, `${what} failed; it is tried again`)
    }
  }

  async #applyParked(tenant: TenantId): Promise<void> {
    const { pool, applier } = this.#options
    const left = await pool.use(tenant, async open => {
      await applier.applyDue(open)
      return applier.countParked(open)
    })
    if (!left) this.#parked.delete(tenant)
  }

  /**
   * Moves the floor of a tenant that this node is the home of. Each holder promises to write nothing at or below the new floor and tells its vector, then each must have
   * applied them all; then the floor goes out like any other write.
   */
  async #moveFloor(tenant: TenantId): Promise<void> {
    const { node, homes, directory, pool, peers, time, tombstoneMs, gcIntervalMs } = this.#options
    const placement = directory.placement(tenant)
    if (!placement || !homes.holdsLease(tenant)) return
    // A copy that is being made, or a holder that is away, has a say that it can't have now.
    const others = placement.holders.filter(holder => holder.node !== node)
    if (placement.holders.some(holder => holder.state === 'joining')) return
    if (!others.every(holder => directory.isLive(holder.node))) return
    const clock: Clock = { wall: Math.max(0, time.now() - tombstoneMs), counter: 0, origin: 'floor' }
    const { incarnation } = placement
    let vector = await pool.use(tenant, open => open.promiseFloor(clock))
    if (!vector) return
    for (const holder of others)
      vector = joinVectors(vector, await peers.to(holder.node).promiseFloor(tenant, incarnation, clock))
    const everything = vector
    for (const holder of others)
      if (!(await peers.to(holder.node).awaitVector(tenant, incarnation, everything, gcIntervalMs))) return
    await pool.use(tenant, async open => {
      if (!(await open.waitUntil(() => open.covers(everything), gcIntervalMs))) return
      // Who was made a holder meanwhile was made from one that promised.
      homes.assertHome(tenant)
      await open.write(() => ({ ops: [planFloor({ clock, vector: everything })], result: undefined }))
      this.counts.floors++
    })
  }

  async #collect(tenant: TenantId): Promise<void> {
    const collected = await this.#options.pool.use(tenant, open => collectGarbage(open))
    this.counts.collected += collected ?? 0
    const isDone = await this.#options.pool.use(tenant, async open => open.isCollected)
    if (isDone !== false) this.#floors.delete(tenant)
  }

  /** Whether every other holder was found equal, or was repaired. */
  async #compare(tenant: TenantId): Promise<boolean> {
    const { node, directory, copies } = this.#options
    const placement = directory.placement(tenant)
    const others = placement?.holders.filter(holder => holder.node !== node && holder.state !== 'joining')
    let isDone = true
    for (const other of others ?? []) {
      if (!copies.isCurrent(tenant)) return false
      isDone = directory.isLive(other.node) && (await this.#compareWith(tenant, placement!, other.node)) && isDone
    }
    return isDone
  }

  async #compareWith(tenant: TenantId, { incarnation }: Placement, other: string): Promise<boolean> {
    const { pool, peers, copies, reconciler, logger } = this.#options
    const peer = peers.to(other)
    const status = await peer.status(tenant)
    if (!status || status.incarnation !== incarnation) return false
    if (await reconciler.isBelowFloor(tenant, [status])) {
      copies.demote(tenant)
      return false
    }
    const covers = await pool.use(tenant, async open => open.covers(status.vector))
    if (covers === false) copies.onHole(tenant)
    await reconciler.nudge(tenant, status)
    const { verdict, merged, setAside } = await repairFrom(pool, tenant, incarnation, peer)
    this.counts.compared++
    if (verdict !== 'different') return verdict === 'equal'
    this.counts.different++
    this.counts.repaired += merged
    this.counts.setAside += setAside
    if (merged + setAside > 0)
      logger.error(
        { tenant, with: other, merged, setAside },
        'two copies that should have been equal differed; repaired',
      )
    return true
  }
}
