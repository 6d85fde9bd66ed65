import { assert } from '../base/assert.ts'

/**
 * A hybrid logical clock reading (Kulkarni et al., "Logical Physical Clocks", 2014): `wall` in milliseconds since the epoch (48 bits),
 * `counter` within that millisecond (32 bits), and `origin`, the `node.disk` that made it, which breaks ties.
 */
export interface Clock {
  readonly wall: number
  readonly counter: number
  readonly origin: string
}

export const WALL_MAX = 2 ** 48 - 1
export const COUNTER_MAX = 2 ** 32 - 1
/** `node.disk`; then `.life` when the machine went down under the node, and `.generation` for a copy that was made anew on the same disk. */
export const ORIGIN_PATTERN = /^[A-Za-z0-9][A-Za-z0-9._:-]{0,191}$/

/** Total order: wall, counter, origin (by UTF-16 code units; origins are ASCII). */
export function compareClocks(a: Clock, b: Clock): number {
  if (a.wall !== b.wall) return a.wall - b.wall
  if (a.counter !== b.counter) return a.counter - b.counter
  return a.origin < b.origin ? -1 : a.origin > b.origin ? 1 : 0
}

/** The later of two; undefined is earlier than everything. */
export const laterClock = (a: Clock | undefined, b: Clock | undefined): Clock | undefined =>
  a === undefined ? b : b === undefined || compareClocks(a, b) >= 0 ? a : b

/** `<wall hex>-<counter hex>-<origin>`; compares like the clock as a string, since both numbers have fixed width. */
export const formatClock = (clock: Clock): string =>
  `${clock.wall.toString(16).padStart(12, '0')}-${clock.counter.toString(16).padStart(8, '0')}-${clock.origin}`

/** The inverse of {@link formatClock}; undefined when malformed. */
export function parseClock(text: string): Clock | undefined {
  const match = /^([0-9a-f]{12})-([0-9a-f]{8})-(.+)$/.exec(text)
  if (!match || !ORIGIN_PATTERN.test(match[3]!)) return undefined
  return { wall: Number.parseInt(match[1]!, 16), counter: Number.parseInt(match[2]!, 16), origin: match[3]! }
}

/** A reading, whoever made it. */
type Seen = Pick<Clock, 'wall' | 'counter'>

/** A clock that only goes forward, whatever the wall clock does; resumed above the highest reading that was ever persisted. */
export class HybridLogicalClock {
  readonly #now: () => number
  readonly #origin: string
  #wall: number
  #counter: number

  constructor(options: { now: () => number; origin: string; resumeAbove?: Clock | undefined }) {
    this.#now = options.now
    this.#origin = options.origin
    this.#wall = options.resumeAbove?.wall ?? 0
    this.#counter = options.resumeAbove?.counter ?? 0
  }

  /** A reading above every one that this clock gave or observed, and above `others`. */
  tick(...others: Seen[]): Clock {
    const next = this.next(...others)
    this.observe(next)
    return next
  }

  /** What {@link tick} would give now; nothing is noted. It is a reading of this clock only when it is observed before the next one. */
  next(...others: Seen[]): Clock {
    let last: Seen = { wall: this.#wall, counter: this.#counter }
    for (const other of others) if (isLater(other, last)) last = other
    const now = this.#now()
    const isFull = last.counter === COUNTER_MAX
    const wall = Math.max(now, last.wall + (now <= last.wall && isFull ? 1 : 0))
    assert(wall <= WALL_MAX, 'wall clock beyond 48 bits')
    return { wall, counter: wall > last.wall ? 0 : last.counter + 1, origin: this.#origin }
  }

  /** Takes note of another origin's reading, so that later ticks are above it. */
  observe(other: Seen): void {
    if (!isLater(other, { wall: this.#wall, counter: this.#counter })) return
    this.#wall = other.wall
    this.#counter = other.counter
  }
}

const isLater = (a: Seen, b: Seen): boolean => a.wall > b.wall || (a.wall === b.wall && a.counter > b.counter)
