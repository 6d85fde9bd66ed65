import type { TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import type { TenantPool } from '../tenant/pool.ts'
import type { Applier } from './applier.ts'
import type { CopyStore } from './copy-store.ts'
import type { Directory } from './directory.ts'
import type { Follower } from './follower.ts'
import { activeHolders, holderOf, type Placement } from './placement.ts'
import type { Reconciler } from './reconciler.ts'

export interface OtherIncarnationContext {
  readonly node: string
  readonly logger: Logger
  readonly pool: TenantPool
  readonly store: CopyStore
  readonly directory: Directory
  readonly follower: Follower
  readonly applier: Applier
  readonly reconciler: Reconciler
}

/**
 * What becomes of a database of this node whose incarnation, `local`, is another one than the directory tells of: it is kept in any case. The caller takes it neither for current nor for complete.
 *
 * By the directory's record this node may be a holder, or the home, of what it does not have. As long as it stands there the controller makes no other copy, the tenant's stream is not trimmed, and nobody else becomes the home, since this node lives.
 * So it strikes itself off, once another active holder has said that its copy is current. With nobody to say so nothing would be gained, and a copy that is made of nothing but the stream could be taken for the whole tenant.
 *
 * When the record then orders a copy of the tenant here, the database makes room for it: it is moved to where an operator finds it. True: there is room now.
 */
export async function yieldPlace(tenant: TenantId, local: string, context: OtherIncarnationContext): Promise<boolean> {
  const { node, directory, reconciler, logger } = context
  const standing = await directory.fetch(tenant)
  if (!standing || standing.incarnation === local) return false
  const mine = holderOf(standing, node)
  if (!mine && standing.home !== node) return false
  const statuses = await reconciler.statuses(tenant, reconciler.sources(standing), standing)
  const current = new Set(statuses.flatMap(status => (status.state === 'current' ? [status.node] : [])))
  const isHeld = (placement: Placement) =>
    placement.incarnation === standing.incarnation && activeHolders(placement).some(holder => current.has(holder.node))
  if (!isHeld(standing)) return false
  if (mine?.state === 'joining' && (await moveAway(tenant, local, standing.incarnation, context))) return true
  const decidedBelowMs = (await directory.readMember(node))?.member.decidesBelowMs ?? 0
  let isStruckOff = false
  await directory.update(tenant, now => {
    const isListed = now.home === node || ['active', 'dropping'].includes(holderOf(now, node)?.state ?? '')
    isStruckOff = isHeld(now) && isListed
    if (!isStruckOff) return undefined
    const holders = now.holders.filter(holder => holder.node !== node || holder.state === 'joining')
    return { ...withoutHome(now, node, decidedBelowMs), holders }
  })
  if (isStruckOff)
    logger.warn(
      { tenant, incarnation: standing.incarnation, local },
      'the directory listed this node as a holder of the tenant, of which its disk has another incarnation: it is struck off, and its database is kept',
    )
  return false
}

/** Whether the database went. Nobody is asked any more in between: it has to be what it was, and the order has to stand, when nobody uses it. */
async function moveAway(
  tenant: TenantId,
  local: string,
  ordered: string,
  { node, logger, pool, store, directory, follower, applier }: OtherIncarnationContext,
): Promise<boolean> {
  const isOrdered = () => {
    const placement = directory.placement(tenant)
    return placement?.incarnation === ordered && holderOf(placement, node)?.state === 'joining'
  }
  await follower.unfollow(tenant)
  let path = ''
  const isMoved = await pool.exclusive(
    tenant,
    async () => {
      path = await store.setOtherAside(tenant, local)
      follower.restart(tenant)
      applier.forget(tenant)
    },
    async open => open.identity.incarnation === local && isOrdered(),
  )
  if (isMoved)
    logger.warn(
      { tenant, path, incarnation: local, ordered },
      'a database of another incarnation of the tenant was set aside, where it stays: a copy of the one that the directory tells of is made here',
    )
  return isMoved
}

/**
 * The record without this node as the home, which it gives up without anything to hand over. Who follows decides above `decidedBelowMs`, up to which processes under this node's id may have decided, as after a takeover:
 * what one of them sent may still be on its way.
 */
export function withoutHome(placement: Placement, node: string, decidedBelowMs: number): Placement {
  if (placement.home !== node) return placement
  return { ...placement, home: undefined, decidesAboveMs: Math.max(placement.decidesAboveMs ?? 0, decidedBelowMs) }
}
