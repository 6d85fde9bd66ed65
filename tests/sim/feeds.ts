import { PercolateError } from '../../src/base/errors.ts'
import type { TenantId } from '../../src/base/ids.ts'
import { type Clock, formatClock } from '../../src/clock/hlc.ts'
import { dominates, type VersionVector } from '../../src/clock/vector.ts'
import { mergeOp } from '../../src/rem/merge.ts'
import { EMPTY_RECORD, type LwwRecord, type Op } from '../../src/rem/record.ts'
import { parseBookmark } from '../../src/session/bookmark.ts'
import { ANY } from '../../src/session/request.ts'
import { Session } from '../../src/session/session.ts'
import type { SimCluster, SimProcess } from './cluster.ts'

const HEARTBEAT_MS = 1000
/** A client that hears nothing for this long turns to another node. */
const SILENCE_MS_MAX = 5000
const RETRY_MS = 300
/** How long a slow client takes for an event. */
const SLOW_MS = 700

/** What a client of a feed has seen without a gap, as it was told. */
export interface FeedWindow {
  readonly tenant: string
  readonly start: VersionVector
  end: VersionVector
  /** By record: the latest clock that the feed told of, as text that sorts. */
  readonly latest: Map<string, string>
  /** By record: the latest delete that the feed told of. */
  readonly deleted: Map<string, string>
}

/** Clocks, as text, that a feed told of: with deletes, and with everything else. */
export interface ToldClocks {
  readonly deletes: Set<string>
  readonly others: Set<string>
}

/** An entry that the stream has had. */
export interface StoredEntry {
  readonly tenant: string
  readonly origin: string
  readonly sequence: number
  readonly changes: readonly { readonly record: string; readonly clock: Clock; readonly op: Op }[]
}

/** A client that follows a tenant's changes for the whole life of the cluster, on whatever node answers. */
export class SimFeed {
  readonly tenant: TenantId
  readonly windows: FeedWindow[] = []
  readonly told: ToldClocks = { deletes: new Set(), others: new Set() }
  resumed = 0
  readonly #cluster: SimCluster
  #cursor: string | undefined
  #window: FeedWindow | undefined
  #isOver = false
  #isInHaste = false

  constructor(cluster: SimCluster, tenant: TenantId) {
    this.#cluster = cluster
    this.tenant = tenant
  }

  start(): void {
    void this.#run()
  }

  /** From now on its client takes events as they come. */
  hasten(): void {
    this.#isInHaste = true
  }

  stop(): void {
    this.#isOver = true
  }

  /** Whether it has heard of everything up to there. */
  covers(vector: VersionVector): boolean {
    return this.#window !== undefined && dominates(this.#window.end, vector)
  }

  describe(vector: VersionVector): string {
    const end = this.#window?.end
    const lacking = [...vector].filter(([origin, sequence]) => (end?.get(origin) ?? 0) < sequence)
    return `it lacks ${lacking.map(([origin, sequence]) => `${origin}/${end?.get(origin) ?? 0}..${sequence}`).join(', ')}`
  }

  async #run(): Promise<void> {
    const { world, nodes } = this.#cluster
    const time = world.timeOf({ skewMs: 0, isDead: false })
    while (!this.#isOver) {
      const process = world.random.pick(nodes).process
      if (process && process.pausedUntilMs <= world.nowMs && process.replica.copies.isCurrent(this.tenant))
        await this.#follow(process).catch(error => this.#failed(error))
      await time.sleep(RETRY_MS)
    }
  }

  #failed(error: unknown): void {
    const code = error instanceof PercolateError ? error.code : 'INTERNAL'
    this.#cluster.count(`feed ${code}`)
    this.#cluster.note(`feed of ${this.tenant}: ${String(error)}`)
    if (!(error instanceof PercolateError)) throw error
    const { cursor } = error.extra ?? {}
    if (code !== 'CHANGES_EXPIRED') {
      // Where it may go on is a word of the feed as its events are.
      if (cursor !== undefined) this.#take({ cursor })
      return
    }
    // It reads everything anew, and goes on from there.
    this.#cursor = cursor!
    this.#window = undefined
    this.#begin(vectorOf(this.#cursor))
  }

  /** Until the node is gone, or silent. */
  async #follow(process: SimProcess): Promise<void> {
    const { world } = this.#cluster
    const stop = new AbortController()
    const consistency = { ...ANY, needsHome: false }
    const session = new Session(
      { tenant: this.tenant, access: 'read', consistency, asOf: undefined, forwardedBy: undefined },
      { signal: stop.signal, hasEnded: false },
    )
    this.resumed++
    this.#cluster.note(`feed of ${this.tenant} is read from ${process.name}`)
    const events = process.changes.follow(session, { cursor: this.#cursor, field: 'cursor' }, HEARTBEAT_MS)
    const time = world.timeOf({ skewMs: 0, isDead: false })
    const isSlow = world.random.int(0, 1) === 0
    for (;;) {
      let arrived: Awaited<ReturnType<typeof events.next>> | undefined
      let failure: unknown
      const asked = events.next().then(
        value => {
          arrived = value
        },
        error => {
          failure = error ?? new Error('failed')
        },
      )
      for (let waitedMs = 0; !arrived && failure === undefined && waitedMs < SILENCE_MS_MAX; waitedMs += 100) {
        if (process.isDead || this.#isOver) break
        await Promise.race([asked, time.sleep(100)])
      }
      if (failure !== undefined) throw failure
      if (!arrived || arrived.done) {
        stop.abort()
        return
      }
      this.#take(arrived.value)
      // What was read with it waits in the node meanwhile.
      if (isSlow && !this.#isInHaste) await time.sleep(SLOW_MS)
    }
  }

  #take({
    cursor,
    changes,
  }: {
    cursor: string
    changes?: readonly { kind: string; id: string; type?: string; to?: string; action: string; clock: string }[]
  }): void {
    if (cursor === '') return
    this.#cursor = cursor
    const vector = vectorOf(cursor)
    const window = this.#window
    if (!window) {
      this.#begin(vector)
      return
    }
    window.end = vector
    for (const { kind, id, type, to, clock, action } of changes ?? []) {
      ;(action === 'del' ? this.told.deletes : this.told.others).add(clock)
      const record = [kind, id, ...(type === undefined ? [] : [type, to])].join(' ')
      if ((window.latest.get(record) ?? '') < clock) window.latest.set(record, clock)
      if (action === 'del' && (window.deleted.get(record) ?? '') < clock) window.deleted.set(record, clock)
    }
  }

  #begin(vector: VersionVector): void {
    this.#window = { tenant: this.tenant, start: vector, end: vector, latest: new Map(), deleted: new Map() }
    this.windows.push(this.#window)
  }
}

