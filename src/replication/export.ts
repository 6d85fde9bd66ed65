import { PercolateError } from '../base/errors.ts'
import type { VersionVector } from '../clock/vector.ts'
import { EMBEDDING_FIELD_PREFIX } from '../rem/record.ts'
import { edgeSurvives, edgeView } from '../rem/views.ts'
import { decodeRecord, encodeRecord } from '../storage/codec.ts'
import { KeyReader, keyAfter, keys, kindByte, parseRecordKey, prefixes, prefixRange, space } from '../storage/keys.ts'
import { collect } from '../storage/kv.ts'
import { splitMark } from '../tenant/change-log.ts'
import type { Tenant } from '../tenant/tenant.ts'
import { digestOf } from '../tenant/vectors.ts'
import type { TransferHead, TransferPart, TransferRecord } from './peer.ts'
import { sameCopy, type UseCopy } from './with-copy.ts'

/** Records and bytes of one part of a transfer, at most (one record may be larger). */
const PART_RECORDS = 256
const PART_BYTES = 512 * 1024
/** Records that are read first, when nothing is known of their size. */
const FIRST_RECORDS = 32
/** Given-up entries that travel with a copy, at most. */
export const SKIPPED_MAX = 10_000

/**
 * A copy as parts: its vector, its records in the order of their keys, their number. Each part is read under a lease of its own, and nothing is held while it is on its way: who receives it may take
 * as long as it likes. The vector is read first, and every record later than that, so that the records have all of it, perhaps more: writers go on meanwhile. What may not happen in between is that
 * deletes are forgotten which the vector counts; the end has the latest floor, and who takes the records over refuses them when it was not above it itself (docs/decisions/0026-leases-and-the-network.md).
 * TENANT_UNAVAILABLE when the copy was made anew meanwhile, or is not there any more. `recordsMax`: in a part.
 */
export async function* exportCopy(
  use: UseCopy,
  source: string,
  from: Buffer | undefined,
  recordsMax = PART_RECORDS,
): AsyncGenerator<TransferPart> {
  const same = sameCopy(use)
  const head = await same(open => readHead(open, source))
  yield { head }
  let after = from
  let count = 0
  for (let wanted = Math.min(FIRST_RECORDS, recordsMax); ; ) {
    const batch = await same(open => {
      // The same copy never forgets what it had.
      if (!open.covers(head.vector))
        throw new PercolateError('TENANT_UNAVAILABLE', "This node's copy of the tenant went back while it was sent.")
      return readBatch(open, after, wanted)
    })
    for (const records of inParts(batch.records)) {
      count += records.length
      yield { records, upTo: batch.upTo }
    }
    if (batch.last === undefined) {
      yield { end: { records: count, floor: batch.floor, came: batch.came } }
      return
    }
    after = batch.last
    // As many as make a part, by the size of the latest ones: what is read is held in memory.
    const fitting = Math.floor(PART_BYTES / Math.max(1, batch.bytes / Math.max(1, batch.read)))
    wanted = Math.max(1, Math.min(recordsMax, wanted * 2, fitting))
  }
}

async function readHead(open: Tenant, source: string): Promise<TransferHead> {
  const { id, floor } = open
  // Before what was given up: a loss that the vector counts must be in that list.
  const vector = new Map(open.vector)
  const came = cameTo(open)
  const skipped = await readSkipped(open)
  return { tenant: id, incarnation: open.identity.incarnation, vector, floor, skipped, came, source }
}

const cameTo = (open: Tenant): string | undefined => splitMark(open.state.lost.mark).came || undefined

interface Batch {
  readonly records: TransferRecord[]
  readonly upTo: VersionVector
  /** The copy's floor, and what it had learned past its vector, when all of it was read. */
  readonly floor: TransferHead['floor']
  readonly came: string | undefined
  /** Records that were read, also those that are not sent, and their bytes. */
  readonly read: number
  readonly bytes: number
  /** Where to read on; undefined: there is no more. */
  readonly last: Buffer | undefined
}

