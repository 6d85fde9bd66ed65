import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import { compareClocks } from '../clock/hlc.ts'
import { dominates, type VersionVector } from '../clock/vector.ts'
import { isFloorOp } from '../rem/floor.ts'
import { decodeEntry, type Entry } from '../storage/codec.ts'
import { keys, prefixes, prefixRange, space } from '../storage/keys.ts'
import type { TenantPool } from '../tenant/pool.ts'
import type { Tenant } from '../tenant/tenant.ts'
import type { Applier } from './applier.ts'
import type { Directory } from './directory.ts'
import { readSkipped } from './export.ts'
import { askClaimed, hadBy } from './given-up.ts'
import { type ParkedPosition, summarizeParked } from './parked.ts'
import type { CopyStatus, PeerPort, TransferPart } from './peer.ts'
import type { Placement } from './placement.ts'
import type { Hint } from './publisher.ts'
import type { StoredCopy } from './snapshots.ts'
import { type Imported, importTransfer } from './transfer.ts'
import { sameCopy, type UseCopy, withCopy } from './with-copy.ts'

export interface ReconcilerOptions {
  readonly node: string
  readonly logger: Logger
  readonly pool: TenantPool
  readonly directory: Directory
  readonly applier: Applier
  readonly peers: PeerPort
  /** This copy has to be made anew. */
  readonly onBelowFloor: (tenant: TenantId) => void
  /** Tells the others of entries that one of them lacks. */
  readonly announce: (hint: Hint) => void
}

/** What another copy knows of. */
type Known = Pick<CopyStatus, 'vector'> & Partial<Pick<CopyStatus, 'known'>>

/** Compares this node's copies with those of other nodes, and takes over what they have. */
export class Reconciler {
  readonly counts = { reconciled: 0, rolledBack: 0 }
  readonly #options: ReconcilerOptions

  constructor(options: ReconcilerOptions) {
    this.#options = options
  }

  /** Merges all that another holder has; true when this copy then has what it had. */
  async reconcile(tenant: TenantId, from: string): Promise<boolean> {
    const isWhole = await this.#options.pool.use(tenant, async open => !open.isJoining)
    // It was emptied since somebody looked: what is merged into half a copy would look like part of the whole.
    if (!isWhole) return false
    await this.#mergeFrom(
      tenant,
      from,
      sameCopy(work => withCopy(this.#options.pool, tenant, undefined, work)),
    )
    return true
  }

  async #mergeFrom(tenant: TenantId, from: string, use: UseCopy): Promise<Imported> {
    const { peers, applier } = this.#options
    const incarnation = await use(async open => open.identity.incarnation)
    const parts = peers.to(from).transfer(tenant, incarnation, undefined)
    const imported = await importTransfer(use, parts, { resumable: false })
    await use(open => applier.settle(open))
    this.counts.reconciled++
    return imported
  }

  /**
   * Merges a stored snapshot that has something this copy lacks, and takes over what was parked; whether it had something. TENANT_UNAVAILABLE when deletes that this copy never saw may be forgotten there: then the two can't be merged, and only another holder can
   * say what of this copy is deleted. SNAPSHOT_INVALID when it can't be used otherwise.
   */
  async takeStored(tenant: TenantId, stored: StoredCopy): Promise<boolean> {
    const { pool } = this.#options
    const use = sameCopy(work => withCopy(pool, tenant, undefined, work))
    const isNews = await this.#mergeStored(tenant, stored.parts, use)
    await this.takeStoredEntries(use, stored)
    return isNews
  }

