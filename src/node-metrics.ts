import type { Metrics } from './base/metrics.ts'
import type { Publisher } from './replication/publisher.ts'
import type { Activity } from './tenant/activity.ts'
import type { DiskGuard } from './tenant/disk-guard.ts'
import type { TenantPool } from './tenant/pool.ts'

export interface NodeMetricsOptions {
  readonly metrics: Metrics
  readonly pool: TenantPool
  readonly activity: Activity
  readonly tier: string
  readonly publisher: () => Publisher | undefined
  readonly disk: DiskGuard
}

/** The database node's own metrics; `docs/metrics.md` lists them. */
export function addNodeMetrics({ metrics, pool, activity, tier, publisher, disk }: NodeMetricsOptions): void {
  metrics.gauge(
    'percolate_active_tenants',
    'Tenants with a request within the active window',
    () => activity.active(),
    { tier },
  )
  metrics.gauge('percolate_open_tenants', 'Tenant databases that are open', () => pool.stats().open)
  metrics.gauge('percolate_pool_leases', 'Uses of tenant databases that are going on', () => pool.stats().leases)
  metrics.gauge('percolate_pool_memory_bytes', 'Estimated memory of the open tenants', () => pool.stats().memoryBytes)
  metrics.gauge('percolate_pool_opened_total', 'Tenant databases opened since the start', () => pool.stats().opened)
  metrics.gauge('percolate_pool_evicted_total', 'Tenant databases closed to make room', () => pool.stats().evicted)
  metrics.gauge(
    'percolate_pool_idle_closed_total',
    'Tenant databases closed because nobody used them',
    () => pool.stats().idleClosed,
  )
  const sum = (read: (outbox: { entries: number; bytes: number }) => number) =>
    pool.openTenants().reduce((all, tenant) => all + read(tenant.outbox), 0)
  metrics.gauge('percolate_outbox_entries', 'Changes of open tenants that wait to be published', () =>
    sum(outbox => outbox.entries),
  )
  metrics.gauge('percolate_outbox_bytes', 'Bytes of changes of open tenants that wait to be published', () =>
    sum(outbox => outbox.bytes),
  )
  metrics.gauge('percolate_publish_failures', 'Failed attempts to publish in a row', () => publisher()?.failures ?? 0)
  metrics.gauge('percolate_disk_free_bytes', 'Free space of the data directory', () => disk.freeBytes)
}
