import type { Config } from './config/settings.ts'
import type { ReplicaSettings } from './replication/replica.ts'

/** The settings of the table that replication takes. */
export const replicaSettings = (config: Config): ReplicaSettings => ({
  replicas: config.replicas,
  syncStreams: config.syncStreams,
  syncReplicas: config.syncReplicas,
  syncMaxAgeMs: config.syncMaxAgeMs,
  syncBytesMax: config.syncBytesMax,
  poolBytesMax: config.poolBytesMax,
  directoryBytesMax: config.directoryBytesMax,
  heartbeatMs: config.heartbeatMs,
  leaseMs: config.leaseMs,
  clockSkewMsMax: config.clockSkewMsMax,
  consumerIdleMs: config.consumerIdleMs,
  hintGraceMs: config.hintGraceMs,
  tombstoneMs: config.tombstoneMs,
  gcIntervalMs: config.gcIntervalMs,
  antiEntropyMs: config.antiEntropyMs,
  snapshotIntervalMs: config.snapshotIntervalMs,
  maintenanceMs: config.maintenanceMs,
  moveAfterRequests: config.moveAfterRequests,
  moveWindowMs: config.moveWindowMs,
  moveRestMs: config.moveRestMs,
  handoverTimeoutMs: config.handoverTimeoutMs,
  copyRetryMs: config.copyRetryMs,
  copiesWaitMs: config.copiesWaitMs,
  waitingBytesMax: config.waitingBytesMax,
  parkedEntriesMax: config.parkedEntriesMax,
})
