import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { TenantPool } from '../tenant/pool.ts'
import type { Tenant } from '../tenant/tenant.ts'

/** Runs `work` on a copy, or says that there is none. */
export async function withCopy<T>(
  pool: TenantPool,
  tenant: TenantId,
  incarnation: string | undefined,
  work: (open: Tenant) => Promise<T>,
): Promise<T> {
  const result = await pool.use(tenant, async open => {
    if (incarnation !== undefined && open.identity.incarnation !== incarnation)
      throw new PercolateError('TENANT_UNAVAILABLE', 'This node has another incarnation of the tenant.')
    return { value: await work(open) }
  })
  if (!result) throw new PercolateError('TENANT_UNAVAILABLE', 'This node has no copy of the tenant.')
  return result.value
}
