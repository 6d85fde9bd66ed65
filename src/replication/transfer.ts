import { createHash } from 'node:crypto'
import { PercolateError } from '../base/errors.ts'
import {
  dominates,
  joinVectors,
  meetVectors,
  type VersionVector,
  vectorFromObject,
  vectorToObject,
} from '../clock/vector.ts'
import type { GcFloor } from '../rem/floor.ts'
import { EMBEDDING_FIELD_PREFIX, type LwwRecord } from '../rem/record.ts'
import { edgeSurvives, edgeView } from '../rem/views.ts'
import { decodeRecord, encodeRecord, packValue, unpackValue } from '../storage/codec.ts'
import { KeyReader, keyAfter, keys, kindByte, parseRecordKey, prefixes, prefixRange, space } from '../storage/keys.ts'
import type { Staging } from '../tenant/staging.ts'
import type { Tenant } from '../tenant/tenant.ts'
import { BUCKETS, type Digests, type TransferHead, type TransferPart, type TransferRecord } from './peer.ts'

/** Records and bytes of one part of a transfer, at most (one record may be larger). */
const PART_RECORDS = 256
const PART_BYTES = 512 * 1024

/**
 * A copy as parts: its vector, its records in the order of their keys from one snapshot, their number. The vector is read before the snapshot is taken, so that
 * the records have all of it, perhaps more. Writers go on meanwhile.
 */
