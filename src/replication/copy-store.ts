import type { TenantId } from '../base/ids.ts'
import type { Time } from '../base/time.ts'
import { salvageTenant, type TenantStore, wipeTenant } from '../tenant/open-pool.ts'
import type { Salvage } from '../tenant/scan.ts'

/** The tenants' databases on this node's disk. */
export interface CopyStore extends Pick<TenantStore, 'making' | 'makingOf' | 'made'> {
  tenants(): Promise<TenantId[]>
  has(tenant: TenantId): Promise<boolean>
  /** Empties the closed database of a tenant for a copy that is made anew. */
  wipe(tenant: TenantId): Promise<void>
  remove(tenant: TenantId): Promise<void>
  /** What a closed and damaged database had of its own, as far as it can be read. */
  salvage(tenant: TenantId): Promise<Salvage>
  /** Moves a closed and damaged database out of the way, to where an operator finds it; that place. */
  setAside(tenant: TenantId): Promise<string>
  /** Moves a closed database of another incarnation than the tenant's to where an operator finds it, for good; that place. */
  setOtherAside(tenant: TenantId, incarnation: string): Promise<string>
}

export const copyStore = (store: TenantStore, time: Time): CopyStore => ({
  tenants: () => store.tenants(),
  has: tenant => store.has(tenant),
  wipe: tenant => wipeTenant(store, tenant, time),
  remove: tenant => store.remove(tenant),
  salvage: tenant => salvageTenant(store, tenant),
  setAside: tenant => store.setAside(tenant),
  setOtherAside: (tenant, incarnation) => store.setOtherAside(tenant, incarnation),
  making: (tenant, incarnation) => store.making(tenant, incarnation),
  makingOf: tenant => store.makingOf(tenant),
  made: tenant => store.made(tenant),
})
