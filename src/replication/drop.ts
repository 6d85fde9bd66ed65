import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import { dominates } from '../clock/vector.ts'
import type { TenantPool } from '../tenant/pool.ts'
import type { CopyStore } from './copy-store.ts'
import type { Directory } from './directory.ts'
import type { Follower } from './follower.ts'
import { moveLate } from './late.ts'
import type { PeerPort } from './peer.ts'
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
 * Deletes this node's copy as ordered: when its outbox is empty and enough other copies have all that it has, else TENANT_UNAVAILABLE, and it stays. False when the order was taken back.
 */
export async function dropCopy(tenant: TenantId, context: DropContext): Promise<boolean> {
  const { node, pool, store, directory, follower, replicas, logger, peers, reconciler } = context
  const placement = await directory.fetch(tenant)
  const mine = holderOf(placement, node)
  if (!placement || !mine || mine.state !== 'dropping') return false
  const own = await pool.use(tenant, async open => ({ vector: open.vector, outbox: open.outbox.entries }))
  if (own && own.outbox > 0)
    throw new PercolateError('TENANT_UNAVAILABLE', 'The copy has writes that are not published.')
  const others = activeHolders(placement).filter(holder => holder.node !== node)
  const statuses = await reconciler.statuses(
    tenant,
    others.map(holder => holder.node),
    placement,
  )
  const covering = statuses.filter(
    status => status.state === 'current' && dominates(status.vector, own?.vector ?? new Map()),
  )
  const wanted = Math.max(1, Math.min(replicas, others.length))
  if (covering.length < wanted) for (const status of statuses) await reconciler.nudge(tenant, status)
  if (covering.length < wanted)
    throw new PercolateError(
      'TENANT_UNAVAILABLE',
      `Only ${covering.length} of ${wanted} other copies have all that this one has.`,
    )
  // What was set aside here has no other place.
  await pool.use(tenant, open => moveLate(open, entries => peers.to(covering[0]!.node).keepLate(tenant, entries)))
  let isStanding = false
  await directory.update(tenant, current => {
    isStanding = holderOf(current, node)?.state === 'dropping'
    return isStanding ? { ...current, holders: current.holders.filter(holder => holder.node !== node) } : undefined
  })
  if (!isStanding) return false
  await follower.unfollow(tenant)
  await pool.exclusive(tenant, () => store.remove(tenant))
  logger.info({ tenant }, 'dropped a copy as ordered')
  return true
}
