import { PercolateError } from '../../base/errors.ts'
import type { Time } from '../../base/time.ts'
import type {
  ConsumerSpec,
  Delivery,
  KvBucket,
  KvListOptions,
  KvRecord,
  KvState,
  KvUpdate,
  PublishAck,
  StoredMessage,
  StreamInfo,
  StreamPort,
  StreamSpec,
  StreamStorage,
} from '../port.ts'
import { type MemoryLog, matches } from './log.ts'

/** What the network does to one exchange with the servers. Throws to lose a request before it is done, or its answer after. */
export interface MemoryLink {
  /** The client's own clock, for what it waits for itself: it may be paused. Default: the servers'. */
  readonly time?: Time
  /** `name`: the stream or bucket that is asked, where it is one. */
  request(what: string, name?: string): Promise<void>
  answer(what: string, name?: string): Promise<void>
  /** Milliseconds until a pushed message arrives; undefined: not at all. */
  push(what: string, name?: string): number | undefined
  /**
   * Milliseconds for which a watch that was opened then hears nothing from now on while its client takes it for alive, as after all servers were away; 0: it hears. Asked before each delivery.
   * What was written meanwhile arrives afterwards, of each key the last value only, since the bucket keeps no other.
   */
  deafMs?(openedAtMs: number): number
  /** What a watch delivers in place of what waits for it: in another order, or some of it twice. The updates of one key stay in order. */
  arrange?(updates: readonly KvUpdate[]): KvUpdate[]
  /** Milliseconds by which a read of a key is behind, as from a follower, or a leader that is none any more. What is compared and set is never behind. */
  lagMs?(): number
  /** Milliseconds after which the servers store a message whose publisher has been told that they did not; undefined: they store it at once. */
  lateMs?(subject: string): number | undefined
}

const CLEAR: MemoryLink = { request: async () => {}, answer: async () => {}, push: () => 0 }
const POLL_MS = 1000
/** Shared: an error made anew for each look would be most of its price. */
const WOKEN = new Error('woken')

/** The memory adapter of the stream port: for the simulator, and for nothing that has to last. Work queues are not simulated. */
export class MemoryStream implements StreamPort {
  readonly #log: MemoryLog
  readonly #link: MemoryLink

  constructor(log: MemoryLog, link: MemoryLink = CLEAR) {
    this.#log = log
    this.#link = link
  }

