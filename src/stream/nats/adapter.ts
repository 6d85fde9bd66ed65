import { setTimeout as sleep } from 'node:timers/promises'
import {
  AckPolicy,
  type ConnectionOptions,
  type Consumer,
  ConsumerEvents,
  type ConsumerMessages,
  connect,
  DiscardPolicy,
  type JetStreamClient,
  type JetStreamManager,
  type KV,
  type NatsConnection,
  nanos,
  RetentionPolicy,
  StorageType,
  type StreamConfig,
} from 'nats'
import { PercolateError } from '../../base/errors.ts'
import type { Logger } from '../../base/logger.ts'
import type {
  BucketOptions,
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
import { pull } from './pull.ts'

export interface NatsOptions {
  /** `nats://user:password@host:port`, several separated by commas. */
  readonly url: string
  readonly name: string
  readonly requestTimeoutMs: number
  readonly logger: Logger
}

interface Session {
  readonly connection: NatsConnection
  readonly jetstream: JetStreamClient
  readonly manager: JetStreamManager
}

const STREAM_NOT_FOUND = 10059
const CONSUMER_NOT_FOUND = 10014
const STREAM_NAME_IN_USE = 10058
const WRONG_LAST_SEQUENCE = 10071
const MESSAGE_NOT_FOUND = 10037
const STORAGE_EXCEEDED = 10047
const STREAM_STORE_FAILED = 10077
/** "replicas > 1 not supported in non-clustered mode", "no suitable peers for placement", "insufficient resources". */
const FEWER_SERVERS = new Set([10074, 10005, 10023])
/** Messages that the client asks for ahead of those that are being worked on. */
const CONSUME_AHEAD = 256
const CONSUME_EXPIRES_MS = 30_000
/** How long opening a consumer may take. */
const OPEN_MS_MAX = 10_000
/** How long the end of reading waits for its consumer to be deleted; the server would do it after five idle minutes. */
const DISPOSE_MS_MAX = 1000

/** Records of a listing that are asked for at once. */
const LIST_TOGETHER = 256

interface Opened {
  readonly consumer: Consumer
  readonly messages: ConsumerMessages
  readonly resets: Resets
}

async function dispose({ consumer, messages, resets }: Opened): Promise<void> {
  const ended = resets.end()
  await messages.close().catch(() => {})
  await ended
  await consumer.delete().catch(() => {})
}

/** The NATS adapter (client 2.x, servers from 2.9.10). Connects in the background, for as long as it takes, and reconnects by itself. */
export class NatsStream implements StreamPort {
  readonly #options: NatsOptions
  readonly #session: Promise<Session>
  readonly #closed = new AbortController()
  #connected: NatsConnection | undefined

  constructor(options: NatsOptions) {
    this.#options = options
    this.#session = this.#connect()
    // Nobody may be waiting yet when it fails; those who come later see the failure.
    this.#session.catch(() => {})
  }

  async ensureStream(spec: StreamSpec): Promise<void> {
    let fewer = false
    await this.#call(async ({ manager }) => {
      try {
        const { config } = await manager.streams.info(spec.name)
        await limitBytes(manager, config, spec.bytesMax)
        return
      } catch (error) {
        if (apiCode(error) !== STREAM_NOT_FOUND) throw error
      }
      try {
        await manager.streams.add({
          name: spec.name,
          subjects: [...spec.subjects],
          retention: spec.retention === 'work-queue' ? RetentionPolicy.Workqueue : RetentionPolicy.Limits,
          discard: spec.discard === 'old' ? DiscardPolicy.Old : DiscardPolicy.New,
          storage: StorageType.File,
          num_replicas: spec.replicas,
          max_age: nanos(spec.maxAgeMs),
          max_msgs: spec.messagesMax ?? -1,
          max_bytes: spec.bytesMax ?? -1,
          ...(spec.duplicateWindowMs === undefined ? {} : { duplicate_window: nanos(spec.duplicateWindowMs) }),
        })
      } catch (error) {
        // Another process was faster.
        if (apiCode(error) === STREAM_NAME_IN_USE) return
        if (isFull(error)) throw noRoom(spec.name, spec.bytesMax, error)
        if (!FEWER_SERVERS.has(apiCode(error) ?? 0) || spec.replicas === 1) throw error
        fewer = true
      }
    })
    if (fewer) await this.ensureStream({ ...spec, replicas: spec.replicas > 3 ? 3 : 1 })
  }

  async streamInfo(name: string): Promise<StreamInfo | undefined> {
    return this.#call(async ({ manager }) => {
      try {
        const { created, config, state } = await manager.streams.info(name)
        return {
          incarnation: String(created),
          firstSequence: state.messages === 0 ? state.last_seq + 1 : state.first_seq,
          lastSequence: state.last_seq,
          messages: state.messages,
          bytes: state.bytes,
          lastAtMs: Math.max(Date.parse(String(state.last_ts)) || 0, Date.parse(String(created))),
          sealed: config.sealed ?? false,
          replicas: config.num_replicas,
        }
      } catch (error) {
        if (apiCode(error) === STREAM_NOT_FOUND) return undefined
        throw error
      }
    })
  }

  async streamNames(prefix: string): Promise<string[]> {
    return this.#call(async ({ manager }) => {
      const names: string[] = []
      for await (const name of manager.streams.names()) if (name.startsWith(prefix)) names.push(name)
      return names
    })
  }

  async sealStream(name: string): Promise<void> {
    await this.#call(async ({ manager }) => {
      const { config } = await manager.streams.info(name)
      // The server refuses a sealed stream that would still drop messages by age.
      if (!config.sealed) await manager.streams.update(name, { sealed: true } as Partial<StreamConfig>)
    })
  }

  async trimStream(name: string, beforeSequence: number): Promise<void> {
    await this.#call(async ({ manager }) => void (await manager.streams.purge(name, { seq: beforeSequence })))
  }

  async storage(): Promise<StreamStorage> {
    return this.#call(async ({ manager }) => {
      const { storage, limits } = await manager.getAccountInfo()
      return { usedBytes: storage, limitBytes: limits.max_storage > 0 ? limits.max_storage : undefined }
    })
  }

  async deleteStream(name: string): Promise<void> {
    await this.#call(async ({ manager }) => {
      try {
        await manager.streams.delete(name)
      } catch (error) {
        if (apiCode(error) !== STREAM_NOT_FOUND) throw error
      }
    })
  }

  async *consume(
    stream: string,
    options: { fromSequence: number; signal: AbortSignal },
  ): AsyncGenerator<StoredMessage> {
    const opened = await this.#open(stream, options)
    const { messages } = opened
    const stop = () => void messages.close()
    options.signal.addEventListener('abort', stop, { once: true })
    void this.#endWhenBroken(messages)
    try {
      if (options.signal.aborted) return
      for await (const message of messages) {
        if (options.signal.aborted) return
        yield { subject: message.subject, data: Buffer.from(message.data), sequence: message.seq }
      }
      if (!options.signal.aborted) throw unavailable('ended a consumer')
    } catch (error) {
      if (error instanceof PercolateError) throw error
      throw new PercolateError('STREAM_UNAVAILABLE', `NATS JetStream ended a consumer: ${reasonOf(error)}.`, {
        cause: error,
      })
    } finally {
      options.signal.removeEventListener('abort', stop)
      await Promise.race([dispose(opened), sleep(DISPOSE_MS_MAX, undefined, { ref: false })])
    }
  }

  /** An ordered consumer, and its messages; gives up when it takes too long or nobody wants it any more. */
  async #open(stream: string, options: { fromSequence: number; signal: AbortSignal }): Promise<Opened> {
    const { fromSequence, signal } = options
    const opening = this.#call(async ({ jetstream }) => {
      const consumer = await jetstream.consumers.get(stream, { opt_start_seq: Math.max(1, fromSequence) })
      // The client would try thirty times, half a minute apart, whether anybody still waits or not; readers try again by themselves, and sooner.
      Object.assign(consumer, { maxInitialReset: 0 })
      const resets = handleResets(consumer)
      const ahead = { max_messages: CONSUME_AHEAD, expires: CONSUME_EXPIRES_MS, abort_on_missing_resource: true }
      return { consumer, messages: await consumer.consume(ahead), resets }
    })
    let giveUp = () => {}
    const givenUp = new Promise<never>((_, reject) => {
      giveUp = () => reject(unavailable('does not open a consumer in time'))
    })
    const timer = setTimeout(giveUp, OPEN_MS_MAX)
    signal.addEventListener('abort', giveUp, { once: true })
    if (signal.aborted) giveUp()
    try {
      return await Promise.race([opening, givenUp])
    } catch (error) {
      // It may come yet.
      void opening.then(dispose, () => {})
      throw error
    } finally {
      clearTimeout(timer)
      signal.removeEventListener('abort', giveUp)
    }
  }

  /**
   * What breaks ends the iteration, for the caller to look anew. So does what the client heals by making its ordered consumer anew: it asks for the sequence that it had come to, and when the stream was made
   * anew meanwhile, that one lies beyond its end.
   */
  async #endWhenBroken(messages: ConsumerMessages): Promise<void> {
    for await (const status of await messages.status()) {
      const broken =
        status.type === ConsumerEvents.StreamNotFound ||
        status.type === ConsumerEvents.ConsumerDeleted ||
        status.type === ConsumerEvents.OrderedConsumerRecreated ||
        (status.type === ConsumerEvents.HeartbeatsMissed && Number(status.data) >= 2)
      if (broken) void messages.close()
    }
  }

  announce(subject: string, data: Buffer): void {
    if (this.#connected && !this.#connected.isClosed()) this.#connected.publish(subject, data)
  }

  listen(subject: string, handle: (data: Buffer) => void): () => void {
    let end = () => {}
    let ended = false
    void this.#session.then(
      ({ connection }) => {
        if (ended) return
        const subscription = connection.subscribe(subject, {
          callback: (error, message) => {
            if (!error) handle(Buffer.from(message.data))
          },
        })
        end = () => subscription.unsubscribe()
      },
      () => {},
    )
    return () => {
      ended = true
      end()
    }
  }

  async ensureConsumer(spec: ConsumerSpec): Promise<void> {
    await this.#call(async ({ manager }) => {
      try {
        await manager.consumers.info(spec.stream, spec.name)
        return
      } catch (error) {
        if (apiCode(error) !== CONSUMER_NOT_FOUND) throw error
      }
      await manager.consumers.add(spec.stream, {
        durable_name: spec.name,
        filter_subject: spec.subject,
        ack_policy: AckPolicy.Explicit,
        ack_wait: nanos(spec.ackWaitMs),
        // Who has had enough deliveries is decided by the worker, which can say why.
        max_deliver: -1,
        max_ack_pending: spec.ackPendingMax,
      })
    })
  }

  async publish(subject: string, data: Buffer, messageId: string): Promise<PublishAck> {
    return this.#call(async ({ jetstream }) => {
      try {
        const options = { msgID: messageId, timeout: this.#options.requestTimeoutMs }
        const ack = await jetstream.publish(subject, data, options)
        return { sequence: ack.seq, duplicate: ack.duplicate }
      } catch (error) {
        if (!isFull(error)) throw error
        throw new PercolateError('STREAM_FULL', `The stream of ${subject} is at its limit: ${reasonOf(error)}.`, {
          cause: error,
        })
      }
    })
  }

  async fetch(
    stream: string,
    consumer: string,
    options: { max: number; waitMs: number; signal?: AbortSignal },
  ): Promise<Delivery[]> {
    const { max, waitMs, signal } = options
    return this.#call(async ({ connection }) => {
      const request = { stream, consumer, silenceMs: this.#options.requestTimeoutMs, signal }
      // A request for several would be answered when all are there: one is waited for, and then those that wait already are taken.
      const first = await pull(connection, { ...request, max: 1, waitMs: Math.max(1000, waitMs) })
      const deliveries = [...first.deliveries]
      if (deliveries.length === 0 && !signal?.aborted) {
        if (first.end === undefined) throw unavailable('did not answer a request for messages')
        if (first.end !== 'complete') throw first.end
      }
      // How this one ends is no matter: whoever comes next asks again.
      if (deliveries.length > 0 && max > 1 && !signal?.aborted)
        deliveries.push(...(await pull(connection, { ...request, max: max - 1, waitMs: 0 })).deliveries)
      if (!signal?.aborted) return deliveries
      for (const delivery of deliveries) delivery.release(0)
      return []
    })
  }

  async bucket(name: string, options: BucketOptions): Promise<KvBucket> {
    const open = (replicas: number) =>
      this.#call(async ({ jetstream, manager }) => {
        try {
          const bucket = await jetstream.views.kv(name, {
            ttl: options.maxAgeMs,
            replicas,
            history: 1,
            storage: StorageType.File,
            max_bytes: options.bytesMax ?? -1,
          })
          if (options.bytesMax !== undefined) {
            const { config } = await manager.streams.info(`KV_${name}`)
            await limitBytes(manager, config, options.bytesMax)
          }
          return bucket
        } catch (error) {
          if (isFull(error)) throw noRoom(`of the bucket ${name}`, options.bytesMax, error)
          if (replicas === 1 || !FEWER_SERVERS.has(apiCode(error) ?? 0)) throw error
          await manager.getAccountInfo()
          return undefined
        }
      })
    let bucket: KV | undefined
    for (const replicas of [options.replicas, 3, 1]) if (replicas <= options.replicas) bucket ??= await open(replicas)
    return new NatsBucket(bucket!, name, operation => this.#call(operation))
  }

  async depth(stream: string): Promise<number> {
    return this.#call(async ({ manager }) => (await manager.streams.info(stream)).state.messages)
  }

  async ping(): Promise<void> {
    if (!this.#connected || this.#connected.isClosed()) throw unavailable('is not connected')
    await this.#call(async ({ manager }) => void (await manager.getAccountInfo()))
  }

  async close(): Promise<void> {
    this.#closed.abort()
    if (!this.#connected) return
    try {
      await Promise.race([this.#connected.drain(), new Promise(resolve => setTimeout(resolve, 2000).unref())])
    } finally {
      await this.#connected.close()
    }
  }

  async #connect(): Promise<Session> {
    const options = connectionOptions(this.#options)
    for (let attempt = 0; ; attempt++) {
      try {
        const connection = await connect(options)
        if (this.#closed.signal.aborted) {
          await connection.close()
          throw unavailable('was closed')
        }
        this.#connected = connection
        void this.#watch(connection)
        const jetstream = connection.jetstream({ timeout: this.#options.requestTimeoutMs })
        // JetStream may still be starting: the check is left to the first call.
        const manager = await connection.jetstreamManager({ timeout: this.#options.requestTimeoutMs, checkAPI: false })
        return { connection, jetstream, manager }
      } catch (error) {
        if (this.#closed.signal.aborted) throw unavailable('was closed')
        if (attempt % 20 === 0) this.#options.logger.warn({ reason: reasonOf(error) }, 'NATS is away; trying on')
        await new Promise(resolve => setTimeout(resolve, Math.min(2000, 100 * 2 ** Math.min(attempt, 5))))
      }
    }
  }

  async #watch(connection: NatsConnection): Promise<void> {
    for await (const status of connection.status()) {
      if (status.type === 'disconnect') this.#options.logger.warn('lost the connection to NATS')
      if (status.type === 'reconnect') this.#options.logger.info('connected to NATS again')
    }
  }

  async #call<T>(operation: (session: Session) => Promise<T>): Promise<T> {
    let timer: NodeJS.Timeout | undefined
    try {
      const waited = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(unavailable('cannot be reached')), this.#options.requestTimeoutMs)
      })
      const session = await Promise.race([this.#session, waited])
      return await operation(session)
    } catch (error) {
      if (error instanceof PercolateError) throw error
      throw new PercolateError('STREAM_UNAVAILABLE', `NATS JetStream does not do what was asked: ${reasonOf(error)}.`, {
        cause: error,
      })
    } finally {
      clearTimeout(timer)
    }
  }
}

class NatsBucket implements KvBucket {
  readonly #kv: KV
  readonly #name: string
  readonly #call: <T>(operation: (session: Session) => Promise<T>) => Promise<T>

  constructor(kv: KV, name: string, call: <T>(operation: (session: Session) => Promise<T>) => Promise<T>) {
    this.#kv = kv
    this.#name = name
    this.#call = call
  }

  /** Asks the stream's leader: the client's own `get` may be answered by a follower that lags. */
  get(key: string): Promise<KvRecord | undefined> {
    return this.#call(async ({ manager }) => {
      try {
        const message = await manager.streams.getMessage(`KV_${this.#name}`, {
          last_by_subj: `$KV.${this.#name}.${key}`,
        })
        const operation = message.header.get('KV-Operation')
        if (operation !== '') return undefined
        return { key, value: Buffer.from(message.data), revision: message.seq, writtenAtMs: message.time.getTime() }
      } catch (error) {
        if (apiCode(error) === MESSAGE_NOT_FOUND) return undefined
        throw error
      }
    })
  }

  state(): Promise<KvState | undefined> {
    return this.#call(async ({ manager }) => {
      try {
        const { created, state } = await manager.streams.info(`KV_${this.#name}`)
        return { incarnation: String(created), revision: state.last_seq }
      } catch (error) {
        if (apiCode(error) === STREAM_NOT_FOUND) return undefined
        throw error
      }
    })
  }

  async *watch(signal: AbortSignal): AsyncGenerator<KvUpdate | undefined> {
    const updates: (KvUpdate | undefined)[] = []
    let wake = () => {}
    const push = (update: KvUpdate | undefined) => {
      updates.push(update)
      wake()
    }
    const iterator = await this.#call(() => this.#kv.watch({ initializedFn: () => push(undefined) }))
    let ended = false
    const stop = () => iterator.stop()
    signal.addEventListener('abort', stop, { once: true })
    const reading = (async () => {
      for await (const entry of iterator)
        push({
          key: entry.key,
          value: entry.operation === 'PUT' ? Buffer.from(entry.value) : undefined,
          revision: entry.revision,
        })
    })()
      .catch(() => {})
      .finally(() => {
        ended = true
        wake()
      })
    try {
      while (!signal.aborted) {
        while (updates.length > 0) yield updates.shift()
        if (ended) throw unavailable('ended a watch')
        await new Promise<void>(resolve => {
          wake = resolve
          if (updates.length > 0 || ended) resolve()
        })
      }
    } finally {
      signal.removeEventListener('abort', stop)
      iterator.stop()
      await reading
    }
  }

  put(key: string, value: Buffer): Promise<number> {
    return this.#call(() => this.#kv.put(key, value))
  }

  update(key: string, value: Buffer, revision: number): Promise<number | undefined> {
    return this.#call(async () => {
      try {
        return revision === 0 ? await this.#kv.create(key, value) : await this.#kv.update(key, value, revision)
      } catch (error) {
        if (apiCode(error) === WRONG_LAST_SEQUENCE) return undefined
        throw error
      }
    })
  }

  delete(key: string): Promise<void> {
    return this.#call(() => this.#kv.purge(key))
  }

  /** The stream says by itself which keys it has: one question, one answer. The client would have them delivered, and wait for as long as the last one is missing. */
  list(filter: string, { max, before, signal }: KvListOptions): Promise<KvRecord[]> {
    return this.#call(async ({ manager }) => {
      const prefix = `$KV.${this.#name}.`
      const { state } = await manager.streams.info(`KV_${this.#name}`, { subjects_filter: `${prefix}${filter}` })
      const keys = Object.keys(state.subjects ?? {})
        .map(subject => subject.slice(prefix.length))
        .filter(key => before === undefined || key < before)
        .sort()
        .reverse()
      const records: KvRecord[] = []
      // Of those that were deleted the mark is left for a while.
      for (let at = 0; at < keys.length && records.length < max; ) {
        signal?.throwIfAborted()
        const some = keys.slice(at, at + Math.min(LIST_TOGETHER, max - records.length))
        at += some.length
        records.push(...(await Promise.all(some.map(key => this.get(key)))).flatMap(record => record ?? []))
      }
      return records
    })
  }
}

