import { createHash } from 'node:crypto'
import { PercolateError } from '../base/errors.ts'
import { compareClocks } from '../clock/hlc.ts'
import {
  dominates,
  joinVectors,
  meetVectors,
  type VersionVector,
  vectorFromObject,
  vectorToObject,
} from '../clock/vector.ts'
import { type GcFloor, latestClock } from '../rem/floor.ts'
import type { LwwRecord } from '../rem/record.ts'
import { decodeRecord, packValue, unpackValue } from '../storage/codec.ts'
import { keys, parseRecordKey, prefixes, prefixRange, space } from '../storage/keys.ts'
import { meetCame } from '../tenant/change-log.ts'
import type { Staging } from '../tenant/staging.ts'
import type { Tenant } from '../tenant/tenant.ts'
import { isHidden, readSkipped, SKIPPED_MAX } from './export.ts'
import { BUCKETS, type Digests, type TransferHead, type TransferPart, type TransferRecord } from './peer.ts'
import { sameCopy, type UseCopy } from './with-copy.ts'

/** What a joining copy remembers between parts, so that it can go on after a restart, also from another source. */
interface Progress {
  readonly after: Buffer
  readonly vector: VersionVector
  /** Given up for lost by the sources so far: what came from them does not have it, whatever the next one has. */
  readonly skipped: TransferHead['skipped']
  /** Past their vectors they had learned of; see `splitMark`. */
  readonly came: string
}

