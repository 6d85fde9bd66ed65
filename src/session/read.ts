import { PercolateError } from '../base/errors.ts'
import type { Tenant } from '../tenant/tenant.ts'
import { assertNothingStands, type SessionContext } from './context.ts'
import type { Session } from './session.ts'

/**
 * Reads of a tenant that was never written are `empty`; nothing is made on disk for them. The gate has waited for the session's bookmark. HOME_UNAVAILABLE: the home was to answer, and this node is
 * not, or no longer, it.
 */
export async function read<T>(
  context: SessionContext,
  session: Session,
  work: (tenant: Tenant) => Promise<T>,
  empty: () => NoInfer<T>,
): Promise<T> {
  session.throwIfEnded()
  const homes = session.consistency.needsHome ? context.replica?.homes : undefined
  const result = await context.pool.use(session.tenant, async tenant => {
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
