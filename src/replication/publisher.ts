import { setMaxListeners } from 'node:events'
import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import { isRetryable } from '../base/retry.ts'
import { Semaphore } from '../base/semaphore.ts'
import type { Time } from '../base/time.ts'
import { decodeEntry, packValue, unpackValue } from '../storage/codec.ts'
import { prefixes, prefixRange, space } from '../storage/keys.ts'
import type { KvEntry } from '../storage/kv.ts'
import type { StreamPort } from '../stream/port.ts'
import { subjects } from '../stream/subjects.ts'
import type { TenantPool } from '../tenant/pool.ts'
import type { Tenant } from '../tenant/tenant.ts'
import type { SyncStreams } from './streams.ts'

export interface PublisherOptions {
  readonly stream: StreamPort
  readonly pool: TenantPool
  readonly time: Time
  readonly logger: Logger
  /** Undefined while the cluster's mode is not known yet. */
  readonly streams: () => SyncStreams | undefined
  /** False while a copy is not trusted: what an old disk has in its outbox may lie below the floor. */
  readonly mayPublish: (tenant: TenantId) => boolean
}

/** Entries and bytes in flight for one tenant. */
const WINDOW_ENTRIES = 128
const WINDOW_BYTES = 8 * 1024 * 1024
/** Tenants drained at once. */
const DRAINS_MAX = 8
const RETRY_MS_MAX = 15_000
/** A full stream is trimmed within a few rounds of the controller. */
const FULL_RETRY_MS_MAX = 1000
/** Streams known to exist, remembered to spare asking. */
const KNOWN_STREAMS_MAX = 100_000

/** Entries that are published together. */
interface Window {
  readonly entries: readonly KvEntry[]
  /** To be compared, not to be used: the lease is over. */
  readonly readFrom: Tenant
}

interface Draining {
  again: boolean
  doing: string
}

/** Says that `origin` has published up to `sequence`; whoever holds the tenant and has less reads on. */
export interface Hint {
  readonly tenant: string
  readonly incarnation: string
  readonly origin: string
  readonly sequence: number
}

export const encodeHint = (hint: Hint): Buffer => packValue([hint.tenant, hint.incarnation, hint.origin, hint.sequence])

export function decodeHint(data: Buffer): Hint | undefined {
  try {
    const [tenant, incarnation, origin, sequence] = unpackValue(data) as [string, string, string, number]
    return typeof tenant === 'string' && typeof origin === 'string' && Number.isSafeInteger(sequence)
      ? { tenant, incarnation, origin, sequence }
      : undefined
  } catch {
    return undefined
  }
}

/**
 * Moves outbox entries to the tenants' sync streams: in order, a window in flight at a time, each entry removed only after its PubAck. A
 * tenant is *clean*, *waiting* (it has entries) or *draining*; a failed drain waits longer each time, and nothing is lost meanwhile.
 */
export class Publisher {
  readonly #options: PublisherOptions
  readonly #drains = new Semaphore({ permits: DRAINS_MAX, waitersMax: 1_000_000, name: 'publishing' })
  /** Tenants of which something waits to be published; as many as there are copies here, at most. */
  readonly #tenants = new Map<TenantId, Draining>()
  readonly #streams = new Set<string>()
  readonly #stop = new AbortController()
  #failures = 0
  #published = 0
  #full = 0

