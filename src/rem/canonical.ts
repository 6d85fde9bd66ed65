import type { Value } from './record.ts'

/** Sorts object keys at every depth, so that equal values have equal bytes. */
export function canonical<T extends Value>(value: T): T {
  if (Array.isArray(value)) return value.map(item => canonical(item)) as T
  if (value === null || typeof value !== 'object' || value instanceof Uint8Array) return value
  const sorted: { [key: string]: Value } = {}
  for (const key of Object.keys(value).sort()) {
    Object.defineProperty(sorted, key, {
      value: canonical((value as { [key: string]: Value })[key]!),
      enumerable: true,
      writable: true,
      configurable: true,
    })
  }
  return sorted as T
}

const rank = (value: Value): number => {
  if (value === null) return 0
  if (typeof value === 'boolean') return 1
  if (typeof value === 'number') return 2
  if (typeof value === 'string') return 3
  if (value instanceof Uint8Array) return 4
  return 5
}

/** A total order over values, only for breaking ties: the same on every replica. */
export function compareValues(a: Value, b: Value): number {
  const byRank = rank(a) - rank(b)
  if (byRank !== 0) return byRank
  if (a instanceof Uint8Array && b instanceof Uint8Array) return Buffer.compare(a, b)
  if (typeof a === 'number' && typeof b === 'number') return a - b
  if (typeof a === 'object' && a !== null) return compareText(textOf(a), textOf(b as object & Value))
  return compareText(String(a), String(b))
}

const texts = new WeakMap<object, string>()

/** Made once for each value: one that wins against many others is compared with each of them. */
function textOf(value: object & Value): string {
  let text = texts.get(value)
  if (text === undefined) {
    text = JSON.stringify(canonical(value))
    texts.set(value, text)
  }
  return text
}

const compareText = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0)
