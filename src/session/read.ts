import { PercolateError } from '../base/errors.ts'
import type { Tenant } from '../tenant/tenant.ts'
import { assertNothingStands, type SessionContext } from './context.ts'
import type { Session } from './session.ts'

/**
 * Reads of a tenant that was never written are `empty`; nothing is made on disk for them. The gate has waited for the session's bookmark. What it saw is looked at again under the lease: between the
 * two the copy may have been dropped or emptied. TENANT_UNAVAILABLE, BOOKMARK_NOT_REACHED: it has.
 */
export async function read<T>(
  context: SessionContext,
  session: Session,
  work: (tenant: Tenant) => Promise<T>,
  empty: () => NoInfer<T>,
): Promise<T> {
  session.throwIfEnded()
  const { pool, replica } = context
  const { bookmark } = session.consistency
  const result = await pool.use(session.tenant, async tenant => {
    replica?.copies.assertCurrent(session.tenant)
    if (replica && bookmark && session.access === 'read' && !tenant.covers(bookmark.vector))
      throw new PercolateError('BOOKMARK_NOT_REACHED', 'This copy has not applied the bookmark yet; retry in a moment.')
    return { value: await work(tenant) }
  })
  if (result) return result.value
  assertNothingStands(context, session)
  return empty()
}
