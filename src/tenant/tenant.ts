import { LRUCache } from 'lru-cache'
import { PercolateError, toPercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import { Slicer } from '../base/slice.ts'
import type { Time } from '../base/time.ts'
import { type Clock, compareClocks, HybridLogicalClock, laterClock } from '../clock/hlc.ts'
import { dominates, joinVectors, type VersionVector } from '../clock/vector.ts'
import { FLOOR_REF, floorOf, type GcFloor } from '../rem/floor.ts'
import type { LwwRecord, Op, RecordRef } from '../rem/record.ts'
import { decodeEntry, decodeRecord, type Entry } from '../storage/codec.ts'
import { keys, prefixes, prefixRange, space } from '../storage/keys.ts'
import type { Kv, KvEntry, KvOperation, KvRange } from '../storage/kv.ts'
import type { StagedBatch, Staging } from './staging.ts'
import type { StagingRoom } from './staging-room.ts'
import {
  createIdentity,
  type EmbeddingSpec,
  encodeCursorValue,
  encodeFloorState,
  encodeLocal,
  type FloorState,
  finishWipe,
  type LocalState,
  newGeneration,
  newIncarnation,
  originOf,
  readCursor,
  readEmbeddingSpec,
  readFloorState,
  readIdentity,
  readLocal,
  readState,
  readVector,
  type StreamCursor,
  type TenantIdentity,
  type TenantState,
} from './state.ts'
import type { OpVector } from './vectors.ts'
import {
  isStorageFailure,
  type Planner,
  TenantWriter,
  type Work,
  type WriteOptions,
  type WriterState,
} from './writer.ts'

/** A cache that a layer above keeps with an open tenant; it sees every commit, and its memory counts towards the pool's budget. */
export interface Attachment {
  readonly bytes: number
  onCommit(batch: StagedBatch): void
}

export interface TenantOptions {
  readonly time: Time
  /** `node.disk`, or `node.disk.life`: who writes here. */
  readonly origin: string
  /** For a database that is made now: the tenant's incarnation as the cluster knows it; default: a new one. */
  readonly incarnation?: string | undefined
  /** A database that is made now is to be filled from another copy; it gets an origin of its own, since it may not be the tenant's first on this disk. */
  readonly copy?: boolean | undefined
  /** Memory of a batch above which a client's command is refused; default: no bound. */
  readonly stagedBytesMax?: number | undefined
  /** How long a client's command waits to be begun, milliseconds; default: no bound. */
  readonly writeWaitMsMax?: number | undefined
  /** Entries that the change log keeps for feeds that resume; 0: none. */
  readonly changesMax?: number | undefined
  readonly outboxEnabled: boolean
  /** Bytes of unpublished changes above which writes are refused. */
  readonly outboxBytesMax: number
  /** Bytes of recently read records kept decoded. */
  readonly recordCacheBytes: number
  /** Throws when writes cannot be taken now, such as DISK_FULL. */
  readonly admitWrite?: (tenant: Tenant) => void
  /** Throws when nothing can be stored at all now, not even what other copies have. */
  readonly admitCopy?: () => void
  /** Where large batches of all open tenants take turns. */
  readonly room?: StagingRoom | undefined
  readonly onCommit: (tenant: Tenant, batch: StagedBatch) => void
}

/** Records that are fetched at once: a record may have hundreds of KiB, and those of one fetch come into memory in one go. */
const RECORDS_AT_ONCE = 64

/** A record of another copy, decoded. */
export interface Transferred {
  readonly ref: RecordRef
  readonly record: LwwRecord
  readonly vectors: readonly OpVector[]
}

export type Applied = 'applied' | 'known' | 'hole'

/** An open tenant: the one door to its data. Readers get snapshots, writers go through {@link Tenant.write}. Held through leases of the pool. */
export class Tenant {
  readonly id: TenantId
  readonly identity: TenantIdentity
  readonly #kv: Kv
  readonly #state: WriterState
  readonly #writer: TenantWriter
  readonly #options: TenantOptions
  readonly #attachments = new Map<string, Attachment>()
  /** `published`: the last own sequence that the stream has. */
  readonly #outbox: { entries: number; bytes: number; published: number }
  readonly #recent: LRUCache<string, { readonly record: LwwRecord }>
  #onChange: () => void = () => {}
  #onStaged: () => void = () => {}
  #cursor: StreamCursor | undefined
  #local: LocalState
  #arrivals = 0
  #gc: FloorState
  #commits = 0
  #broken = false

  private constructor(
    id: TenantId,
    identity: TenantIdentity,
    state: WriterState,
    rest: {
      outbox: { entries: number; bytes: number; published: number }
      cursor: StreamCursor | undefined
      local: LocalState
      gc: FloorState
    },
    options: TenantOptions,
  ) {
    this.id = id
    this.identity = identity
    this.#kv = state.kv
    this.#state = state
    this.#outbox = rest.outbox
    this.#cursor = rest.cursor
    this.#local = rest.local
    this.#gc = rest.gc
    this.#options = options
    this.#recent = new LRUCache({ maxSize: options.recordCacheBytes, maxEntrySize: options.recordCacheBytes / 8 })
    this.#writer = new TenantWriter(state, {
      onStaged: () => this.#onStaged(),
      onCommit: batch => this.#committed(batch),
      onFailure: error => {
        if (isStorageFailure(error)) this.#broken = true
      },
    })
  }

  static async open(id: TenantId, kv: Kv, options: TenantOptions): Promise<Tenant> {
    const { time } = options
    const identity =
      (await readIdentity(kv, id)) ??
      (await createIdentity(kv, id, {
        incarnation: options.incarnation ?? newIncarnation(time),
        createdAtMs: time.now(),
        local: options.copy ? { generation: newGeneration(time), joining: true } : undefined,
      }))
    const local = await finishWipe(kv, await readLocal(kv))
    const origin = originOf(options.origin, local)
    const vector = await readVector(kv)
    // The counter is that of an origin; a copy that changes its origin starts over.
    const state = { ...(await readState(kv)), sequence: vector.get(origin) ?? 0 }
    const clock = new HybridLogicalClock({ now: () => time.now(), origin, resumeAbove: state.clock })
    const floorBytes = await kv.get(keys.record(FLOOR_REF))
    const writerState: WriterState = {
      kv,
      tenant: id,
      incarnation: identity.incarnation,
      origin,
      clock,
      vector,
      promised: undefined,
      floor: floorBytes && floorOf(decodeRecord(floorBytes)),
      changesMax: options.changesMax ?? 0,
      stagedBytesMax: options.stagedBytesMax ?? Number.POSITIVE_INFINITY,
      outboxEnabled: options.outboxEnabled,
      room: options.room,
      time,
      waitMsMax: options.writeWaitMsMax ?? Number.POSITIVE_INFINITY,
      state,
      embedding: await readEmbeddingSpec(kv),
    }
    const rest = {
      outbox: await measureOutbox(kv, origin, state.sequence),
      cursor: await readCursor(kv),
      local,
      gc: await readFloorState(kv),
    }
    writerState.promised = rest.gc.promised
    return new Tenant(id, identity, writerState, rest, options)
  }

  get state(): TenantState {
    return this.#state.state
  }

  /** `node.disk`, or `node.disk.generation`: what this copy's own entries carry. */
  get origin(): string {
    return this.#state.origin
  }

  /** What is applied here. */
  get vector(): VersionVector {
    return this.#state.vector
  }

  /** What the records here may be from, at most: a transfer that was cut short left some that the vector does not count. */
  get reach(): VersionVector {
    const { ahead } = this.#state.state
    return ahead ? joinVectors(this.#state.vector, ahead.vector) : this.#state.vector
  }

  get floor(): GcFloor | undefined {
    return this.#state.floor
  }

  /** Whether the copy is being made from another one: it lacks what it does not know of. */
  get isJoining(): boolean {
    return this.#local.joining ?? false
  }

  /** Whether garbage has been collected for the floor as it is. */
  get isCollected(): boolean {
    const { floor } = this
    return (
      floor === undefined || (this.#gc.collected !== undefined && compareClocks(this.#gc.collected, floor.clock) >= 0)
    )
  }

  /** How far this copy's clock is ahead of the wall clock, milliseconds; negative when it is behind, as it is after a pause. */
  get clockAheadMs(): number {
    return (this.#state.state.clock?.wall ?? 0) - this.#options.time.now()
  }

  get cursor(): StreamCursor | undefined {
    return this.#cursor
  }

  get embedding(): EmbeddingSpec | undefined {
    return this.#state.embedding
  }

  get outbox(): { readonly entries: number; readonly bytes: number; readonly published: number } {
    return this.#outbox
  }

  /** Calls `onChange` after every commit and publication, `onStaged` when {@link heldBytes} is at its highest for a batch; there is one listener, the pool. */
  listen(onChange: () => void, onStaged: () => void): void {
    this.#onChange = onChange
    this.#onStaged = onStaged
  }

  /** After a failed write RocksDB may refuse all others until it is opened again; the pool does that when the last lease ends. */
  get broken(): boolean {
    return this.#broken
  }

  /** Bytes of the caches attached to this tenant, and of the batch that is being made. */
  get heldBytes(): number {
    let bytes = this.#writer.stagedBytes
    for (const attachment of this.#attachments.values()) bytes += attachment.bytes
    return bytes
  }

  /** Plans and commits one command; see {@link TenantWriter.submit}. */
  async write<T>(plan: Planner<T>, options?: WriteOptions): Promise<T> {
    this.#options.admitWrite?.(this)
    if (this.#options.outboxEnabled && this.#outbox.bytes >= this.#options.outboxBytesMax) {
      return Promise.reject(
        new PercolateError(
          'OUTBOX_FULL',
          'This tenant has too many changes that wait to be published; writes resume when the stream is back.',
          {
            retryAfterS: 5,
          },
        ),
      )
    }
    return this.#writer.submit(plan, options)
  }

  /**
   * Applies the next entry of another origin, in ONE batch with the vector. `known` when it was applied before, `hole` when
   * entries before it are missing.
   */
  async apply(entry: Entry, options: { pastFloor?: boolean } = {}): Promise<Applied> {
    this.#options.admitCopy?.()
    return this.#writer.run(
      async (staging): Promise<Applied> => {
        const last = staging.vector.get(entry.origin) ?? 0
        if (entry.sequence > last + 1) return 'hole'
        if (entry.sequence <= last && !(await staging.wasSkipped(entry))) return 'known'
        await staging.applyEntry(entry, options)
        return 'applied'
      },
      { weight: entry.ops.length, textBytes: textBytesOfOps(entry.ops) },
    )
  }

  /**
   * Merges records of another copy that had no more than `upTo`, with what `also` stages beside them; the number of those that changed something. `regains`: among them may be what was given
   * up here. `isNews`: whether a record is merged at all; it may not wait for anybody but the store. With the records it is on disk that garbage has to be collected again: what was collected here may have come back with them.
   */
  merge(
    records: readonly Transferred[],
    upTo: VersionVector,
    options: {
      regains?: boolean
      also?: (staging: Staging) => void
      isNews?: (staging: Staging, ref: RecordRef, record: LwwRecord) => Promise<boolean>
    } = {},
  ): Promise<number> {
    this.#options.admitCopy?.()
    const { isNews } = options
    const work = async (staging: Staging) => {
      let merged = 0
      for (const { ref, record, vectors } of records)
        if (!isNews || (await isNews(staging, ref, record)))
          if (await staging.mergeRecord(ref, record, vectors)) merged++
      staging.logMerged(upTo, { silent: this.isJoining, regains: options.regains ?? false })
      options.also?.(staging)
      if (merged > 0) this.stageArrivals(staging)
      return merged
    }
    const textBytes = records.reduce((bytes, { record }) => bytes + textBytesOf(record.fields.get('content')?.value), 0)
    return this.#writer.run(work, {
      weight: records.length,
      textBytes,
      // Who began to look between the staging and the commit has not seen them.
      onCommitted: () => this.countArrival(),
    })
  }

  /** Stages and commits what does not come from a client; no outbox entry is made. */
  change<T>(work: (staging: Staging) => Promise<T>, weight = 1): Promise<T> {
    return this.#writer.run(work as Work<T>, { weight })
  }

  /** Looks at what is on disk and what is known of it, while no batch is under way: one that is being written may be on disk before the vector has it. */
  between<T>(look: () => Promise<T>): Promise<T> {
    return this.#writer.between(look)
  }

  /** How many batches have been committed since it was opened. */
  get commits(): number {
    return this.#commits
  }

  /** Remembers how far the stream was read. Not fsynced: reading a part twice is harmless. */
  async setCursor(cursor: StreamCursor): Promise<void> {
    await this.#writeBeside([{ type: 'put', key: keys.meta('cursor'), value: encodeCursorValue(cursor) }])
    this.#cursor = cursor
  }

  /**
   * Gives this copy another origin, when what it last wrote may be lost here and known elsewhere (a disk restored from a backup): its counter
   * must not give out the same sequences again.
   */
  async changeOrigin(): Promise<void> {
    const local = { ...this.#local, generation: newGeneration(this.#options.time) }
    const take = () => {
      const origin = originOf(this.#options.origin, local)
      this.#local = local
      this.#outbox.published = 0
      this.#state.origin = origin
      this.#state.state = { ...this.#state.state, sequence: 0 }
      this.#state.clock = new HybridLogicalClock({
        now: () => this.#options.time.now(),
        origin,
        resumeAbove: this.#state.state.clock,
      })
    }
    // Alone in its batch, and in effect before the next one is planned.
    await this.#writer.run(async staging => staging.put(keys.meta('local'), encodeLocal(local)), {
      weight: Number.POSITIVE_INFINITY,
      onCommitted: take,
    })
  }

  /** Stages that the copy is complete. */
  async finishJoin(work: (staging: Staging) => Promise<void>): Promise<void> {
    const { joining: _, ...local } = this.#local
    await this.#writer.run(async staging => {
      await work(staging)
      staging.put(keys.meta('local'), encodeLocal(local))
    })
    this.#local = local
  }

  /** Promises to write nothing at or below `clock` from now on; returns the vector with all that was written before. */
  async promiseFloor(clock: Clock): Promise<VersionVector> {
    return this.#writer.run(async staging => {
      const promised = laterClock(this.#gc.promised, clock)!
      this.#state.clock.observe(promised)
      this.#state.promised = promised
      this.#gc = { ...this.#gc, promised }
      staging.put(keys.meta('floor'), encodeFloorState(this.#gc))
      return staging.vector
    })
  }

  /** How often records have come that may bring back what was collected. */
  get arrivals(): number {
    return this.#arrivals
  }

  /** Records are coming from another copy, perhaps with deletes that were collected here. */
  countArrival(): void {
    this.#arrivals++
  }

  /** Such records come with this batch, or have come: it has to be done again. In the batch itself, so that no crash can leave them in a copy that counts as collected. */
  stageArrivals(staging: Staging): void {
    this.#arrivals++
    this.#gc = { ...this.#gc, collected: undefined }
    staging.put(keys.meta('floor'), encodeFloorState(this.#gc))
  }

  /** Collected as far as `floor`, by who began when there were `arrivals`: what came since has not been looked at. */
  async noteCollected(floor: Clock, arrivals: number): Promise<void> {
    await this.#writer.run(
      async staging => {
        if (arrivals !== this.#arrivals) return
        this.#gc = { ...this.#gc, collected: floor }
        staging.put(keys.meta('floor'), encodeFloorState(this.#gc))
      },
      // Alone in its batch: what comes before it is committed, and counted, when it looks.
      { weight: Number.POSITIVE_INFINITY },
    )
  }

  /** Whether the stream has acknowledged this copy's own entries up to `sequence`. */
  isPublished(sequence: number): boolean {
    return sequence <= this.#outbox.published
  }

  covers(vector: VersionVector): boolean {
    return dominates(this.#state.vector, vector)
  }

  /** One record, from the cache of recent ones or from disk: a point read then costs no trip to a thread. */
  async record(ref: RecordRef): Promise<LwwRecord | undefined> {
    const key = keys.record(ref)
    const name = key.toString('latin1')
    const cached = this.#recent.get(name)
    if (cached) return cached.record
    const commits = this.#commits
    const bytes = await this.#kv.get(key)
    if (bytes === undefined) return undefined
    const record = decodeRecord(bytes)
    // What was read before a commit may be what the commit replaced.
    if (commits === this.#commits) this.#recent.set(name, { record }, { size: name.length + bytes.length * 2 })
    return record
  }

  async records(refs: readonly RecordRef[]): Promise<(LwwRecord | undefined)[]> {
    const slicer = new Slicer()
    const records: (LwwRecord | undefined)[] = []
    for (let at = 0; at < refs.length; at += RECORDS_AT_ONCE) {
      const part = refs.slice(at, at + RECORDS_AT_ONCE)
      for (const bytes of await this.#kv.getMany(part.map(ref => keys.record(ref)))) {
        if (slicer.due) await slicer.pause()
        records.push(bytes === undefined ? undefined : decodeRecord(bytes))
      }
    }
    return records
  }

  get(key: Buffer): Promise<Buffer | undefined> {
    return this.#kv.get(key)
  }

  getMany(manyKeys: readonly Buffer[]): Promise<(Buffer | undefined)[]> {
    return this.#kv.getMany(manyKeys)
  }

  chunks(range: KvRange): AsyncIterable<KvEntry[]> {
    return this.#kv.chunks(range)
  }

  /** The attachment of that name, made on first use. */
  attach<T extends Attachment>(name: string, make: () => T): T {
    let attachment = this.#attachments.get(name)
    if (attachment === undefined) {
      attachment = make()
      this.#attachments.set(name, attachment)
    }
    return attachment as T
  }

  /**
   * Removes entries that the stream has acknowledged, the last of which is `last`; how many they were. `areOurs`: they were read from this very {@link Tenant}. Else the database was closed since, and may be another by now:
   * only what it has in the same words goes, since its numbers may stand for other entries. Not fsynced: publishing an entry twice is harmless.
   */
  async removeFromOutbox(
    entries: readonly KvEntry[],
    last: Pick<Entry, 'origin' | 'sequence'>,
    { areOurs }: { readonly areOurs: boolean },
  ): Promise<number> {
    const found = areOurs ? undefined : await this.#kv.getMany(entries.map(([key]) => key))
    const published = found ? entries.filter(([, value], n) => found[n]?.equals(value)) : entries
    if (published.length > 0) await this.#writeBeside(published.map(([key]) => ({ type: 'del', key })))
    this.#outbox.entries -= published.length
    for (const [, value] of published) this.#outbox.bytes -= value.length
    // Nothing of this origin comes before what the stream has of it.
    if (last.origin === this.origin && last.sequence <= this.#state.state.sequence)
      this.#outbox.published = Math.max(this.#outbox.published, last.sequence)
    this.#onChange()
    return published.length
  }

  /** Writes what no command waits for, not fsynced. When it fails the database has to be opened anew, as for a command. */
  async #writeBeside(operations: readonly KvOperation[]): Promise<void> {
    try {
      await this.#kv.write(operations, { sync: false })
    } catch (error) {
      if (isStorageFailure(toPercolateError(error))) this.#broken = true
      throw error
    }
  }

  /** Lets queued writes finish, then closes the database. */
  async close(): Promise<void> {
    await this.#writer.idle()
    await this.#kv.close()
    this.#attachments.clear()
  }

  #committed(batch: StagedBatch): void {
    this.#commits++
    for (const key of batch.recordKeys) this.#recent.delete(key)
    this.#outbox.entries += batch.outbox.entries
    this.#outbox.bytes += batch.outbox.bytes
    for (const attachment of this.#attachments.values()) attachment.onCommit(batch)
    this.#options.onCommit(this, batch)
    this.#onChange()
  }
}

/** About what a text takes in UTF-8, without encoding it. */
const textBytesOf = (value: unknown): number => (typeof value === 'string' ? value.length * 2 : 0)

const textBytesOfOps = (ops: readonly Op[]): number =>
  ops.reduce((bytes, { kind, fields }) => bytes + (kind === 'resource' ? textBytesOf(fields.content) : 0), 0)

async function measureOutbox(
  kv: Kv,
  origin: string,
  sequence: number,
): Promise<{ entries: number; bytes: number; published: number }> {
  const outbox = { entries: 0, bytes: 0, published: sequence }
  for await (const chunk of kv.chunks({ ...prefixRange(prefixes.space(space.outbox)), verified: true })) {
    for (const [, value] of chunk) {
      outbox.entries++
      outbox.bytes += value.length
      if (outbox.published < sequence) continue
      const entry = decodeEntry(value)
      if (entry.origin === origin) outbox.published = entry.sequence - 1
    }
  }
  return outbox
}
