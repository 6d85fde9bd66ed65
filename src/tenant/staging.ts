import { ENTRY_BYTES_MAX } from '../base/limits.ts'
import { Slicer } from '../base/slice.ts'
import { type Clock, compareClocks } from '../clock/hlc.ts'
import { dominates, joinVectors, type VersionVector } from '../clock/vector.ts'
import { collectRecord, FLOOR_REF, floorOf, type GcFloor } from '../rem/floor.ts'
import { mergeRecords, RecordFold } from '../rem/merge.ts'
import { EMBEDDING_FIELD_PREFIX, EMPTY_RECORD, type LwwRecord, nameOf, type Op, type RecordRef } from '../rem/record.ts'
import { resourceView } from '../rem/views.ts'
import { decodeRecord, type Entry, encodeEntry, encodeRecord } from '../storage/codec.ts'
import { keys, space, u32, u64 } from '../storage/keys.ts'
import type { KvOperation, KvOperations, KvReader } from '../storage/kv.ts'
import { Overlay } from '../storage/overlay.ts'
import {
  changesOfMerge,
  encodeEntryItem,
  encodeMergedItem,
  encodeMovedItem,
  joinMark,
  noteCame,
  type PackedChange,
  packChange,
  splitMark,
  toggleLost,
} from './change-log.ts'
import { documentTerms, indexEntries } from './indexes.ts'
import { StagedPostings } from './staged-postings.ts'
import { TooMuchAtOnce } from './staged-size.ts'
import { type EmbeddingSpec, encodeEmbeddingSpec, encodeState, type TenantState } from './state.ts'
import { asBuffer, digestOf, type OpVector, splitVectors } from './vectors.ts'

/** A vector that a write set or removed; `docNo` is this node's number of the resource. */
export interface VectorChange {
  readonly docNo: number
  readonly model: string
  readonly vector: Buffer | undefined
}

export interface StagingBase {
  readonly tenant: string
  readonly incarnation: string
  readonly origin: string
  readonly kv: Pick<KvReader, 'get' | 'getMany'>
  readonly state: TenantState
  readonly embedding: EmbeddingSpec | undefined
  /** What is applied here, of every origin. */
  readonly vector: VersionVector
  readonly floor: GcFloor | undefined
  /** Memory of a batch above which a client's command is refused. What other copies have accepted is taken. */
  readonly stagedBytesMax: number
  /** Entries that the change log keeps. */
  readonly changesMax: number
  /** Whether ops are queued for the tenant's sync stream. */
  readonly outbox: boolean
  /** Called whenever others had their turn while the batch is made; it gives the batch up by throwing. */
  readonly onSlice?: (() => void) | undefined
}

export interface StagedBatch {
  readonly operations: KvOperations
  /** Keys of the records among them, as latin1. */
  readonly recordKeys: readonly string[]
  readonly state: TenantState
  readonly embedding: EmbeddingSpec | undefined
  readonly vectors: readonly VectorChange[]
  readonly outbox: { readonly entries: number; readonly bytes: number }
  readonly vector: VersionVector
  readonly floor: GcFloor | undefined
  /** Ops from below the floor that were set aside. */
  readonly quarantined: number
  /** Whether records change, beside the floor's. */
  readonly changesData: boolean
  /** The latest clock of what came from elsewhere. */
  readonly observed: Clock | undefined
}

/**
 * Gathers the effect of ops into ONE batch: records, secondary indexes, postings, vectors, outbox entries and counters. Reads see
 * what was staged before them. Nothing is written until the batch is.
 */
export class Staging {
  readonly #base: StagingBase
  readonly #overlay: Overlay
  readonly #postings: StagedPostings
  readonly #vectors: VectorChange[] = []
  readonly #slicer: Slicer
  #state: TenantState
  #embedding: EmbeddingSpec | undefined
  #vector: VersionVector
  #floor: GcFloor | undefined
  #observed: Clock | undefined
  /** What merged records brought, until it is logged. */
  #merged: PackedChange[] = []
  #quarantined = 0
  #changesData = false
  #outboxEntries = 0
  #outboxBytes = 0

