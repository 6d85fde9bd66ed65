import { setMaxListeners } from 'node:events'
import type { TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import type { Time } from '../base/time.ts'
import type { StoredMessage, StreamInfo, StreamPort } from '../stream/port.ts'
import { subjects } from '../stream/subjects.ts'
import type { TenantPool } from '../tenant/pool.ts'
import type { StreamCursor } from '../tenant/state.ts'
import type { Tenant } from '../tenant/tenant.ts'
import type { Applier } from './applier.ts'
import { addStreams, noteLost } from './lived.ts'
import { decodeHint } from './publisher.ts'
import type { SyncStreams } from './streams.ts'

export interface FollowerOptions {
  readonly stream: StreamPort
  readonly pool: TenantPool
  readonly time: Time
  readonly logger: Logger
  readonly applier: Applier
  readonly streams: () => SyncStreams | undefined
  /** Whether this node has a copy that takes entries. */
  readonly takesEntries: (tenant: TenantId) => boolean
  /** Whether this node has a copy, of whatever kind. */
  readonly holds: (tenant: TenantId) => boolean
  /** Entries are missing that the stream does not have: the copy has to be brought up to date from another. */
  readonly onHole: (tenant: TenantId) => void
  /** A consumer without messages for this long is given up until a hint comes. */
  readonly idleMs: number
  /** How long what a hint tells of may take to arrive before the stream is read anew. */
  readonly hintGraceMs: number
  /** Positions in pool streams, kept by the node. */
  readonly cursors: {
    load(stream: string): Promise<StreamCursor | undefined>
    save(stream: string, cursor: StreamCursor): Promise<void>
  }
}

/** Messages that are being applied at once, a stream. */
const IN_FLIGHT_MAX = 256
/** Messages after which the position is written down. */
const CURSOR_EVERY = 1000
const RETRY_MS_MAX = 5000
/** Streams whose position is remembered after they are no longer read. */
const POSITIONS_MAX = 10_000
/** Hints whose arrival is watched at once; of more, the stream's reader and the comparison of copies bring what they tell of. */
export const WATCHED_MAX = 10_000
/** How long a catch-up waits for the end of the stream that it saw. */
const CATCH_UP_MS_MAX = 30_000

const DONE = Promise.resolve(true)

/** Something that a reader may have missed. */
export interface Loss {
  /** A later one has a higher number; from 1 on. */
  readonly number: number
  /** The stream that had it; empty: it is not known which, or one of many tenants. */
  readonly stream: string
}

type StreamRange = Pick<StreamInfo, 'incarnation' | 'firstSequence' | 'lastSequence'>
const EMPTY_STREAM: StreamRange = { incarnation: '', firstSequence: 1, lastSequence: 0 }

interface Reading {
  readonly stop: AbortController
  readonly done: Promise<void>
  /** What has been read and applied of the stream that is being read. */
  position: StreamCursor | undefined
  lastAtMs: number
}

/**
 * Reads sync streams into the copies of this node with ordered consumers, which cost the servers little and need no acknowledgements: the version vector is what
 * counts. Per tenant a consumer lives while its tenant is active; publishers' hints bring it back. Pooled streams are read by one consumer each.
 */
export class Follower {
  readonly #options: FollowerOptions
  readonly #readings = new Map<string, Reading>()
  /** The last position in each stream, also of those that are not being read now. */
  readonly #positions = new Map<string, StreamCursor>()
  /**
   * Of copies here that the reader went past an entry of, the first message to be read again: there was no room for it, or the copy took nothing in just then, or could not. One reader serves many
   * tenants in a pool stream, and goes on for the others. As many as there are copies, at most.
   */
  readonly #passed = new Map<TenantId, StreamCursor>()
  /** The same for those that wait in memory too, until their copy has no hole: what is written down of the position in a pool stream stays before them. */
  readonly #unsettled = new Map<TenantId, StreamCursor>()
  /** Passes over what was passed over, under way now; one for each copy, at most. */
  readonly #passes = new Map<TenantId, Promise<boolean>>()
  /** Streams whose reader began behind entries that it had never read, and that are gone from there, or found another stream than it had read. As many as are read, at most. */
  readonly #jumped = new Map<string, Loss>()
  /** Losses that were noted, of all streams. */
  #losses = 0
  readonly #stop = new AbortController()
  #endListening = () => {}
  /** `tenant origin` of hints whose arrival is watched. */
  readonly #watched = new Set<string>()

  constructor(options: FollowerOptions) {
    this.#options = options
    // Every stream that is read waits with it.
    setMaxListeners(0, this.#stop.signal)
  }

  start(): void {
    this.#endListening = this.#options.stream.listen(subjects.hint, data => this.#onHint(data))
  }

  /** Hints whose arrival is watched; at most {@link WATCHED_MAX}. */
  get watched(): number {
    return this.#watched.size
  }

  /** Consumers that are open. */
  get consumers(): number {
    return this.#readings.size
  }

  async stop(): Promise<void> {
    this.#endListening()
    this.#stop.abort()
    for (const { stop } of this.#readings.values()) stop.abort()
    await Promise.allSettled([...this.#readings.values()].map(({ done }) => done))
  }

  /** Starts to read what the tenant's stream has and gets. */
  follow(tenant: TenantId): void {
    const streams = this.#options.streams()
    if (!streams || this.#stop.signal.aborted || !this.#options.holds(tenant)) return
    this.#read(streams, tenant)
  }

  /** Ends reading for a tenant whose copy goes. A pool stream is read on. */
  async unfollow(tenant: TenantId): Promise<void> {
    const streams = this.#options.streams()
    if (!streams || streams.pools !== undefined) return
    const reading = this.#readings.get(streams.streamOf(tenant))
    reading?.stop.abort()
    await reading?.done
  }

  /** As {@link readToEnd}; true only when nothing is missing before that end. */
  async catchUp(tenant: TenantId, timeoutMs = CATCH_UP_MS_MAX): Promise<boolean> {
    return (await this.readToEnd(tenant, timeoutMs)) && !this.#options.applier.hasHole(tenant)
  }

  /**
   * Reads to what the stream itself says is its end now. True when all up to there has been read, and applied unless something before it is missing; false is no answer: it did not get there in time. A stream
   * that the servers say does not exist has no end. A node without a copy reads nothing. Throws STREAM_UNAVAILABLE when the stream can't be asked.
   */
  async readToEnd(tenant: TenantId, timeoutMs = CATCH_UP_MS_MAX): Promise<boolean> {
    const { stream, time, holds } = this.#options
    const streams = this.#options.streams()
    if (!streams) return false
    const name = streams.streamOf(tenant)
    const until = time.monotonic() + timeoutMs
    const { signal } = this.#stop
    const isInTime = () => !signal.aborted && time.monotonic() < until
    while (isInTime()) {
      const info = await stream.streamInfo(name)
      if (!holds(tenant)) return false
      if (!info || info.lastSequence === 0) return this.#readAgain(streams, tenant, EMPTY_STREAM, until)
      const reading = this.#read(streams, tenant)
      // Another stream of that name, or another reader of it, may have begun: then its end is asked for anew.
      while (this.#readings.get(name) === reading && isInTime()) {
        const { position } = reading
        // It reads a stream that is gone, and may hear of that late or never; or where there is nothing any more, and waits for as long as nothing new comes.
        if (position && (position.stream !== info.incarnation || isBehind(position, info))) {
          await this.#stopReading(reading)
          break
        }
        if (position && position.sequence === info.lastSequence) return this.#readAgain(streams, tenant, info, until)
        if (position && position.sequence > info.lastSequence) {
          const now = await stream.streamInfo(name)
          if (now?.incarnation === info.incarnation && now.lastSequence >= position.sequence)
            return this.#readAgain(streams, tenant, now, until)
          // It lost its end, or is another by now, and is read anew.
          await this.#stopReading(reading)
          break
        }
        await time.sleep(2, { signal, ref: false }).catch(() => {})
      }
      if (isInTime()) await time.sleep(2, { signal, ref: false }).catch(() => {})
    }
    return false
  }

  async #stopReading(reading: Reading): Promise<void> {
    reading.stop.abort()
    await reading.done
  }

  /** Whether the tenant's stream, if there is one, has everything from its own first entry on. Says nothing of one that was there before it and was lost. */
  async isUncut(tenant: TenantId): Promise<boolean> {
    const streams = this.#options.streams()
    if (!streams) return false
    const info = await this.#options.stream.streamInfo(streams.streamOf(tenant))
    return info === undefined || info.firstSequence === 1
  }

  /**
   * Whether the tenant's stream may have had entries that it has no more, and that were never read into the copy here, as far as its position says. Asked before the stream is read: who reads what it has
   * left gets to its end all the same. `hasReaped`: the copy has what was noted of a stream before it was deleted. Throws STREAM_UNAVAILABLE when the stream can't be asked.
   */
  async mayHaveMissed(tenant: TenantId, hasReaped: boolean): Promise<boolean> {
    const streams = this.#options.streams()
    if (!streams) return true
    const name = streams.streamOf(tenant)
    // Who reads it already has moved its position.
    if (this.#jumped.has(name)) return true
    const info = await this.#options.stream.streamInfo(name)
    if (!info) return !hasReaped
    const kept = await this.#loadCursor(name, streams.pools === undefined ? tenant : undefined)
    // One that has never noted what it reads can't tell this stream from an earlier one.
    return isBehind(kept, info) || (kept?.stream !== info.incarnation && !hasReaped)
  }

  /** The stream of the tenant that was read last, as far as it is known here; empty: it is not, or it is one of many tenants. */
  async lastRead(tenant: TenantId): Promise<string> {
    const streams = this.#options.streams()
    if (!streams || streams.pools !== undefined) return ''
    const position =
      this.#positions.get(streams.streamOf(tenant)) ?? (await this.#loadCursor(streams.streamOf(tenant), tenant))
    return position?.stream ?? ''
  }

  /**
   * Whether the tenant's stream may be less than what was published of it, so that a copy that has read it to its end may lack something: this reader found another one than it had read, or entries gone that it
   * had not, or the servers say that there is none. Throws STREAM_UNAVAILABLE when they can't be asked.
   */
  async mayBeCut(tenant: TenantId, hasReaped: boolean): Promise<boolean> {
    const streams = this.#options.streams()
    if (!streams) return true
    const name = streams.streamOf(tenant)
    if (this.#jumped.has(name)) return true
    return !hasReaped && (await this.#options.stream.streamInfo(name)) === undefined
  }

  /** What the reader of the tenant's stream noted that it may have missed, and nobody made up for. */
  lossOf(tenant: TenantId): Loss | undefined {
    const streams = this.#options.streams()
    return streams && this.#jumped.get(streams.streamOf(tenant))
  }

  /** Whether a tenant's loss can be settled: each has a stream of its own. */
  get canSettle(): boolean {
    return this.#options.streams()?.pools === undefined
  }

  /** The tenant's copy was made from one that may have missed something, and may lack the same. */
  inheritLoss(tenant: TenantId, stream: string): void {
    const streams = this.#options.streams()
    if (streams && streams.pools === undefined) this.#noteLoss(streams.streamOf(tenant), stream)
  }

  /**
   * What the copy may have missed of its stream was had from elsewhere, up to the loss of that number ({@link lossOf}), which was asked for before the others were: one that was noted since stays
   * open. What a pool stream has nothing left of may be missing from other copies still.
   */
  hadMissed(tenant: TenantId, loss: number): void {
    const streams = this.#options.streams()
    if (!streams || streams.pools !== undefined || (this.lossOf(tenant)?.number ?? 0) > loss) return
    this.#jumped.delete(streams.streamOf(tenant))
  }

  /** Whether all up to `sequence` of that stream has been applied, as far as this reader knows. */
  hasRead(tenant: TenantId, stream: string, sequence: number): boolean {
    const streams = this.#options.streams()
    const position = streams && this.#positions.get(streams.streamOf(tenant))
    return position?.stream === stream && position.sequence >= sequence && !this.#options.applier.hasHole(tenant)
  }

  #read(streams: SyncStreams, tenant: TenantId): Reading {
    const name = streams.streamOf(tenant)
    const known = this.#readings.get(name)
    if (known) {
      known.lastAtMs = this.#options.time.monotonic()
      return known
    }
    const stop = new AbortController()
    const reading: Reading = {
      stop,
      position: undefined,
      lastAtMs: this.#options.time.monotonic(),
      done: Promise.resolve()
        .then(() => this.#run(streams, name, streams.pools === undefined ? tenant : undefined, reading))
        .catch(error => this.#options.logger.warn({ stream: name, err: String(error) }, 'reading a sync stream failed'))
        .finally(() => {
          if (this.#readings.get(name) === reading) this.#readings.delete(name)
        }),
    }
    this.#readings.set(name, reading)
    return reading
  }

  /** Reads until it is stopped, or the stream is gone, or nothing has come for long; what breaks is begun again from the last position. */
  async #run(streams: SyncStreams, name: string, tenant: TenantId | undefined, reading: Reading): Promise<void> {
    const { stream, time, idleMs } = this.#options
    const { signal } = reading.stop
    const idle = this.#stopWhenIdle(reading, tenant === undefined ? Number.POSITIVE_INFINITY : idleMs)
    for (let attempt = 0; !signal.aborted; ) {
      try {
        const info = await stream.streamInfo(name)
        if (!info) break
        const kept = reading.position ?? (await this.#loadCursor(name, tenant))
        // Another stream of that name, or one that lost its end: what it has is read from the start.
        const isSame = kept?.stream === info.incarnation && kept.sequence <= info.lastSequence
        // What it has no more is not waited for: a stream that has nothing left has no message to wake this reader with either.
        const after = Math.max(isSame ? kept.sequence : 0, info.firstSequence - 1)
        // Of the one that it had read nobody can say any more how it went on.
        if (isBehind(kept, info) || (kept !== undefined && kept.stream !== info.incarnation))
          this.#jump(name, tenant, kept?.stream ?? info.incarnation)
        reading.position = { stream: info.incarnation, sequence: after }
        this.#note(name, reading)
        // Which stream it is has to be known after a crash: another one may be there by then, and begin as this one does.
        if (kept?.stream !== info.incarnation) await this.#saveCursor(name, tenant, reading, true)
        if (tenant !== undefined) await this.#noteStream(name, tenant, reading, info.incarnation)
        await this.#consume(streams, name, tenant, reading, info.incarnation)
        attempt = 0
      } catch {
        if (signal.aborted) break
        await time.sleep(Math.min(RETRY_MS_MAX, 50 * 2 ** attempt++), { signal, ref: false }).catch(() => {})
      }
    }
    reading.stop.abort()
    await idle
    await this.#saveCursor(name, tenant, reading).catch(() => {})
  }

  /** `stream`: the one that it had read. */
  #jump(name: string, tenant: TenantId | undefined, stream: string): void {
    this.#noteLoss(name, tenant === undefined ? '' : stream)
    // A copy that answers asks the other holders; others are looked at before they answer.
    if (tenant !== undefined) this.#options.onHole(tenant)
  }

  /** The stream of the first of several losses stays: who has lived through that one has lived through the others. */
  #noteLoss(name: string, stream: string): void {
    this.#jumped.set(name, { number: ++this.#losses, stream: this.#jumped.get(name)?.stream ?? stream })
  }

  async #noteStream(name: string, tenant: TenantId, reading: Reading, stream: string): Promise<void> {
    await this.#options.pool.use(tenant, async open => {
      if (this.#isKept(name, reading)) await addStreams(open, stream)
    })
  }

  /** Whether what it has read is in the copy that is here, or waits: one that was forgotten read for a copy that is gone. */
  #isKept(name: string, reading: Reading): boolean {
    return this.#readings.get(name) === reading
  }

  #note(name: string, reading: Reading): void {
    if (!reading.position || !this.#isKept(name, reading)) return
    this.#positions.delete(name)
    this.#positions.set(name, reading.position)
    if (this.#positions.size > POSITIONS_MAX) this.#positions.delete(this.#positions.keys().next().value!)
  }

  async #stopWhenIdle(reading: Reading, idleMs: number): Promise<void> {
    const { time } = this.#options
    const { signal } = reading.stop
    if (!Number.isFinite(idleMs)) return
    while (!signal.aborted) {
      const leftMs = reading.lastAtMs + idleMs - time.monotonic()
      if (leftMs <= 0) return reading.stop.abort()
      await time.sleep(leftMs, { signal, ref: false }).catch(() => {})
    }
  }

  async #consume(
    streams: SyncStreams,
    name: string,
    tenant: TenantId | undefined,
    reading: Reading,
    incarnation: string,
  ): Promise<void> {
    const { stream, time } = this.#options
    const { signal } = reading.stop
    const inFlight = new Map<number, Promise<boolean>>()
    const broken = new AbortController()
    let sinceSaved = 0
    let delivered = 0
    let expected = reading.position!.sequence + 1
    /** All up to `sequence` are done with when the smallest in flight is above it. */
    const settled = async (sequence: number, work: Promise<boolean>) => {
      const ok = await work
      // What failed stays in flight, so that the position does not pass it.
      if (!ok) throw new Error('an entry could not be kept')
      inFlight.delete(sequence)
      const lowest = Math.min(...inFlight.keys(), Number.POSITIVE_INFINITY)
      const position = Number.isFinite(lowest) ? lowest - 1 : delivered
      if (position > reading.position!.sequence) {
        reading.position = { stream: incarnation, sequence: position }
        this.#note(name, reading)
      }
    }
    let failure: unknown
    const ends = AbortSignal.any([signal, broken.signal])
    const messages = stream.consume(name, { fromSequence: expected, signal: ends })
    for await (const message of messages) {
      reading.lastAtMs = time.monotonic()
      if (failure) throw failure
      // What was in between is gone, and was never read.
      if (message.sequence > expected) this.#jump(name, tenant, incarnation)
      expected = message.sequence + 1
      const id = tenant ?? (streams.tenantOf(message.subject) as TenantId | undefined)
      const work = id && this.#options.holds(id) ? this.#take(id, message, incarnation, tenant) : DONE
      inFlight.set(message.sequence, work)
      delivered = message.sequence
      const done = settled(message.sequence, work).catch(error => {
        failure = error
        // Whether anything comes after it or not.
        broken.abort()
      })
      if (inFlight.size >= IN_FLIGHT_MAX) await done
      if (++sinceSaved >= CURSOR_EVERY) {
        sinceSaved = 0
        await this.#saveCursor(name, tenant, reading)
      }
    }
    await Promise.allSettled(inFlight.values())
    if (failure) throw failure
  }

  /**
   * What became of an entry: it is in the copy or waits there; or it was passed over, for lack of room behind a gap, or because the copy took nothing in just then (*unread*). The reader of a pool
   * stream goes on for the other tenants, and comes back to this one ({@link #readAgain}); so does any reader whose copy has no room.
   */
  async #offer(id: TenantId, { sequence, data }: StoredMessage, stream: string): Promise<'kept' | 'full' | 'unread'> {
    const { takesEntries, pool, applier, logger, onHole } = this.#options
    const at = { stream, sequence }
    if (!takesEntries(id)) {
      this.#passOver(id, at)
      return 'unread'
    }
    try {
      // Looked at again under the lease: the copy may have been emptied meanwhile.
      const offered = await pool.use(id, async tenant => (takesEntries(id) ? applier.offer(tenant, data) : 'unread'))
      if (offered === 'waiting') noteFirst(this.#unsettled, id, at)
      else if (offered === 'full') this.#passOver(id, at, data)
      else if (offered === 'unread') this.#passOver(id, at)
      if (offered !== 'waiting' && offered !== 'full') return offered === 'unread' ? 'unread' : 'kept'
      onHole(id)
      return offered === 'full' ? 'full' : 'kept'
    } catch (error) {
      logger.warn({ tenant: id, err: String(error) }, 'an entry could not be applied; trying again')
      this.#passOver(id, at)
      onHole(id)
      return 'unread'
    }
  }

  /** False: the reader has to begin again with this message. */
  async #take(id: TenantId, message: StoredMessage, stream: string, alone: TenantId | undefined): Promise<boolean> {
    return (
      (await this.#offer(id, message, stream)) !== 'unread' || alone === undefined || !this.#options.takesEntries(id)
    )
  }

  #passOver(id: TenantId, at: StreamCursor, full?: Buffer): void {
    noteFirst(this.#passed, id, at)
    noteFirst(this.#unsettled, id, at)
    this.#options.applier.passedOver(id, full)
  }

  /** One pass at a time: while it is under way nobody can say yet that all has been offered again. */
  async #readAgain(streams: SyncStreams, tenant: TenantId, info: StreamRange, untilMs: number): Promise<boolean> {
    for (let running = this.#passes.get(tenant); running; running = this.#passes.get(tenant))
      await running.catch(() => {})
    const pass = this.#pass(streams, tenant, info, untilMs)
    this.#passes.set(tenant, pass)
    try {
      return await pass
    } finally {
      this.#passes.delete(tenant)
    }
  }

  /**
   * Offers again what was passed over of a tenant, from the first such message to the end of the stream as `info` has it, all of it, since a later one may be what earlier ones wait for. True when each is in
   * the copy by then, or something before it is missing.
   */
  async #pass(streams: SyncStreams, tenant: TenantId, info: StreamRange, untilMs: number): Promise<boolean> {
    const { stream, time, applier, takesEntries } = this.#options
    const from = this.#passed.get(tenant)
    if (!from) return true
    if (!takesEntries(tenant)) return false
    // What is passed over from now on is noted anew, by this pass or by the reader.
    this.#passed.delete(tenant)
    applier.comingBack(tenant)
    let next = from.stream === info.incarnation ? Math.max(from.sequence, info.firstSequence) : info.firstSequence
    let isRead = true
    const done = new AbortController()
    const signal = AbortSignal.any([this.#stop.signal, done.signal])
    const outOfTime = () => done.abort()
    void time.sleep(Math.max(0, untilMs - time.monotonic()), { signal, ref: false }).then(outOfTime, () => {})
    try {
      if (next <= info.lastSequence)
        for await (const message of stream.consume(streams.streamOf(tenant), { fromSequence: next, signal })) {
          if (streams.tenantOf(message.subject) === tenant)
            isRead = (await this.#offer(tenant, message, info.incarnation)) !== 'unread' && isRead
          next = message.sequence + 1
          if (next > info.lastSequence) break
        }
    } finally {
      done.abort()
      if (next <= info.lastSequence) this.#passOver(tenant, { stream: info.incarnation, sequence: next })
      else applier.cameBack(tenant, !this.#passed.has(tenant))
    }
    return isRead && next > info.lastSequence
  }

  /** The copy is gone: nothing of it has to be read again, and the next one begins with the first entry. */
  forget(tenant: TenantId): void {
    this.restart(tenant)
    this.#passed.delete(tenant)
    this.#unsettled.delete(tenant)
    this.#options.applier.cameBack(tenant, true)
  }

  /**
   * The copy was emptied: what was read into it is not in it any more. Whoever reads its stream now has begun with where the copy was before, and is not waited for; what it reads still is offered to
   * the copy, but how far it gets counts for nothing. A pool stream is read on: what it brought while the copy took nothing in is read again ({@link #passOver}), the rest comes from another copy.
   */
  restart(tenant: TenantId): void {
    const streams = this.#options.streams()
    if (!streams || streams.pools !== undefined) return
    const name = streams.streamOf(tenant)
    const reading = this.#readings.get(name)
    this.#readings.delete(name)
    this.#positions.delete(name)
    this.#jumped.delete(name)
    reading?.stop.abort()
  }

  async #loadCursor(name: string, tenant: TenantId | undefined): Promise<StreamCursor | undefined> {
    if (tenant === undefined) return this.#options.cursors.load(name)
    return this.#options.pool.use(tenant, async open => open.cursor)
  }

  /** `isStart`: it is the position before all that the stream has, so that nothing that waits in memory came from behind it. */
  async #saveCursor(name: string, tenant: TenantId | undefined, reading: Reading, isStart = false): Promise<void> {
    const { pool, applier, cursors } = this.#options
    const { position } = reading
    if (!position) return
    if (tenant === undefined) return cursors.save(name, this.#settledUpTo(name, position))
    const isUnsafe = () => !this.#isKept(name, reading) || (!isStart && applier.hasHole(tenant))
    if (isUnsafe()) return
    // Looked at under the lease: another copy may be there by now. What waits in memory for an earlier one would be lost behind the cursor.
    await pool.use(tenant, async open => {
      if (isUnsafe()) return
      // The position goes on, and the question that it raised stays open.
      const loss = this.#jumped.get(name)
      if (loss) await noteLost(open, loss.stream)
      await open.setCursor(position)
    })
  }

  /** A position in a pool stream before everything that is not on the disk of its copy: after a restart that is read again, the rest of it twice, which is harmless. */
  #settledUpTo(name: string, { stream, sequence }: StreamCursor): StreamCursor {
    let settled = sequence
    for (const [tenant, first] of [...this.#unsettled]) {
      if (!this.#options.applier.hasHole(tenant)) this.#unsettled.delete(tenant)
      else if (first.stream === stream && this.#options.streams()?.streamOf(tenant) === name)
        settled = Math.min(settled, first.sequence - 1)
    }
    return { stream, sequence: settled }
  }

  #onHint(data: Buffer): void {
    const hint = decodeHint(data)
    if (!hint || this.#stop.signal.aborted) return
    const tenant = hint.tenant as TenantId
    if (!this.#options.takesEntries(tenant)) return
    this.follow(tenant)
    const name = `${hint.tenant} ${hint.origin}`
    if (this.#watched.has(name) || this.#watched.size >= WATCHED_MAX) return
    this.#watched.add(name)
    void this.#watchHint(tenant, hint.origin, hint.sequence).finally(() => this.#watched.delete(name))
  }

  /** What a hint tells of must arrive; if it does not, the stream is read anew, and then the copy is brought up to date otherwise. */
  async #watchHint(tenant: TenantId, origin: string, sequence: number): Promise<void> {
    const { time, hintGraceMs, pool } = this.#options
    const { signal } = this.#stop
    const has = (open: Tenant) => (open.vector.get(origin) ?? 0) >= sequence
    await time.sleep(hintGraceMs, { signal, ref: false }).catch(() => {})
    if (signal.aborted) return
    const arrived = await pool.waitFor(tenant, has, { timeoutMs: hintGraceMs * 4, signal }).catch(() => true)
    if (arrived !== false || signal.aborted || !this.#options.takesEntries(tenant)) return
    await this.unfollow(tenant)
    this.follow(tenant)
    this.#options.onHole(tenant)
  }
}

/** Whether a stream had entries behind that position that it has no more. */
const isBehind = (at: StreamCursor | undefined, { incarnation, firstSequence }: StreamRange): boolean =>
  firstSequence > (at?.stream === incarnation ? at.sequence : 0) + 1

/** Keeps the first position of a tenant; one in another stream is that of a stream that is gone. */
function noteFirst(positions: Map<TenantId, StreamCursor>, tenant: TenantId, at: StreamCursor): void {
  const known = positions.get(tenant)
  if (known?.stream === at.stream && known.sequence <= at.sequence) return
  positions.set(tenant, at)
}