export async function readProgress(tenant: Tenant): Promise<Progress | undefined> {
  const bytes = await tenant.get(keys.meta('transfer'))
  if (!bytes) return undefined
  const [after, vector, skipped = [], came = ''] = unpackValue(bytes) as [
    Uint8Array,
    Record<string, number>,
    TransferHead['skipped'] | undefined,
    string | undefined,
  ]
  return { after: Buffer.from(after), vector: vectorFromObject(vector) ?? new Map(), skipped, came }
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

interface ImportOptions {
  /** Into a copy that is being made, and goes on where it was cut short; else into one that is whole. */
  readonly resumable: boolean
}

/** What a transfer brought. `skipped`: entries that `vector` counts, and that neither the source nor the copy may have. */
export interface Imported extends Pick<TransferHead, 'vector' | 'skipped'> {
  readonly records: number
  readonly changed: number
}

/**
 * Merges a transfer into a copy, part by part, and takes over its vector at the end, when all of it is there: a transfer that is cut short moves no
 * vector. What was given up here and the source has is regained by it. Each part is merged under a lease of its own, none is held while the next is waited for. SNAPSHOT_INVALID when it is not what it should be,
 * TENANT_UNAVAILABLE when the copy was made anew in between.
 */
export async function importTransfer(
  use: UseCopy,
  parts: AsyncIterable<TransferPart>,
  { resumable }: ImportOptions,
): Promise<Imported> {
  const same = sameCopy(use)
  const before = await same(async open => (resumable ? readProgress(open) : undefined))
  let head: TransferHead | undefined
  /** What is certain to be here at the end. */
  let vector: VersionVector = new Map()
  /** What may not be here at the end, though `vector` counts it. */
  let lacking: TransferHead['skipped'] = []
  let came = ''
  /** What the records that have come may belong to. */
  let merging: VersionVector = new Map()
  /** Given up here when it began. */
  let given: TransferHead['skipped'] = []
  let records = 0
  let changed = 0
  for await (const part of parts) {
    if ('head' in part) {
      head = part.head
      // Of what came before the restart only the earlier vector is certain, of the rest only the new one.
      vector = before ? meetVectors(before.vector, head.vector) : head.vector
      lacking = unique([...(before?.skipped ?? []), ...head.skipped])
      came = meetCame(before?.came ?? head.came ?? '', head.came ?? '')
      merging = await same(async open => {
        assertFits(open, part.head)
        if (resumable) return new Map()
        given = await readSkipped(open)
        await assertMergeable(open, part.head, part.head.floor)
        return joinVectors(await readMerging(open), part.head.vector)
      })
    } else if (!head) {
      throw invalid('it does not begin with its head')
    } else if ('records' in part) {
      const decoded = part.records.map(decodeTransferred)
      const last = part.records.at(-1)
      const { vector: sourceVector, skipped } = head
      changed += await same(async open => {
        // What was collected here may come back with it, and collecting that is under way may have gone past its place.
        open.countArrival()
        // What was given up here, or forgotten, may be so since the last part only.
        if (!resumable) assertAboveOurs(open, sourceVector)
        const regains =
          !resumable &&
          open.state.lost.count > 0 &&
          regainable(await readSkipped(open), sourceVector, skipped).length > 0
        const upTo = joinVectors(vector, part.upTo ?? new Map())
        // The source may have gone on since it began.
        merging = joinVectors(merging, upTo)
        return open.merge(decoded, upTo, {
          regains,
          also: staging => {
            if (resumable && last)
              staging.put(keys.meta('transfer'), packValue([last.key, vectorToObject(vector), lacking, came]))
            if (!resumable) staging.put(keys.meta('merging'), packValue(vectorToObject(merging)))
          },
        })
      })
      records += decoded.length
    } else {
      if (part.end.records !== records) throw invalid(`it has ${records} records of ${part.end.records}`)
      const { end } = part
      const { skipped } = head
      const whole = head
      await same(async open => {
        if (!resumable) await assertMergeable(open, whole, end.floor)
        // Of what was given up when it began: what has been since may have come before that part of it.
        const regained = regainable(given, whole.vector, skipped)
        const finish = async (staging: Staging) => {
          // On the word of the copy whose records have come, not on what it said before.
          await staging.regain(regained)
          staging.joinVector(vector, lacking)
          if (resumable) staging.inheritCame(meetCame(came, end.came ?? ''))
          staging.del(keys.meta('transfer'))
          // Its later parts may have had records of entries that are still to come, or never will.
          if (dominates(staging.vector, staging.reach)) staging.del(keys.meta('merging'))
          else staging.put(keys.meta('merging'), packValue(vectorToObject(staging.reach)))
          open.stageArrivals(staging)
        }
        if (resumable) await open.finishJoin(finish)
        else await open.change(finish)
      })
      return { records, changed, vector, skipped: lacking }
    }
  }
  throw invalid('it is cut short')
}

const unique = (entries: TransferHead['skipped']): TransferHead['skipped'] => [
  ...new Map(entries.map(entry => [entry.join(' '), entry])).values(),
]

function assertFits(open: Tenant, head: TransferHead): void {
  if (head.tenant !== open.id) throw invalid('it is of another tenant')
  if (head.incarnation !== open.identity.incarnation) throw invalid('it is of another incarnation')
}

/** What the source has not seen may be deleted and forgotten here: its copy has to be made anew, not merged. */
function assertAboveOurs({ floor }: Tenant, theirs: VersionVector): void {
  if (floor && !dominates(theirs, floor.vector)) throw invalid('its copy is below the floor of this one')
}

/** Whether neither of the two copies has forgotten deletes that the other never saw. `theirFloor`: the source's latest that is known. */
async function assertMergeable(
  open: Tenant,
  { vector, skipped }: TransferHead,
  theirFloor: GcFloor | undefined,
): Promise<void> {
  assertAboveOurs(open, vector)
  // The other way round: deletes that this copy has not seen may be forgotten there.
  if (theirFloor && !open.covers(theirFloor.vector)) throw invalid('this copy is below the floor of that one')
  const given = await readSkipped(open)
  if (theirFloor && isUnseenBelow(theirFloor, given, skipped)) throw invalid('this copy is below the floor of that one')
  if (open.floor && isUnseenBelow(open.floor, skipped, given)) throw invalid('its copy is below the floor of this one')
}

/** What the source has of that which was given up here. Of a list that may have been cut short nothing can be concluded from what is not in it. */
function regainable(
  given: TransferHead['skipped'],
  theirs: VersionVector,
  skipped: TransferHead['skipped'],
): TransferHead['skipped'] {
  if (skipped.length >= SKIPPED_MAX) return []
  const lacks = new Set(skipped.map(([origin, sequence]) => `${origin} ${sequence}`))
  return given.filter(([origin, n]) => (theirs.get(origin) ?? 0) >= n && !lacks.has(`${origin} ${n}`))
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

/**
 * Merges single records of another copy, which had no more than `upTo`: a repair. A record that lies wholly at or below the floor and is not here was seen here, deleted and forgotten: all that the floor's vector
 * counts has been applied, and nothing else was written down there. The other copy missed the delete, or has not forgotten it yet; merged, the record would be back, and whether it stays away would depend on which of the
 * two copies repairs itself first. So it is left out, and the other copy sets it aside. A copy that gave entries up for lost may never have seen it: it takes the record over, and the other one leaves it to that
 * (`repairFrom`).
 */
export async function mergeTransferred(
  tenant: Tenant,
  records: readonly TransferRecord[],
  upTo: VersionVector,
): Promise<number> {
  // A delete that was collected here may come back with them, as with a transfer.
  tenant.countArrival()
  const merging = joinVectors(await readMerging(tenant), upTo)
  return tenant.merge(records.map(decodeTransferred), upTo, {
    regains: true,
    // The other copy may have been ahead of this one.
    also: staging => {
      if (!dominates(staging.vector, upTo)) staging.put(keys.meta('merging'), packValue(vectorToObject(merging)))
    },
    isNews: async (staging, ref, record) => {
      const { floor } = tenant
      const latest = latestClock(record)
      const isSettled =
        floor !== undefined &&
        latest !== undefined &&
        compareClocks(latest, floor.clock) <= 0 &&
        tenant.covers(floor.vector) &&
        tenant.state.lost.count === 0
      return !isSettled || (await staging.read(ref)) !== undefined
    },
  })
}

export const bucketOf = (key: Buffer): number => createHash('sha256').update(key).digest().readUInt8(0) % BUCKETS

const recordDigest = (key: Buffer, value: Buffer): Buffer =>
  createHash('sha256').update(key).update(value).digest().subarray(0, 8)

/**
 * One pass over the records; a bucket's digest is the XOR of its records', so that order does not matter. `collected`: they are the records of that vector and floor, with the garbage collected. They may not be when something was
 * committed meanwhile: which edges are hidden is looked up as the pass goes on.
 */
export async function digestTenant(tenant: Tenant): Promise<Digests> {
  const chunks = tenant.chunks(prefixRange(prefixes.space(space.record)))[Symbol.asyncIterator]()
  const { vector, floor, commits, merging, isCollected, first } = await tenant.between(async () => ({
    vector: new Map(tenant.vector),
    floor: tenant.floor,
    commits: tenant.commits,
    merging: !tenant.covers(await readMerging(tenant)),
    isCollected: tenant.isCollected,
    first: await chunks.next(),
  }))
  const buckets = Buffer.alloc(BUCKETS * 8)
  try {
    for (let chunk = first; !chunk.done; chunk = await chunks.next())
      for (const [key, value] of chunk.value) {
        if (await isHidden(tenant, key, value)) continue
        const at = bucketOf(key) * 8
        const digest = recordDigest(key, value)
        for (let n = 0; n < 8; n++) buckets[at + n]! ^= digest[n]!
      }
  } finally {
    await chunks.return?.()
  }
  const isSteady = await tenant.between(async () => tenant.commits === commits)
  return { vector, floor, collected: isCollected && isSteady, merging, buckets }
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
          ...(part.head.came ? [part.head.came] : []),
        ]
      : 'records' in part
        ? [
            1,
            part.records.map(({ key, record, vectors }) => [key, record, vectors.map(v => [v.model, v.vector])]),
            part.upTo ? vectorToObject(part.upTo) : null,
          ]
        : [
            2,
            part.end.records,
            ...(part.end.floor || part.end.came ? [packFloor(part.end.floor)] : []),
            ...(part.end.came ? [part.end.came] : []),
          ]
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
    const [tenant, incarnation, vector, source, floor, skipped, came] = fields as [
      string,
      string,
      unknown,
      string,
      PackedFloor | null,
      [string, number][],
      string | undefined,
    ]
    return {
      head: {
        tenant,
        incarnation,
        vector: vectorFromObject(vector) ?? new Map(),
        source,
        floor: unpackFloor(floor),
        skipped: skipped ?? [],
        came,
      },
    }
  }
  if (kind === 2) {
    const [records, floor, came] = fields as [number, PackedFloor | null | undefined, string | undefined]
    return { end: { records, floor: unpackFloor(floor ?? null), came } }
  }
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
