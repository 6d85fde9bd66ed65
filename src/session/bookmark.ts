import { deflateRawSync, inflateRawSync } from 'node:zlib'
import { PercolateError } from '../base/errors.ts'
import { BOOKMARK_CHARS_MAX } from '../base/limits.ts'
import { type Clock, COUNTER_MAX, WALL_MAX } from '../clock/hlc.ts'
import { joinVectors, type VersionVector, vectorFromObject, vectorToObject } from '../clock/vector.ts'
import { packValue, unpackValue } from '../storage/codec.ts'
import type { ToldAhead } from '../tenant/change-reader.ts'

/** A position in a tenant's history: what its holder has when it covers the vector. Opaque to clients. */
export interface Bookmark {
  readonly incarnation: string
  readonly vector: VersionVector
  /** The mark of the copy whose whole vector it is; undefined: it names single entries, the last of each origin. See `splitMark`. */
  readonly lost?: string | undefined
  /** All that this copy had given up for lost, when there was little of it: who lacks no more than that has what the vector names. */
  readonly lacks?: readonly (readonly [origin: string, sequence: number])[] | undefined
  /** What a feed told of that the vector does not count. */
  readonly ahead?: readonly ToldAhead[] | undefined
  /** The latest that a write behind it carries, of a feed's the latest that its copy had seen: who writes with the bookmark is later, whatever the clock of the node says that takes it. */
  readonly clock?: Reading | undefined
}
export type Reading = Pick<Clock, 'wall' | 'counter'>

/** Longer ones are compressed: versions before the one that could do so refused them as they were, so shorter ones stay as every version reads them. */
const PLAIN_CHARS_MAX = 8192
/** The first byte of a compressed one; the packed list of a plain one begins otherwise. */
const COMPRESSED = 0
/** Of one that was compressed. */
const PACKED_BYTES_MAX = 128 * 1024

function toText(packed: Buffer): string {
  const plain = packed.toString('base64url')
  if (plain.length <= PLAIN_CHARS_MAX) return plain
  return Buffer.concat([Buffer.of(COMPRESSED), deflateRawSync(packed)]).toString('base64url')
}

function fromText(text: string): Buffer {
  const bytes = Buffer.from(text, 'base64url')
  return bytes[0] === COMPRESSED ? inflateRawSync(bytes.subarray(1), { maxOutputLength: PACKED_BYTES_MAX }) : bytes
}

/** The clock is left out where there is no room for it: a position without is taken, one that is too long is not. */
export function encodeBookmark(bookmark: Bookmark): string {
  const text = encode(bookmark)
  return text.length > BOOKMARK_CHARS_MAX && bookmark.clock ? encode({ ...bookmark, clock: undefined }) : text
}

function encode({ incarnation, vector, lost, ahead = [], lacks = [], clock }: Bookmark): string {
  const rest = [
    lost,
    ahead.length > 0 ? ahead.map(one => [one.teller, vectorToObject(one.vector)]) : undefined,
    lacks.length > 0 ? lacks : undefined,
    clock && [clock.wall, clock.counter],
  ]
  // Versions before read the first ones, and leave the others.
  while (rest.length > 0 && rest.at(-1) === undefined) rest.pop()
  return toText(packValue([1, incarnation, vectorToObject(vector), ...rest] as never))
}

/** A bookmark that a feed gave: also, whether the follower lacks something that the vector counts; see `FeedPosition`. */
export interface FeedCursor extends Bookmark {
  readonly lost: string
}

/** `field` names where it came from, for the error. */
export function parseBookmark(text: string, field: string): Bookmark {
  const bookmark = decode(text)
  if (bookmark) return bookmark
  throw new PercolateError(
    'INVALID_BOOKMARK',
    `${field} must be one that a write or a feed of this API gave, as it was given; leave it out to read without.`,
    { field },
  )
}

export function parseFeedCursor(text: string, field: string): FeedCursor {
  const cursor = decode(text)
  if (cursor) return { ...cursor, lost: cursor.lost ?? '' }
  throw new PercolateError(
    'INVALID_CURSOR',
    `${field} must be one that a feed of this API gave, as it was given; leave it out to begin now, or take "earliest".`,
    { field },
  )
}

function decode(text: string): Bookmark | undefined {
  try {
    if (text.length > BOOKMARK_CHARS_MAX || !/^[A-Za-z0-9_-]+$/.test(text)) throw new Error('not base64url')
    const [version, incarnation, vector, lost, told = [], lacks = [], clock] = unpackValue(fromText(text)) as unknown[]
    const parsed = vectorFromObject(vector)
    if (version !== 1 || typeof incarnation !== 'string' || !parsed) throw new Error('not a position')
    if (lost !== undefined && typeof lost !== 'string') throw new Error('not a mark')
    const ahead = (told as [unknown, unknown][]).map(([teller, names]) => {
      const named = vectorFromObject(names)
      if (typeof teller !== 'string' || !named) throw new Error('not what was told ahead')
      return { teller, vector: named }
    })
    for (const [origin, sequence] of lacks as [unknown, unknown][])
      if (typeof origin !== 'string' || !Number.isSafeInteger(sequence)) throw new Error('not entries')
    const [wall, counter] = (clock ?? []) as unknown[]
    if (clock !== undefined && !(isWithin(wall, WALL_MAX) && isWithin(counter, COUNTER_MAX)))
      throw new Error('not a clock')
    return {
      incarnation,
      vector: parsed,
      ...(typeof lost === 'string' ? { lost } : {}),
      ...(ahead.length > 0 ? { ahead } : {}),
      ...((lacks as unknown[]).length > 0 ? { lacks: lacks as [string, number][] } : {}),
      ...(clock === undefined ? {} : { clock: { wall, counter } as Reading }),
    }
  } catch {
    // One message for every way of being wrong.
  }
  return undefined
}

const isWithin = (value: unknown, max: number): boolean =>
  Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= max

/** Before everything: what a feed gives of a tenant that is not there yet, whatever its incarnation will be. Every copy has that. */
export const namesNothing = ({ incarnation, vector }: Bookmark): boolean => incarnation === '' && vector.size === 0

/** Both positions, for a client that carries one bookmark along. */
export const joinBookmarks = (a: Bookmark | undefined, b: Bookmark): Bookmark =>
  a === undefined || a.incarnation !== b.incarnation
    ? b
    : {
        incarnation: b.incarnation,
        vector: joinVectors(a.vector, b.vector),
        ...(b.lost === undefined ? { lost: a.lost, lacks: a.lacks } : { lost: b.lost, lacks: b.lacks }),
        ahead: b.ahead ?? a.ahead,
        clock: laterReading(a.clock, b.clock),
      }

/** The later of two, or the one that there is. */
export const laterReading = (a: Reading | undefined, b: Reading | undefined): Reading | undefined =>
  !a || !b ? (a ?? b) : (a.wall - b.wall || a.counter - b.counter) > 0 ? a : b

/** `field`: where the bookmark was given. */
export const foreignBookmark = (field: string): PercolateError =>
  new PercolateError('INVALID_BOOKMARK', `${field} is of another tenant, or of one that was erased since.`, { field })