  get #time(): Time {
    return this.#link.time ?? this.#log.time
  }

  ensureStream(spec: StreamSpec): Promise<void> {
    return this.#call('ensureStream', spec.name, () => this.#log.ensureStream(spec))
  }

  ensureConsumer(_spec: ConsumerSpec): Promise<void> {
    return Promise.reject(new PercolateError('STREAM_UNAVAILABLE', 'The simulated JetStream has no work queues.'))
  }

  fetch(): Promise<Delivery[]> {
    return Promise.reject(new PercolateError('STREAM_UNAVAILABLE', 'The simulated JetStream has no work queues.'))
  }

  publish(subject: string, data: Buffer, messageId: string): Promise<PublishAck> {
    return this.#call('publish', this.#log.streamOf(subject), () => {
      const lateMs = this.#link.lateMs?.(subject)
      if (lateMs === undefined) return this.#log.publish(subject, data, messageId)
      void this.#log.time.sleep(lateMs, { ref: false }).then(() => {
        try {
          this.#log.publish(subject, data, messageId)
        } catch {
          // The stream is gone, or sealed, by now.
        }
      })
      throw new PercolateError('STREAM_UNAVAILABLE', 'The simulated servers did not answer in time.')
    })
  }

  streamInfo(name: string): Promise<StreamInfo | undefined> {
    return this.#call('streamInfo', name, () => this.#log.streams.get(name)?.info())
  }

  streamNames(prefix: string): Promise<string[]> {
    return this.#call('streamNames', undefined, () =>
      [...this.#log.streams.keys()].filter(name => name.startsWith(prefix)).sort(),
    )
  }

  sealStream(name: string): Promise<void> {
    return this.#call('sealStream', name, () => {
      this.#log.stream(name).sealed = true
    })
  }

  trimStream(name: string, beforeSequence: number): Promise<void> {
    return this.#call('trimStream', name, () => this.#log.stream(name).trim(beforeSequence))
  }

  async storage(): Promise<StreamStorage> {
    const usedBytes = [...this.#log.streams.values()].reduce((sum, { bytes }) => sum + bytes, 0)
    return { usedBytes, limitBytes: undefined }
  }

  deleteStream(name: string): Promise<void> {
    return this.#call('deleteStream', name, () =>
      name.startsWith('KV_') ? this.#log.dropBucket(name.slice('KV_'.length)) : this.#log.deleteStream(name),
    )
  }

  async *consume(name: string, options: { fromSequence: number; signal: AbortSignal }): AsyncGenerator<StoredMessage> {
    const stream = await this.#call('consume', name, () => this.#log.stream(name))
    const time = this.#time
    let next = options.fromSequence
    while (!options.signal.aborted) {
      if (this.#log.streams.get(name) !== stream)
        throw new PercolateError('STREAM_UNAVAILABLE', 'The simulated stream is gone.')
      stream.expire()
      const message = stream.messages.find(({ sequence }) => sequence >= next)
      if (!message) {
        const woken = new AbortController()
        const wake = () => woken.abort(WOKEN)
        stream.watchers.add(wake)
        options.signal.addEventListener('abort', wake, { once: true })
        await time.sleep(POLL_MS, { signal: woken.signal, ref: false }).catch(() => {})
        options.signal.removeEventListener('abort', wake)
        stream.watchers.delete(wake)
        continue
      }
      const delayMs = this.#link.push('message', name)
      if (delayMs === undefined) {
        await this.#link.request('consume', name)
        await time.sleep(POLL_MS, { signal: options.signal, ref: false }).catch(() => {})
        continue
      }
      if (delayMs > 0) await time.sleep(delayMs, { signal: options.signal, ref: false }).catch(() => {})
      if (options.signal.aborted) return
      next = message.sequence + 1
      yield { subject: message.subject, data: Buffer.from(message.data), sequence: message.sequence }
    }
  }

  announce(subject: string, data: Buffer): void {
    void later(this.#log.time, this.#link.push('announce'), () => this.#log.announce(subject, data))
  }

  listen(subject: string, handle: (data: Buffer) => void): () => void {
    return this.#log.listen(subject, data => void later(this.#time, this.#link.push('announce'), () => handle(data)))
  }

  async bucket(name: string): Promise<KvBucket> {
    await this.#call('bucket', name, () => this.#log.openBucket(name))
    return new MemoryBucket(this.#log, name, this.#link, (what, operation) => this.#call(what, name, operation))
  }

  depth(stream: string): Promise<number> {
    return this.#call('depth', stream, () => this.#log.stream(stream).messages.length)
  }

  ping(): Promise<void> {
    return this.#call('ping', undefined, () => {})
  }

  async close(): Promise<void> {}

  async #call<T>(what: string, name: string | undefined, operation: () => T): Promise<T> {
    await this.#link.request(what, name)
    const result = operation()
    await this.#link.answer(what, name)
    return result
  }
}

async function later(time: Time, delayMs: number | undefined, act: () => void): Promise<void> {
  if (delayMs === undefined) return
  if (delayMs > 0) await time.sleep(delayMs, { ref: false })
  act()
}

class MemoryBucket implements KvBucket {
  readonly #log: MemoryLog
  readonly #name: string
  readonly #link: MemoryLink
  readonly #call: <T>(what: string, operation: () => T) => Promise<T>

  constructor(
    log: MemoryLog,
    name: string,
    link: MemoryLink,
    call: <T>(what: string, operation: () => T) => Promise<T>,
  ) {
    this.#log = log
    this.#name = name
    this.#link = link
    this.#call = call
  }

  get(key: string): Promise<KvRecord | undefined> {
    return this.#call('kv.get', () => {
      this.#log.standingBucket(this.#name)
      return this.#log.read(this.#name, key, this.#link.lagMs?.() ?? 0)
    })
  }

  put(key: string, value: Buffer): Promise<number> {
    return this.#call('kv.put', () => this.#write(key, value))
  }

  update(key: string, value: Buffer, revision: number): Promise<number | undefined> {
    return this.#call('kv.update', () => {
      const current = this.#log.standingBucket(this.#name).records.get(key)?.revision ?? 0
      return current === revision ? this.#write(key, value) : undefined
    })
  }

  delete(key: string): Promise<void> {
    return this.#call('kv.delete', () => void this.#write(key, undefined))
  }

  #write(key: string, value: Buffer | undefined): number {
    this.#log.standingBucket(this.#name)
    return this.#log.write(this.#name, key, value)
  }

  state(): Promise<KvState | undefined> {
    return this.#call('kv.state', () => {
      const { isGone, incarnation, revision } = this.#log.bucket(this.#name)
      return isGone ? undefined : { incarnation, revision }
    })
  }

  list(filter: string, { max, before, signal }: KvListOptions): Promise<KvRecord[]> {
    signal?.throwIfAborted()
    return this.#call('kv.list', () =>
      [...this.#log.standingBucket(this.#name).records.values()]
        .filter(({ key }) => matches(filter, key) && (before === undefined || key < before))
        .sort((a, b) => (a.key < b.key ? 1 : -1))
        .slice(0, max),
    )
  }

  async *watch(signal: AbortSignal): AsyncGenerator<KvUpdate | undefined> {
    const time = this.#link.time ?? this.#log.time
    const openedAtMs = time.monotonic()
    let queue: (KvUpdate | undefined)[] = []
    let wake = () => {}
    const push = (update: KvUpdate) => {
      queue.push(update)
      wake()
    }
    const bucket = await this.#call('kv.watch', () => {
      const found = this.#log.standingBucket(this.#name)
      const records = [...found.records.values()].sort((a, b) => a.revision - b.revision)
      queue.push(...records.map(({ key, value, revision }) => ({ key, value, revision })), undefined)
      found.watchers.set(push, found.revision)
      return found
    })
    try {
      while (!signal.aborted) {
        while (queue.length > 0) {
          const deafMs = this.#link.deafMs?.(openedAtMs) ?? 0
          if (deafMs > 0) {
            await time.sleep(deafMs, { signal, ref: false }).catch(() => {})
            queue = lastOfEach(queue)
            if (signal.aborted) return
            continue
          }
          if (this.#link.arrange) {
            const isInitial = queue.includes(undefined)
            if (!isInitial) queue = this.#link.arrange(queue as KvUpdate[])
          }
          const delayMs = this.#link.push('watch', this.#name)
          if (delayMs === undefined) throw new PercolateError('STREAM_UNAVAILABLE', 'The simulated watch was cut.')
          if (delayMs > 0) await time.sleep(delayMs, { signal, ref: false }).catch(() => {})
          if (signal.aborted) return
          yield queue.shift()
        }
        const woken = new AbortController()
        wake = () => woken.abort(WOKEN)
        signal.addEventListener('abort', wake, { once: true })
        await time.sleep(POLL_MS, { signal: woken.signal, ref: false }).catch(() => {})
        signal.removeEventListener('abort', wake)
        wake = () => {}
      }
    } finally {
      bucket.watchers.delete(push)
    }
  }
}

/** What a bucket still has of updates that were not delivered while they came. Those of the state at the start stay as they are. */
function lastOfEach(queue: readonly (KvUpdate | undefined)[]): (KvUpdate | undefined)[] {
  const start = queue.indexOf(undefined) + 1
  const last = new Map<string, KvUpdate>()
  for (const update of queue.slice(start)) {
    last.delete(update!.key)
    last.set(update!.key, update!)
  }
  return [...queue.slice(0, start), ...last.values()]
}
