import { Slicer } from '../base/slice.ts'
import { dominates, joinVectors, type VersionVector } from '../clock/vector.ts'
import { keys } from '../storage/keys.ts'
import {
  changesOf,
  joinMark,
  type LogBounds,
  type LoggedChange,
  type LogItem,
  logBackwards,
  readLog,
  splitMark,
} from './change-log.ts'
import { LogReach, WayBack } from './log-reach.ts'
import type { Tenant } from './tenant.ts'

/** Where a follower of changes is, on whichever copy. */
export interface FeedPosition {
  readonly vector: VersionVector
  /** Which of the entries that the vector counts the follower never got, because they had been given up for lost, and which records it got that came past the vector; see {@link splitMark}. '': it got all entries, and nothing else. */
  readonly lost: string
  /** What it was told that the vector does not count yet. */
  readonly ahead?: readonly ToldAhead[] | undefined
}

/** The copy of this origin had told of records that came ahead of its vector: who covers `vector` has them, too. */
export interface ToldAhead {
  readonly teller: string
  readonly vector: VersionVector
}

export interface FeedStep {
  readonly position: FeedPosition
  /** Undefined: only the position has moved. */
  readonly changes: readonly LoggedChange[] | undefined
}

/** The copy cannot say what lies between the follower's position and what it has. */
export class LogGap extends Error {}

/** In place of a mark: no copy has lost just these. */
export const UNSURE = 'unsure'
/** Copies that have told a follower of what its position does not count yet; the latest are named. */
const TELLERS_MAX = 8
/** What is read from disk at once, and held until the follower has taken it. */
const READ_MAX: LogBounds = { itemsMax: 128, bytesMax: 256 * 1024, changesMax: 1000 }
const TOO_FAR_BACK = 'the log does not reach back that far'
const REPAIRED_TOO_FAR_BACK = 'records that came by a repair are told of too far back, or on another copy only'
/** How far back {@link ChangeReader.startNear} looks. */
const NEAR = { itemsMax: 32, changesMax: READ_MAX.changesMax }

/**
 * Follows the change log of one copy from a position. It gives either every change behind the position or throws {@link LogGap}: an item of an origin must continue where the position is, the numbers of items
 * must have no holes, and when the last item is read the position must cover the copy's vector; so what moved the vector past the log, in whatever way, shows. See docs/replication.md, "Following changes".
 */
export class ChangeReader {
  readonly #origin: string
  readonly #seen: Map<string, number>
  /** What it lacked of the entries then. */
  readonly #startedWith: string
  /** The first item that this reader looks at; what came as records before it was not given. */
  readonly #first: number
  /** The last item that there was when it started. */
  readonly #old: number
  #lost: string
  #ahead: readonly ToldAhead[]
  #after: number

  private constructor(origin: string, position: FeedPosition, after: number, old: number) {
    this.#origin = origin
    this.#seen = new Map(position.vector)
    this.#startedWith = splitMark(position.lost).lost
    this.#lost = position.lost
    this.#ahead = position.ahead ?? []
    this.#after = after
    this.#first = after + 1
    this.#old = old
  }

  /** As {@link start}, when the log needs only be read for a little; undefined: it does not tell within that. */
  static startNear(tenant: Tenant, from: FeedPosition | 'earliest' | 'now'): Promise<ChangeReader | undefined> {
    return ChangeReader.#start(tenant, from, NEAR)
  }

  /** From the position; from as far back as the log reaches; or from now. That may read all of the log, in slices; `throwIfEnded` is called between them. */
  static async start(
    tenant: Tenant,
    from: FeedPosition | 'earliest' | 'now',
    throwIfEnded?: () => void,
  ): Promise<ChangeReader> {
    return (await ChangeReader.#start(tenant, from, undefined, throwIfEnded))!
  }

  static async #start(
    tenant: Tenant,
    from: FeedPosition | 'earliest' | 'now',
    /** Undefined: all that there are. */
    near: { readonly itemsMax: number; readonly changesMax: number } | undefined,
    throwIfEnded?: () => void,
  ): Promise<ChangeReader | undefined> {
    // Read at the same moment: the batches of one vector are those of one number.
    const { changes: last, lost, ahead } = tenant.state
    const { vector, origin } = tenant
    // What the vector does not count yet is given also when it came before.
    const hasAhead = ahead !== undefined && ahead.from > 0 && (await tenant.get(keys.change(ahead.from))) !== undefined
    const aheadAt = hasAhead ? ahead.from : last + 1
    if (from === 'now') return new ChangeReader(tenant.origin, { vector, lost: lost.mark }, aheadAt - 1, last)
    const now = splitMark(lost.mark)
    const then = from === 'earliest' ? now : splitMark(from.lost)
    if (from !== 'earliest' && then.lost !== '' && then.lost !== now.lost)
      throw new LogGap('the position counts entries that were given up elsewhere, or have come since')
    const target = from === 'earliest' ? undefined : from.vector
    const known = LogReach.of(tenant)
    if (target && known?.covers(target) === false) throw new LogGap(TOO_FAR_BACK)
    const back = new WayBack(vector, now.came, target)
    /** As far back as the log goes, whatever the target has. */
    const whole = new WayBack(vector, now.came)
    const isMet = () => target !== undefined && dominates(target, back.vector)
    let low = last + 1
    /** Items down to here are needed to make sense of those above. */
    let needed = aheadAt
    let mark = lost.mark
    /** Whether all is read that came past the vector since the position. */
    let isLevel = then.came === now.came
    let earliest = { n: low, vector, lost: mark }
    const slicer = new Slicer(throwIfEnded)
    let [items, changes] = [0, 0]
    let isWhole = true
    for await (const item of logBackwards(tenant, last)) {
      if (known && item.n <= known.last && !isLevel && !known.cameBefore(then.came)) {
        known.extend(tenant, last, whole.came)
        throw new LogGap(REPAIRED_TOO_FAR_BACK)
      }
      if (isMet() && isLevel && item.n < needed) {
        isWhole = false
        break
      }
      if (near && (items >= near.itemsMax || changes >= near.changesMax)) return undefined
      items++
      changes += changesOf(item)
      await slicer.pause()
      low = item.n
      if (item.lost) {
        const [before, behind] = item.lost
        mark = before
        if (!isLevel && splitMark(before).came !== splitMark(behind).came) {
          needed = Math.min(needed, item.n)
          isLevel = splitMark(before).came === then.came
        }
      }
      whole.take(item)
      const restsOn = back.take(item)
      if (item.type === 'moved') needed = Math.min(needed, restsOn)
      if (low <= needed) earliest = { n: low, vector: new Map(back.vector), lost: mark }
    }
    if (isWhole) LogReach.note(tenant, new LogReach(origin, last, whole.vector, whole.came))
    if (from === 'earliest') return new ChangeReader(tenant.origin, earliest, earliest.n - 1, last)
    if (!isMet()) throw new LogGap(TOO_FAR_BACK)
    if (!isLevel) throw new LogGap(REPAIRED_TOO_FAR_BACK)
    return new ChangeReader(tenant.origin, from, low - 1, last)
  }

