import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import { decodeEntry } from '../storage/codec.ts'
import type { TenantPool } from '../tenant/pool.ts'
import type { CopyStore } from './copy-store.ts'
import type { Directory } from './directory.ts'
import type { Follower } from './follower.ts'
import { partsOf } from './late.ts'
import type { PeerHandlers, PeerPort } from './peer.ts'
import type { Reconciler } from './reconciler.ts'

export interface ReplaceContext {
  readonly logger: Logger
  readonly pool: TenantPool
  readonly store: CopyStore
  readonly directory: Directory
  readonly follower: Follower
  readonly peers: PeerPort
  readonly reconciler: Reconciler
}

/**
 * Moves the damaged database of a copy out of the way, for one that is made anew. The caller has taken the copy out of service before, so that nothing is written or taken in any more. Only when another
 * holder has a current copy; that one is given first what this one never published and what waits here for its clock, as far as it can still be read: it merges what it can, and sets the rest aside for an operator. Else
 * TENANT_UNAVAILABLE, and everything stays.
 */
export async function setCorruptCopyAside(tenant: TenantId, context: ReplaceContext): Promise<void> {
  const { logger, pool, store, directory, follower, peers, reconciler } = context
  const placement = await directory.fetch(tenant)
  const keeper = placement && (await currentAmong(reconciler, tenant, placement))
  if (!keeper)
    throw new PercolateError(
      'TENANT_UNAVAILABLE',
      'The database of this copy is damaged, and no other node that can be reached has a healthy copy of the tenant: it is kept as it is.',
    )
  await follower.unfollow(tenant)
  let own: Awaited<ReturnType<CopyStore['salvage']>> = { outbox: [], late: [], parked: [], isWhole: false }
  await pool.exclusive(tenant, async () => {
    own = await store.salvage(tenant)
  })
  await handOver(tenant, peers.to(keeper), own)
  let path = ''
  await pool.exclusive(tenant, async () => {
    path = await store.setAside(tenant)
    follower.restart(tenant)
  })
  const details = {
    tenant,
    path,
    keeper,
    unpublished: own.outbox.length,
    late: own.late.length,
    parked: own.parked.length,
  }
  if (own.isWhole) logger.warn(details, 'a damaged copy was set aside, and is made anew from another')
  else
    logger.error(
      details,
      'a damaged copy was set aside, and is made anew from another; whether it had more that was never published could not be read',
    )
}

async function currentAmong(
  reconciler: Reconciler,
  tenant: TenantId,
  placement: Parameters<Reconciler['sources']>[0],
): Promise<string | undefined> {
  const statuses = await reconciler.statuses(tenant, reconciler.sources(placement), placement)
  return statuses.find(({ state }) => state === 'current')?.node
}

async function handOver(
  tenant: TenantId,
  keeper: PeerHandlers,
  own: { outbox: readonly Buffer[]; late: readonly Buffer[]; parked: readonly Buffer[] },
) {
  for (const part of partsOf(own.outbox)) {
    const vector = await keeper.push(tenant, part)
    // Behind a gap, or from below the floor.
    const left = part.filter(bytes => {
      const { origin, sequence } = decodeEntry(bytes)
      return (vector.get(origin) ?? 0) < sequence
    })
    if (left.length > 0) await keeper.keepLate(tenant, left)
  }
  for (const part of partsOf(own.late)) await keeper.keepLate(tenant, part)
  for (const part of partsOf(own.parked)) await keeper.keepParked(tenant, part)
}
