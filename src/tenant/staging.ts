import { createHash } from 'node:crypto'
import { ENTRY_BYTES_MAX } from '../base/limits.ts'
import { Slicer } from '../base/slice.ts'
import { type Clock, compareClocks } from '../clock/hlc.ts'
import { mergeOp } from '../rem/merge.ts'
import {
  EMBEDDING_FIELD_PREFIX,
  EMPTY_RECORD,
  type LwwRecord,
  type Op,
  type RecordRef,
  type Value,
} from '../rem/record.ts'
import { resourceView } from '../rem/views.ts'
import { decodeRecord, encodeEntry, encodeRecord } from '../storage/codec.ts'
import { keys, u32, u64 } from '../storage/keys.ts'
import type { KvOperation, KvReader } from '../storage/kv.ts'
import { Overlay } from '../storage/overlay.ts'
import { documentTerms, indexEntries } from './indexes.ts'
import { StagedPostings } from './staged-postings.ts'
import { type EmbeddingSpec, encodeEmbeddingSpec, encodeState, type TenantState } from './state.ts'

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
  /** Whether ops are queued for the tenant's sync stream. */
  readonly outbox: boolean
}

export interface StagedBatch {
  readonly operations: readonly KvOperation[]
  readonly state: TenantState
  readonly embedding: EmbeddingSpec | undefined
  readonly vectors: readonly VectorChange[]
  readonly outbox: { readonly entries: number; readonly bytes: number }
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
  readonly #slicer = new Slicer()
  #state: TenantState
  #embedding: EmbeddingSpec | undefined
  #outboxEntries = 0
  #outboxBytes = 0

  constructor(base: StagingBase) {
    this.#base = base
    this.#overlay = new Overlay(base.kv)
    this.#postings = new StagedPostings(this.#overlay)
    this.#state = base.state
    this.#embedding = base.embedding
  }

  get embedding(): EmbeddingSpec | undefined {
    return this.#embedding
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

  /** Applies one command's ops, and queues those that changed something as entries of this origin. */
  async apply(ops: readonly Op[], clock: Clock): Promise<void> {
    const effective: Op[] = []
    const before = await this.#overlay.getMany(ops.map(op => keys.record(op)))
    const touched = new Set<string>()
    for (const [n, op] of ops.entries()) {
      const name = JSON.stringify([op.kind, op.key])
      const bytes = touched.has(name) ? await this.#overlay.get(keys.record(op)) : before[n]
      touched.add(name)
      if (await this.#applyOp(op, bytes)) effective.push(op)
      await this.#slicer.pause()
    }
    const last = this.#state.clock
    this.#state = { ...this.#state, clock: last && compareClocks(last, clock) > 0 ? last : clock }
    if (effective.length > 0) await this.#queueEntries(effective)
  }

  async finish(): Promise<StagedBatch> {
    await this.#postings.flush()
    this.#overlay.put(keys.meta('state'), encodeState(this.#state))
    return {
      operations: this.#overlay.operations(),
      state: this.#state,
      embedding: this.#embedding,
      vectors: this.#vectors,
      outbox: { entries: this.#outboxEntries, bytes: this.#outboxBytes },
    }
  }

  /** Returns whether the op changed the record. */
  async #applyOp(op: Op, bytes: Buffer | undefined): Promise<boolean> {
    const before = bytes === undefined ? undefined : decodeRecord(bytes)
    const { op: slim, vectors } = splitVectors(op)
    const after = mergeOp(before ?? EMPTY_RECORD, slim)
    const encoded = encodeRecord(after)
    if (bytes?.equals(encoded)) return false
    this.#overlay.put(keys.record(op), encoded)
    for (const { model, vector } of vectors) this.#noteModel(model, vector.length >> 2)
    this.#stageIndexes(op, before, after)
    if (op.kind === 'resource') await this.#stageResource(op.key[0]!, before, after, vectors)
    return true
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
    if (!old && !fresh) return
    const docNo = await this.#docNo(id)
    const oldTerms = old && documentTerms(old)
    const freshTerms = fresh && documentTerms(fresh)
    this.#postings.replace(docNo, oldTerms?.terms ?? [], freshTerms?.terms ?? [])
    this.#state = {
      ...this.#state,
      documents: this.#state.documents + (fresh ? 1 : 0) - (old ? 1 : 0),
      termTotal: this.#state.termTotal + (freshTerms?.length ?? 0) - (oldTerms?.length ?? 0),
    }
    for (const { model, vector } of vectors) {
      if (!digestOf(vector).equals(asBuffer(after.fields.get(EMBEDDING_FIELD_PREFIX + model)?.value))) continue
      this.#overlay.put(keys.vector(model, docNo), vector)
      this.#vectors.push({ docNo, model, vector })
    }
    for (const model of old?.embeddings ?? []) {
      if (fresh?.embeddings.includes(model)) continue
      this.#overlay.del(keys.vector(model, docNo))
      this.#vectors.push({ docNo, model, vector: undefined })
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
      if (!this.#base.outbox) continue
      const { tenant, incarnation, origin } = this.#base
      const entry = encodeEntry({ tenant, incarnation, origin, sequence, ops: part })
      this.#overlay.put(keys.outbox(sequence), entry)
      this.#outboxEntries++
      this.#outboxBytes += entry.length
      await this.#slicer.pause()
    }
    this.#overlay.put(keys.versionVector(this.#base.origin), u64(this.#state.sequence))
  }
}

interface OpVector {
  readonly model: string
  readonly vector: Buffer
}

/** In records a vector is its digest; the bytes live in their own key space, where a scan finds them side by side. */
function splitVectors(op: Op): { op: Op; vectors: OpVector[] } {
  const vectors: OpVector[] = []
  const fields: Record<string, Value> = {}
  for (const [name, value] of Object.entries(op.fields)) {
    if (op.kind === 'resource' && name.startsWith(EMBEDDING_FIELD_PREFIX) && value instanceof Uint8Array) {
      const vector = asBuffer(value)
      vectors.push({ model: name.slice(EMBEDDING_FIELD_PREFIX.length), vector })
      fields[name] = digestOf(vector)
    } else fields[name] = value
  }
  return { op: { ...op, fields }, vectors }
}

const digestOf = (vector: Uint8Array): Buffer => createHash('sha256').update(vector).digest().subarray(0, 8)

const asBuffer = (value: Value | undefined): Buffer =>
  value instanceof Uint8Array ? Buffer.from(value.buffer, value.byteOffset, value.byteLength) : Buffer.alloc(0)

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
