import { createHash } from 'node:crypto'
import { type Clock, compareClocks } from '../clock/hlc.ts'
import { type VersionVector, vectorFromObject, vectorToObject } from '../clock/vector.ts'
import { type LwwRecord, type Op, type RecordKind, type RecordRef, recordKinds } from '../rem/record.ts'
import { packValue, unpackValue } from '../storage/codec.ts'
import { KeyReader, keys, prefixes, prefixRange, space } from '../storage/keys.ts'
import type { KvReader } from '../storage/kv.ts'

/**
 * The change log of a copy: what its version vector counts, in the order in which this copy learned it, so that feeds can follow. Numbers go up by one; the oldest items go when there are too many.
 *
 * | item | what it says |
 * |---|---|
 * | `entry` | the entry of an origin was applied here; `late`: after it had been given up, so it lies below the vector |
 * | `merged` | records that came as records (a transfer, a repair), and were news here; they move no vector. `lost`: no later move of it need tell of them, since the vector counted them already, or among them is what had been given up |
 * | `moved` | the vector moved without entries, for what came as records since item `from`, or for entries that were given up |
 */
export type LogItem =
  | {
      readonly type: 'entry'
      readonly n: number
      readonly origin: string
      readonly sequence: number
      readonly changes: readonly LoggedChange[]
      /** Only of one that had been given up. */
      readonly lost: LostMarks | undefined
    }
  | {
      readonly type: 'merged'
      readonly n: number
      readonly changes: readonly LoggedChange[]
      readonly lost: LostMarks | undefined
      /** When the vector covers this, it counts them; undefined: it did at once, or an older version did not say. */
      readonly upTo: VersionVector | undefined
    }
  | {
      readonly type: 'moved'
      readonly n: number
      readonly from: number
      readonly moves: readonly Move[]
      readonly lost: LostMarks
    }

export type Move = readonly [origin: string, before: number, after: number]

/** What the copy's position was before the item and behind it, apart from its vector; see {@link LostEntries}. */
export type LostMarks = readonly [before: string, after: string]

export interface LoggedChange {
  readonly kind: RecordKind | 'unknown'
  readonly key: readonly string[]
  readonly action: Op['action']
  readonly clock: Clock
}

/** What the vector of a copy does not say of what it has. */
export interface LostEntries {
  /** Entries that the vector counts and that were given up for lost. */
  readonly count: number
  /** Tells one state of this from another; '' when every entry came, and nothing else. See {@link splitMark}. */
  readonly mark: string
}

export const NONE_LOST: LostEntries = { count: 0, mark: '' }

/** Between the two parts of a mark. */
const CAME = '~'

/**
 * The parts of a mark. `lost`: which entries were given up; '' when there are none. `came`: which records have changed without a move of the vector, all of them in their order; '' when there are none. No two
 * copies get the same one by themselves.
 */
export function splitMark(mark: string): { readonly lost: string; readonly came: string } {
  const at = mark.indexOf(CAME)
  return at < 0 ? { lost: mark, came: '' } : { lost: mark.slice(0, at), came: mark.slice(at + 1) }
}

export const joinMark = (lost: string, came: string): string => (came === '' ? lost : `${lost}${CAME}${came}`)

/** Adds an entry to the set, or takes it out. */
export function toggleLost({ count, mark }: LostEntries, origin: string, sequence: number, by: 1 | -1): LostEntries {
  const left = Math.max(0, count + by)
  const { lost, came } = splitMark(mark)
  return { count: left, mark: joinMark(left === 0 ? '' : mixed(lost, `${origin} ${sequence}`), came) }
}

/** Records have changed and the vector has not moved: positions from before are told from those behind it. `salt` is given once. */
export function noteCame({ count, mark }: LostEntries, salt: string): LostEntries {
  const { lost, came } = splitMark(mark)
  return { count, mark: joinMark(lost, chained(came, salt)) }
}

/** Of a copy that was made from two: what came to either of them. */
export const meetCame = (a: string, b: string): string => (a === b ? a : chained(a, b))

const chained = (came: string, text: string): string =>
  createHash('sha256').update(`${came} ${text}`).digest('hex').slice(0, 16)

/** XOR of digests, so that the order in which entries were given up does not matter. */
function mixed(mark: string, text: string): string {
  const digest = createHash('sha256').update(text).digest().subarray(0, 8)
  const before = Buffer.from(mark.padStart(16, '0'), 'hex')
  for (let n = 0; n < 8; n++) digest[n]! ^= before[n]!
  return digest.toString('hex')
}

/** A change as the log keeps it. */
export type PackedChange = [kind: number, key: readonly string[], action: Op['action'], clock: [number, number, string]]

export const packChange = ({ kind, key, action }: Omit<Op, 'fields' | 'clock'>, clock: Clock): PackedChange => [
  recordKinds.indexOf(kind),
  key,
  action,
  [clock.wall, clock.counter, clock.origin],
]

const unpackChange = ([kind, key, action, [wall, counter, origin]]: PackedChange): LoggedChange => ({
  kind: recordKinds[kind] ?? 'unknown',
  key,
  action,
  clock: { wall, counter, origin },
})

