import { NotHome } from '../replication/homes.ts'
import type { Tenant } from '../tenant/tenant.ts'
import { askNewHome, assertNothingStands, assertReads, type SessionContext } from './context.ts'
import { NotTaken } from './forward.ts'
import { hasAll } from './reached.ts'
import type { Session } from './session.ts'

/**
 * Reads of a tenant that was never written are `empty`; nothing is made on disk for them. What the gate saw is looked at again under the lease: between the two the copy may have been dropped or
 * emptied, or made anew with less than the session's bookmark names, or this node have stopped being the home that was to answer. All of that is NotTaken: a read can be asked again, elsewhere.
 */
export async function read<T>(
  context: SessionContext,
  session: Session,
  work: (tenant: Tenant) => Promise<T>,
  empty: () => NoInfer<T>,
): Promise<T> {
  session.throwIfEnded()
  const { pool, replica } = context
  const { needsHome, bookmark } = session.consistency
  const isRead = session.access === 'read'
  // What a write reads beside itself decides nothing: its own right is looked at where it is committed.
  const homes = needsHome && isRead ? replica?.homes : undefined
  const result = await pool.use(session.tenant, async tenant => {
    assertReads(context, session)
    if (replica && bookmark && isRead && !(await hasAll(tenant, bookmark)))
      throw new NotTaken(
        'the copy was made anew',
        'BOOKMARK_NOT_REACHED',
        'This copy has not applied the bookmark yet; retry in a moment.',
      )
    try {
      // The home's word is that of a node that was the home from before it looked until it answers.
      const epoch = homes?.assertHome(session.tenant)
      const value = await work(tenant)
      if (homes && homes.assertHome(session.tenant) !== epoch)
        throw new NotHome('The home of the tenant changed while it was asked.')
      return { value }
    } catch (error) {
      throw askNewHome(error, session)
    }
  })
  if (result) return result.value
  assertNothingStands(context, session)
  return empty()
}
