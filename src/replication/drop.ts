import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import { dominates } from '../clock/vector.ts'
import type { TenantPool } from '../tenant/pool.ts'
import type { CopyStore } from './copy-store.ts'
import type { Directory } from './directory.ts'
import type { Follower } from './follower.ts'
import { claimedBy, hasAllOf } from './given-up.ts'
import { countLate, moveLate } from './late.ts'
import { handOnParked, summarizeParked } from './parked.ts'
import type { CopyStatus, PeerPort } from './peer.ts'
import { activeHolders, holderOf } from './placement.ts'
import type { Reconciler } from './reconciler.ts'

export interface DropContext {
  readonly node: string
  readonly logger: Logger
  readonly pool: TenantPool
  readonly store: CopyStore
  readonly directory: Directory
  readonly follower: Follower
  readonly peers: PeerPort
  readonly reconciler: Reconciler
  readonly replicas: number
}

/**
 * Deletes this node's copy as ordered: when its outbox is empty and enough other copies have all that it has, else TENANT_UNAVAILABLE, and it stays. False when the order was taken back, or the
 * copy changed meanwhile.
 *
 * The caller has made the copy *dropping* before: since then nothing new is written or taken in, but what had been admitted goes on under its lease. So the uses are waited for first, what the copy
 * has then is compared with the others while no lease is held, and at last, alone with the copy again, it goes only if what it has is still covered by what they said.
 */
export async function dropCopy(
  tenant: TenantId,
  context: DropContext & {
    /** Whether the copy is still to go. */
    readonly isDropping: () => boolean
  },
): Promise<boolean> {
  const { node, pool, store, directory, follower, replicas, logger, peers, reconciler, isDropping } = context
  const placement = await directory.fetch(tenant)
  const mine = holderOf(placement, node)
  if (!placement || !mine || mine.state !== 'dropping') return false
  await follower.unfollow(tenant)
  const own = await pool.alone(tenant, async open => ({ ...(await claimedBy(open)), outbox: open.outbox.entries }))
  // Others can't have what is in it: the order, or the record that it stands in, is about something else.
  if (own && own.incarnation !== placement.incarnation) return false
  if (own && own.outbox > 0)
    throw new PercolateError('TENANT_UNAVAILABLE', 'The copy has writes that are not published.')
  const others = activeHolders(placement).filter(holder => holder.node !== node)
  const statuses = await reconciler.statuses(
    tenant,
    others.map(holder => holder.node),
    placement,
  )
  const current = statuses.filter(status => status.state === 'current')
  const covering: CopyStatus[] = []
  for (const status of current) {
    if (!dominates(status.vector, own?.vector ?? new Map())) continue
    const peer = peers.to(status.node)
    // Its vector counts what it gave up for lost, too, and this may be the last copy that has it: then it takes that over first.
    if (!own || (await hasAllOf(peer, tenant, own, status.skipped))) covering.push(status)
    else await peer.offer(tenant, node)
  }
  const wanted = Math.max(1, Math.min(replicas, others.length))
  if (covering.length < wanted) for (const status of statuses) await reconciler.nudge(tenant, status)
  if (covering.length < wanted)
    throw new PercolateError(
      'TENANT_UNAVAILABLE',
      `Only ${covering.length} of ${wanted} other copies have all that this one has.`,
    )
  // What was set aside here has no other place.
  await moveLate(pool, tenant, entries => peers.to(covering[0]!.node).keepLate(tenant, entries))
  // The vectors say nothing about what waits for its clock: all who are to have what this copy has get that too.
  const keepers = covering.slice(0, wanted).map(({ node: keeper }) => peers.to(keeper))
  const parked = await handOnParked(pool, tenant, async entries => {
    for (const keeper of keepers) await keeper.keepParked(tenant, entries)
  })
  let isStanding = false
  await directory.update(tenant, latest => {
    isStanding =
      latest.incarnation === placement.incarnation && holderOf(latest, node)?.state === 'dropping' && isDropping()
    return isStanding ? { ...latest, holders: latest.holders.filter(holder => holder.node !== node) } : undefined
  })
  if (!isStanding) return false
  const isGone = await pool.exclusive(
    tenant,
    () => store.remove(tenant),
    async open =>
      isDropping() &&
      open.outbox.entries === 0 &&
      covering.every(status => dominates(status.vector, open.vector)) &&
      (await countLate(open)) === 0 &&
      (await summarizeParked(open)).mark === parked.mark,
  )
  if (isGone) logger.info({ tenant }, 'dropped a copy as ordered')
  return isGone
}