  constructor(options: PublisherOptions) {
    this.#options = options
    // Every tenant that has something to publish waits with it.
    setMaxListeners(0, this.#stop.signal)
  }

  /** Failed attempts in a row; 0 when the last one worked. */
  get failures(): number {
    return this.#failures
  }

  /** Entries that a stream has acknowledged since the start. */
  get published(): number {
    return this.#published
  }

  /** Times since the start that a stream was full, or that there was no room for another. */
  get full(): number {
    return this.#full
  }

  /** Says that a tenant has entries; called after every commit and when a tenant with some is found. */
  notify(id: TenantId): void {
    const running = this.#tenants.get(id)
    if (running) {
      running.again = true
      return
    }
    if (this.#stop.signal.aborted) return
    const state: Draining = { again: false, doing: 'waiting' }
    this.#tenants.set(id, state)
    void this.#run(id, state)
  }

  /** What is being done about a tenant's entries, for an operator. */
  describe(id: TenantId): string {
    const state = this.#tenants.get(id)
    return state ? state.doing : 'nothing is being done'
  }

  /** Whether nothing of a tenant waits to be published. Only of a copy that may be published: of others it is not looked at. */
  isClean(id: TenantId): boolean {
    return !this.#tenants.has(id) && !this.#stop.signal.aborted
  }

  /** Whether entries wait or are on their way. */
  get isBusy(): boolean {
    return this.#tenants.size > 0
  }

  /** Tries to publish what is left, for a bounded time; what stays is in the outboxes. */
  async stop(graceMs: number): Promise<void> {
    const { time } = this.#options
    const until = time.monotonic() + graceMs
    while (this.isBusy && this.#failures === 0 && time.monotonic() < until) await time.sleep(10)
    this.#stop.abort()
    while (this.isBusy) await time.sleep(5)
  }

  /** Ends in the same turn in which it finds that nothing is left, so that no notice falls in between. */
  async #run(id: TenantId, state: Draining): Promise<void> {
    const end = () => void this.#tenants.delete(id)
    for (let attempt = 0; !this.#stop.signal.aborted; ) {
      state.again = false
      try {
        const release = await this.#drains.acquire(this.#stop.signal)
        try {
          // Who vouches for the copy later calls again.
          if (!this.#options.mayPublish(id)) {
            if (state.again) continue
            return end()
          }
          state.doing = 'publishing'
          await this.#drain(id)
        } finally {
          release()
        }
        attempt = 0
        this.#failures = 0
        if (!state.again) return end()
      } catch (error) {
        if (this.#stop.signal.aborted) return end()
        this.#failures++
        const streams = this.#options.streams()
        if (streams) this.#streams.delete(streams.streamOf(id))
        if (!isRetryable(error) || attempt % 10 === 0)
          this.#options.logger.warn({ tenant: id, err: String(error) }, 'changes wait in the outbox: publishing failed')
        state.doing = `waiting after attempt ${attempt + 1}: ${String(error)}`
        const isFull = error instanceof PercolateError && error.code === 'STREAM_FULL'
        if (isFull) {
          this.#full++
          this.#options.stream.announce(subjects.full, Buffer.from(id))
        }
        const waitMs = Math.min(isFull ? FULL_RETRY_MS_MAX : RETRY_MS_MAX, 200 * 2 ** attempt++)
        await this.#options.time.sleep(waitMs, { signal: this.#stop.signal, ref: false }).catch(() => {})
      }
    }
    end()
  }

  /**
   * Publishes until nothing is left. The tenant is open only while a window is read, and while what was acknowledged of it is removed, both in one go: the servers may take long, and others want its place.
   * So each window is looked at again when it has been acknowledged.
   */
  async #drain(id: TenantId): Promise<void> {
    const { stream, streams: streamsOf, mayPublish } = this.#options
    const streams = streamsOf()
    if (!streams) throw new PercolateError('STREAM_UNAVAILABLE', 'The mode of the sync streams is not known yet.')
    let acknowledged: Window | undefined
    while (!this.#stop.signal.aborted && mayPublish(id)) {
      const window = await this.#turn(id, acknowledged)
      acknowledged = undefined
      if (!window || window.entries.length === 0) return
      if (!this.#streams.has(streams.streamOf(id))) {
        await this.#ensureStream(id, streams)
        // What was read may not stand any more.
        continue
      }
      // Who vouches for the copy may have taken that back while it was read.
      if (!mayPublish(id)) return
      const subject = streams.subjectOf(id)
      const outcomes = await Promise.allSettled(
        window.entries.map(([, value]) => stream.publish(subject, value, messageId(value))),
      )
      const failed = outcomes.findIndex(outcome => outcome.status === 'rejected')
      const entries = failed < 0 ? window.entries : window.entries.slice(0, failed)
      if (entries.length > 0) {
        const { incarnation, origin, sequence } = decodeEntry(entries.at(-1)![1])
        stream.announce(subjects.hint, encodeHint({ tenant: id, incarnation, origin, sequence }))
        this.#published += entries.length
        acknowledged = { entries, readFrom: window.readFrom }
      }
      if (failed < 0) continue
      // What can't be removed now is published again, which is harmless.
      if (acknowledged) await this.#turn(id, acknowledged, 0).catch(() => undefined)
      throw (outcomes[failed] as PromiseRejectedResult).reason
    }
    if (acknowledged) await this.#turn(id, acknowledged, 0)
  }

  /** Removes what was acknowledged, and reads what is next, under one lease; undefined when there is no copy any more. */
  #turn(id: TenantId, acknowledged: Window | undefined, entriesMax = WINDOW_ENTRIES): Promise<Window | undefined> {
    return this.#options.pool.use(id, async tenant => {
      if (acknowledged) {
        const { entries, readFrom } = acknowledged
        await tenant.removeFromOutbox(entries, decodeEntry(entries.at(-1)![1]), { areOurs: readFrom === tenant })
      }
      const isWanted = entriesMax > 0 && tenant.outbox.entries > 0
      return { entries: isWanted ? await readWindow(tenant, entriesMax) : [], readFrom: tenant }
    })
  }

  async #ensureStream(id: TenantId, streams: SyncStreams): Promise<void> {
    const spec = streams.specOf(id)
    await this.#options.stream.ensureStream(spec)
    if (this.#streams.size >= KNOWN_STREAMS_MAX) this.#streams.clear()
    this.#streams.add(spec.name)
  }
}

async function readWindow(tenant: Tenant, entriesMax: number): Promise<KvEntry[]> {
  const entries: KvEntry[] = []
  let bytes = 0
  for await (const chunk of tenant.chunks({
    ...prefixRange(prefixes.space(space.outbox)),
    limit: entriesMax,
    verified: true,
  })) {
    for (const entry of chunk) {
      if (entries.length > 0 && bytes + entry[1].length > WINDOW_BYTES) return entries
      entries.push(entry)
      bytes += entry[1].length
    }
  }
  return entries
}

/** Tenant incarnation, origin and sequence: a counter that starts over can't be taken for a repetition. */
function messageId(value: Buffer): string {
  const { incarnation, origin, sequence } = decodeEntry(value)
  return `${incarnation}.${origin}.${sequence}`
}
