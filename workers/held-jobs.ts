import type { TenantId } from '../src/base/ids.ts'
import type { JobRecord } from '../src/jobs/model.ts'
import type { Delivery } from '../src/stream/port.ts'

/** A job whose message has been pulled. */
export interface PulledJob {
  readonly delivery: Delivery
  readonly job: JobRecord
}

export interface HeldJobsOptions {
  readonly max: number
  readonly perTenantMax: number
}

/** Jobs that a worker has pulled and not started: a short queue for each tenant, served in turn. */
export class HeldJobs {
  readonly #options: HeldJobsOptions
  /** In the order in which their turns come; no tenant without jobs is here. */
  readonly #queues = new Map<TenantId, PulledJob[]>()
  #size = 0

  constructor(options: HeldJobsOptions) {
    this.#options = options
  }

  get size(): number {
    return this.#size
  }

  /** How many more may be pulled. */
  get room(): number {
    return this.#options.max - this.#size
  }

  /** False when the tenant has its share here already, or all together are too many. */
  add(pulled: PulledJob): boolean {
    const queue = this.#queues.get(pulled.job.tenant) ?? []
    if (this.room <= 0 || queue.length >= this.#options.perTenantMax) return false
    queue.push(pulled)
    this.#queues.set(pulled.job.tenant, queue)
    this.#size++
    return true
  }

  /** The first job of the tenant whose turn it is, of those that may start. */
  take(mayStart: (tenant: TenantId) => boolean): PulledJob | undefined {
    for (const [tenant, queue] of this.#queues) {
      if (!mayStart(tenant)) continue
      const pulled = queue.shift()!
      this.#size--
      this.#queues.delete(tenant)
      if (queue.length > 0) this.#queues.set(tenant, queue)
      return pulled
    }
    return undefined
  }

  *[Symbol.iterator](): IterableIterator<PulledJob> {
    for (const queue of this.#queues.values()) yield* queue
  }

  /** Takes them all out. */
  clear(): PulledJob[] {
    const all = [...this]
    this.#queues.clear()
    this.#size = 0
    return all
  }
}
