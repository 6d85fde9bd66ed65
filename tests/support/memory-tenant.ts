import type { TenantId } from '../../src/base/ids.ts'
import { systemTime } from '../../src/base/time.ts'
import { MemoryKv } from '../../src/storage/memory.ts'
import { Tenant } from '../../src/tenant/tenant.ts'

/** An open tenant in memory, new at each opening; `onClose` is told when it begins to close and the database has closed. */
export function openMemoryTenant(
  id: TenantId,
  onClose: { begin?: () => void; end?: () => void } = {},
  kv = new MemoryKv(),
  options: { readonly changesMax?: number } = {},
): Promise<Tenant> {
  const close = kv.close.bind(kv)
  kv.close = async () => {
    onClose.begin?.()
    await close()
    onClose.end?.()
  }
  return Tenant.open(id, kv, {
    time: systemTime,
    origin: 'n.d',
    outboxEnabled: false,
    outboxBytesMax: 1e9,
    recordCacheBytes: 1e6,
    onCommit: () => {},
    ...options,
  })
}
