import type { TenantId } from '../base/ids.ts'

/** Names of streams, subjects, consumers and buckets, all in one place. */
export const subjects = {
  jobsStream: (tier: string) => `percolate-jobs-${tier}`,
  jobs: (tier: string) => `percolate.jobs.${tier}`,
  workersConsumer: (tier: string) => `workers-${tier}`,
  deadJobsStream: 'percolate-dead-jobs',
  deadJobs: (tier: string) => `percolate.dead-jobs.${tier}`,
  deadJobsAll: 'percolate.dead-jobs.>',
  jobsBucket: 'percolate-jobs',
  jobKey: (tenant: TenantId, jobId: string) => `${tenant}.${jobId}`,
  jobKeysOf: (tenant: TenantId) => `${tenant}.*`,
  syncStream: (tenant: TenantId) => `percolate-sync-${tenant}`,
  syncAll: (tenant: TenantId) => `percolate.sync.${tenant}.>`,
  syncOps: (tenant: TenantId) => `percolate.sync.${tenant}.ops`,
} as const
