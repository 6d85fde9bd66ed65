import type { Tenant } from '../tenant/tenant.ts'
import { assertNothingStands, type SessionContext } from './context.ts'
import type { Session } from './session.ts'

/** Reads of a tenant that was never written are `empty`; nothing is made on disk for them. The gate has waited for the session's bookmark. */
export async function read<T>(
  context: SessionContext,
  session: Session,
  work: (tenant: Tenant) => Promise<T>,
  empty: () => NoInfer<T>,
): Promise<T> {
  session.throwIfEnded()
  const result = await context.pool.use(session.tenant, async tenant => ({ value: await work(tenant) }))
  if (result) return result.value
  assertNothingStands(context, session)
  return empty()
}
