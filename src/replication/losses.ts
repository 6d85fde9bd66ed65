import type { TenantId } from '../base/ids.ts'
import { keys } from '../storage/keys.ts'
import type { TenantPool } from '../tenant/pool.ts'
import type { Directory } from './directory.ts'
import type { Follower } from './follower.ts'
import { addStreams, noteInherited, noteLost, readLost, readStreams } from './lived.ts'
import type { CopyStatus } from './peer.ts'
import { completeHolders, type Placement } from './placement.ts'
import type { Reconciler } from './reconciler.ts'

export interface LossesOptions {
  readonly node: string
  readonly pool: TenantPool
  readonly directory: Directory
  readonly follower: Follower
  readonly reconciler: Reconciler
  readonly isCurrent: (tenant: TenantId) => boolean
  /** Takes over what another holder has. */
  readonly takeFrom: (tenant: TenantId, status: CopyStatus) => Promise<void>
}

/** Whether the copy, or the complete one from which it was made, had read the stream of which another may have missed something, so that what is on its disk is evidence of what was there. */
const isWitness = (streams: readonly string[], lost: string): boolean => lost === '' || streams.includes(lost)

/** Holders that were complete once and need not be heard of: a write that is *replicated* is on two of them. */
const UNHEARD_MAX = 1
/**
 * What a copy may have missed of its stream, since entries were gone before it had read them, or all servers lost their stores: who has to be heard before it speaks for what was there, and when that is settled
 * (docs/decisions/0027-copies-that-slept.md, docs/decisions/0032-a-home-after-the-streams-were-lost.md).
 */
export class Losses {
  readonly #options: LossesOptions

  constructor(options: LossesOptions) {
    this.#options = options
  }

  /**
   * For a copy that was just made from another, and has all that the other had by its `status`. What the other may have missed this one may have missed too; so it may when the two read different streams, and the other has not found that out yet.
   * Else it has lived through what the other has. Returns the stream of which it may have missed something: empty when that is not known, undefined when there is none.
   */
  async inherit(tenant: TenantId, placement: Placement, status: CopyStatus | undefined): Promise<string | undefined> {
    const { pool, follower } = this.#options
    const read = await follower.lastRead(tenant)
    const streams = status?.streams ?? []
    const last = streams.at(-1)
    const isSame = last === undefined || last === read || (read === '' && (await this.#hasReaped(tenant, placement)))
    const lost = status ? (status.lost ?? (isSame ? undefined : last)) : ''
    await pool.use(tenant, async open => {
      if (lost !== undefined) return noteInherited(open, lost)
      await open.change(async staging => staging.del(keys.meta('missed')))
      await addStreams(open, ...streams, ...(read === '' ? [] : [read]))
    })
    return lost
  }

  /**
   * Whether the copy, which has read its stream to its end, has all that the home before could decide on. When that stream may have lost something its end is no evidence: then all holders that were complete once, also those that are ordered to go,
   * have to be heard but one, this one among them, since a *replicated* write is on two of them ({@link isHeard}). What they have is taken over. False: not now. Throws when the servers or a holder fail.
   */
  async isVouchedFor(tenant: TenantId, placement: Placement): Promise<boolean> {
    const { node, follower } = this.#options
    if (!(await follower.mayBeCut(tenant, await this.#hasReaped(tenant, placement)))) return true
    const others = completeHolders(placement).flatMap(holder => (holder.node === node ? [] : [holder.node]))
    const loss = follower.lossOf(tenant)?.number ?? 0
    const lost = await this.streamOf(tenant)
    const statuses = await this.#options.reconciler.statuses(tenant, others, placement)
    const silent = others.length - statuses.length
    if (!(await this.isHeard(tenant, lost, silent, statuses))) return false
    for (const status of statuses) await this.#options.takeFrom(tenant, status)
    for (const { vector } of statuses) if (!(await this.#options.reconciler.covers(tenant, vector))) return false
    if (silent === 0 && this.#options.isCurrent(tenant)) {
      follower.hadMissed(tenant, loss)
      await this.settled(tenant, loss)
    }
    return true
  }

  /**
   * Whether every *replicated* write of the `lost` stream is here, or on one of those that answered, while `silent` other holders did not: it was on two of them. A copy that was made since, from one that may lack the same, counts as silent. When nobody
   * is silent, nobody else can ever be asked.
   */
  async isHeard(tenant: TenantId, lost: string, silent: number, answers: readonly CopyStatus[]): Promise<boolean> {
    const own = (await this.#options.pool.use(tenant, readStreams)) ?? []
    const voiceless = [own, ...answers.map(({ streams }) => streams)].filter(
      streams => !isWitness(streams, lost),
    ).length
    return silent === 0 || silent + voiceless <= UNHEARD_MAX
  }

  /** Makes up for what the copy may have missed of its stream, if all others answer now; whether nothing is open that can be made up for: what a pool stream lost stays open. */
  async settle(tenant: TenantId): Promise<boolean> {
    const { follower, directory } = this.#options
    const placement = directory.placement(tenant)
    if (!follower.canSettle || !follower.lossOf(tenant)) return true
    if (placement) await this.isVouchedFor(tenant, placement)
    return follower.lossOf(tenant) === undefined
  }

  /** The copy has what it missed up to that loss. What was noted of a later one stays. */
  async settled(tenant: TenantId, loss: number): Promise<void> {
    const { pool, follower } = this.#options
    await pool.use(tenant, open =>
      open.change(async staging => {
        if ((follower.lossOf(tenant)?.number ?? 0) <= loss) staging.del(keys.meta('missed'))
      }),
    )
  }

  /** Whether the stream may have had entries that are gone from it, and that this copy never got. Written down, since its position in the stream moves on. */
  async mayHaveMissed(tenant: TenantId, placement: Placement): Promise<boolean> {
    const { pool, follower } = this.#options
    if ((await pool.use(tenant, readLost)) !== undefined) return true
    if (!(await follower.mayHaveMissed(tenant, await this.#hasReaped(tenant, placement)))) return false
    const lost = await this.streamOf(tenant)
    await pool.use(tenant, open => noteLost(open, lost))
    return true
  }

  /** The stream of which the copy may have missed something; empty: not known which. */
  async streamOf(tenant: TenantId): Promise<string> {
    const { pool, follower } = this.#options
    return follower.lossOf(tenant)?.stream ?? (await pool.use(tenant, readLost)) ?? follower.lastRead(tenant)
  }

  /** Whether the copy has what was noted of a stream that was deleted since all holders had read it. */
  async #hasReaped(tenant: TenantId, { covered }: Placement): Promise<boolean> {
    return covered !== undefined && (await this.#options.reconciler.covers(tenant, new Map(Object.entries(covered))))
  }
}
