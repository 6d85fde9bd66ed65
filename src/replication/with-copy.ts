import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { TenantPool } from '../tenant/pool.ts'
import type { Tenant } from '../tenant/tenant.ts'

/** Runs `work` on a whole copy, or says that there is none. Whether it is whole is looked at under the lease: it may have been emptied since the caller looked. */
export async function withCopy<T>(
  pool: TenantPool,
  tenant: TenantId,
  incarnation: string | undefined,
  work: (open: Tenant) => Promise<T>,
  options: { readonly mayBeJoining?: boolean } = {},
): Promise<T> {
  const result = await pool.use(tenant, async open => {
    if (incarnation !== undefined && open.identity.incarnation !== incarnation)
      throw new PercolateError('TENANT_UNAVAILABLE', 'This node has another incarnation of the tenant.')
    if (open.isJoining && !options.mayBeJoining)
      throw new PercolateError('TENANT_UNAVAILABLE', "This node's copy of the tenant is being made.")
    return { value: await work(open) }
  })
  if (!result) throw new PercolateError('TENANT_UNAVAILABLE', 'This node has no copy of the tenant.')
  return result.value
}