  async #mergeStored(tenant: TenantId, parts: AsyncIterable<TransferPart>, use: UseCopy): Promise<boolean> {
    const { applier } = this.#options
    const rest = parts[Symbol.asyncIterator]()
    try {
      const first = await rest.next()
      if (first.done || !('head' in first.value)) return false
      const { value } = first
      const { vector, floor } = value.head
      // It may know more of this copy's own entries than this disk does, as another holder may.
      await this.checkRollback(tenant, [value.head])
      const isNews = await use(async open => {
        if (floor && !open.covers(floor.vector))
          throw new PercolateError(
            'TENANT_UNAVAILABLE',
            'This copy was away for longer than deletes are remembered, and no other holder can be reached to make it anew from.',
          )
        return !open.covers(vector)
      })
      if (!isNews) return false
      const whole = async function* (): AsyncGenerator<TransferPart> {
        yield value
        yield* { [Symbol.asyncIterator]: () => rest }
      }
      await importTransfer(use, whole(), { resumable: false })
      await use(open => applier.settle(open))
      this.counts.reconciled++
      return true
    } finally {
      await rest.return?.()
    }
  }

  /** Takes over from another copy what was given up for lost here, as far as that copy has it; whether nothing is left. */
  async takeSkipped(tenant: TenantId, from: string): Promise<boolean> {
    const { pool, peers } = this.#options
    // What was given up is so in this copy only; one that is made anew meanwhile has its own list.
    const use = sameCopy(work => withCopy(pool, tenant, undefined, work))
    const { given, incarnation } = await use(async open => ({
      given: await readSkipped(open),
      incarnation: open.identity.incarnation,
    }))
    if (given.length === 0) return true
    const status = await peers.to(from).status(tenant)
    if (status?.incarnation !== incarnation) return false
    if (!given.some(([origin, sequence]) => (status.vector.get(origin) ?? 0) >= sequence)) return false
    if (status.skipped > 0) {
      // It gave up something itself, perhaps the same.
      const theirs = await askClaimed(peers.to(from), tenant, incarnation)
      if (!theirs || hadBy(given, theirs).length === 0) return false
    }
    if (await this.isBelowFloor(tenant, [status])) {
      this.#options.onBelowFloor(tenant)
      return false
    }
    // What that copy has by the time at which it is read decides: it may have given something up, or been made anew, since it was asked.
    await this.#mergeFrom(tenant, from, use)
    const left = new Set((await use(readSkipped)).map(([origin, sequence]) => `${origin} ${sequence}`))
    return !given.some(([origin, sequence]) => left.has(`${origin} ${sequence}`))
  }

  /**
   * Takes over what another copy keeps until its clock is due: it may be in no stream any more. By this node's own clock, and never applied before its time: each is taken as if the stream had brought it.
   * True when all of it is here; TENANT_UNAVAILABLE when this copy was made anew in between.
   */
  async takeParked(tenant: TenantId, { node, parked }: CopyStatus): Promise<boolean> {
    const { pool, peers, applier } = this.#options
    if (parked.entries === 0) return true
    // One that is emptied or made anew meanwhile has only the pages that come after.
    const use = sameCopy(work => withCopy(pool, tenant, undefined, work))
    if ((await use(summarizeParked)).mark === parked.mark) return true
    let isAll = true
    for (let after: ParkedPosition | undefined; ; ) {
      const page = await peers.to(node).parked(tenant, after)
      if (page.length === 0) return isAll
      await use(async open => {
        for (const bytes of page) if ((await applier.keep(open, bytes)) === 'full') isAll = false
      })
      after = decodeEntry(page.at(-1)!)
    }
  }

  /** Takes over what stored copies kept until its clock was due, and what was set aside in them as late. A copy that is only being made keeps it all, and applies nothing yet. With no more room it is set aside, where an operator finds it. */
  async takeStoredEntries(use: UseCopy, { parked, late }: StoredCopy): Promise<void> {
    const { applier } = this.#options
    for await (const page of late)
      await use(open =>
        open.change(async staging => {
          for (const bytes of page) {
            const { origin, sequence } = decodeEntry(bytes)
            staging.put(keys.quarantine(origin, sequence), bytes)
          }
        }),
      )
    for await (const page of parked)
      await use(async open => {
        for (const bytes of page) {
          const kept = open.isJoining ? await applier.keepForLater(open, bytes) : await applier.keep(open, bytes)
          if (kept !== 'full') continue
          const { origin, sequence } = decodeEntry(bytes)
          await open.change(async staging => staging.put(keys.quarantine(origin, sequence), bytes))
        }
      })
  }

  /** Hints again at what another copy lacks of what this one has: it may have missed it, and nothing more may come. */
  async nudge(tenant: TenantId, status: CopyStatus): Promise<void> {
    await this.#options.pool.use(tenant, async open => {
      for (const [origin, sequence] of open.vector)
        if ((status.vector.get(origin) ?? 0) < sequence)
          this.#options.announce({ tenant, incarnation: open.identity.incarnation, origin, sequence })
    })
  }

  /** Whether one of them has forgotten deletes that this copy never saw, or would set aside what this copy has not published. */
  async isBelowFloor(tenant: TenantId, statuses: readonly CopyStatus[]): Promise<boolean> {
    const below = await this.#options.pool.use(tenant, async open => {
      const skipped = await readSkipped(open)
      const oldest = await oldestUnpublished(open)
      return statuses.some(({ floor, skipped: theirs }) => {
        if (floor === undefined) return false
        // Written here while the floor passed by, and known to nobody: the others would set it aside.
        if (
          oldest &&
          oldest.sequence > (floor.vector.get(oldest.origin) ?? 0) &&
          oldest.ops.some(op => compareClocks(op.clock, floor.clock) <= 0)
        )
          return true
        // What was given up here counts as seen, and was not; that copy has it.
        if (theirs === 0 && skipped.some(([origin, sequence]) => (floor.vector.get(origin) ?? 0) >= sequence))
          return true
        // Whether the floor itself has come here already says nothing: a new stream may begin with it.
        return !open.covers(floor.vector)
      })
    })
    return below ?? false
  }

  /** Others know entries of this copy that it lacks: its disk went back in time, and it takes another origin. */
  async checkRollback(tenant: TenantId, statuses: readonly Known[]): Promise<void> {
    await this.#options.pool.use(tenant, async open => {
      if (!statuses.some(({ vector, known = vector }) => (known.get(open.origin) ?? 0) > open.state.sequence)) return
      await open.changeOrigin()
      this.counts.rolledBack++
      this.#options.logger.warn(
        { tenant, origin: open.origin },
        'this disk went back in time: the copy writes under a new origin',
      )
    })
  }

  /** What another copy has that this one lacks, unless that copy is below this one's floor, and will be made anew itself. */
  async takeFrom(tenant: TenantId, status: CopyStatus): Promise<void> {
    await this.checkRollback(tenant, [status])
    if (await this.covers(tenant, status.vector)) return
    const isBelow = await this.#options.pool.use(
      tenant,
      async open => open.floor !== undefined && !dominates(status.vector, open.floor.vector),
    )
    if (!isBelow) await this.reconcile(tenant, status.node)
  }

  async covers(tenant: TenantId, vector: VersionVector): Promise<boolean> {
    return (await this.#options.pool.use(tenant, async open => open.covers(vector))) ?? false
  }

  /** The other nodes that may have a complete copy, those that are live first. */
  sources(placement: Placement): string[] {
    const { node, directory } = this.#options
    return placement.holders
      .filter(holder => holder.node !== node && holder.state !== 'joining' && directory.isLive(holder.node))
      .map(holder => holder.node)
  }

  async statuses(tenant: TenantId, nodes: readonly string[], placement: Placement): Promise<CopyStatus[]> {
    const statuses = await Promise.all(
      nodes.map(node =>
        this.#options.peers
          .to(node)
          .status(tenant)
          .catch(() => undefined),
      ),
    )
    return statuses.filter(
      (status): status is CopyStatus =>
        status !== undefined && status.incarnation === placement.incarnation && status.state !== 'joining',
    )
  }

  /** The first that answers as current, else one that is on its way out: it has everything still, and is good to copy from, not to leave anything with. */
  async firstCurrent(tenant: TenantId, placement: Placement, nodes: readonly string[]): Promise<string | undefined> {
    const statuses = await this.statuses(tenant, nodes, placement)
    return (statuses.find(({ state }) => state === 'current') ?? statuses.find(({ state }) => state === 'dropping'))
      ?.node
  }
}

/**
 * The first write that waits to be published. A moved floor is none: its entry carries the clock of the floor, so that its home would find itself below the floor that it has written, while its acknowledgement is on the way.
 */
async function oldestUnpublished(open: Tenant): Promise<Entry | undefined> {
  for await (const chunk of open.chunks({ ...prefixRange(prefixes.space(space.outbox)), verified: true }))
    for (const [, value] of chunk) {
      const entry = decodeEntry(value)
      if (!entry.ops.every(isFloorOp)) return entry
    }
  return undefined
}
