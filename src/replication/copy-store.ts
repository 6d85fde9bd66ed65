import type { TenantId } from '../base/ids.ts'
import type { Time } from '../base/time.ts'
import { type TenantStore, wipeTenant } from '../tenant/open-pool.ts'

/** The tenants' databases on this node's disk. */
export interface CopyStore {
  tenants(): Promise<TenantId[]>
  has(tenant: TenantId): Promise<boolean>
  /** Empties the closed database of a tenant for a copy that is made anew. */
  wipe(tenant: TenantId): Promise<void>
  remove(tenant: TenantId): Promise<void>
}

export const copyStore = (store: TenantStore, time: Time): CopyStore => ({
  tenants: () => store.tenants(),
  has: tenant => store.has(tenant),
  wipe: tenant => wipeTenant(store, tenant, time),
  remove: tenant => store.remove(tenant),
})