async function readBatch(open: Tenant, after: Buffer | undefined, wanted: number): Promise<Batch> {
  const range = prefixRange(prefixes.space(space.record))
  const gte = after ? keyAfter(after) : range.gte
  const entries = await collect(open, { gte, lt: range.lt, limit: wanted, verified: true })
  const records: TransferRecord[] = []
  let bytes = 0
  for (const [key, value] of entries) {
    const record = await exportRecord(open, key, value)
    bytes += record ? sizeOf(record) : key.length + value.length
    if (record) records.push(record)
  }
  const last = entries.length < wanted ? undefined : entries.at(-1)![0]
  return {
    records,
    upTo: new Map(open.reach),
    floor: open.floor,
    came: cameTo(open),
    read: entries.length,
    bytes,
    last,
  }
}

const sizeOf = ({ key, record, vectors }: TransferRecord): number =>
  key.length + record.length + vectors.reduce((sum, { vector }) => sum + vector.length, 0)

function* inParts(records: readonly TransferRecord[]): Generator<TransferRecord[]> {
  let part: TransferRecord[] = []
  let bytes = 0
  for (const record of records) {
    part.push(record)
    bytes += sizeOf(record)
    if (bytes < PART_BYTES) continue
    yield part
    part = []
    bytes = 0
  }
  if (part.length > 0) yield part
}

/** Single records, for a repair; those that are not there, or hidden, are left out. */
export async function exportRecords(tenant: Tenant, wanted: readonly Buffer[]): Promise<TransferRecord[]> {
  const values = await tenant.getMany(wanted)
  const records: TransferRecord[] = []
  for (const [n, key] of wanted.entries()) {
    const value = values[n]
    const record = value && (await exportRecord(tenant, key, value))
    if (record) records.push(record)
  }
  return records
}

/**
 * An edge that the delete of one of its ends hides. Copies forget such edges when they collect garbage, each in its own time: they are no part of what copies have in common, and
 * must not travel to a copy that has forgotten the delete.
 */
export async function isHidden(tenant: Tenant, key: Buffer, value: Buffer): Promise<boolean> {
  if (key[1] !== kindByte.edge) return false
  const ref = parseRecordKey(key)
  const edge = edgeView(ref.key, decodeRecord(value))
  if (!edge) return false
  for (const id of [edge.from, edge.to])
    if (!edgeSurvives(edge, await tenant.record({ kind: 'entity', key: [id] }))) return true
  return false
}

/** A record with its vectors' bytes. One whose bytes changed since it was read is sent without them; the entry that changed them comes by the stream. */
async function exportRecord(tenant: Tenant, key: Buffer, value: Buffer): Promise<TransferRecord | undefined> {
  const ref = parseRecordKey(key)
  if (await isHidden(tenant, key, value)) return undefined
  if (ref.kind !== 'resource') return { key, record: value, vectors: [] }
  const record = decodeRecord(value)
  const models = [...record.fields.keys()].filter(name => name.startsWith(EMBEDDING_FIELD_PREFIX))
  if (models.length === 0) return { key, record: value, vectors: [] }
  const docNo = (await tenant.get(keys.docNoById(ref.key[0]!)))?.readUInt32BE(0)
  const vectors: { model: string; vector: Buffer }[] = []
  const fields = new Map(record.fields)
  for (const name of models) {
    const model = name.slice(EMBEDDING_FIELD_PREFIX.length)
    const vector = docNo === undefined ? undefined : await tenant.get(keys.vector(model, docNo))
    if (vector && digestOf(vector).equals(Buffer.from(record.fields.get(name)!.value as Uint8Array)))
      vectors.push({ model, vector })
    else fields.delete(name)
  }
  const complete = fields.size === record.fields.size
  return { key, record: complete ? value : encodeRecord({ ...record, fields }), vectors }
}

/** Entries that the copy's vector counts and that were given up for lost. */
export async function readSkipped(tenant: Tenant): Promise<[string, number][]> {
  const skipped: [string, number][] = []
  const range = { ...prefixRange(prefixes.space(space.skipped)), limit: SKIPPED_MAX, values: false }
  for await (const chunk of tenant.chunks(range))
    for (const [key] of chunk) {
      const reader = new KeyReader(key)
      skipped.push([reader.text(), reader.u64()])
    }
  return skipped
}
