import { dominates, type VersionVector } from '../clock/vector.ts'
import { type LogItem, splitMark } from './change-log.ts'
import type { Tenant } from './tenant.ts'

/** Marks that are kept of one tenant beyond those of the log that was read; see {@link LogReach.cameBefore}. */
const CAME_MAX = 1024

/** By open tenant: how far back the log of its copy reaches, since it was last read to its end. */
const known = new WeakMap<Tenant, LogReach>()

/**
 * How far back a change log reaches. A log is cut at its old end only: a position that it did not reach once it will never reach, and is refused without reading all of the log for it. Whoever makes up positions could
 * have it read again and again otherwise.
 */
export class LogReach {
  /** Whose log it is: a copy that is made anew has another one. */
  readonly #origin: string
  /** The copy's vector before the oldest item. */
  readonly #vector: VersionVector
  readonly #came: ReadonlySet<string>
  /** Marks that are kept at most. */
  readonly #cameMax: number
  /** The last item that there was. */
  readonly last: number

  constructor(
    origin: string,
    last: number,
    vector: VersionVector,
    came: ReadonlySet<string>,
    cameMax = came.size + CAME_MAX,
  ) {
    this.#origin = origin
    this.last = last
    this.#vector = vector
    this.#came = came
    this.#cameMax = cameMax
  }

  /** Undefined: it has not been read to its end. */
  static of(tenant: Tenant): LogReach | undefined {
    const reach = known.get(tenant)
    return reach && reach.#origin === tenant.origin ? reach : undefined
  }

  /** The log has been read to its end. */
  static note(tenant: Tenant, reach: LogReach): void {
    known.set(tenant, reach)
  }

  /** False: no item that the log still has leads on from there. */
  covers(target: VersionVector): boolean {
    return dominates(target, this.#vector)
  }

  /** Whether the items up to {@link last} may begin where this was the mark of what came past the vector. */
  cameBefore(came: string): boolean {
    return this.#came.has(came)
  }

  /** Items have been read that were added behind {@link last}. */
  extend(tenant: Tenant, last: number, came: ReadonlySet<string>): void {
    const all = new Set([...this.#came, ...came])
    // Those that the log has lost since are among them: it has to be read anew.
    if (all.size > this.#cameMax) known.delete(tenant)
    else known.set(tenant, new LogReach(this.#origin, last, this.#vector, all, this.#cameMax))
  }
}

/** Goes back through a log, newest item first, and keeps where the copy was before the last one that it took. */
export class WayBack {
  readonly vector: Map<string, number>
  /** Marks of what came past the vector, from here to the newest. */
  readonly came: Set<string>
  /** What the target has need not be taken back; undefined: all that can. */
  readonly #target: VersionVector | undefined

  constructor(vector: VersionVector, came: string, target?: VersionVector) {
    this.vector = new Map(vector)
    this.came = new Set([came])
    this.#target = target
  }

  /** The number of the first item that this one rests on. */
  take(item: LogItem): number {
    if (item.lost) this.came.add(splitMark(item.lost[0]).came)
    if (item.type === 'moved') return this.#takeMoves(item)
    if (item.type === 'entry' && !item.lost && this.vector.get(item.origin) === item.sequence)
      this.vector.set(item.origin, item.sequence - 1)
    return item.n
  }

  #takeMoves({ from, n, moves }: LogItem & { type: 'moved' }): number {
    let needed = n
    for (const [origin, before, after] of moves) {
      if (this.vector.get(origin) !== after) continue
      if ((this.#target?.get(origin) ?? -1) >= after) continue
      this.vector.set(origin, before)
      needed = Math.min(needed, from)
    }
    return needed
  }
}
