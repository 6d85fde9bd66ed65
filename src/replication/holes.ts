import type { TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import type { Time } from '../base/time.ts'
import type { TenantPool } from '../tenant/pool.ts'
import type { Applier } from './applier.ts'
import type { Directory } from './directory.ts'
import type { Follower } from './follower.ts'
import type { CopyState, CopyStatus, PeerPort } from './peer.ts'
import type { Placement } from './placement.ts'
import type { Reconciler } from './reconciler.ts'

export interface HolesOptions {
  readonly node: string
  readonly time: Time
  readonly logger: Logger
  readonly pool: TenantPool
  readonly directory: Directory
  readonly follower: Follower
  readonly applier: Applier
  readonly peers: PeerPort
  readonly reconciler: Reconciler
  readonly retryMs: number
  readonly state: (tenant: TenantId) => CopyState
  readonly takeFrom: (tenant: TenantId, status: CopyStatus) => Promise<void>
  readonly signal: AbortSignal
}

/** How long a hole may wait for entries that are on their way. */
const HOLE_GRACE_MS = 300
/** Attempts at the usual pace, then each waits twice as long as the one before. */
const RETRIES_FAST = 5
const HOLE_RETRY_MS_MAX = 5000

/** Entries that are missing from a copy: waited for, read again, taken from other holders, and at last given up when nobody has them. */
export class Holes {
  /** Entries given up for lost. */
  givenUp = 0
  readonly #options: HolesOptions
  readonly #holes = new Set<TenantId>()

  constructor(options: HolesOptions) {
    this.#options = options
  }

  /** Entries are missing that the stream may not have; looks after a moment, and brings the copy up to date from other holders. */
  note(tenant: TenantId): void {
    if (this.#holes.has(tenant) || this.#options.signal.aborted || this.#options.state(tenant) !== 'current') return
    this.#holes.add(tenant)
    void this.#fillHole(tenant).finally(() => this.#holes.delete(tenant))
  }

  async #fillHole(tenant: TenantId): Promise<void> {
    const { time, applier, follower, directory, logger, retryMs, reconciler, signal, state, takeFrom } = this.#options
    for (let attempt = 0; !signal.aborted && state(tenant) === 'current'; attempt++) {
      // What can't be had now is asked for less and less often, of the servers and of the others.
      const waitMs = Math.min(Math.max(retryMs, HOLE_RETRY_MS_MAX), retryMs * 2 ** Math.max(0, attempt - RETRIES_FAST))
      await time.sleep(attempt === 0 ? HOLE_GRACE_MS : waitMs, { signal, ref: false }).catch(() => {})
      if (signal.aborted) return
      const placement = directory.placement(tenant)
      if (!placement) continue
      try {
        // What the stream may still have is not lost.
        const hasRead = attempt > 0 && (await follower.readToEnd(tenant))
        const statuses = await reconciler.statuses(tenant, reconciler.sources(placement), placement)
        for (const status of statuses) await takeFrom(tenant, status)
        if (!applier.hasHole(tenant)) return
        if (hasRead && (await this.giveUp(tenant, placement))) return
      } catch (error) {
        if (attempt % 20 === 0) logger.warn({ tenant, reason: String(error) }, 'a hole could not be filled yet')
      }
    }
  }

  /**
   * Entries that nobody has any more: their origin is no holder now, and every holder, and every other node that can be reached, answered that it lacks them too (they were lost with a disk, or with the
   * unsynced end of a stream). What comes behind them is then applied, and the loss is counted and logged.
   */
  async giveUp(tenant: TenantId, { incarnation }: Placement): Promise<boolean> {
    const { node, applier, directory, pool, logger, reconciler } = this.#options
    if (!directory.isWatching || !directory.isComplete) return false
    const standing = await directory.fetch(tenant)
    const members = await directory.readMembers()
    if (standing?.incarnation !== incarnation || !members) return false
    // Also those that the directory does not list as holders: it may be an old one that was put back.
    const others = [...new Set([...standing.holders, ...members].map(other => other.node))]
    const answers = await Promise.all(others.filter(other => other !== node).map(other => this.#ask(tenant, other)))
    // Who does not answer may have them, unless it is no holder and gone.
    const isGone = (other: string) =>
      !standing.holders.some(holder => holder.node === other) &&
      !directory.isLive(other) &&
      members.some(member => member.node === other && member.revision === directory.sighting(other)?.revision)
    if (answers.some(({ from, status }) => status === undefined && !isGone(from))) return false
    const found = answers.flatMap(({ status }) => (status?.incarnation === incarnation ? [status] : []))
    // What waits elsewhere for its clock is not lost, and counts in no vector.
    for (const status of found) if (!(await reconciler.takeParked(tenant, status))) return false
    const origins = new Set(found.map(({ origin }) => origin))
    const givenUp = await pool.use(tenant, open => {
      // Whoever has more of an origin has what is missing here, or knows what it is: it is taken over as soon as that copy is good to take from.
      const last = (origin: string) => open.vector.get(origin) ?? 0
      const isHad = (origin: string) => found.some(({ vector }) => (vector.get(origin) ?? 0) > last(origin))
      return applier.skipHoles(open, origin => !origins.has(origin) && !isHad(origin))
    })
    if (givenUp === undefined || givenUp.length === 0) return !applier.hasHole(tenant)
    this.givenUp += givenUp.length
    logger.error({ tenant, lost: givenUp }, 'entries are lost: their origin is gone and no holder has them')
    return !applier.hasHole(tenant)
  }

  /** What a node says of its copy; null: that it has none. */
  #ask(tenant: TenantId, from: string): Promise<{ from: string; status: CopyStatus | null | undefined }> {
    return this.#options.peers
      .to(from)
      .status(tenant)
      .then(
        status => ({ from, status: status ?? null }),
        () => ({ from, status: undefined }),
      )
  }
}
