import type { HeldBodies } from './api/held-bodies.ts'
import type { ChangeOperations } from './api/operations/changes.ts'
import type { HalfShares } from './base/half-shares.ts'
import { BOOKMARK_CHARS_MAX } from './base/limits.ts'
import type { Metrics } from './base/metrics.ts'
import type { Replica } from './replication/replica.ts'
import type { HeavyReads } from './session/heavy-reads.ts'
import type { Activity } from './tenant/activity.ts'
import type { DiskGuard } from './tenant/disk-guard.ts'
import type { TenantPool } from './tenant/pool.ts'
import type { StagingRoom } from './tenant/staging-room.ts'

export interface NodeMetricsOptions {
  readonly metrics: Metrics
  readonly pool: TenantPool
  readonly activity: Activity
  readonly tier: string
  readonly replica: Replica | undefined
  readonly changes: Pick<ChangeOperations, 'places' | 'longestCursor'>
  readonly heavyReads: HeavyReads
  readonly disk: DiskGuard
  readonly room: StagingRoom
  readonly bodies: HeldBodies
  readonly answers: HalfShares
  readonly calls: Pick<HalfShares, 'held' | 'refused'>
}

/** The database node's own metrics; `docs/metrics.md` lists them. */
export function addNodeMetrics({
  metrics,
  pool,
  activity,
  tier,
  replica,
  changes,
  heavyReads,
  disk,
  room,
  bodies,
  answers,
  calls,
}: NodeMetricsOptions): void {
  metrics.gauge(
    'percolate_active_tenants',
    'Tenants with a request within the active window',
    () => activity.active(),
    { tier },
  )
  metrics.gauge(
    'percolate_staging_text_bytes',
    'Text of the large batches that are being made now',
    () => room.heldBytes,
  )
  metrics.gauge(
    'percolate_staging_waiting',
    'Tenants whose large batch waits for others: PERCOLATE_STAGED_TEXT_BYTES_MAX are being made',
    () => room.waiting,
  )
  metrics.gauge(
    'percolate_staging_refused_total',
    'Commands refused (413) because they alone would have taken too much memory while they are written',
    () => room.refused,
  )
  metrics.gauge(
    'percolate_held_body_bytes',
    'Bodies of the requests that are worked on or wait: PERCOLATE_HELD_BODY_BYTES_MAX at most',
    () => bodies.held,
  )
  metrics.gauge(
    'percolate_held_bodies_refused_total',
    'Requests refused (503 TOO_BUSY) because their body did not fit beside the others',
    () => bodies.refused,
  )
  metrics.gauge(
    'percolate_held_answer_bytes',
    'Answers that their clients have not taken yet: PERCOLATE_HELD_ANSWER_BYTES_MAX at most, and as much again of such as cannot be refused',
    () => answers.held,
  )
  metrics.gauge(
    'percolate_held_answers_refused_total',
    'Requests refused (503 TOO_BUSY) because their answer did not fit beside those that are not taken',
    () => answers.refused,
  )
  metrics.gauge(
    'percolate_grpc_calls',
    'Calls by gRPC that are open: PERCOLATE_GRPC_CALLS_MAX of each service at most',
    () => calls.held,
  )
  metrics.gauge(
    'percolate_grpc_calls_refused_total',
    'Calls by gRPC refused (TOO_BUSY) because too many were open',
    () => calls.refused,
  )
  metrics.gauge(
    'percolate_writes_too_late_total',
    'Writes refused (503 TOO_BUSY) because they had waited for PERCOLATE_WRITE_WAIT_MS behind large batches',
    () => room.tooLate,
  )
  metrics.gauge(
    'percolate_pool_waiting',
    'Requests that wait for the use of a tenant to end, or for one to be closed',
    () => pool.stats().waiting,
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
  metrics.gauge(
    'percolate_publish_failures',
    'Failed attempts to publish in a row',
    () => replica?.publisher.failures ?? 0,
  )
  metrics.gauge(
    'percolate_streams_full_total',
    'Times that changes were not taken because their stream was at its byte limit, or NATS had no room for another stream',
    () => replica?.publisher.full ?? 0,
  )
  metrics.gauge('percolate_disk_free_bytes', 'Free space of the data directory', () => disk.freeBytes)
  metrics.gauge(
    'percolate_heavy_reads',
    'Searches, answers, large listings and walks that are being computed',
    () => heavyReads.running,
  )
  metrics.gauge(
    'percolate_heavy_reads_waiting',
    'Such reads that wait: PERCOLATE_HEAVY_READS_MAX are being computed',
    () => heavyReads.waiting,
  )
  metrics.gauge(
    'percolate_heavy_reads_refused_total',
    'Such reads refused because PERCOLATE_HEAVY_READS_WAITING_MAX waited',
    () => heavyReads.refused,
  )
  metrics.gauge('percolate_change_feeds', 'Change feeds that are being followed here', () => changes.places.served)
  metrics.gauge(
    'percolate_change_feeds_forwarded',
    'Change feeds that are sent on to the node that holds the tenant; they count against PERCOLATE_FEEDS_MAX too',
    () => changes.places.forwarded,
  )
  metrics.gauge(
    'percolate_change_feeds_refused_total',
    'Change feeds refused because there were too many',
    () => changes.places.refused,
  )
  metrics.gauge(
    'percolate_feed_cursor_chars',
    `Characters of the longest cursor that a change feed gave since the start; longer ones than ${BOOKMARK_CHARS_MAX} are refused`,
    () => changes.longestCursor,
  )
  addReplicationMetrics(metrics, replica)
}

/** What this node's part in the cluster counts; zero on a node without one. */
function addReplicationMetrics(metrics: Metrics, replica: Replica | undefined): void {
  const gauge = (name: string, help: string, read: (replica: Replica) => number) =>
    metrics.gauge(`percolate_${name}`, help, () => (replica ? read(replica) : 0))
  gauge('published_entries_total', 'Entries that a sync stream has acknowledged', r => r.publisher.published)
  gauge('applied_entries_total', 'Entries of other nodes applied here', r => r.applier.counts.applied)
  gauge('known_entries_total', 'Entries that came again and changed nothing', r => r.applier.counts.known)
  gauge(
    'refused_entries_total',
    'Entries refused: malformed, too large, of another tenant',
    r => r.applier.counts.refused,
  )
  gauge('parked_entries_total', 'Entries from the future that were kept until due', r => r.applier.counts.parked)
  gauge('parked_entries', 'Entries from the future that wait on disk until they are due', r => r.applier.parked)
  gauge('entry_holes_total', 'Times that an entry came before the one before it', r => r.applier.counts.holes)
  gauge(
    'copies_unvouched_total',
    'Copies that answer though they may lack what others wrote while they were away: nobody could be asked',
    r => r.copies.counts.unvouched,
  )
  gauge('holes_given_up_total', 'Holes that no holder could fill: writes are lost', r => r.copies.givenUp)
  gauge('hints_watched', 'Announcements of other nodes whose entries have not arrived yet', r => r.follower.watched)
  gauge('stream_consumers', 'Sync streams that are being read', r => r.follower.consumers)
  gauge('copies_current', 'Copies that answer', r => r.copies.count('current'))
  gauge(
    'copies_waiting',
    'Copies that are being made or checked',
    r => r.copies.count('joining') + r.copies.count('verifying'),
  )
  gauge(
    'copies_unreported',
    'Copies here of whose tenants the directory has no record yet; while there are any, a directory that was rebuilt is not complete, and no tenant can be made',
    r => r.copies.unreported,
  )
  gauge(
    'copy_attempts_total',
    'Attempts to make, check or drop a copy; an idle cluster makes few',
    r => r.copies.counts.attempts,
  )
  gauge(
    'copies_other_incarnation',
    'Databases here of another incarnation of their tenant than the directory tells of: kept, and not used',
    r => r.copies.others,
  )
  gauge('copies_corrupt', 'Copies whose database is damaged and that answer nothing', r => r.copies.count('corrupt'))
  gauge('copies_corrupt_total', 'Databases found damaged since the start', r => r.copies.counts.corrupt)
  gauge('entries_waiting', 'Entries that wait in memory for one that is missing', r => r.applier.waiting.entries)
  gauge('entries_waiting_bytes', 'Bytes of them', r => r.applier.waiting.bytes)
  gauge('copies_joined_total', 'Copies made since the start', r => r.copies.counts.joined)
  gauge(
    'copies_reconciled_total',
    'Times that a copy was brought up to date from another one',
    r => r.reconciler.counts.reconciled,
  )
  gauge('copies_wiped_total', 'Copies made anew because they were away for too long', r => r.copies.counts.wiped)
  gauge('copies_dropped_total', 'Copies dropped as ordered', r => r.copies.counts.dropped)
  gauge(
    'rolled_back_total',
    'Times that this disk was found to have gone back in time',
    r => r.reconciler.counts.rolledBack + r.applier.counts.rolledBack,
  )
  gauge('forwarded_requests_total', 'Requests sent on to the node that holds the tenant', r => r.router.forwarded)
  gauge(
    'directory_lookups_total',
    'Times that the cluster directory was asked for a tenant that this node does not know',
    r => r.router.lookups.counts.asked,
  )
  gauge(
    'directory_lookups_waiting',
    'Requests that wait to hear whether their tenants exist',
    r => r.router.lookups.waiting,
  )
  gauge(
    'directory_lookups_refused_total',
    'Requests refused since too many waited to hear whether their tenants exist',
    r => r.router.lookups.counts.refused,
  )
  gauge('home_handovers_total', 'Homes handed over to another node', r => r.homes.handovers)
  gauge('home_takeovers_total', 'Homes taken from a node that was gone', r => r.homes.takeovers)
  gauge('leases_ended_total', 'Leases of other nodes that this one proved to be over', r => r.proof.fenced)
  gauge(
    'directory_watches_deaf_total',
    'Watches of the directory that told nothing of what was written, and were opened anew',
    r => r.directory.deafWatches,
  )
  gauge(
    'directory_lost_total',
    'Times that the directory was found to be another than before, or an earlier one',
    r => r.directory.lost,
  )
  gauge(
    'directory_unsettled_seconds',
    'For how long this node can say nothing of leases, and so claims no home; some seconds when all is well',
    r => r.directory.unsettledMs / 1000,
  )
  gauge('lease_held', '1 while this node may act as the home of its tenants', r => (r.membership.hasLease ? 1 : 0))
  gauge('clock_skew_seconds', "This node's wall clock minus the NATS servers'", r => r.membership.skewMs / 1000)
  gauge(
    'directory_restored_total',
    'Placements put back because the directory had lost them',
    r => r.directory.restored,
  )
  gauge('gc_floors_total', 'Garbage collection floors moved by this node', r => r.maintenance.counts.floors)
  gauge('gc_collected_total', 'Tombstones collected', r => r.maintenance.counts.collected)
  gauge('anti_entropy_compared_total', 'Comparisons of a copy with another', r => r.maintenance.counts.compared)
  gauge('anti_entropy_different_total', 'Comparisons that found a difference', r => r.maintenance.counts.different)
  gauge(
    'anti_entropy_repaired_total',
    'Records repaired from another copy',
    r => r.maintenance.counts.repaired + r.maintenance.counts.setAside,
  )
  gauge('snapshots_stored_total', 'Snapshots stored', r => r.maintenance.counts.snapshots)
  gauge('snapshot_failures_total', 'Snapshots that could not be stored', r => r.maintenance.counts.snapshotFailures)
}
