import { PercolateError } from '../../base/errors.ts'
import type { Time } from '../../base/time.ts'
import type { KvRecord, KvUpdate, PublishAck, StoredMessage, StreamInfo, StreamSpec } from '../port.ts'

const DUPLICATE_WINDOW_MS = 120_000

/** One stream of the simulated servers. */
class LogStream {
  readonly spec: StreamSpec
  readonly incarnation: string
  readonly #time: Time
  messages: (StoredMessage & { readonly atMs: number; readonly id: string })[] = []
  bytes = 0
  lastSequence = 0
  lastAtMs: number
  sealed = false
  readonly #ids = new Map<string, { sequence: number; atMs: number }>()
  readonly watchers = new Set<() => void>()

  constructor(spec: StreamSpec, incarnation: string, time: Time) {
    this.spec = spec
    this.incarnation = incarnation
    this.#time = time
    this.lastAtMs = time.now()
  }

  append(subject: string, data: Buffer, id: string): PublishAck {
    const now = this.#time.now()
    const seen = this.#ids.get(id)
    if (seen && now - seen.atMs < (this.spec.duplicateWindowMs ?? DUPLICATE_WINDOW_MS))
      return { sequence: seen.sequence, duplicate: true }
    if (this.sealed) throw unavailable('refuses a message: the stream is sealed')
    if (this.spec.bytesMax !== undefined && this.bytes + data.length > this.spec.bytesMax) {
      if (this.spec.discard !== 'old') throw full(this.spec.name)
      while (this.messages.length > 0 && this.bytes + data.length > this.spec.bytesMax) this.#drop()
    }
    if (this.spec.messagesMax !== undefined && this.messages.length >= this.spec.messagesMax) {
      if (this.spec.discard !== 'old') throw full(this.spec.name)
      this.#drop()
    }
    this.lastSequence++
    this.lastAtMs = now
    this.#ids.set(id, { sequence: this.lastSequence, atMs: now })
    this.bytes += data.length
    this.messages.push({ subject, data: Buffer.from(data), sequence: this.lastSequence, atMs: now, id })
    this.wake()
    return { sequence: this.lastSequence, duplicate: false }
  }

  expire(): void {
    const { maxAgeMs } = this.spec
    if (maxAgeMs === 0 || this.sealed) return
    const before = this.#time.now() - maxAgeMs
    while (this.messages[0] && this.messages[0].atMs < before) this.#drop()
  }

  #drop(): void {
    this.bytes -= this.messages.shift()?.data.length ?? 0
  }

  trim(beforeSequence: number): void {
    while (this.messages[0] && this.messages[0].sequence < beforeSequence) this.#drop()
  }

  /** What a server without fsync loses when it is killed with its machine: the end, and that it was ever there. */
  loseTail(count: number): Buffer[] {
    const lost = this.messages.splice(Math.max(0, this.messages.length - count), count)
    for (const { id, data } of lost) {
      this.#ids.delete(id)
      this.bytes -= data.length
    }
    this.lastSequence = Math.max(0, this.lastSequence - count)
    return lost.map(({ data }) => data)
  }

  /** What a server does whose window was too short, or lost. */
  forgetIds(): void {
    this.#ids.clear()
  }

  wake(): void {
    for (const watcher of this.watchers) watcher()
  }

  info(): StreamInfo {
    this.expire()
    return {
      incarnation: this.incarnation,
      firstSequence: this.messages[0]?.sequence ?? this.lastSequence + 1,
      lastSequence: this.lastSequence,
      messages: this.messages.length,
      bytes: this.bytes,
      lastAtMs: this.lastAtMs,
      sealed: this.sealed,
      replicas: this.spec.replicas,
    }
  }
}

/** How long the values that a key had before are remembered, for reads that are behind. */
const PAST_MS_MAX = 10_000

class LogBucket {
  readonly records = new Map<string, KvRecord>()
  /** What keys held before, and until when. */
  readonly past = new Map<string, { readonly record: KvRecord | undefined; readonly untilMs: number }[]>()
  /** With the revision after which each is told of changes. */
  readonly watchers = new Map<(update: KvUpdate) => void, number>()
  /** Watchers that hear nothing for now, with what they will hear then. */
  readonly deaf = new Map<(update: KvUpdate) => void, KvUpdate[]>()
  revision = 0
  /** It was lost, and nobody has made it again yet. */
  isGone = false
  incarnation: string

  constructor(incarnation: string) {
    this.incarnation = incarnation
  }
}

const full = (name: string) =>
  new PercolateError('STREAM_FULL', `The simulated stream ${name} is at its limit and refuses a message.`)
const unavailable = (why: string) => new PercolateError('STREAM_UNAVAILABLE', `The simulated JetStream ${why}.`)

/**
 * JetStream as the simulator has it: what the servers know. {@link MemoryStream} is one client's way to it. It passes the same contract suite
 * as the real server (`tests/contract/stream.ts`).
 */
export class MemoryLog {
  readonly #time: Time
  readonly streams = new Map<string, LogStream>()
  readonly #buckets = new Map<string, LogBucket>()
  readonly #listeners = new Set<{ readonly pattern: RegExp; readonly handle: (data: Buffer) => void }>()
  #made = 0

  constructor(time: Time) {
    this.#time = time
  }

  get time(): Time {
    return this.#time
  }