export async function* exportTenant(
  tenant: Tenant,
  source: string,
  from: Buffer | undefined,
): AsyncGenerator<TransferPart> {
  const { incarnation } = tenant.identity
  const skipped = await readSkipped(tenant)
  yield {
    head: { tenant: tenant.id, incarnation, vector: new Map(tenant.vector), floor: tenant.floor, skipped, source },
  }
  const range = prefixRange(prefixes.space(space.record))
  let records: TransferRecord[] = []
  let bytes = 0
  let count = 0
  for await (const chunk of tenant.chunks({ ...range, gte: from ? keyAfter(from) : range.gte, verified: true })) {
    for (const [key, value] of chunk) {
      const record = await exportRecord(tenant, key, value)
      if (!record) continue
      records.push(record)
      bytes += key.length + record.record.length + record.vectors.reduce((sum, { vector }) => sum + vector.length, 0)
      count++
      if (records.length >= PART_RECORDS || bytes >= PART_BYTES) {
        yield { records, upTo: new Map(tenant.reach) }
        records = []
        bytes = 0
      }
    }
  }
  if (records.length > 0) yield { records, upTo: new Map(tenant.reach) }
  yield { end: { records: count } }
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

/** A record with its vectors' bytes. One whose bytes changed since the snapshot is sent without them; the entry that changed them comes by the stream. */
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

/** Given-up entries that travel with a copy, at most. */
const SKIPPED_MAX = 10_000

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

const digestOf = (bytes: Buffer): Buffer => createHash('sha256').update(bytes).digest().subarray(0, 8)

/** What a joining copy remembers between parts, so that it can go on after a restart, also from another source. */
interface Progress {
  readonly after: Buffer
  readonly vector: VersionVector
}

export async function readProgress(tenant: Tenant): Promise<Progress | undefined> {
  const bytes = await tenant.get(keys.meta('transfer'))
  if (!bytes) return undefined
  const [after, vector] = unpackValue(bytes) as [Uint8Array, Record<string, number>]
  return { after: Buffer.from(after), vector: vectorFromObject(vector) ?? new Map() }
}

/** Forgets transfers that were cut short: the copy was compared, and is as another one. */
export async function forgetMerging(tenant: Tenant): Promise<void> {
  await tenant.change(async staging => staging.del(keys.meta('merging')))
}

/** The vectors of transfers into a complete copy that have begun; covered, when what they bring has come. */
async function readMerging(tenant: Tenant): Promise<VersionVector> {
  const bytes = await tenant.get(keys.meta('merging'))
  return (bytes && vectorFromObject(unpackValue(bytes) as Record<string, number>)) ?? new Map()
}

/**
 * Merges a transfer into a copy, part by part, and takes over its vector at the end, when all of it is there: a transfer that is cut short moves no
 * vector. What was given up here and the source has is regained by it. SNAPSHOT_INVALID when it is not what it should be.
 */
export async function importTransfer(
  tenant: Tenant,
  parts: AsyncIterable<TransferPart>,
  options: { readonly resumable: boolean; readonly onRecords?: (count: number) => void },
): Promise<{ records: number; changed: number; vector: VersionVector }> {
  const before = options.resumable ? await readProgress(tenant) : undefined
  let vector: VersionVector | undefined
  let skipped: TransferHead['skipped'] = []
  let regained: TransferHead['skipped'] = []
  let records = 0
  let changed = 0
  let merging: VersionVector = new Map()
  for await (const part of parts) {
    if ('head' in part) {
      if (part.head.tenant !== tenant.id) throw invalid('it is of another tenant')
      if (part.head.incarnation !== tenant.identity.incarnation) throw invalid('it is of another incarnation')
      const floor = options.resumable ? undefined : tenant.floor
      const theirs = options.resumable ? undefined : part.head.floor
      // The other way round: deletes that this copy has not seen may be forgotten there.
      if (theirs && !tenant.covers(theirs.vector)) throw invalid('this copy is below the floor of that one')
      // What that copy has not seen may be deleted and forgotten here: it has to be made anew, not merged.
      if (floor && !dominates(part.head.vector, floor.vector)) throw invalid('its copy is below the floor of this one')
      if (!options.resumable) {
        const given = await readSkipped(tenant)
        const lacks = new Set(part.head.skipped.map(([origin, sequence]) => `${origin} ${sequence}`))
        const { vector: has } = part.head
        // Of a list that may have been cut short nothing can be concluded from what is not in it.
        const isWhole = part.head.skipped.length < SKIPPED_MAX
        regained = isWhole
          ? given.filter(([origin, n]) => (has.get(origin) ?? 0) >= n && !lacks.has(`${origin} ${n}`))
          : []
        if (theirs && isUnseenBelow(theirs, given, part.head.skipped))
          throw invalid('this copy is below the floor of that one')
        if (floor && isUnseenBelow(floor, part.head.skipped, given))
          throw invalid('its copy is below the floor of this one')
      }
      // Of what came before the restart only the earlier vector is certain, of the rest only the new one.
      skipped = part.head.skipped
      vector = before ? meetVectors(before.vector, part.head.vector) : part.head.vector
      if (!options.resumable) merging = joinVectors(await readMerging(tenant), vector)
    } else if (!vector) {
      throw invalid('it does not begin with its head')
    } else if ('records' in part) {
      const decoded = part.records.map(decodeTransferred)
      const certain = vector
      const last = part.records.at(-1)
      changed += await tenant.merge(decoded, joinVectors(certain, part.upTo ?? new Map()), {
        regains: regained.length > 0,
        also: staging => {
          if (options.resumable && last)
            staging.put(keys.meta('transfer'), packValue([last.key, vectorToObject(certain)]))
          if (!options.resumable) staging.put(keys.meta('merging'), packValue(vectorToObject(merging)))
        },
      })
      records += decoded.length
      options.onRecords?.(decoded.length)
    } else {
      if (part.end.records !== records) throw invalid(`it has ${records} records of ${part.end.records}`)
      const complete = vector
      const finish = async (staging: Staging) => {
        // On the word of the copy whose records have come, not on what it said before.
        await staging.regain(regained)
        staging.joinVector(complete, skipped)
        staging.del(keys.meta('transfer'))
        staging.del(keys.meta('merging'))
      }
      if (options.resumable) await tenant.finishJoin(finish)
      else await tenant.change(finish)
      // What was collected here may have come back with it.
      await tenant.noteCollected(undefined)
      return { records, changed, vector }
    }
  }
  throw invalid('it is cut short')
}

/** Whether entries below the floor count as seen in one copy only because it gave them up, and the other has them: they may have been deletes, forgotten since. */
function isUnseenBelow(floor: GcFloor, skipped: TransferHead['skipped'], others: TransferHead['skipped']): boolean {
  const known = new Set(others.map(([origin, sequence]) => `${origin} ${sequence}`))
  return skipped.some(
    ([origin, sequence]) => (floor.vector.get(origin) ?? 0) >= sequence && !known.has(`${origin} ${sequence}`),
  )
}

const invalid = (why: string) => new PercolateError('SNAPSHOT_INVALID', `The transfer is not used further: ${why}.`)

function decodeTransferred({ key, record, vectors }: TransferRecord) {
  try {
    const decoded: LwwRecord = decodeRecord(record)
    if (key[0] !== space.record) throw invalid('it has a key of another space')
    return { ref: parseRecordKey(key), record: decoded, vectors }
  } catch (cause) {
    throw new PercolateError('SNAPSHOT_INVALID', 'The transfer is not used further: a record does not decode.', {
      cause,
    })
  }
}

/** Merges single records of another copy, which had no more than `upTo`: a repair. */
export async function mergeTransferred(
  tenant: Tenant,
  records: readonly TransferRecord[],
  upTo: VersionVector,
): Promise<number> {
  return tenant.merge(records.map(decodeTransferred), upTo, { regains: true })
}

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

export const bucketOf = (key: Buffer): number => createHash('sha256').update(key).digest().readUInt8(0) % BUCKETS

const recordDigest = (key: Buffer, value: Buffer): Buffer =>
  createHash('sha256').update(key).update(value).digest().subarray(0, 8)

/** One pass over the records; a bucket's digest is the XOR of its records', so that order does not matter. */
export async function digestTenant(tenant: Tenant, collected: boolean): Promise<Digests> {
  const vector = new Map(tenant.vector)
  const merging = !tenant.covers(await readMerging(tenant))
  const buckets = Buffer.alloc(BUCKETS * 8)
  for await (const chunk of tenant.chunks(prefixRange(prefixes.space(space.record)))) {
    for (const [key, value] of chunk) {
      if (await isHidden(tenant, key, value)) continue
      const at = bucketOf(key) * 8
      const digest = recordDigest(key, value)
      for (let n = 0; n < 8; n++) buckets[at + n]! ^= digest[n]!
    }
  }
  return { vector, floor: tenant.floor, collected, merging, buckets }
}

export async function digestBucket(tenant: Tenant, bucket: number): Promise<{ key: Buffer; digest: Buffer }[]> {
  const found: { key: Buffer; digest: Buffer }[] = []
  for await (const chunk of tenant.chunks(prefixRange(prefixes.space(space.record))))
    for (const [key, value] of chunk)
      if (bucketOf(key) === bucket && !(await isHidden(tenant, key, value)))
        found.push({ key, digest: recordDigest(key, value) })
  return found
}

const PART_VERSION = 1

type PackedFloor = [wall: number, counter: number, origin: string, vector: Record<string, number>]
const packFloor = (floor: GcFloor | undefined): PackedFloor | null =>
  floor ? [floor.clock.wall, floor.clock.counter, floor.clock.origin, vectorToObject(floor.vector)] : null
const unpackFloor = (packed: PackedFloor | null): GcFloor | undefined =>
  packed
    ? {
        clock: { wall: packed[0], counter: packed[1], origin: packed[2] },
        vector: vectorFromObject(packed[3]) ?? new Map(),
      }
    : undefined

/** A part as bytes: version, kind, fields, and the SHA-256 of it all, so that what was altered on the way is refused. */
export function encodePart(part: TransferPart): Buffer {
  const fields =
    'head' in part
      ? [
          0,
          part.head.tenant,
          part.head.incarnation,
          vectorToObject(part.head.vector),
          part.head.source,
          packFloor(part.head.floor),
          part.head.skipped,
        ]
      : 'records' in part
        ? [
            1,
            part.records.map(({ key, record, vectors }) => [key, record, vectors.map(v => [v.model, v.vector])]),
            part.upTo ? vectorToObject(part.upTo) : null,
          ]
        : [2, part.end.records]
  const body = Buffer.concat([Buffer.from([PART_VERSION]), packValue(fields)])
  return Buffer.concat([body, createHash('sha256').update(body).digest()])
}

export function decodePart(bytes: Buffer): TransferPart {
  const body = bytes.subarray(0, Math.max(0, bytes.length - 32))
  if (bytes.length < 34 || !createHash('sha256').update(body).digest().equals(bytes.subarray(-32)))
    throw new PercolateError(
      'SNAPSHOT_INVALID',
      'A part of a snapshot was altered or cut short; nothing of it is used.',
    )
  if (body[0] !== PART_VERSION)
    throw new PercolateError(
      'SNAPSHOT_INVALID',
      `A snapshot has format ${body[0]}; this version reads ${PART_VERSION}.`,
    )
  const [kind, ...fields] = unpackValue(body.subarray(1)) as [number, ...unknown[]]
  if (kind === 0) {
    const [tenant, incarnation, vector, source, floor, skipped] = fields as [
      string,
      string,
      unknown,
      string,
      PackedFloor | null,
      [string, number][],
    ]
    return {
      head: {
        tenant,
        incarnation,
        vector: vectorFromObject(vector) ?? new Map(),
        source,
        floor: unpackFloor(floor),
        skipped: skipped ?? [],
      },
    }
  }
  if (kind === 2) return { end: { records: fields[0] as number } }
  const records = fields[0] as [Uint8Array, Uint8Array, [string, Uint8Array][]][]
  return {
    upTo: fields[1] ? vectorFromObject(fields[1]) : undefined,
    records: records.map(([key, record, vectors]) => ({
      key: Buffer.from(key),
      record: Buffer.from(record),
      vectors: vectors.map(([model, vector]) => ({ model, vector: Buffer.from(vector) })),
    })),
  }
}