/** The first three parts are those of an entry also where it is none: versions that know entries only pass it over. */
const packOther = (changes: readonly PackedChange[], ...rest: unknown[]): Buffer =>
  packValue(['', 0, changes, ...rest] as never)

export const encodeEntryItem = (origin: string, sequence: number, ops: readonly Op[], lost?: LostMarks): Buffer => {
  const changes = ops.map(op => packChange(op, op.clock))
  return packValue((lost ? [origin, sequence, changes, 'late', lost] : [origin, sequence, changes]) as never)
}

export const encodeMergedItem = (changes: readonly PackedChange[], lost?: LostMarks, upTo?: VersionVector): Buffer =>
  packOther(changes, 'merged', lost ?? null, ...(upTo ? [vectorToObject(upTo)] : []))

export const encodeMovedItem = (from: number, moves: readonly Move[], lost: LostMarks): Buffer =>
  packOther([], 'moved', lost, from, moves)

function decodeItem(n: number, value: Buffer): LogItem {
  const [origin, sequence, packed, type, lost, rest, moves] = unpackValue(value) as unknown as [
    string,
    number,
    PackedChange[],
    'late' | 'merged' | 'moved' | undefined,
    LostMarks | null | undefined,
    unknown,
    Move[],
  ]
  if (type === 'moved') return { type, n, from: rest as number, moves, lost: lost! }
  const changes = packed.map(unpackChange)
  if (type === 'merged') return { type, n, changes, lost: lost ?? undefined, upTo: vectorFromObject(rest) }
  return { type: 'entry', n, origin, sequence, changes, lost: lost ?? undefined }
}

/** What the merge of a record brought, told as ops are: that it exists, that it is gone, that registers changed. */
export function changesOfMerge(
  ref: RecordRef,
  before: LwwRecord,
  after: LwwRecord,
  incoming: LwwRecord,
): PackedChange[] {
  const { kind, key } = ref
  const changes: PackedChange[] = []
  const isNewer = (clock: Clock | undefined, than: Clock | undefined): clock is Clock =>
    clock !== undefined && (than === undefined || compareClocks(clock, than) > 0)
  if (isNewer(after.del, before.del)) changes.push(packChange({ kind, key, action: 'del' }, after.del))
  if (isNewer(incoming.put, before.put)) changes.push(packChange({ kind, key, action: 'put' }, incoming.put))
  let latest: Clock | undefined
  for (const [name, { clock, value }] of after.fields) {
    const old = before.fields.get(name)
    if (old && old.value === value && compareClocks(old.clock, clock) === 0) continue
    if (isNewer(clock, latest)) latest = clock
  }
  if (latest && !(incoming.put && compareClocks(incoming.put, latest) === 0))
    changes.push(packChange({ kind, key, action: 'set' }, latest))
  return changes
}

export interface LogBounds {
  readonly itemsMax: number
  /** Of the items as they are stored. */
  readonly bytesMax: number
  /** An item is what one write changed: thousands of records, or one. */
  readonly changesMax: number
}

export const changesOf = (item: LogItem): number => (item.type === 'moved' ? 0 : item.changes.length)

/** Items behind `after`, oldest first: as many as the bounds allow, and at least one if there is any. */
export async function readLog(
  reader: Pick<KvReader, 'chunks'>,
  after: number,
  { itemsMax, bytesMax, changesMax }: LogBounds,
): Promise<LogItem[]> {
  const { lt } = prefixRange(prefixes.space(space.change))
  const items: LogItem[] = []
  let bytes = 0
  let changes = 0
  for await (const chunk of reader.chunks({ gte: keys.change(after + 1), lt, limit: itemsMax }))
    for (const [key, value] of chunk) {
      bytes += value.length
      if (items.length > 0 && (bytes > bytesMax || changes >= changesMax)) return items
      const item = decodeItem(new KeyReader(key).u64(), value)
      changes += changesOf(item)
      items.push(item)
    }
  return items
}

/** Newest first, as long as the numbers go down by one. */
export async function* logBackwards(reader: Pick<KvReader, 'chunks'>, last: number): AsyncGenerator<LogItem> {
  const range = prefixRange(prefixes.space(space.change))
  let expected = last
  for await (const chunk of reader.chunks({ gte: range.gte, lt: keys.change(last + 1), reverse: true }))
    for (const [key, value] of chunk) {
      const n = new KeyReader(key).u64()
      if (n !== expected--) return
      yield decodeItem(n, value)
    }
}

/** What came as records and the vector does not count yet. */
export interface AheadRecords {
  /** The number of the log's first item of them; 0: they are in no log, since the copy was made then. */
  readonly from: number
  /** When the vector covers this it counts all of them. */
  readonly vector: VersionVector
}

export const packAhead = (ahead: AheadRecords | undefined) => ahead && [ahead.from, vectorToObject(ahead.vector)]

export function unpackAhead(packed: unknown): AheadRecords | undefined {
  if (!packed) return undefined
  const [from, vector] = packed as [number, unknown]
  return { from, vector: vectorFromObject(vector) ?? new Map() }
}
