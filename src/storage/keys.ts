import { PercolateError } from '../base/errors.ts'
import type { RecordKind, RecordRef } from '../rem/record.ts'
import type { KvRange } from './kv.ts'

/**
 * The key layout of a tenant's database, version 1; `docs/key-layout.md` describes it and `tests/unit/storage/keys.test.ts` holds its golden bytes.
 * Text parts are escaped (`00` becomes `00 FF`, the end is `00 01`), so that no id can contain a separator and keys sort like their parts.
 */
export const KEY_LAYOUT_VERSION = 1

export const space = {
  meta: 0x01,
  record: 0x10,
  vector: 0x11,
  docNoById: 0x20,
  idByDocNo: 0x21,
  posting: 0x22,
  resourceByTime: 0x23,
  embeddingPending: 0x24,
  entityByName: 0x30,
  entityByType: 0x31,
  entityByTrigram: 0x32,
  edgeIn: 0x33,
  momentByTime: 0x40,
  momentByType: 0x41,
  momentByParent: 0x42,
  momentByReference: 0x43,
  outbox: 0x50,
  versionVector: 0x51,
  parked: 0x52,
  quarantine: 0x53,
  change: 0x54,
  skipped: 0x55,
} as const

export const kindByte: Record<RecordKind, number> = {
  resource: 1,
  entity: 2,
  edge: 3,
  moment: 4,
  setting: 5,
}
const kindOfByte = new Map<number, RecordKind>(
  Object.entries(kindByte).map(([kind, byte]) => [byte, kind as RecordKind]),
)

/** Postings of words, and of exact values for filters. */
export const postingField = { text: 1, category: 2, metadata: 3, uri: 4 } as const
export type PostingField = (typeof postingField)[keyof typeof postingField]
export const referenceKind = { resource: 1, entity: 2 } as const

const TERMINATOR = Buffer.from([0x00, 0x01])

/** A text part, escaped and terminated. */
export function textPart(text: string): Buffer {
  const bytes = Buffer.from(text)
  return Buffer.concat([escapeZeros(bytes), TERMINATOR])
}

/** A text part's beginning, for prefix ranges: escaped, not terminated. */
export const textPrefix = (text: string): Buffer => escapeZeros(Buffer.from(text))

function escapeZeros(bytes: Buffer): Buffer {
  if (!bytes.includes(0)) return bytes
  const out: number[] = []
  for (const byte of bytes) {
    out.push(byte)
    if (byte === 0) out.push(0xff)
  }
  return Buffer.from(out)
}

export function u32(value: number): Buffer {
  const buffer = Buffer.alloc(4)
  buffer.writeUInt32BE(value)
  return buffer
}

export function u64(value: number): Buffer {
  const buffer = Buffer.alloc(8)
  buffer.writeBigUInt64BE(BigInt(value))
  return buffer
}

const TIME_OFFSET = 2 ** 47
export const TIME_MS_MIN = -TIME_OFFSET
export const TIME_MS_MAX = TIME_OFFSET - 1

/** Milliseconds since the epoch (negative before it) as 6 bytes that sort newest first. */
export function newestFirst(timeMs: number): Buffer {
  const buffer = Buffer.alloc(6)
  buffer.writeUIntBE(2 ** 48 - 1 - (timeMs + TIME_OFFSET), 0, 6)
  return buffer
}

export const readNewestFirst = (key: Buffer, at: number): number => 2 ** 48 - 1 - key.readUIntBE(at, 6) - TIME_OFFSET

const key = (spaceByte: number, ...parts: Buffer[]): Buffer => Buffer.concat([Buffer.from([spaceByte]), ...parts])
const byte = (value: number): Buffer => Buffer.from([value])

