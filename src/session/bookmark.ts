import { deflateRawSync, inflateRawSync } from 'node:zlib'
import { PercolateError } from '../base/errors.ts'
import { BOOKMARK_CHARS_MAX } from '../base/limits.ts'
import { type Clock, COUNTER_MAX, WALL_MAX } from '../clock/hlc.ts'
import { joinVectors, type VersionVector, vectorToObject } from '../clock/vector.ts'
import { packValue } from '../storage/codec.ts'
import type { ToldAhead } from '../tenant/change-reader.ts'
import { PositionBytes } from './position-bytes.ts'

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

/** The first field. */
const VERSION = 1
/** The version, the incarnation and the vector; all others may be left out. */
const FIELDS_MIN = 3
/** Longer ones are compressed: versions before the one that could do so refused them as they were, so shorter ones stay as every version reads them. */
const PLAIN_CHARS_MAX = 8192
/** The first byte of a compressed one; the packed list of a plain one begins otherwise. */
const COMPRESSED = 0
/** Of one that was compressed: room for as many origins as are read, of 30 characters each. */
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
  return toText(packValue([VERSION, incarnation, vectorToObject(vector), ...rest] as never))
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
    return readPosition(new PositionBytes(fromText(text)))
  } catch {
    // One message for every way of being wrong.
  }
  return undefined
}

/** What {@link encode} wrote; a later version may have added fields behind those that this one knows. */
function readPosition(from: PositionBytes): Bookmark {
  const fields = from.list()
  if (fields < FIELDS_MIN || from.count() !== VERSION) throw new Error('not a position')
  const incarnation = from.text()
  const vector = from.vector()
  let left = fields - FIELDS_MIN
  const optional = <T>(read: () => T): T | undefined => (left > 0 && left-- && !from.isNothing() ? read() : undefined)
  const lost = optional(() => from.text())
  const ahead = optional(() => readList(from, () => readTold(from)))
  const lacks = optional(() => readList(from, () => readLacking(from)))?.filter(([, sequence]) => sequence > 0)
  const clock = optional(() => readReading(from))
  from.skip(left)
  from.end()
  return {
    incarnation,
    vector,
    ...(lost === undefined ? {} : { lost }),
    ...(ahead?.length ? { ahead } : {}),
    ...(lacks?.length ? { lacks } : {}),
    ...(clock ? { clock } : {}),
  }
}

const readList = <T>(from: PositionBytes, read: () => T): T[] => {
  const items: T[] = []
  for (let left = from.list(); left > 0; left--) items.push(read())
  return items
}

function readTold(from: PositionBytes): ToldAhead {
  beginPair(from)
  return { teller: from.name(), vector: from.vector() }
}

function readLacking(from: PositionBytes): [origin: string, sequence: number] {
  beginPair(from)
  return [from.name(), from.count()]
}

function readReading(from: PositionBytes): Reading {
  beginPair(from)
  return { wall: from.count(WALL_MAX), counter: from.count(COUNTER_MAX) }
}

function beginPair(from: PositionBytes): void {
  if (from.list() !== 2) throw new Error('not a pair')
}

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
