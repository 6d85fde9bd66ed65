/** A version vector: for each origin (`node.disk`) the last of its sequences that was applied, all before it included (Parker et al., 1983). */
export type VersionVector = ReadonlyMap<string, number>

/** Whether `a` has everything that `b` has. */
export function dominates(a: VersionVector, b: VersionVector): boolean {
  for (const [origin, sequence] of b) if ((a.get(origin) ?? 0) < sequence) return false
  return true
}

export const sameVector = (a: VersionVector, b: VersionVector): boolean => dominates(a, b) && dominates(b, a)

/** The least vector that dominates both. */
export function joinVectors(a: VersionVector, b: VersionVector): Map<string, number> {
  const joined = new Map(a)
  for (const [origin, sequence] of b) if ((joined.get(origin) ?? 0) < sequence) joined.set(origin, sequence)
  return joined
}

/** The greatest vector that both dominate. */
export function meetVectors(a: VersionVector, b: VersionVector): Map<string, number> {
  const met = new Map<string, number>()
  for (const [origin, sequence] of a) {
    const least = Math.min(sequence, b.get(origin) ?? 0)
    if (least > 0) met.set(origin, least)
  }
  return met
}

/** How many entries `behind` lacks of what `ahead` has. */
export function lagOf(behind: VersionVector, ahead: VersionVector): number {
  let lag = 0
  for (const [origin, sequence] of ahead) lag += Math.max(0, sequence - (behind.get(origin) ?? 0))
  return lag
}

/** Sorted, so that equal vectors have equal JSON. */
export const vectorToObject = (vector: VersionVector): Record<string, number> =>
  Object.fromEntries([...vector].sort(([a], [b]) => (a < b ? -1 : 1)))

const ORIGINS_MAX = 10_000
const ORIGIN_PATTERN = /^[A-Za-z0-9][A-Za-z0-9._:-]{0,191}$/

/** Undefined when it is not one: an object of origins to whole numbers from 0. */
export function vectorFromObject(value: unknown): Map<string, number> | undefined {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) return undefined
  const entries = Object.entries(value)
  if (entries.length > ORIGINS_MAX) return undefined
  const valid = entries.every(
    ([origin, sequence]) => ORIGIN_PATTERN.test(origin) && Number.isSafeInteger(sequence) && (sequence as number) >= 0,
  )
  return valid ? new Map(entries as [string, number][]) : undefined
}