export const keys = {
  meta: (
    name:
      | 'tenant'
      | 'state'
      | 'embedding'
      | 'local'
      | 'cursor'
      | 'floor'
      | 'transfer'
      | 'merging'
      | 'missed'
      | 'streams',
  ) => key(space.meta, Buffer.from(name)),
  record: (ref: RecordRef) => key(space.record, byte(kindByte[ref.kind]), ...ref.key.map(textPart)),
  vector: (model: string, docNo: number) => key(space.vector, textPart(model), u32(docNo)),
  docNoById: (id: string) => key(space.docNoById, textPart(id)),
  idByDocNo: (docNo: number) => key(space.idByDocNo, u32(docNo)),
  posting: (field: PostingField, term: string, block: number) => {
    if (term.includes('\u0000')) return key(space.posting, byte(field), textPart(term), u32(block))
    // One buffer instead of six: a batch may have a million of these.
    const end = 2 + Buffer.byteLength(term)
    const bytes = Buffer.allocUnsafe(end + TERMINATOR.length + 4)
    bytes[0] = space.posting
    bytes[1] = field
    bytes.write(term, 2)
    TERMINATOR.copy(bytes, end)
    bytes.writeUInt32BE(block, end + TERMINATOR.length)
    return bytes
  },
  resourceByTime: (wallMs: number, id: string) => key(space.resourceByTime, newestFirst(wallMs), textPart(id)),
  embeddingPending: (id: string) => key(space.embeddingPending, textPart(id)),
  entityByName: (name: string, id: string) => key(space.entityByName, textPart(name), textPart(id)),
  entityByType: (type: string, id: string) => key(space.entityByType, textPart(type), textPart(id)),
  entityByTrigram: (trigram: string, name: string, id: string) =>
    key(space.entityByTrigram, textPart(trigram), textPart(name), textPart(id)),
  edgeIn: (to: string, type: string, from: string) => key(space.edgeIn, textPart(to), textPart(type), textPart(from)),
  momentByTime: (timeMs: number, id: string) => key(space.momentByTime, newestFirst(timeMs), textPart(id)),
  momentByType: (type: string, timeMs: number, id: string) =>
    key(space.momentByType, textPart(type), newestFirst(timeMs), textPart(id)),
  momentByParent: (parent: string, timeMs: number, id: string) =>
    key(space.momentByParent, textPart(parent), newestFirst(timeMs), textPart(id)),
  momentByReference: (kind: keyof typeof referenceKind, target: string, timeMs: number, id: string) =>
    key(space.momentByReference, byte(referenceKind[kind]), textPart(target), newestFirst(timeMs), textPart(id)),
  outbox: (sequence: number) => key(space.outbox, u64(sequence)),
  versionVector: (origin: string) => key(space.versionVector, textPart(origin)),
  parked: (origin: string, sequence: number) => key(space.parked, textPart(origin), u64(sequence)),
  quarantine: (origin: string, sequence: number) => key(space.quarantine, textPart(origin), u64(sequence)),
  skipped: (origin: string, sequence: number) => key(space.skipped, textPart(origin), u64(sequence)),
  change: (n: number) => key(space.change, u64(n)),
} as const

/** Prefixes; {@link prefixRange} makes a range of one. */
export const prefixes = {
  space: (spaceByte: number) => byte(spaceByte),
  kind: (kind: RecordKind) => key(space.record, byte(kindByte[kind])),
  edgesFrom: (from: string) => key(space.record, byte(kindByte.edge), textPart(from)),
  edgesTo: (to: string) => key(space.edgeIn, textPart(to)),
  vectors: (model: string) => key(space.vector, textPart(model)),
  postings: (field: PostingField, term: string) => key(space.posting, byte(field), textPart(term)),
  postingsStarting: (field: PostingField, start: string) => key(space.posting, byte(field), textPrefix(start)),
  entityNames: (start: string) => key(space.entityByName, textPrefix(start)),
  entityName: (name: string) => key(space.entityByName, textPart(name)),
  entityType: (type: string) => key(space.entityByType, textPart(type)),
  trigram: (trigram: string) => key(space.entityByTrigram, textPart(trigram)),
  momentType: (type: string) => key(space.momentByType, textPart(type)),
  momentParent: (parent: string) => key(space.momentByParent, textPart(parent)),
  momentReference: (kind: keyof typeof referenceKind, target: string) =>
    key(space.momentByReference, byte(referenceKind[kind]), textPart(target)),
} as const

/** All keys that start with `prefix`. */
export const prefixRange = (prefix: Buffer): KvRange => ({ gte: prefix, lt: keyAfter(prefix) })

/** The first key after all those that start with `prefix`. */
export function keyAfter(prefix: Buffer): Buffer {
  const end = Buffer.from(prefix)
  for (let at = end.length - 1; at >= 0; at--) {
    if (end[at]! < 0xff) {
      end[at]!++
      return end.subarray(0, at + 1)
    }
  }
  return Buffer.alloc(prefix.length + 1, 0xff)
}

/** Reads the parts of a key back, in order. */
export class KeyReader {
  readonly #key: Buffer
  #at: number

  constructor(key: Buffer, at = 1) {
    this.#key = key
    this.#at = at
  }

  text(): string {
    const bytes: number[] = []
    for (let at = this.#at; at + 1 < this.#key.length; at++) {
      const value = this.#key[at]!
      if (value !== 0) bytes.push(value)
      else if (this.#key[at + 1] === 0xff) {
        bytes.push(0)
        at++
      } else {
        this.#at = at + 2
        return Buffer.from(bytes).toString()
      }
    }
    throw new PercolateError('DATA_CORRUPT', 'A key part has no terminator.')
  }

  byte(): number {
    return this.#key.readUInt8(this.#at++)
  }

  u32(): number {
    this.#at += 4
    return this.#key.readUInt32BE(this.#at - 4)
  }

  u64(): number {
    this.#at += 8
    return Number(this.#key.readBigUInt64BE(this.#at - 8))
  }

  newestFirst(): number {
    this.#at += 6
    return readNewestFirst(this.#key, this.#at - 6)
  }

  get ended(): boolean {
    return this.#at >= this.#key.length
  }
}

/** Which record a key in the record space names. */
export function parseRecordKey(bytes: Buffer): RecordRef {
  const reader = new KeyReader(bytes)
  const kind = kindOfByte.get(reader.byte())
  if (kind === undefined) throw new PercolateError('DATA_CORRUPT', 'A record key has an unknown kind.')
  const parts: string[] = []
  while (!reader.ended) parts.push(reader.text())
  return { kind, key: parts }
}
