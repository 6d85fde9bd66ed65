import { PercolateError } from '../base/errors.ts'
import type { Tenant } from '../tenant/tenant.ts'
import { assertAnswers, assertNothingStands, type SessionContext } from './context.ts'
import type { Session } from './session.ts'

/**
 * Reads of a tenant that was never written are `empty`; nothing is made on disk for them. What the gate saw is looked at again under the lease: between the two the copy may have been dropped or
 * emptied (NotTaken), or made anew with less than the session's bookmark names (BOOKMARK_NOT_REACHED). HOME_UNAVAILABLE: the home was to answer, and this node is not, or no longer, it.
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
  const homes = needsHome ? replica?.homes : undefined
  const result = await pool.use(session.tenant, async tenant => {
    assertAnswers(context, session)
    if (replica && bookmark && session.access === 'read' && !tenant.covers(bookmark.vector))
      throw new PercolateError('BOOKMARK_NOT_REACHED', 'This copy has not applied the bookmark yet; retry in a moment.')
    // The home's word is that of a node that was the home from before it looked until it answers.
    const epoch = homes?.assertHome(session.tenant)
    const value = await work(tenant)
    if (homes && homes.assertHome(session.tenant) !== epoch)
      throw new PercolateError('HOME_UNAVAILABLE', 'The home of the tenant changed while it was asked; ask again.')
    return { value }
  })
  if (result) return result.value
  assertNothingStands(context, session)
  return empty()
}
