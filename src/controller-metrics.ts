import type { Activator } from './activator/activator.ts'
import type { Metrics } from './base/metrics.ts'
import type { JobStreamsKeeper } from './jobs/keep-streams.ts'
import type { Controller } from './replication/controller.ts'
import type { Directory } from './replication/directory.ts'
import type { Placement } from './replication/placement.ts'
import type { StreamPort } from './stream/port.ts'
import { subjects } from './stream/subjects.ts'

interface Parts {
  readonly controller: Controller
  readonly directory: Directory
  readonly stream: StreamPort
}

function underreplicated(directory: Directory, tier: string): number {
  const live = new Set(
    directory.members().flatMap(({ member, isLive }) => (isLive && member.tier === tier ? [member.node] : [])),
  )
  const wanted = Math.min(2, live.size)
  const complete = ({ holders }: Placement) =>
    holders.filter(({ node, state }) => state === 'active' && live.has(node)).length
  return directory.placements().filter(placement => placement.tier === tier && complete(placement) < wanted).length
}

/** The controller's metrics; `parts` is undefined where only their names are wanted. */
export function addControllerMetrics(metrics: Metrics, tiers: readonly string[], parts: Parts | undefined): void {
  const gauge = (name: string, help: string, read: (parts: Parts) => number) =>
    metrics.gauge(`percolate_controller_${name}`, help, () => (parts ? read(parts) : 0))
  gauge('leading', '1 while this controller leads', ({ controller }) => (controller.isLeading ? 1 : 0))
  gauge(
    'members',
    'Live nodes of the cluster',
    ({ directory }) => directory.members().filter(({ isLive }) => isLive).length,
  )
  gauge('placements', 'Tenants in the cluster directory', ({ directory }) => directory.placements().length)
  gauge('copies_added_total', 'Copies ordered since the start', ({ controller }) => controller.counts.added)
  gauge('copies_dropped_total', 'Copies ordered to go since the start', ({ controller }) => controller.counts.dropped)
  gauge(
    'holders_forgotten_total',
    'Holders struck off because they were away too long',
    ({ controller }) => controller.counts.forgotten,
  )
  gauge(
    'homes_moved_total',
    'Homes given to another node because theirs was gone',
    ({ controller }) => controller.counts.homes,
  )
  gauge(
    'streams_trimmed_total',
    'Times that the older part of a sync stream was dropped, read by every holder, because it came near its byte limit',
    ({ controller }) => controller.counts.trimmed,
  )
  gauge('streams_reaped_total', 'Idle sync streams deleted', ({ controller }) => controller.counts.reaped)
  gauge(
    'tenants_restored_total',
    'Tenants put back into the directory from their snapshots',
    ({ controller }) => controller.counts.restored,
  )
  // Not by workers: there is none while a tier's are scaled to zero and jobs wait.
  metrics.labelledGauge(
    'percolate_jobs_waiting',
    "Messages in the tier's job stream, those that are being worked on included",
    'tier',
    tiers,
    async tier => (parts ? parts.stream.depth(subjects.jobsStream(tier)) : 0),
  )
  const storage = async () => {
    if (!parts) throw new Error('nothing to ask')
    return parts.stream.storage()
  }
  metrics.asyncGauge(
    'percolate_jetstream_used_bytes',
    'What the streams of the NATS account take, replicas counted',
    async () => (await storage()).usedBytes,
  )
  metrics.asyncGauge(
    'percolate_jetstream_limit_bytes',
    'What they may take together, when the account has a limit',
    async () => (await storage()).limitBytes ?? Number.POSITIVE_INFINITY,
  )
  metrics.labelledGauge(
    'percolate_controller_tenants_underreplicated',
    'Tenants of the tier with fewer live complete copies than two, or than it has live nodes; 0 while it has none, as a tier at zero',
    'tier',
    tiers,
    tier => (parts ? underreplicated(parts.directory, tier) : 0),
  )
}

/** Of the activator, and of what else must be there before a tier is awake; `parts` is undefined where only the names are wanted. */
export function addActivatorMetrics(
  metrics: Metrics,
  tiers: readonly string[],
  parts: { readonly activator: Activator; readonly jobStreams: JobStreamsKeeper } | undefined,
): void {
  const gauge = (name: string, help: string, read: (tier: string, activator: Activator) => number) =>
    metrics.labelledGauge(`percolate_${name}`, help, 'tier', tiers, tier => (parts ? read(tier, parts.activator) : 0))
  gauge('held_requests', 'Requests that wait for a node of their tier', (tier, held) => held.room(tier).held)
  gauge('held_bytes', 'Memory that held requests may take', (tier, held) => held.room(tier).heldBytes)
  gauge(
    'waiting_tenants',
    'Tenants whose requests wait for a node of their tier, or did a moment ago: what wakes a tier at zero',
    (tier, held) => held.room(tier).tenants,
  )
  gauge('ready_nodes', 'Nodes of the tier that take requests', (tier, held) => held.ready(tier).length)
  gauge(
    'needed_nodes',
    'Nodes that must run, the lowest ordinals first, for every tenant to have a copy on one; 0: none is without',
    (tier, held) => held.needed(tier),
  )
  gauge(
    'extent_nodes',
    "How far up, from the lowest ordinal, a tier that is awake reaches: to its highest node that has not said that it goes, ready or not, and to each tenant's lowest copy; what wakes first has all copies only when it is as many",
    (tier, held) => held.extent(tier),
  )
  gauge('held_forwarded_total', 'Held requests that went to a node', (tier, held) => held.room(tier).counts.forwarded)
  gauge(
    'held_refused_total',
    'Requests refused because too many were held',
    (tier, held) => held.room(tier).counts.refused,
  )
  gauge('held_expired_total', 'Requests that no node got ready for', (tier, held) => held.room(tier).counts.expired)
  metrics.gauge('percolate_router_writes_total', "Times that the router's list was written", () =>
    parts ? parts.activator.routerCounts.writes : 0,
  )
  metrics.gauge('percolate_router_failures_total', "Times that the router's list could not be written", () =>
    parts ? parts.activator.routerCounts.failures : 0,
  )
  metrics.gauge(
    'percolate_job_streams_there',
    "1 when this controller's last look found, or made, the job streams and consumers of the tiers that it wakes; 0: their scalers see no queue",
    () => (parts?.jobStreams.areThere ? 1 : 0),
  )
}
