import type { TenantId } from '../base/ids.ts'

/** The tenants' databases on this node's disk. */
export interface CopyStore {
  tenants(): Promise<TenantId[]>
  has(tenant: TenantId): Promise<boolean>
  /** Empties the closed database of a tenant for a copy that is made anew. */
  wipe(tenant: TenantId): Promise<void>
  remove(tenant: TenantId): Promise<void>
}