  constructor(base: StagingBase) {
    this.#base = base
    this.#overlay = new Overlay(base.kv)
    this.#postings = new StagedPostings(base.kv, base.onSlice)
    this.#slicer = new Slicer(base.onSlice)
    this.#state = base.state
    this.#embedding = base.embedding
    this.#vector = base.vector
    this.#floor = base.floor
  }

  get embedding(): EmbeddingSpec | undefined {
    return this.#embedding
  }

  get vector(): VersionVector {
    return this.#vector
  }

  get state(): TenantState {
    return this.#state
  }

  /** What the records may be from, at most. */
  get reach(): VersionVector {
    const { ahead } = this.#state
    return ahead ? joinVectors(this.#vector, ahead.vector) : this.#vector
  }

  get floor(): GcFloor | undefined {
    return this.#floor
  }

  /** Memory that is held until the batch is written, about. */
  get bytes(): number {
    return this.#overlay.bytes + this.#postings.bytes
  }

  /** Reads what commands say that they will touch, all at once. */
  async prefetch(refs: readonly RecordRef[]): Promise<void> {
    const wanted = refs.flatMap(ref =>
      ref.kind === 'resource' ? [keys.record(ref), keys.docNoById(ref.key[0]!)] : [keys.record(ref)],
    )
    if (wanted.length > 0) await this.#overlay.prefetch(wanted)
  }

  async read(ref: RecordRef): Promise<LwwRecord | undefined> {
    const bytes = await this.#overlay.get(keys.record(ref))
    return bytes === undefined ? undefined : decodeRecord(bytes)
  }

  /**
   * Applies one command's ops, and queues them as entries of this origin when one of them changed something: all of them, so that who has the entries has all of the command. When nothing changed, what they
   * say is here already, and the vector counts it; where it may not (it came ahead of the vector, or what it came with was given up), or with `needsEntry`, they are queued as well: only an entry of
   * its own says of a command how durable it is.
   */
  async apply(ops: readonly Op[], clock: Clock, { needsEntry = false } = {}): Promise<void> {
    let isNews = needsEntry || this.#state.ahead !== undefined || this.#state.lost.count > 0
    if (await this.#mergeOps(ops, this.#base.stagedBytesMax)) isNews = true
    this.#noteClock(clock)
    if (isNews && ops.length > 0) await this.#queueEntries(ops)
  }

  /**
   * Applies an entry of another origin, which must be the next one of that origin. Ops at or below the floor that the floor does not
   * cover come from a copy that was away for longer than tombstones live: they are set aside, neither merged nor dropped.
   */
  async applyEntry(entry: Entry, options: { pastFloor?: boolean } = {}): Promise<void> {
    const late: Op[] = []
    const merged: Op[] = []
    for (const op of entry.ops) {
      if (!options.pastFloor && this.#isLate(entry, op)) late.push(op)
      else merged.push(op)
      if (this.#observed === undefined || compareClocks(op.clock, this.#observed) > 0) this.#observed = op.clock
    }
    await this.#mergeOps(merged)
    if (this.#observed) this.#noteClock(this.#observed)
    if (late.length > 0) {
      this.#quarantined += late.length
      this.#overlay.put(keys.quarantine(entry.origin, entry.sequence), encodeEntry({ ...entry, ops: late }))
    }
    const { origin, sequence } = entry
    const isLate = (this.#vector.get(origin) ?? 0) >= sequence
    if (isLate) {
      const before = this.#state.lost
      await this.#regain(origin, sequence)
      this.#log(encodeEntryItem(origin, sequence, entry.ops, [before.mark, this.#state.lost.mark]))
    } else this.#log(encodeEntryItem(origin, sequence, entry.ops))
    this.#setVector(joinVectors(this.#vector, new Map([[origin, sequence]])))
    this.#overlay.del(keys.parked(origin, sequence))
  }

  /** Whether an entry was given up for lost, and comes now. */
  async wasSkipped({ origin, sequence }: Entry): Promise<boolean> {
    return (await this.#overlay.get(keys.skipped(origin, sequence))) !== undefined
  }

  /** Merges a record as another copy has it. */
  async mergeRecord(ref: RecordRef, incoming: LwwRecord, vectors: readonly OpVector[]): Promise<boolean> {
    await this.#slicer.pause()
    const latest = [incoming.put, incoming.del, ...[...incoming.fields.values()].map(({ clock }) => clock)]
    for (const clock of latest)
      if (clock && (this.#observed === undefined || compareClocks(clock, this.#observed) > 0)) this.#observed = clock
    if (this.#observed) this.#noteClock(this.#observed)
    const merged = await this.#merge(ref, await this.#overlay.get(keys.record(ref)), incoming, vectors)
    if (merged) this.#merged.push(...changesOfMerge(ref, merged.before, merged.after, incoming))
    return merged !== undefined
  }

  /**
   * Notes for feeds what {@link mergeRecord} brought: records of a copy that had no more than `upTo`. `silent`: no feed can be open, and all positions from before are told to read anew, since the
   * copy is only being made. `regains`: among them may be what was given up here, or what was missing for another reason. What no move of the vector will tell of marks the copy: positions from before lack it.
   */
  logMerged(upTo: VersionVector, { silent = false, regains = false } = {}): void {
    const merged = this.#merged
    this.#merged = []
    const isCounted = dominates(this.#vector, upTo)
    if (!isCounted) {
      const { ahead } = this.#state
      const from = silent ? 0 : (ahead?.from ?? this.#state.changes + 1)
      this.#state = { ...this.#state, ahead: { from, vector: joinVectors(ahead?.vector ?? new Map(), upTo) } }
    }
    if (merged.length === 0 || silent) return
    const { lost } = this.#state
    const after = isCounted || regains ? noteCame(lost, `${this.#base.origin} ${this.#state.changes}`) : lost
    this.#state = { ...this.#state, lost: after }
    const marks = after === lost ? undefined : ([lost.mark, after.mark] as const)
    this.#log(encodeMergedItem(merged, marks, isCounted ? undefined : upTo))
  }

  /** Of a copy that is being made: all that the copies which it is made of have learned past their vectors, `came`, is in it; see {@link splitMark}. */
  inheritCame(came: string): void {
    const { count, mark } = this.#state.lost
    this.#state = { ...this.#state, lost: { count, mark: joinMark(splitMark(mark).lost, came) } }
  }

  /** Takes over the vector of a copy whose every record has been merged here, `lost` of which it never had; without a copy: gives up what is missing. */
  joinVector(vector: VersionVector, lost: Iterable<readonly [origin: string, sequence: number]> = []): void {
    const moves = [...vector].flatMap(([origin, after]) => {
      const before = this.#vector.get(origin) ?? 0
      return before < after ? [[origin, before, after] as const] : []
    })
    const before = this.#state.lost
    let after = before
    for (const [origin, sequence] of lost) {
      if ((this.#vector.get(origin) ?? 0) >= sequence) continue
      this.#overlay.put(keys.skipped(origin, sequence), NOTHING)
      after = toggleLost(after, origin, sequence, 1)
    }
    if (moves.length === 0) return
    this.#state = { ...this.#state, lost: after }
    const from = this.#state.ahead?.from ?? this.#state.changes + 1
    this.#log(encodeMovedItem(from, moves, [before.mark, after.mark]))
    this.#setVector(joinVectors(this.#vector, vector))
  }

  /** What had been given up has come: it is not missing any more. */
  async regain(entries: Iterable<readonly [origin: string, sequence: number]>): Promise<void> {
    const before = this.#state.lost
    for (const [origin, sequence] of entries) await this.#regain(origin, sequence)
    const after = this.#state.lost
    if (after.mark !== before.mark) this.#log(encodeMovedItem(this.#state.changes + 1, [], [before.mark, after.mark]))
  }

  async #regain(origin: string, sequence: number): Promise<void> {
    const key = keys.skipped(origin, sequence)
    if ((await this.#overlay.get(key)) === undefined) return
    this.#overlay.del(key)
    this.#state = { ...this.#state, lost: toggleLost(this.#state.lost, origin, sequence, -1) }
  }

  put(key: Buffer, value: Buffer): void {
    this.#overlay.put(key, value)
  }

  del(key: Buffer): void {
    this.#overlay.del(key)
  }

  /** Brings a record to what the floor leaves of it; returns whether that changed it. */
  async collect(ref: RecordRef, floor: Clock): Promise<boolean> {
    const bytes = await this.#overlay.get(keys.record(ref))
    if (bytes === undefined) return false
    const before = decodeRecord(bytes)
    const after = collectRecord(before, floor)
    if (after === before) return false
    if (after === undefined) await this.remove(ref)
    else this.#overlay.put(keys.record(ref), encodeRecord(after))
    return true
  }

  /** Takes a record out with its indexes, as if it had never been; only garbage collection and repair do. With `asDeleted`, {@link logMerged} tells of it. */
  async remove(ref: RecordRef, asDeleted?: Clock): Promise<void> {
    const bytes = await this.#overlay.get(keys.record(ref))
    if (bytes === undefined) return
    if (asDeleted) this.#merged.push(packChange({ ...ref, action: 'del' }, asDeleted))
    const before = decodeRecord(bytes)
    this.#overlay.del(keys.record(ref))
    this.#stageIndexes(ref, before, EMPTY_RECORD)
    if (ref.kind !== 'resource') return
    const id = ref.key[0]!
    await this.#stageResource(id, before, EMPTY_RECORD, [])
    const docNo = await this.#overlay.get(keys.docNoById(id))
    if (docNo) {
      this.#overlay.del(keys.docNoById(id))
      this.#overlay.del(keys.idByDocNo(docNo.readUInt32BE(0)))
    }
  }

  #isLate(entry: Entry, op: Op): boolean {
    return (
      this.#floor !== undefined &&
      compareClocks(op.clock, this.#floor.clock) <= 0 &&
      entry.sequence > (this.#floor.vector.get(entry.origin) ?? 0)
    )
  }

  #noteClock(clock: Clock): void {
    const last = this.#state.clock
    this.#state = { ...this.#state, clock: last && compareClocks(last, clock) > 0 ? last : clock }
  }

  #setVector(vector: VersionVector): void {
    for (const [origin, sequence] of vector)
      if (this.#vector.get(origin) !== sequence) this.#overlay.put(keys.versionVector(origin), u64(sequence))
    this.#vector = vector
  }

  #log(item: Buffer): void {
    const { changesMax } = this.#base
    if (changesMax === 0) return
    const n = this.#state.changes + 1
    this.#state = { ...this.#state, changes: n }
    this.#overlay.put(keys.change(n), item)
    if (n > changesMax) this.#overlay.del(keys.change(n - changesMax))
  }

  async finish(): Promise<StagedBatch> {
    const postings = await this.#postings.flush()
    const { ahead } = this.#state
    if (ahead && dominates(this.#vector, ahead.vector)) this.#state = { ...this.#state, ahead: undefined }
    this.#overlay.put(keys.meta('state'), encodeState(this.#state))
    const operations = this.#overlay.operations()
    return {
      operations: new BatchOperations(operations, postings),
      recordKeys: operations.flatMap(({ key }) => (key[0] === space.record ? [key.toString('latin1')] : [])),
      state: this.#state,
      embedding: this.#embedding,
      vectors: this.#vectors,
      outbox: { entries: this.#outboxEntries, bytes: this.#outboxBytes },
      vector: this.#vector,
      floor: this.#floor,
      quarantined: this.#quarantined,
      changesData: this.#changesData,
      observed: this.#observed,
    }
  }

  /** Returns whether one of the ops changed its record. Throws BODY_TOO_LARGE when the batch takes more memory than `bytesMax`. */
  async #mergeOps(ops: readonly Op[], bytesMax = Number.POSITIVE_INFINITY): Promise<boolean> {
    let hasChanged = false
    const changes = await gatherOps(ops, this.#slicer)
    for (let at = 0; at < changes.length; at += RECORDS_AT_ONCE) {
      const part = changes.slice(at, at + RECORDS_AT_ONCE)
      const known = await this.#overlay.getMany(part.map(({ ref }) => keys.record(ref)))
      const seen = new Set<string>()
      for (const [n, { name, ref, fold, vectors }] of part.entries()) {
        const bytes = seen.has(name) ? await this.#overlay.get(keys.record(ref)) : known[n]
        seen.add(name)
        if (await this.#merge(ref, bytes, fold.record, vectors)) hasChanged = true
        if (this.bytes > bytesMax) throw new TooMuchAtOnce(bytesMax)
        await this.#slicer.pause()
      }
    }
    return hasChanged
  }

  async #merge(
    ref: RecordRef,
    bytes: Buffer | undefined,
    incoming: LwwRecord,
    vectors: readonly OpVector[],
  ): Promise<{ before: LwwRecord; after: LwwRecord } | undefined> {
    const before = bytes === undefined ? undefined : decodeRecord(bytes)
    const after = mergeRecords(before ?? EMPTY_RECORD, incoming)
    const encoded = encodeRecord(after)
    if (bytes?.equals(encoded)) return undefined
    this.#overlay.put(keys.record(ref), encoded)
    const isFloor = ref.kind === 'setting' && ref.key[0] === FLOOR_REF.key[0]
    this.#changesData ||= !isFloor
    for (const { model, vector } of vectors) this.#noteModel(model, vector.length >> 2)
    this.#stageIndexes(ref, before, after)
    if (ref.kind === 'resource') await this.#stageResource(ref.key[0]!, before, after, vectors)
    if (isFloor) this.#floor = floorOf(after)
    return { before: before ?? EMPTY_RECORD, after }
  }

  #noteModel(model: string, dimensions: number): void {
    if (this.#embedding !== undefined) return
    this.#embedding = { model, dimensions }
    this.#overlay.put(keys.meta('embedding'), encodeEmbeddingSpec(this.#embedding))
  }

  #stageIndexes(ref: RecordRef, before: LwwRecord | undefined, after: LwwRecord): void {
    const model = this.#embedding?.model
    const old = indexEntries(ref, before, model)
    const fresh = indexEntries(ref, after, model)
    for (const key of old.keys()) if (!fresh.has(key)) this.#overlay.del(Buffer.from(key, 'latin1'))
    for (const [key, value] of fresh) if (!old.has(key)) this.#overlay.put(Buffer.from(key, 'latin1'), value)
  }

  async #stageResource(
    id: string,
    before: LwwRecord | undefined,
    after: LwwRecord,
    vectors: readonly OpVector[],
  ): Promise<void> {
    const old = resourceView(id, before)
    const fresh = resourceView(id, after)
    const oldModels = modelsOf(before)
    const freshModels = modelsOf(after)
    if (!old && !fresh && oldModels.length === 0 && freshModels.length === 0) return
    const docNo = await this.#docNo(id)
    const oldTerms = old && documentTerms(old)
    if (oldTerms) await this.#slicer.pause()
    const freshTerms = fresh && documentTerms(fresh)
    if (freshTerms) await this.#slicer.pause()
    if (old || fresh) this.#postings.replace(docNo, oldTerms?.terms ?? [], freshTerms?.terms ?? [])
    this.#state = {
      ...this.#state,
      documents: this.#state.documents + (fresh ? 1 : 0) - (old ? 1 : 0),
      termTotal: this.#state.termTotal + (freshTerms?.length ?? 0) - (oldTerms?.length ?? 0),
    }
    // A vector may come before its resource does (they have different origins): it is kept, and shown when the resource is.
    for (const { model, vector } of vectors) {
      if (!digestOf(vector).equals(asBuffer(after.fields.get(EMBEDDING_FIELD_PREFIX + model)?.value))) continue
      this.#overlay.put(keys.vector(model, docNo), vector)
      if (fresh && old) this.#vectors.push({ docNo, model, vector })
    }
    if (fresh && !old) {
      for (const model of freshModels) {
        const vector = await this.#overlay.get(keys.vector(model, docNo))
        if (vector) this.#vectors.push({ docNo, model, vector })
      }
    }
    for (const model of oldModels) {
      const gone = !freshModels.includes(model)
      if (gone) this.#overlay.del(keys.vector(model, docNo))
      if (gone || (old && !fresh)) this.#vectors.push({ docNo, model, vector: undefined })
    }
  }

  /** The node-local number of a resource, given on its first put and kept through deletes, so that a re-added one finds it again. */
  async #docNo(id: string): Promise<number> {
    const known = await this.#overlay.get(keys.docNoById(id))
    if (known !== undefined) return known.readUInt32BE(0)
    const docNo = this.#state.nextDocNo
    this.#state = { ...this.#state, nextDocNo: docNo + 1 }
    this.#overlay.put(keys.docNoById(id), u32(docNo))
    this.#overlay.put(keys.idByDocNo(docNo), Buffer.from(id))
    return docNo
  }

  async #queueEntries(ops: readonly Op[]): Promise<void> {
    for (const part of splitOps(ops)) {
      const sequence = this.#state.sequence + 1
      this.#state = { ...this.#state, sequence }
      this.#log(encodeEntryItem(this.#base.origin, sequence, part))
      if (!this.#base.outbox) continue
      const { tenant, incarnation, origin } = this.#base
      const entry = encodeEntry({ tenant, incarnation, origin, sequence, ops: part })
      const outbox = this.#state.outbox + 1
      this.#state = { ...this.#state, outbox }
      this.#overlay.put(keys.outbox(outbox), entry)
      this.#outboxEntries++
      this.#outboxBytes += entry.length
      await this.#slicer.pause()
    }
    this.#setVector(new Map([...this.#vector, [this.#base.origin, this.#state.sequence]]))
  }
}

const NOTHING = Buffer.alloc(0)
/** Records of a command that are read together: enough that the trips to the store do not count, and few enough that the largest of them fit into memory. */
const RECORDS_AT_ONCE = 64

/** What ops do to one record. */
interface RecordChange {
  readonly name: string
  readonly ref: RecordRef
  readonly fold: RecordFold
  readonly vectors: readonly OpVector[]
}

/**
 * The ops by their records, in the order in which those are named first: a record is read, merged and indexed once, however many ops it has. Those of a resource stay apart, since each may bring
 * a vector; each is as large as what it changes.
 */
async function gatherOps(ops: readonly Op[], slicer: Slicer): Promise<RecordChange[]> {
  const changes: RecordChange[] = []
  const folds = new Map<string, RecordFold>()
  for (const op of ops) {
    if (slicer.due) await slicer.pause()
    const name = nameOf(op)
    const { op: slim, vectors } = splitVectors(op)
    let fold = op.kind === 'resource' ? undefined : folds.get(name)
    if (!fold) {
      fold = new RecordFold()
      folds.set(name, fold)
      changes.push({ name, ref: op, fold, vectors })
    }
    fold.add(slim)
  }
  return changes
}

/** Postings behind the rest, without being copied. */
class BatchOperations implements KvOperations {
  readonly #rest: readonly KvOperation[]
  readonly #postings: KvOperations

  constructor(rest: readonly KvOperation[], postings: KvOperations) {
    this.#rest = rest
    this.#postings = postings
  }

  get length(): number {
    return this.#rest.length + this.#postings.length
  }

  *[Symbol.iterator](): Generator<KvOperation> {
    yield* this.#rest
    yield* this.#postings
  }
}

const modelsOf = (record: LwwRecord | undefined): string[] =>
  [...(record?.fields.keys() ?? [])].flatMap(name =>
    name.startsWith(EMBEDDING_FIELD_PREFIX) ? [name.slice(EMBEDDING_FIELD_PREFIX.length)] : [],
  )

/** A large command becomes several entries, each below the stream's message limit, in one batch. */
function* splitOps(ops: readonly Op[]): Generator<Op[]> {
  let part: Op[] = []
  let bytes = 0
  for (const op of ops) {
    const size = estimateBytes(op)
    if (part.length > 0 && bytes + size > ENTRY_BYTES_MAX) {
      yield part
      part = []
      bytes = 0
    }
    part.push(op)
    bytes += size
  }
  if (part.length > 0) yield part
}

/** About what an op takes in an entry, without encoding it twice. */
function estimateBytes(op: Op): number {
  let bytes = 128
  for (const part of op.key) bytes += part.length * 3
  for (const [name, value] of Object.entries(op.fields)) {
    bytes += name.length + 8
    if (typeof value === 'string') bytes += Buffer.byteLength(value)
    else if (value instanceof Uint8Array) bytes += value.length
    else if (typeof value === 'object' && value !== null) bytes += JSON.stringify(value).length * 2
  }
  return bytes
}
