import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Time } from '../base/time.ts'
import { NotHome } from '../replication/homes.ts'
import type { Durability, Replica } from '../replication/replica.ts'
import type { TenantPool } from '../tenant/pool.ts'
import type { Turn } from '../tenant/staging-room.ts'
import type { WriteEnding } from '../tenant/write-ending.ts'
import { NotTaken } from './forward.ts'
import type { Session } from './session.ts'

/** What reads and writes of a session need of the node. */
export interface SessionContext {
  readonly time: Time
  readonly pool: TenantPool
  /** The node's part in a cluster; a node without a stream has none. */
  readonly replica: Replica | undefined
  /** Of writes that ask for none. */
  readonly durability: Durability
  readonly durabilityTimeoutMs: number
  /** Memory of a batch above which a client's command is refused; undefined: there is no bound. */
  readonly stagedBytesMax?: number
  /** Throws when no tenant can be made here now, such as DISK_FULL. */
  readonly admitTenant: () => void
  /** Takes a place in the line of large batches before the writer does, undefined when there is no need to; throws what the request ends with when it is given up before. A node without such a line has none. */
  readonly takeTurn?: (textBytes: number, ending: WriteEnding) => Promise<Turn | undefined>
  /** A tenant that was made here a moment ago counts as active. */
  readonly onTenant: (tenant: TenantId) => void
}

/**
 * There is no database of the tenant on this node. That it has nothing follows only when this node's copy is current, or when the directory knows no such tenant; else its copy went after the gate
 * was passed, and another node has to answer.
 */
export function assertNothingStands({ replica }: SessionContext, { tenant, outcome }: Session): void {
  if (!replica || replica.router.isNew(tenant)) return
  throw outcome ? afterWrite('it is not here any more') : new NotTaken('the copy of this node is not here any more')
}

/** Asked under the lease: the copy answers still. It may have been ordered to go, or to be made anew, since the gate was passed; then another node has to answer. */
export function assertAnswers({ replica }: SessionContext, { tenant, outcome }: Session): void {
  if (!replica || replica.copies.isCurrent(tenant)) return
  const reason = replica.copies.reason(tenant)
  throw outcome ? afterWrite(reason) : new NotTaken(`the copy of this node does not answer any more: ${reason}`)
}

/** As {@link assertAnswers}, of a read. What the session has written here can be read here for as long as the copy is there, also when it was ordered to go in between. */
export function assertReads(context: SessionContext, session: Session): void {
  if (session.outcome && context.replica?.copies.state(session.tenant) === 'dropping') return
  assertAnswers(context, session)
}

/** A session that has written is not answered by another node from its start: the write would be made twice. */
const afterWrite = (reason: string): PercolateError =>
  new PercolateError(
    'TENANT_UNAVAILABLE',
    `The write was made, and what it made cannot be read from this node's copy any more (${reason.replace(/\.$/, '')}); read it in a moment, and do not write it again.`,
    { retryAfterS: 1 },
  )

/**
 * What a request failed for of which nothing was done, with the home's right in mind: when this node has lost that, the home that is is asked. A session that has written is not answered by
 * another node from its start.
 */
export function askNewHome(error: unknown, { outcome }: Session): unknown {
  if (!(error instanceof NotHome) || outcome) return error
  return new NotTaken(error, 'HOME_UNAVAILABLE', 'The home of the tenant is changing; ask again in a moment.')
}
