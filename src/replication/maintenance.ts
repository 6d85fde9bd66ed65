import type { TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import type { Time } from '../base/time.ts'
import type { Clock } from '../clock/hlc.ts'
import { joinVectors } from '../clock/vector.ts'
import { planFloor } from '../rem/floor.ts'
import { decodeEntry } from '../storage/codec.ts'
import type { TenantPool } from '../tenant/pool.ts'
import { repairFrom } from './anti-entropy.ts'
import type { Applier } from './applier.ts'
import { collectGarbage } from './collect.ts'
import type { Copies } from './copies.ts'
import type { Directory } from './directory.ts'
import { readSkipped } from './export.ts'
import type { Homes } from './homes.ts'
import { latePage, latePositions } from './late.ts'
import { type Holdings, holdsAll, type Positions, samePositions } from './manifest.ts'
import { type ParkedPosition, parkedPositions } from './parked.ts'
import type { PeerPort } from './peer.ts'
import type { Placement } from './placement.ts'
import type { Reconciler } from './reconciler.ts'
import type { SnapshotInfo, SnapshotStore } from './snapshots.ts'
import { type UseCopy, withCopy } from './with-copy.ts'

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
  /** When its data last changed. */
  changedAtMs: number
}

/** How long moving one tenant's floor may wait for a holder; the other tenants wait too. */
const FLOOR_WAIT_MS_MAX = 3000

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
  /** Tenants with parked entries, each with a number that grows whenever one is parked. */
  readonly #parked = new Map<TenantId, number>()
  readonly #floors = new Set<TenantId>()
  readonly #saved = new Map<TenantId, Holdings & { readonly late: Positions }>()
  /** What is set aside in copies here, and was handed to which home; one for each tenant that is, or was, here. */
  readonly #handed = new Map<TenantId, { readonly home: string; readonly positions: Positions }>()
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

  /** The tenant changed: its `data`, and maybe its garbage collection `floor`, which is upkeep and makes no garbage itself. */
  changed(tenant: TenantId, { data, floor }: { readonly data: boolean; readonly floor: boolean }): void {
    if (floor) this.#floors.add(tenant)
    const { time, gcIntervalMs, antiEntropyMs, snapshotIntervalMs } = this.#options
    const now = time.monotonic()
    const due = this.#dueOf(tenant, now)
    // What is due already stays due then, however much changes.
    if (data) {
      due.changedAtMs = now
      due.gcAtMs = Math.min(due.gcAtMs, now + gcIntervalMs)
    }
    due.compareAtMs = Math.min(due.compareAtMs, now + antiEntropyMs)
    due.snapshotAtMs = Math.min(due.snapshotAtMs, now + snapshotIntervalMs)
  }

  #dueOf(tenant: TenantId, now: number): Due {
    const known = this.#due.get(tenant)
    if (known) return known
    const due = {
      gcAtMs: Number.POSITIVE_INFINITY,
      compareAtMs: Number.POSITIVE_INFINITY,
      snapshotAtMs: Number.POSITIVE_INFINITY,
      changedAtMs: now,
    }
    this.#due.set(tenant, due)
    return due
  }

  /** The copy has entries that wait for their clock: they are looked at until none is left, and belong in the next snapshot. */
  parked(tenant: TenantId): void {
    this.#parked.set(tenant, (this.#parked.get(tenant) ?? 0) + 1)
    const now = this.#options.time.monotonic()
    const due = this.#dueOf(tenant, now)
    due.snapshotAtMs = Math.min(due.snapshotAtMs, now + this.#options.snapshotIntervalMs)
  }

  hasParked(tenant: TenantId): boolean {
    return this.#parked.has(tenant)
  }

  /** Stores a snapshot if anything changed since the last one. */
  async snapshot(tenant: TenantId): Promise<SnapshotInfo | undefined> {
    const { pool, snapshots, directory, node, logger } = this.#options
    if (!snapshots) return undefined
    const tier = directory.placement(tenant)?.tier ?? directory.member(node)?.tier ?? ''
    const copy = await pool.use(tenant, async open => ({
      incarnation: open.identity.incarnation,
      isJoining: open.isJoining,
      vector: open.vector,
      parked: await parkedPositions(open),
      late: await latePositions(open),
    }))
    if (!copy || copy.isJoining) return undefined
    const { incarnation } = copy
    const last = this.#saved.get(tenant) ?? (await snapshots.info(tenant, incarnation))
    // Also what was decided since: it would be to decide again after a restore.
    if (last && holdsAll(last, copy) && samePositions(last.late, copy.late)) {
      this.#saved.set(tenant, last)
      return undefined
    }
    const use: UseCopy = work => withCopy(pool, tenant, incarnation, work)
    const info = await snapshots.save({ tenant, incarnation, use }, node, tier)
    this.#saved.set(tenant, { vector: info.vector, parked: info.parked, late: info.late })
    this.counts.snapshots++
    logger.info({ tenant, snapshot: info.id, records: info.records, bytes: info.bytes }, 'stored a snapshot')
    return info
  }

  /** The home stores its own copy only: what is set aside in this one gets into a snapshot by being set aside there too. */
  async #handLate(tenant: TenantId): Promise<void> {
    const { node, pool, snapshots, directory, peers } = this.#options
    const home = directory.placement(tenant)?.home
    if (!snapshots || home === undefined || home === node) return
    const positions = (await pool.use(tenant, latePositions)) ?? {}
    const handed = this.#handed.get(tenant)
    if (handed?.home === home && samePositions(handed.positions, positions)) return
    for (let after: ParkedPosition | undefined; Object.keys(positions).length > 0; ) {
      const page = (await pool.use(tenant, open => latePage(open, after))) ?? []
      if (page.length === 0) break
      await peers.to(home).keepLate(tenant, page)
      after = decodeEntry(page.at(-1)!)
    }
    if (Object.keys(positions).length > 0) this.#handed.set(tenant, { home, positions })
    else this.#handed.delete(tenant)
  }

  async #run(): Promise<void> {
    const { time, checkMs } = this.#options
    const { signal } = this.#stop
    while (!signal.aborted) {
      await time.sleep(checkMs, { signal, ref: false }).catch(() => {})
      for (const tenant of [...this.#parked.keys()])
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
      let isDone = false
      await this.#guarded(tenant, 'moving the floor', async () => {
        isDone = await this.#moveFloor(tenant)
      })
      // The last changes come below the floor only when they are as old as deletes are remembered.
      const settledAtMs = due.changedAtMs + this.#options.tombstoneMs
      if (!isDone) due.gcAtMs = Math.min(due.gcAtMs, now + this.#options.gcIntervalMs)
      else if (settledAtMs >= now) due.gcAtMs = Math.min(due.gcAtMs, settledAtMs + this.#options.gcIntervalMs)
    }
    if (now >= due.compareAtMs) {
      // What could not be compared now, or was behind, is compared again; so is what changes meanwhile.
      due.compareAtMs = Number.POSITIVE_INFINITY
      let isDone = false
      await this.#guarded(tenant, 'comparing with another holder', async () => {
        isDone = await this.#compare(tenant)
      })
      if (!isDone) due.compareAtMs = Math.min(due.compareAtMs, now + this.#options.antiEntropyMs)
    }
    if (now >= due.snapshotAtMs) {
      due.snapshotAtMs = Number.POSITIVE_INFINITY
      const isHome = homes.isHome(tenant)
      await this.#guarded(
        tenant,
        isHome ? 'storing a snapshot' : 'handing what is set aside to the home',
        () => (isHome ? this.snapshot(tenant) : this.#handLate(tenant)),
        () => {
          if (isHome) this.counts.snapshotFailures++
          due.snapshotAtMs = now + this.#options.snapshotIntervalMs / 4
        },
      )
    }
    if ([due.gcAtMs, due.compareAtMs, due.snapshotAtMs].every(at => at === Number.POSITIVE_INFINITY))
      this.#due.delete(tenant)
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
    const { pool, applier, copies } = this.#options
    const before = this.#parked.get(tenant)
    // A copy that is being made takes nothing in another way, and one that is to go hands on what it has; it is looked at when it is current again.
    const left = await pool.use(tenant, async open => (copies.takesEntries(tenant) ? applier.applyDue(open) : 0))
    // One may have been parked meanwhile.
    if (!left && this.#parked.get(tenant) === before) this.#parked.delete(tenant)
    // One that is due may lack the one before it.
    if (applier.hasHole(tenant)) copies.onHole(tenant)
  }

  /**
   * Moves the floor of a tenant that this node is the home of; false when it has to be tried again. Each holder promises to write nothing at or below the new floor and tells its vector, then each must have
   * applied them all; then the floor goes out like any other write.
   */
  async #moveFloor(tenant: TenantId): Promise<boolean> {
    const { node, homes, directory, pool, peers, time, tombstoneMs, gcIntervalMs } = this.#options
    const waitMs = Math.min(gcIntervalMs, FLOOR_WAIT_MS_MAX)
    const placement = directory.placement(tenant)
    // The home does it, and has been told of the same changes.
    if (!placement || !homes.isHome(tenant)) return true
    if ((await homes.find(tenant)) !== node) return false
    // A copy that is being made, or a holder that is away, has a say that it can't have now.
    const others = placement.holders.filter(holder => holder.node !== node)
    if (placement.holders.some(holder => holder.state === 'joining')) return false
    if (!others.every(holder => directory.isLive(holder.node))) return false
    const clock: Clock = { wall: Math.max(0, time.now() - tombstoneMs), counter: 0, origin: 'floor' }
    const { incarnation } = placement
    let vector = await pool.use(tenant, open => open.promiseFloor(clock))
    if (!vector) return true
    for (const holder of others)
      vector = joinVectors(vector, await peers.to(holder.node).promiseFloor(tenant, incarnation, clock))
    const everything = vector
    for (const holder of others)
      if (!(await peers.to(holder.node).awaitVector(tenant, incarnation, everything, waitMs))) return false
    if ((await pool.waitFor(tenant, open => open.covers(everything), { timeoutMs: waitMs })) === false) return false
    const moved = await pool.use(tenant, async open => {
      if (open.identity.incarnation !== incarnation || !open.covers(everything)) return false
      // Who was made a holder meanwhile was made from one that promised.
      const guard = homes.guard(tenant, homes.assertHome(tenant))
      await open.write(() => ({ ops: [planFloor({ clock, vector: everything })], result: undefined }), { guard })
      this.counts.floors++
      return true
    })
    return moved ?? true
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
    return (await copies.settleLoss(tenant)) && isDone
  }

  async #compareWith(tenant: TenantId, { incarnation }: Placement, other: string): Promise<boolean> {
    const { node, pool, peers, copies, reconciler, logger } = this.#options
    const peer = peers.to(other)
    const status = await peer.status(tenant)
    if (!status || status.incarnation !== incarnation) return false
    if (await reconciler.isBelowFloor(tenant, [status])) {
      copies.demote(tenant)
      return false
    }
    const isLosing = ((await pool.use(tenant, readSkipped)) ?? []).length > 0
    if (isLosing !== status.skipped > 0) {
      // One of the two has given up what the other may have.
      if (isLosing) await reconciler.takeSkipped(tenant, other)
      else await peer.offer(tenant, node)
      return false
    }
    // Both have, and perhaps not the same.
    if (isLosing)
      await reconciler
        .takeSkipped(tenant, other)
        .catch(error =>
          this.#options.logger.warn(
            { tenant, with: other, reason: String(error) },
            'what was given up for lost could not be evened out yet',
          ),
        )
    await reconciler.takeParked(tenant, status)
    const covers = await pool.use(tenant, async open => open.covers(status.vector))
    if (covers === false) copies.onHole(tenant)
    await reconciler.nudge(tenant, status)
    const { verdict, merged, setAside, isExpected } = await repairFrom(pool, tenant, incarnation, peer)
    this.counts.compared++
    if (verdict !== 'different') return verdict === 'equal'
    if (!isExpected) this.counts.different++
    this.counts.repaired += merged
    this.counts.setAside += setAside
    if (merged + setAside > 0) {
      const details = { tenant, with: other, merged, setAside }
      if (isExpected) logger.info(details, 'what a transfer that was cut short had left behind was evened out')
      else logger.error(details, 'two copies that should have been equal differed; repaired')
    }
    return true
  }
}
