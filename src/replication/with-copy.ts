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

/** Uses of a copy, each with a lease of its own: between two of them the network may be waited for, and anything may happen to the copy. */
export type UseCopy = <T>(work: (open: Tenant) => Promise<T>) => Promise<T>

/**
 * The same, for work of several steps that only make sense on one and the same copy: TENANT_UNAVAILABLE when it was made anew, became whole, or got another origin since the first of them. A copy that is made
 * anew gets an origin that nobody had before.
 */
export function sameCopy(use: UseCopy): UseCopy {
  let first: { readonly incarnation: string; readonly origin: string; readonly isJoining: boolean } | undefined
  return work =>
    use(async open => {
      const { identity, origin, isJoining } = open
      first ??= { incarnation: identity.incarnation, origin, isJoining }
      if (first.incarnation !== identity.incarnation || first.origin !== origin || first.isJoining !== isJoining)
        throw new PercolateError('TENANT_UNAVAILABLE', "This node's copy of the tenant was made anew meanwhile.")
      return work(open)
    })
}