interface Resets {
  /** From now on nothing is made anew; resolves when what was being made is at rest, for as long as that takes. */
  end(): Promise<void>
}

/**
 * An ordered consumer makes itself anew by a `reset` that nobody waits for. When its stream is gone that rejects, beside ending the iteration: unhandled, it would end the process. And when what makes it
 * begin ends the iteration too (its consumer went with a server that was restarted), it goes on all the same: the new consumer would be asked for messages for nobody, as long as the process lives. It
 * is not in the client's interface; `stream.nats.test.ts` and `readers.nats.test.ts` tell when that changes.
 */
export function handleResets(consumer: object): Resets {
  const inner = consumer as {
    reset(...args: unknown[]): Promise<void>
    iter: { src?: { stop(): void } } | null
  }
  const reset = inner.reset.bind(consumer)
  let isOver = false
  let last = Promise.resolve()
  inner.reset = (...args) => {
    if (isOver) return Promise.resolve()
    const done = reset(...args)
    const settled = done.catch(() => {})
    last = last.then(() => settled)
    return done
  }
  return {
    end: async () => {
      isOver = true
      await last
      inner.iter?.src?.stop()
    },
  }
}

function connectionOptions(options: NatsOptions): ConnectionOptions {
  const urls = options.url.split(',').map(text => new URL(text.includes('://') ? text.trim() : `nats://${text.trim()}`))
  const { username, password } = urls[0]!
  const credentials =
    username === ''
      ? {}
      : password === ''
        ? { token: decodeURIComponent(username) }
        : { user: decodeURIComponent(username), pass: decodeURIComponent(password) }
  return {
    servers: urls.map(url => url.host),
    name: options.name,
    maxReconnectAttempts: -1,
    reconnectTimeWait: 250,
    timeout: options.requestTimeoutMs,
    ...credentials,
  }
}

