import type { TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import { isRetryable } from '../base/retry.ts'
import { Semaphore } from '../base/semaphore.ts'
import type { Time } from '../base/time.ts'
import { decodeEntry } from '../storage/codec.ts'
import { prefixes, prefixRange, space } from '../storage/keys.ts'
import { collect, type KvEntry } from '../storage/kv.ts'
import type { StreamPort } from '../stream/port.ts'
import { subjects } from '../stream/subjects.ts'
import type { TenantPool } from '../tenant/pool.ts'
import type { Tenant } from '../tenant/tenant.ts'

export interface PublisherOptions {
  readonly stream: StreamPort
  readonly pool: TenantPool
  readonly time: Time
  readonly logger: Logger
  readonly replicas: number
  readonly maxAgeMs: number
}

/** Entries in flight for one tenant. */
const BATCH_ENTRIES = 64
/** Tenants drained at once. */
const DRAINS_MAX = 8
const RETRY_MS_MAX = 15_000
/** Streams known to exist, remembered to spare asking. */
const KNOWN_STREAMS_MAX = 100_000

/**
 * Moves outbox entries to the tenants' sync streams: in order, a batch in flight at a time, each entry removed only after its PubAck. A
 * tenant is *clean*, *waiting* (it has entries) or *draining*; a failed drain waits longer each time, and nothing is lost meanwhile.
 */
export class Publisher {
  readonly #options: PublisherOptions
  readonly #drains = new Semaphore({ permits: DRAINS_MAX, waitersMax: 1_000_000, name: 'publishing' })
  readonly #tenants = new Map<TenantId, { again: boolean }>()
  readonly #streams = new Set<TenantId>()
  readonly #stop = new AbortController()
  #failures = 0

  constructor(options: PublisherOptions) {
    this.#options = options
  }

  /** Failed attempts in a row; 0 when the last one worked. */
  get failures(): number {
    return this.#failures
  }

  /** Says that a tenant has entries; called after every commit and when a tenant with some is found. */
  notify(id: TenantId): void {
    const running = this.#tenants.get(id)
    if (running) {
      running.again = true
      return
    }
    if (this.#stop.signal.aborted) return
    const state = { again: false }
    this.#tenants.set(id, state)
    void this.#run(id, state).finally(() => this.#tenants.delete(id))
  }

  /** Tries to publish what is left, for a bounded time; what stays is in the outboxes. */
  async stop(graceMs: number): Promise<void> {
    const until = this.#options.time.monotonic() + graceMs
    while (this.#tenants.size > 0 && this.#failures === 0 && this.#options.time.monotonic() < until)
      await this.#options.time.sleep(10)
    this.#stop.abort()
    while (this.#tenants.size > 0) await this.#options.time.sleep(5)
  }

  async #run(id: TenantId, state: { again: boolean }): Promise<void> {
    for (let attempt = 0; !this.#stop.signal.aborted; ) {
      state.again = false
      try {
        const release = await this.#drains.acquire(this.#stop.signal)
        try {
          await this.#options.pool.use(id, tenant => this.#drain(tenant))
        } finally {
          release()
        }
        attempt = 0
        this.#failures = 0
        if (!state.again) return
      } catch (error) {
        if (this.#stop.signal.aborted) return
        this.#failures++
        this.#streams.delete(id)
        if (!isRetryable(error) || attempt % 10 === 0)
          this.#options.logger.warn({ tenant: id, err: String(error) }, 'changes wait in the outbox: publishing failed')
        const waitMs = Math.min(RETRY_MS_MAX, 200 * 2 ** attempt++)
        await this.#options.time.sleep(waitMs, { signal: this.#stop.signal, ref: false }).catch(() => {})
      }
    }
  }

  async #drain(tenant: Tenant): Promise<void> {
    const { stream } = this.#options
    while (!this.#stop.signal.aborted) {
      const entries = await collect(tenant, { ...prefixRange(prefixes.space(space.outbox)), limit: BATCH_ENTRIES })
      if (entries.length === 0) return
      await this.#ensureStream(tenant.id)
      const outcomes = await Promise.allSettled(
        entries.map(([, value]) => stream.publish(subjects.syncOps(tenant.id), value, messageId(value))),
      )
      const failed = outcomes.findIndex(outcome => outcome.status === 'rejected')
      const published: KvEntry[] = failed < 0 ? entries : entries.slice(0, failed)
      if (published.length > 0) {
        await tenant.removeFromOutbox(
          published.map(([key]) => key),
          published.reduce((sum, [, value]) => sum + value.length, 0),
        )
      }
      if (failed >= 0) throw (outcomes[failed] as PromiseRejectedResult).reason
    }
  }

  async #ensureStream(id: TenantId): Promise<void> {
    if (this.#streams.has(id)) return
    const { replicas, maxAgeMs } = this.#options
    await this.#options.stream.ensureStream({
      name: subjects.syncStream(id),
      subjects: [subjects.syncAll(id)],
      retention: 'limits',
      maxAgeMs,
      replicas,
    })
    if (this.#streams.size >= KNOWN_STREAMS_MAX) this.#streams.clear()
    this.#streams.add(id)
  }
}

/** Tenant incarnation, origin and sequence: a counter that starts over can't be taken for a repetition. */
function messageId(value: Buffer): string {
  const { incarnation, origin, sequence } = decodeEntry(value)
  return `${incarnation}.${origin}.${sequence}`
}