const vectorOf = (cursor: string): VersionVector => new Map(parseBookmark(cursor, 'cursor').vector)

/**
 * Every entry between the two ends of a window was told of, by itself or by something later of the same record; what is set aside is shown to an operator instead. What changes nothing in a record as it was at the window's start
 * is no news: a copy that learns of it as a record has nothing to tell.
 */
export function checkFeeds(
  windows: readonly FeedWindow[],
  entries: readonly StoredEntry[],
  isSetAside: (tenant: string, record: string, clock: Clock) => boolean,
): string[] {
  const found: string[] = []
  for (const { tenant, start, end, latest, deleted } of windows) {
    const missing: string[] = []
    const known = knownAt(start, entries, tenant, isSetAside)
    for (const { origin, sequence, changes, tenant: of } of entries) {
      if (of !== tenant || sequence <= (start.get(origin) ?? 0) || sequence > (end.get(origin) ?? 0)) continue
      for (const { record, clock, op } of changes) {
        const before = known.get(record) ?? EMPTY_RECORD
        if (isSame(mergeOp(before, op), before)) continue
        const told = latest.get(record)
        if (told !== undefined && told >= formatClock(clock)) continue
        // The delete of one of its ends hides an edge, and copies forget it.
        const [kind, from, , to] = record.split(' ')
        const ends =
          kind === 'edge'
            ? [from, to].flatMap(id => [deleted.get(`entity ${id}`), textOf(known.get(`entity ${id}`)?.del)])
            : []
        if (ends.some(end => end !== undefined && end >= formatClock(clock))) continue
        if (!isSetAside(tenant, record, clock))
          missing.push(`${record} at ${formatClock(clock)} (${origin}/${sequence})`)
      }
    }
    if (missing.length > 0)
      found.push(`a feed of ${tenant} passed over ${missing.length} changes without saying so, such as ${missing[0]}`)
  }
  return found
}

/** The records at that position: what a client read before it followed from there. What was lost for good, or set aside, is not in them. */
function knownAt(
  position: VersionVector,
  entries: readonly StoredEntry[],
  tenant: string,
  isSetAside: (tenant: string, record: string, clock: Clock) => boolean,
): Map<string, LwwRecord> {
  const known = new Map<string, LwwRecord>()
  for (const { origin, sequence, changes, tenant: of } of entries) {
    if (of !== tenant || sequence > (position.get(origin) ?? 0)) continue
    for (const { record, clock, op } of changes)
      if (!isSetAside(tenant, record, clock)) known.set(record, mergeOp(known.get(record) ?? EMPTY_RECORD, op))
  }
  return known
}

const textOf = (clock: Clock | undefined): string | undefined => clock && formatClock(clock)

const isSame = (a: LwwRecord, b: LwwRecord): boolean =>
  textOf(a.put) === textOf(b.put) &&
  textOf(a.del) === textOf(b.del) &&
  a.fields.size === b.fields.size &&
  [...a.fields].every(([name, { clock }]) => textOf(b.fields.get(name)?.clock) === formatClock(clock))

/** What the feeds told of that nobody has written. A delete, and nothing else, of which the clock is forgotten is told with that of the floor that it lay below. */
export function checkToldClocks(
  { deletes, others }: ToldClocks,
  attempted: readonly { readonly clock: Clock }[],
  floors: ReadonlySet<string> = new Set(),
): string[] {
  const written = new Set(attempted.map(({ clock }) => formatClock(clock)))
  const isUnwritten = (clock: string) => !written.has(clock)
  return [
    ...[...deletes].filter(clock => isUnwritten(clock) && !floors.has(clock)),
    ...[...others].filter(isUnwritten),
  ].map(clock => `a feed told of ${clock}, which nobody wrote`)
}
