import { dominates, type VersionVector, vectorFromObject } from '../clock/vector.ts'

/** An object of a set. */
export interface StoredObject {
  readonly name: string
  readonly bytes: number
  readonly sha256: string
}

/** Sequences, by origin, in maximal ranges that ascend; both ends belong to a range. */
export type Positions = Readonly<Record<string, readonly (readonly [from: number, to: number])[]>>

/** What a stored set of a tenant's copy is: JSON, written last. Fields are added, never changed: a build reads the sets of those before it, and skips what it does not know. */
export interface Manifest {
  readonly version: 1
  readonly tenant: string
  readonly incarnation: string
  readonly id: string
  readonly node: string
  /** Absent in the sets of the first builds. */
  readonly tier?: string
  readonly madeAtMs: number
  /** One more than that of any set that its writer saw. Absent in the sets of the first builds. */
  readonly generation?: number
  readonly vector: Record<string, number>
  readonly records: number
  readonly parts: readonly StoredObject[]
  /** Entries that waited in the copy for their clocks: which, and the objects that have them. Absent when there were none, and in the sets of builds that left them out. */
  readonly parked?: StoredEntries
  /** The disk of the copy, as `node.disk`. Absent in the sets of builds that left out what was set aside. */
  readonly disk?: string
  /** Entries that were set aside in the copy as late. Absent when there were none. */
  readonly late?: StoredEntries
}

/** Which entries, and the objects that have them. */
export interface StoredEntries {
  readonly positions: Positions
  readonly parts: readonly StoredObject[]
}

/** What a copy, or a stored set of one, has: all up to its vector, and what is parked beside it. */
export interface Holdings {
  readonly vector: VersionVector
  readonly parked: Positions
}

export const holdingsOf = (manifest: Pick<Manifest, 'vector' | 'parked'>): Holdings => ({
  vector: vectorFromObject(manifest.vector) ?? new Map(),
  parked: manifest.parked?.positions ?? {},
})

/** Whether `one` has everything that `other` has. */
export const holdsAll = (one: Holdings, other: Holdings): boolean =>
  dominates(one.vector, other.vector) && holdsParked(one, other.parked)

function holdsParked(one: Holdings, parked: Positions): boolean {
  return Object.entries(parked).every(([origin, ranges]) => {
    const applied = one.vector.get(origin) ?? 0
    const mine = one.parked[origin] ?? []
    return ranges.every(
      ([from, to]) => to <= applied || mine.some(([first, last]) => first <= Math.max(from, applied + 1) && to <= last),
    )
  })
}

/** Positions in the order of their keys: by origin, ascending. */
export function positionsOf(entries: Iterable<{ readonly origin: string; readonly sequence: number }>): Positions {
  const positions: Record<string, [number, number][]> = {}
  for (const { origin, sequence } of entries) {
    positions[origin] ??= []
    const ranges = positions[origin]
    const last = ranges.at(-1)
    if (last?.[1] === sequence - 1) last[1] = sequence
    else ranges.push([sequence, sequence])
  }
  return positions
}

/** Undefined: it is damaged. Whose it is must be what its place says. */
export function parseManifest(body: Buffer, tenant: string, incarnation: string): Manifest | undefined {
  try {
    const manifest = JSON.parse(body.toString()) as Manifest
    const isValid =
      manifest.version === 1 &&
      manifest.tenant === tenant &&
      manifest.incarnation === incarnation &&
      Array.isArray(manifest.parts) &&
      vectorFromObject(manifest.vector) !== undefined &&
      [manifest.parked, manifest.late].every(entries => entries === undefined || areEntries(entries))
    return isValid ? manifest : undefined
  } catch {
    return undefined
  }
}

const areEntries = ({ positions, parts }: StoredEntries): boolean =>
  Array.isArray(parts) &&
  Object.values(positions).every(ranges =>
    ranges.every(([from, to]) => Number.isSafeInteger(from) && Number.isSafeInteger(to) && from <= to),
  )

type LateOf = Pick<Manifest, 'disk' | 'generation' | 'late'>

/** Whether nothing is lost of what was set aside in `other` when it goes: `one` has it, or is a later set of the same disk, from which it went since an operator decided it, or another copy took it over. */
export const holdsLate = (one: LateOf, other: LateOf): boolean =>
  isLaterOfDisk(one, other) || holdsPositions(one.late?.positions ?? {}, other.late?.positions ?? {})

const isLaterOfDisk = (one: LateOf, other: LateOf): boolean =>
  one.disk !== undefined && one.disk === other.disk && (one.generation ?? 0) > (other.generation ?? 0)

/** The sets that say what is set aside: of each disk the latest, and those of which the disk is not known. */
export const latestOfDisks = <T extends LateOf>(sets: readonly T[]): T[] =>
  sets.filter(set => !sets.some(other => isLaterOfDisk(other, set)))

const holdsPositions = (mine: Positions, wanted: Positions): boolean =>
  Object.entries(wanted).every(([origin, ranges]) =>
    ranges.every(([from, to]) => mine[origin]?.some(([first, last]) => first <= from && to <= last)),
  )

export const samePositions = (one: Positions, other: Positions): boolean =>
  holdsPositions(one, other) && holdsPositions(other, one)

/**
 * Sets by what they cover: one that has all of another comes before it, by their vectors, and when these are equal by what is parked. Of those that each have something of their own the one stored after more
 * others comes first. The times in their names, by which a wrong clock would have a say, decide between equals only.
 */
export function byCoverage<T extends Pick<Manifest, 'id' | 'vector' | 'generation' | 'parked'>>(
  sets: readonly T[],
): T[] {
  const left = sets
    .map(set => ({ set, holdings: holdingsOf(set) }))
    .sort((a, b) => (b.set.generation ?? 0) - (a.set.generation ?? 0) || (a.set.id < b.set.id ? 1 : -1))
  const sorted: T[] = []
  while (left.length > 0) {
    const at = left.findIndex(({ holdings }) => !left.some(other => hasMore(other.holdings, holdings)))
    sorted.push(...left.splice(at, 1).map(({ set }) => set))
  }
  return sorted
}

function hasMore(one: Holdings, other: Holdings): boolean {
  if (!dominates(one.vector, other.vector)) return false
  if (!dominates(other.vector, one.vector)) return true
  return holdsParked(one, other.parked) && !holdsParked(other, one.parked)
}