  ensureStream(spec: StreamSpec): void {
    if (!this.streams.has(spec.name)) this.streams.set(spec.name, new LogStream(spec, this.#incarnation(), this.#time))
  }

  #incarnation(): string {
    return `${this.#time.now()}.${++this.#made}`
  }

  stream(name: string): LogStream {
    const stream = this.streams.get(name)
    if (!stream) throw unavailable(`has no stream ${name}`)
    return stream
  }

  /** Which stream takes messages of the subject. */
  streamOf(subject: string): string | undefined {
    for (const { spec } of this.streams.values())
      if (spec.subjects.some(pattern => matches(pattern, subject))) return spec.name
    return undefined
  }

  publish(subject: string, data: Buffer, id: string): PublishAck {
    for (const stream of this.streams.values())
      if (stream.spec.subjects.some(pattern => matches(pattern, subject))) return stream.append(subject, data, id)
    throw unavailable('has no stream that listens')
  }

  deleteStream(name: string): void {
    const stream = this.streams.get(name)
    this.streams.delete(name)
    stream?.wake()
  }

  bucket(name: string): LogBucket {
    let bucket = this.#buckets.get(name)
    if (!bucket) {
      bucket = new LogBucket(this.#incarnation())
      this.#buckets.set(name, bucket)
    }
    return bucket
  }

  /** Opens a bucket as a client does: one that was lost is made anew. */
  openBucket(name: string): LogBucket {
    const bucket = this.bucket(name)
    bucket.isGone = false
    return bucket
  }

  /** The bucket, for a client that has opened it. Throws STREAM_UNAVAILABLE when it was lost since. */
  standingBucket(name: string): LogBucket {
    const bucket = this.bucket(name)
    if (bucket.isGone) throw unavailable(`has no bucket ${name}`)
    return bucket
  }

  /**
   * The watches that are open now hear nothing, while get and put work, until the function that this returns is called; then they hear what they have missed. Real ones do so for ten seconds
   * after all servers were away. Watches that are opened later hear at once.
   */
  deafen(name: string): () => void {
    const bucket = this.bucket(name)
    const deafened = [...bucket.watchers.keys()].filter(watcher => !bucket.deaf.has(watcher))
    for (const watcher of deafened) bucket.deaf.set(watcher, [])
    return () => {
      for (const watcher of deafened) {
        const held = bucket.deaf.get(watcher) ?? []
        bucket.deaf.delete(watcher)
        if (bucket.watchers.has(watcher)) for (const update of held) watcher(update)
      }
    }
  }

  /**
   * Loses a bucket, as an operator's mistake would, or the loss of all servers' stores: it is gone until a client opens it again, and is another one then, with revisions from 1. Watches that are open go on from where
   * they had come to, as those of the real client do.
   */
  dropBucket(name: string): void {
    const bucket = this.bucket(name)
    this.#begin(bucket, 0)
    bucket.incarnation = this.#incarnation()
    bucket.isGone = true
  }

  /** Puts a bucket back to an earlier state, as a restored backup would: its revisions go back too. */
  restoreBucket(name: string, records: readonly KvRecord[]): void {
    const bucket = this.openBucket(name)
    this.#begin(bucket, Math.max(0, ...records.map(({ revision }) => revision)))
    for (const record of records) bucket.records.set(record.key, record)
  }

  #begin(bucket: LogBucket, revision: number): void {
    for (const [watcher, after] of bucket.watchers) bucket.watchers.set(watcher, Math.max(after, bucket.revision))
    bucket.records.clear()
    bucket.past.clear()
    bucket.revision = revision
  }

  /** A key's record, or the one that it had `lagMs` ago. */
  read(name: string, key: string, lagMs = 0): KvRecord | undefined {
    const bucket = this.bucket(name)
    const atMs = this.#time.monotonic() - lagMs
    const before = lagMs > 0 ? bucket.past.get(key)?.find(({ untilMs }) => untilMs > atMs) : undefined
    return before ? before.record : bucket.records.get(key)
  }

  write(name: string, key: string, value: Buffer | undefined): number {
    const bucket = this.bucket(name)
    const revision = ++bucket.revision
    const untilMs = this.#time.monotonic()
    const past = bucket.past.get(key)?.filter(before => untilMs - before.untilMs < PAST_MS_MAX) ?? []
    bucket.past.set(key, [...past, { record: bucket.records.get(key), untilMs }])
    if (value === undefined) bucket.records.delete(key)
    else bucket.records.set(key, { key, value: Buffer.from(value), revision, writtenAtMs: this.#time.now() })
    for (const [watcher, after] of bucket.watchers) {
      if (revision <= after) continue
      const update = { key, value: value && Buffer.from(value), revision }
      const held = bucket.deaf.get(watcher)
      if (held) held.push(update)
      else watcher(update)
    }
    return revision
  }

  announce(subject: string, data: Buffer): void {
    for (const { pattern, handle } of this.#listeners) if (pattern.test(subject)) handle(Buffer.from(data))
  }

  listen(subject: string, handle: (data: Buffer) => void): () => void {
    const listener = { pattern: patternOf(subject), handle }
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }
}

const patterns = new Map<string, RegExp>()
const PATTERNS_MAX = 10_000

function patternOf(filter: string): RegExp {
  let pattern = patterns.get(filter)
  if (!pattern) {
    const tokens = filter.split('.')
    const parts = tokens.map(token =>
      token === '*' ? '[^.]+' : token === '>' ? '.+' : token.replace(/[^\w-]/g, '\\$&'),
    )
    pattern = new RegExp(`^${parts.join('\\.')}$`)
    if (patterns.size < PATTERNS_MAX) patterns.set(filter, pattern)
  }
  return pattern
}

export const matches = (filter: string, subject: string): boolean => patternOf(filter).test(subject)
