import type { TenantId } from '../base/ids.ts'

/** Names of streams, subjects, consumers and buckets, all in one place. */
export const subjects = {
  jobsStream: (tier: string) => `percolate-jobs-${tier}`,
  jobs: (tier: string) => `percolate.jobs.${tier}`,
  workersConsumer: (tier: string) => `workers-${tier}`,
  deadJobsStream: 'percolate-dead-jobs',
  deadJobs: (tier: string) => `percolate.dead-jobs.${tier}`,
  deadJobsAll: 'percolate.dead-jobs.>',
  /** Says that the status of a job has changed; a hint that may be lost. */
  jobHint: 'percolate.hint.job',
  jobsBucket: 'percolate-jobs',
  jobKey: (tenant: TenantId, jobId: string) => `${tenant}.${jobId}`,
  jobKeysOf: (tenant: TenantId) => `${tenant}.*`,
  /** Of the line of a document's uploads; {@link jobKeysOf} does not list it. */
  documentKey: (tenant: TenantId, document: string) => `${tenant}.document.${document}`,
  syncStream: (tenant: TenantId) => `percolate-sync-${tenant}`,
  syncAll: (tenant: TenantId) => `percolate.sync.${tenant}.>`,
  syncOps: (tenant: TenantId) => `percolate.sync.${tenant}.ops`,
  syncStreamPrefix: 'percolate-sync-',
  poolStream: (k: number) => `percolate-syncpool-${k}`,
  poolAll: (k: number) => `percolate.syncpool.${k}.>`,
  poolOps: (k: number, tenant: TenantId) => `percolate.syncpool.${k}.${tenant}.ops`,
  /** Says that a tenant has new entries in its stream; a hint that may be lost. */
  hint: 'percolate.hint.sync',
  /** Says that a tenant's stream is full; the controller looks at it next. */
  full: 'percolate.hint.full',
  clusterBucket: 'percolate-cluster',
  memberKey: (node: string) => `node.${node}`,
  tenantKey: (tenant: TenantId) => `tenant.${tenant}`,
  clusterKey: 'cluster',
  controllerKey: 'controller',
} as const
