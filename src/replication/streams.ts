import type { TenantId } from '../base/ids.ts'
import type { StreamSpec } from '../stream/port.ts'
import { subjects } from '../stream/subjects.ts'
import { poolOf } from './placement.ts'

export interface SyncStreamsOptions {
  readonly replicas: number
  readonly maxAgeMs: number
  /** Of a tenant's own stream, and of one that many tenants share. */
  readonly bytesMax: number
  readonly poolBytesMax: number
}

/**
 * Where a tenant's entries go. *per-tenant*: a stream each, made by its first entry and reaped when idle. *pooled:N*: N streams for all, for clusters with more
 * active tenants than JetStream carries streams. Fixed when the cluster is made.
 */
export class SyncStreams {
  readonly pools: number | undefined
  readonly #options: SyncStreamsOptions

  constructor(mode: string, options: SyncStreamsOptions) {
    this.pools = poolsOf(mode)
    this.#options = options
  }

  streamOf(tenant: TenantId): string {
    return this.pools === undefined ? subjects.syncStream(tenant) : subjects.poolStream(poolOf(tenant, this.pools))
  }

  subjectOf(tenant: TenantId): string {
    return this.pools === undefined ? subjects.syncOps(tenant) : subjects.poolOps(poolOf(tenant, this.pools), tenant)
  }

  /** The tenant that a message's subject names. */
  tenantOf(subject: string): string | undefined {
    const tokens = subject.split('.')
    return this.pools === undefined ? tokens[2] : tokens[3]
  }

  specOf(tenant: TenantId): StreamSpec {
    return this.pools === undefined
      ? this.#spec(subjects.syncStream(tenant), subjects.syncAll(tenant), this.#options.bytesMax)
      : this.poolSpec(poolOf(tenant, this.pools))
  }

  poolSpec(k: number): StreamSpec {
    return this.#spec(subjects.poolStream(k), subjects.poolAll(k), this.#options.poolBytesMax)
  }

  #spec(name: string, subject: string, bytesMax: number): StreamSpec {
    const { replicas, maxAgeMs } = this.#options
    return { name, subjects: [subject], retention: 'limits', discard: 'new', maxAgeMs, bytesMax, replicas }
  }
}

export const SYNC_STREAMS_PATTERN = '^(per-tenant|pooled:([1-9][0-9]{0,2}))$'

export function poolsOf(mode: string): number | undefined {
  const match = new RegExp(SYNC_STREAMS_PATTERN).exec(mode)
  return match?.[2] === undefined ? undefined : Number(match[2])
}