  get position(): FeedPosition {
    this.#ahead = this.#ahead.filter(({ vector }) => !dominates(this.#seen, vector))
    const ahead = this.#ahead.length > 0 ? this.#ahead : undefined
    return { vector: new Map(this.#seen), lost: this.#lost, ahead }
  }

  /** Whether the tenant has what was not read; false also says that nothing can have been missed. */
  isBehind(tenant: Tenant): boolean {
    return !this.isOf(tenant) || tenant.state.changes !== this.#after || !dominates(this.#seen, tenant.vector)
  }

  /** Whether the copy is the one that this was started on: one made anew has another log. */
  isOf(tenant: Tenant): boolean {
    return tenant.origin === this.#origin && tenant.state.changes >= this.#after
  }

  /** The next changes, a bounded number of them; none when all is read. */
  async read(tenant: Tenant): Promise<FeedStep[]> {
    const { changes: last } = tenant.state
    const { vector } = tenant
    const items =
      this.#after < last
        ? await readLog(tenant, this.#after, { ...READ_MAX, itemsMax: Math.min(READ_MAX.itemsMax, last - this.#after) })
        : []
    if (items.length === 0 && this.#after < last) throw new LogGap('the log was cut')
    const steps: FeedStep[] = []
    for (const item of items) {
      if (item.n !== this.#after + 1) throw new LogGap('it was read too slowly: changes in between are gone')
      this.#after = item.n
      const changes = this.#take(item)
      if (changes) steps.push({ position: this.position, changes: changes.length > 0 ? changes : undefined })
    }
    if (this.#after >= last && !dominates(this.#seen, vector)) throw new LogGap('the copy knows more than its log')
    return steps
  }

  /** Until the position covers it, a position alone does not name what was told. */
  #noteAhead(upTo: VersionVector): void {
    const own = this.#ahead.find(({ teller }) => teller === this.#origin)
    const vector = new Map(
      [...joinVectors(own?.vector ?? new Map(), upTo)].filter(([origin, n]) => n > (this.#seen.get(origin) ?? 0)),
    )
    this.#ahead = [...this.#ahead.filter(one => one !== own), { teller: this.#origin, vector }].slice(-TELLERS_MAX)
  }

  /** What the follower is given of an item; an empty list: that its position moved. */
  #take(item: LogItem): readonly LoggedChange[] | undefined {
    const isNew = item.n > this.#old
    if (item.lost) {
      const { lost, came } = splitMark(item.lost[1])
      // What is replayed to one that lacks something already may be from before that was lost.
      const isSure = isNew || this.#startedWith === '' || lost === this.#startedWith
      this.#lost = joinMark(isSure ? lost : UNSURE, came)
    }
    switch (item.type) {
      case 'entry': {
        // It moves no position, so that nobody can know whether it was given before.
        if (item.lost) return item.changes
        const seen = this.#seen.get(item.origin) ?? 0
        if (item.sequence <= seen) return undefined
        if (item.sequence > seen + 1) throw new LogGap('entries before it came otherwise')
        this.#seen.set(item.origin, item.sequence)
        return item.changes
      }
      case 'merged':
        if (item.upTo) this.#noteAhead(item.upTo)
        return item.changes
      case 'moved': {
        const moves = item.moves.filter(([origin, , after]) => (this.#seen.get(origin) ?? 0) < after)
        if (moves.length === 0) return undefined
        if (item.from < this.#first) throw new LogGap('records came before it began')
        for (const [origin, before, after] of moves) {
          if ((this.#seen.get(origin) ?? 0) < before) throw new LogGap('entries before it came otherwise')
          this.#seen.set(origin, after)
        }
        return []
      }
    }
  }
}
