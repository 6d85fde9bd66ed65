import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import type { Time } from '../base/time.ts'
import { formatClock } from '../clock/hlc.ts'
import type { Jobs } from './jobs.ts'
import { isFinished } from './model.ts'

export interface EmbedSchedulerOptions {
  readonly jobs: Jobs
  readonly time: Time
  readonly logger: Logger
  /** Whether a tenant still has resources without embeddings. */
  readonly hasPending: (tenant: TenantId) => Promise<boolean>
  readonly checkMs: number
}

const TENANTS_MAX = 100_000
const FAILED_PAUSE_MS = 600_000

/**
 * Sees to it that a tenant with resources that lack embeddings has an `embed` job. What is pending is in the tenant's own index, so a lost
 * message costs nothing: tenants are looked at again until nothing is pending.
 */
export class EmbedScheduler {
  readonly #options: EmbedSchedulerOptions
  readonly #tenants = new Set<TenantId>()
  readonly #stop = new AbortController()
  #running: Promise<void> | undefined
  #wake = new AbortController()

  constructor(options: EmbedSchedulerOptions) {
    this.#options = options
  }

  notify(tenant: TenantId): void {
    if (this.#tenants.size >= TENANTS_MAX || this.#tenants.has(tenant)) return
    this.#tenants.add(tenant)
    this.#wake.abort()
  }

  start(): void {
    this.#running ??= this.#run()
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    this.#wake.abort()
    await this.#running
  }

  async #run(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      this.#wake = new AbortController()
      for (const tenant of this.#tenants) await this.#look(tenant)
      await this.#options.time.sleep(this.#options.checkMs, { signal: this.#wake.signal, ref: false }).catch(() => {})
    }
  }

  async #look(tenant: TenantId): Promise<void> {
    const { jobs, time, logger, hasPending } = this.#options
    if (this.#stop.signal.aborted) return
    try {
      if (!(await hasPending(tenant))) {
        this.#tenants.delete(tenant)
        return
      }
      const id = `embed-${tenant}`.slice(0, 80)
      const current = await jobs.get(tenant, id)
      if (current && !isFinished(current.status)) return
      // One that failed would fail again: its reason is there to be read meanwhile.
      const failed = current?.status === 'failed' || current?.status === 'dead'
      if (failed && time.now() - Date.parse(current.updated_at) < FAILED_PAUSE_MS) return
      const clock = formatClock({ wall: time.now(), counter: 0, origin: id })
      await jobs.enqueue(jobs.newRecord({ job_id: id, tenant, kind: 'embed', clock }), `${id}-${time.now()}`)
      logger.info({ tenant }, 'queued an embed job for resources without embeddings')
    } catch (error) {
      const known = error instanceof PercolateError && error.spec.retry === 'later'
      if (!known) logger.error({ tenant, err: String(error) }, 'could not queue an embed job')
    }
  }
}