/** A stream of an earlier version has no limit: it gets one. A limit that somebody set stays. */
async function limitBytes(
  manager: JetStreamManager,
  config: StreamConfig,
  bytesMax: number | undefined,
): Promise<void> {
  if (bytesMax === undefined || config.max_bytes > 0 || config.sealed) return
  await manager.streams.update(config.name, { max_bytes: bytesMax })
}

/** The stream is at its own limit, or the servers have set all their room aside for other streams. */
const isFull = (error: unknown): boolean => {
  const { err_code: code, description = '' } =
    (error as { api_error?: { err_code?: number; description?: string } }).api_error ?? {}
  if (code === STREAM_STORE_FAILED) return /maximum (bytes|messages)/.test(description)
  return code === STORAGE_EXCEEDED || (FEWER_SERVERS.has(code ?? 0) && /insufficient storage/.test(description))
}

const noRoom = (name: string, bytesMax: number | undefined, cause: unknown) =>
  new PercolateError(
    'STREAM_FULL',
    `NATS JetStream has no room left for the stream ${name}, which takes up to ${bytesMax ?? 'any number of'} bytes. Raise max_file_store, or lower PERCOLATE_SYNC_BYTES_MAX for streams to come.`,
    { cause },
  )

const apiCode = (error: unknown): number | undefined =>
  (error as { api_error?: { err_code?: number } }).api_error?.err_code

/** Client errors carry codes; server errors carry text without addresses. */
const reasonOf = (error: unknown): string => {
  const { code, api_error: api } = error as { code?: string; api_error?: { description?: string } }
  return (
    api?.description ??
    (code === 'TIMEOUT' ? 'no answer in time' : code === '503' ? 'no stream listens' : (code ?? 'unknown error'))
  )
}

const unavailable = (why: string): PercolateError => new PercolateError('STREAM_UNAVAILABLE', `NATS JetStream ${why}.`)
