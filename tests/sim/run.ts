import { PercolateError } from '../../src/base/errors.ts'
import { parseTenantId, type TenantId } from '../../src/base/ids.ts'
import { Slicer } from '../../src/base/slice.ts'
import { type Clock, compareClocks, formatClock } from '../../src/clock/hlc.ts'
import { sameVector } from '../../src/clock/vector.ts'
import { mergeOp, mergeRecords } from '../../src/rem/merge.ts'
import { planDelete, planEntity, planMoment } from '../../src/rem/plan.ts'
import { EMPTY_RECORD, type LwwRecord, type Op, type RecordRef } from '../../src/rem/record.ts'
import { isHidden } from '../../src/replication/export.ts'
import { durabilities } from '../../src/replication/replica.ts'
import type { Bookmark } from '../../src/session/bookmark.ts'
import { decodeEntry, decodeRecord } from '../../src/storage/codec.ts'
import { parseRecordKey, prefixes, prefixRange, space } from '../../src/storage/keys.ts'
import { collect } from '../../src/storage/kv.ts'
import { checkTenant } from '../../src/tenant/check.ts'
import { type SimAnswer, SimCluster, type SimNode, type SimRequest, TIMES, versionOf } from './cluster.ts'
import { type ContendOptions, type FaultKind, Faults } from './faults.ts'
import { checkFeeds, checkToldClocks, SimFeed } from './feeds.ts'
import { check, type FinalCopy, type History, newHistory } from './history.ts'
import { checkIdle, checkRefused, isIdle, notCurrent, silentHomes, unrest } from './rest.ts'
import { Watch } from './watch.ts'
import { World } from './world.ts'

export interface RunOptions {
  readonly seed: number
  /** Which of the seed's other schedules; its own by default. */
  readonly shake?: number | undefined
  readonly operations?: number
  readonly trace?: boolean
  /** With the faults of a wide world. */
  readonly wide?: boolean | undefined
  /** Copies of each tenant; 2 by default, and 3 in every fifth wide world. */
  readonly copies?: number | undefined
  /** Of the faults of its world these alone: a life that is about one thing. */
  readonly focus?: readonly FaultKind[] | undefined
}

export interface RunResult {
  readonly seed: number
  readonly violations: string[]
  readonly counts: ReadonlyMap<string, number>
  readonly operations: number
  readonly acknowledged: number
  readonly faults: number
  readonly simulatedMs: number
  readonly trace: readonly string[]
}

const OPERATIONS = 200
const KEYS = 8
const LOOKS_MAX = 5
const RIVAL_MS_MAX = 4000
/** Rivals who still hold a version when another node may have become the home. */
const LATE_RIVALS = 3
const LATE_RIVAL_MS = [2500, 9000] as const
const CLIENT_PATIENCE_MS = 25_000
/** What is under way when the faults end may still kill a process until then. */
const AFTERMATH_MS = 12_000
/** After the last fault every copy is current within this time, and everything at rest within the other. */
const CURRENT_MS_MAX = 60_000
const REST_MS_MAX = 400_000
/** The origin of clocks with which a write was only tried out. */
const REHEARSAL = 'none'
const FEEDS = 2
/** Of so many wide lives one has nodes with room for a single open tenant, which closes soon. */
const CRAMPED_EVERY = 7
const ROOMY = 100
/** How long a feed may take to tell of the last write. */
const FEED_MS_MAX = 20_000
const IDLE_MS = 5000

/** One seeded life of a cluster: operations under faults, then everything is healed, and the checkers look. */
export async function simulate(options: RunOptions): Promise<RunResult> {
  Slicer.sliceMs = Number.POSITIVE_INFINITY
  // Errors are part of everyday life here; collecting where each was made takes a tenth of the time.
  if (!options.trace) Error.stackTraceLimit = 0
  const run = new Run(options)
  return run.go()
}

class Run {
  readonly #options: RunOptions
  readonly #world: World
  readonly #cluster: SimCluster
  readonly #history: History = newHistory()
  readonly #tenants: TenantId[]
  readonly #bookmarks = new Map<TenantId, { clock: Clock; ref: RecordRef; bookmark: Bookmark }[]>()
  readonly #versions = new Map<string, string>()
  /** Reads under a bookmark that did not see its write. */
  readonly #unseen: { readonly tenant: TenantId; readonly name: string; readonly clock: Clock }[] = []
  readonly #isWide: boolean
  readonly #faults: Faults
  readonly #watch: Watch
  readonly #feeds: SimFeed[] = []
  readonly #refused = new Set<string>()
  #inFlight = 0

  constructor(options: RunOptions) {
    this.#options = options
    this.#world = new World(options.seed, options.shake)
    const { random } = this.#world
    this.#isWide = options.wide ?? false
    const replicas = options.copies ?? (this.#isWide && options.seed % 5 === 0 ? 3 : TIMES.replicas)
    this.#cluster = new SimCluster(this.#world, random.int(3, 4), { ...TIMES, replicas }, this.#isWide ? 2 : 1)
    if (options.trace) this.#cluster.trace = []
    if (this.#isWide) this.#cluster.nats.watchesOutliveServers = random.chance(0.7)
    if (this.#isWide && options.seed % CRAMPED_EVERY === 3) {
      this.#cluster.openTenantsMax = 1
      this.#cluster.tenantIdleMs = 400
    }
    this.#tenants = ['a', 'b'].map(parseTenantId)
    const clients = {
      writeSlowly: (node: SimNode, ms: number) => {
        for (let n = 0; n < 6; n++) this.#writeSlowly(node, ms)
      },
      burst: (node: SimNode, tenant: TenantId, writes: number) => {
        for (let n = 0; n < writes; n++) {
          const { request, onAnswer } = this.#request(random.int(0, 1e6), tenant, true)
          void this.#send(node, { request: { ...request, durability: 'stream' }, onAnswer })
        }
      },
      refuse: (node: SimNode, tenants: number) => {
        for (let n = 0; n < tenants; n++) this.#refuse(node)
      },
      contend: (home: SimNode, tenant: TenantId, how?: ContendOptions) => void this.#contend(home, tenant, how),
    }
    const { focus } = options
    this.#faults = new Faults(this.#cluster, this.#tenants, this.#history, clients, { isWide: this.#isWide, focus })
    this.#watch = new Watch(this.#cluster, this.#tenants, this.#history)
    this.#cluster.onWipe = (node, disk, tenant) => this.#watch.madeAnew(node, disk, tenant)
  }

  async go(): Promise<RunResult> {
    const { seed, operations = OPERATIONS } = this.#options
    const world = this.#world
    for (const node of this.#cluster.nodes) node.start()
    await world.run(3500)
    this.#faults.schedule(operations * 150)
    if (this.#isWide)
      for (let n = 0; n < FEEDS; n++) {
        const feed = new SimFeed(this.#cluster, this.#tenants[n % this.#tenants.length]!)
        this.#feeds.push(feed)
        feed.start()
      }
    for (let n = 0; n < operations; n++) {
      await world.runUntil(() => this.#inFlight < 6, 60_000)
      void this.#operate(n)
      await world.run(world.random.int(20, 260))
      this.#watch.look()
    }
    await world.runUntil(() => this.#inFlight === 0, 60_000)
    for (const feed of this.#feeds) feed.hasten()
    let healed = await this.#heal()
    let copies = await this.#finalCopies()
    // A floor may have moved while the copies were read.
    for (let n = 0; n < LOOKS_MAX && healed && !isStill(copies); n++) {
      healed = await world.runUntil(() => unrest(this.#cluster, this.#tenants, false) === '', 400_000)
      copies = await this.#finalCopies()
    }
    if (healed && this.#isWide) await this.#lookAtRest(copies)
    if (!healed)
      this.#history.violations.push(`the cluster did not come to rest: ${unrest(this.#cluster, this.#tenants, true)}`)
    return {
      seed,
      violations: check(this.#history, copies),
      counts: this.#cluster.counts,
      operations,
      acknowledged: this.#history.acked.length,
      faults: this.#faults.inflicted,
      simulatedMs: world.nowMs,
      trace: this.#cluster.trace ?? [],
    }
  }

  async #operate(n: number): Promise<void> {
    const { random } = this.#world
    const cluster = this.#cluster
    const tenant = random.pick(this.#tenants)
    const favourite = cluster.nodes[tenant.charCodeAt(0) % cluster.nodes.length]!
    const entry = random.chance(0.6) ? favourite : random.pick(cluster.nodes)
    if (!entry.process) return
    const planned = this.#request(n, tenant)
    const { providerMsMax } = this.#faults
    const outcome =
      providerMsMax > 0 && planned.request.write && random.chance(0.3)
        ? {
            ...planned,
            request: {
              ...planned.request,
              provider: { ms: random.int(1, providerMsMax), isPlanning: random.chance(0.3) },
            },
          }
        : planned
    // Others hold the same version, and try the same on other nodes, now or after a home has moved: one of them may succeed.
    if (outcome.request.ifVersion !== undefined)
      for (const rival of cluster.nodes)
        if (random.chance(0.5)) this.#world.at(random.int(0, RIVAL_MS_MAX), () => void this.#send(rival, outcome))
    await this.#send(entry, outcome)
  }

  async #send({ process }: SimNode, outcome: Operation): Promise<void> {
    const cluster = this.#cluster
    if (!process) return
    this.#inFlight++
    const calledAtMs = this.#world.nowMs
    const write = outcome.request.write
    const request = write
      ? {
          ...outcome.request,
          write: (record: LwwRecord | undefined, clock: Clock) => {
            this.#noteConditional(outcome.request, clock, calledAtMs)
            return write(record, clock)
          },
        }
      : outcome.request
    let answer: SimAnswer | undefined
    try {
      answer =
        (await Promise.race([
          process.handle(request, undefined),
          this.#world.timeOf({ skewMs: 0, isDead: false }).sleep(CLIENT_PATIENCE_MS),
        ])) ?? undefined
      if (answer) {
        outcome.onAnswer(answer, calledAtMs)
        this.#noteAcknowledged(request, answer)
      }
    } catch (error) {
      cluster.count(error instanceof PercolateError ? `answer ${error.code}` : 'answer INTERNAL')
      if (!(error instanceof PercolateError))
        this.#history.violations.push(`an operation failed with ${String((error as Error).stack)}`)
    } finally {
      this.#inFlight--
    }
  }

  /**
   * A conditional write may come to be from when it is planned, also when its client has gone by then; one that is planned again, at the next home, may come to be twice over for all that is known here.
   */
  #noteConditional({ tenant, ref, ifVersion }: SimRequest, planned: Clock, calledAtMs: number): void {
    if (ifVersion === undefined || planned.origin === REHEARSAL) return
    const { conditionals } = this.#history
    const name = `${tenant} ${nameOf(ref)}`
    conditionals.set(name, [
      ...(conditionals.get(name) ?? []),
      {
        name: `the write at ${formatClock(planned)}`,
        kind: 'unknown',
        calledAtMs,
        answeredAtMs: Number.POSITIVE_INFINITY,
        expected: ifVersion,
        version: versionAt(planned),
      },
    ])
  }

  /** Acknowledged on the word of one disk alone it may be unknown to the next home: such a write stands, and its condition is not vouched for. */
  #noteAcknowledged({ tenant, ref, ifVersion }: SimRequest, { clock, reached }: SimAnswer): void {
    if (ifVersion === undefined || !clock || reached === 'local') return
    const { conditionals } = this.#history
    const name = `${tenant} ${nameOf(ref)}`
    const written = { kind: 'written', answeredAtMs: this.#world.nowMs } as const
    conditionals.set(
      name,
      conditionals
        .get(name)!
        .map(operation => (operation.version === versionAt(clock) ? { ...operation, ...written } : operation)),
    )
  }

  #writeSlowly(node: SimNode, ms: number): void {
    const { random } = this.#world
    const outcome = this.#request(random.int(0, 1e6), random.pick(this.#tenants), true)
    const provider = { ms: random.int(1, ms), isPlanning: random.chance(0.3) }
    void this.#send(node, { ...outcome, request: { ...outcome.request, provider } })
  }

  /** A request for a tenant that nobody knows, which is refused for what it says: nothing of it may be anywhere. */
  #refuse(node: SimNode): void {
    const tenant = parseTenantId(`refused${this.#refused.size}`)
    this.#refused.add(tenant)
    const write = (): Op[] => {
      throw new PercolateError('INVALID_ARGUMENT', 'The simulated request says nothing sensible.')
    }
    void this.#send(node, { request: { tenant, ref: { kind: 'entity', key: ['e'] }, write }, onAnswer: () => {} })
  }

  /** A conditional write on what the home has now, and the same from rivals who come late to other nodes: one of them may succeed. */
  async #contend(
    home: SimNode,
    tenant: TenantId,
    { durability = 'stream', rivalMs = LATE_RIVAL_MS }: ContendOptions = {},
  ): Promise<void> {
    const { random } = this.#world
    const ref: RecordRef = { kind: 'entity', key: ['counter'] }
    let ifVersion: string | undefined
    const note = ({ record }: SimAnswer) => {
      ifVersion = versionOf(record)
    }
    await this.#send(home, { request: { tenant, ref }, onAnswer: note })
    if (ifVersion === undefined) return
    this.#versions.set(tenant, ifVersion)
    const outcome = this.#conditional(tenant, durability, random.int(0, 1e6))
    for (const rival of this.#cluster.nodes)
      for (let n = 0; n < LATE_RIVALS && rival !== home; n++)
        this.#world.at(random.int(...rivalMs), () => void this.#send(rival, outcome))
    await this.#send(home, outcome)
  }

  #request(n: number, tenant: TenantId, isWrite = false): Operation {
    const { random } = this.#world
    const durability = random.pick(durabilities)
    const kind = random.next()
    const id = `e${random.int(0, KEYS - 1)}`
    if (kind < 0.15 && !isWrite) return this.#readRequest(tenant)
    if (kind < 0.3 && !isWrite) return this.#conditional(tenant, durability, n)
    const isDelete = kind > 0.8
    const isMoment = random.chance(0.2)
    const ref: RecordRef = isMoment
      ? { kind: 'moment', key: [`m${random.int(0, KEYS - 1)}`] }
      : { kind: 'entity', key: [id] }
    const field = isDelete || isMoment ? undefined : `property:p${random.int(0, 2)}`
    const other = `e${random.int(0, KEYS - 1)}`
    const withEdge = !isDelete && !isMoment && random.chance(0.3)
    const write = (_: LwwRecord | undefined, clock: Clock): Op[] => {
      this.#attempt(tenant, ref, isDelete ? 'del' : 'put', clock)
      if (isDelete) return [planDelete(ref.kind as 'entity', ref.key[0]!, clock)]
      if (isMoment) return [planMoment({ id: ref.key[0]!, timeMs: n, content: `tenant:${tenant}; ${n}` }, clock)]
      return planEntity(
        {
          id,
          properties: { [field!.slice('property:'.length)]: `tenant:${tenant}; ${n}` },
          ...(withEdge ? { edges: [{ type: 'knows', to: other }] } : {}),
        },
        clock,
      )
    }
    return {
      request: { tenant, ref, write, durability },
      onAnswer: (answer, calledAtMs) => {
        this.#acknowledge(tenant, ref, field, isDelete ? 'del' : 'put', answer, undefined, calledAtMs)
        this.#bookmarks.set(tenant, [
          ...(this.#bookmarks.get(tenant) ?? []).slice(-5),
          { clock: answer.clock!, ref, bookmark: answer.bookmark! },
        ])
      },
    }
  }

  #conditional(tenant: TenantId, durability: SimRequest['durability'], n: number) {
    const ref: RecordRef = { kind: 'entity', key: ['counter'] }
    const ifVersion = this.#versions.get(tenant) ?? 'none'
    const write = (_: LwwRecord | undefined, clock: Clock): Op[] => {
      this.#attempt(tenant, ref, 'put', clock)
      return planEntity({ id: 'counter', properties: { n: `tenant:${tenant}; ${n}` } }, clock)
    }
    return {
      request: { tenant, ref, write, ifVersion, ...(durability ? { durability } : {}) },
      onAnswer: (answer: SimAnswer, calledAtMs: number) => {
        this.#cluster.count('conditional write')
        this.#acknowledge(tenant, ref, 'property:n', 'put', answer, ifVersion, calledAtMs)
      },
    }
  }

  #readRequest(tenant: TenantId): Operation {
    const known = this.#bookmarks.get(tenant) ?? []
    if (known.length === 0 || this.#world.random.chance(0.3)) {
      const ref: RecordRef = { kind: 'entity', key: ['counter'] }
      return {
        request: { tenant, ref },
        onAnswer: answer => {
          if (answer.record) this.#versions.set(tenant, versionOf(answer.record))
        },
      }
    }
    const { ref, clock, bookmark } = this.#world.random.pick(known)
    return {
      request: { tenant, ref, bookmark },
      onAnswer: answer => {
        this.#cluster.count('bookmarked read')
        const { record } = answer
        const sees =
          record === undefined
            ? this.#history.attempted.some(
                other =>
                  other.action === 'del' &&
                  other.tenant === tenant &&
                  other.record === nameOf(ref) &&
                  compareClocks(other.clock, clock) >= 0,
              )
            : versionOf(record) >= versionOf({ put: clock, del: undefined, fields: new Map() })
        // A write of a disk that was lost since may be gone with it; its bookmark is not covered then.
        if (!sees && this.#history.lostDisks.size === 0) this.#unseen.push({ tenant, name: nameOf(ref), clock })
      },
    }
  }

  #attempt(tenant: TenantId, ref: RecordRef, action: 'put' | 'del', clock: Clock): void {
    this.#history.attempted.push({ tenant, record: nameOf(ref), action, clock })
  }

  #acknowledge(
    tenant: TenantId,
    ref: RecordRef,
    field: string | undefined,
    action: 'put' | 'del',
    answer: SimAnswer,
    ifVersion: string | undefined,
    calledAtMs: number,
  ): void {
    this.#cluster.count(`acknowledged ${answer.reached}`)
    this.#cluster.note(
      `acked ${tenant} ${nameOf(ref)} ${action} ${formatClock(answer.clock!)} ${answer.reached} by ${answer.node}`,
    )
    if (answer.reached === 'stream')
      for (const [origin, sequence] of answer.position)
        if (!this.#cluster.log.hasHad(tenant, origin, sequence))
          this.#history.violations.push(
            `${tenant}: a write was acknowledged at level stream, and no stream has had ${origin}/${sequence}`,
          )
    this.#watch.acknowledged(tenant, answer, calledAtMs)
    this.#history.acked.push({
      tenant,
      record: nameOf(ref),
      field,
      action,
      clock: answer.clock!,
      reached: answer.reached,
      disk: answer.disk + answer.node,
      atMs: this.#world.nowMs,
      position: answer.position,
      ifVersion,
    })
  }

  async #heal(): Promise<boolean> {
    const cluster = this.#cluster
    const world = this.#world
    cluster.note('healing')
    if (cluster.tenantIdleMs !== undefined) {
      // What is not open is not looked at.
      cluster.openTenantsMax = ROOMY
      cluster.tenantIdleMs = undefined
      for (const node of cluster.nodes) node.process?.kill()
    }
    // What was to heal later is over now; what is under way may still end a process.
    this.#faults.heal()
    await world.run(AFTERMATH_MS)
    this.#faults.heal()
    const sinceMs = world.nowMs
    const isCurrent = await world.runUntil(() => notCurrent(cluster, this.#tenants) === '', CURRENT_MS_MAX)
    if (!isCurrent)
      this.#history.violations.push(
        `${CURRENT_MS_MAX / 1000} s after the last fault not every copy is current: ${notCurrent(cluster, this.#tenants)}`,
      )
    this.#history.violations.push(...(await silentHomes(cluster, this.#tenants)))
    cluster.count(`current again within ${Math.ceil((world.nowMs - sinceMs) / 5000) * 5} s`)
    const isAtRest = await world.runUntil(() => unrest(this.#cluster, this.#tenants, false) === '', REST_MS_MAX)
    cluster.count(`at rest within ${Math.ceil((world.nowMs - sinceMs) / 20_000) * 20} s`)
    return isAtRest
  }

  /** What the feeds told, what was refused, and what an idle cluster still does. */
  async #lookAtRest(copies: readonly FinalCopy[]): Promise<void> {
    const cluster = this.#cluster
    const world = this.#world
    const { violations } = this.#history
    // Feeds are open still. What is done now and then ends; what is held stays.
    if (!(await world.runUntil(() => isIdle(cluster.nodes), IDLE_MS)))
      violations.push('tenants are in use all the time while nothing happens')
    for (const feed of this.#feeds) {
      const vector = copies.find(copy => copy.tenant === feed.tenant)?.vector
      if (vector && !(await world.runUntil(() => feed.covers(vector), FEED_MS_MAX)))
        violations.push(`a feed of ${feed.tenant} does not come to the end of the changes: ${feed.describe(vector)}`)
      feed.stop()
      const aside = copies.find(copy => copy.tenant === feed.tenant)?.setAside
      const isSetAside = (_: string, record: string, clock: Clock) => {
        // What was lost for good can't be told of by anybody.
        if (this.#history.excused.has(formatClock(clock))) return true
        const set = aside?.get(record)
        return set !== undefined && versionOf(set) >= versionOf({ put: clock, del: undefined, fields: new Map() })
      }
      violations.push(...checkFeeds(feed.windows, cluster.log.entries, isSetAside))
      violations.push(...checkToldClocks(feed.told, this.#history.attempted, cluster.log.floors))
      cluster.count('feed resumed')
    }
    violations.push(...checkRefused(cluster, this.#refused))
    cluster.requests.clear()
    await world.run(IDLE_MS)
    violations.push(...checkIdle(cluster.requests, IDLE_MS))
  }

  async #finalCopies(): Promise<SeenCopy[]> {
    const copies: SeenCopy[] = []
    for (const node of this.#cluster.nodes) {
      const process = node.process
      if (!process) continue
      for (const tenant of this.#tenants) {
        if (process.replica.copies.state(tenant) === 'absent') continue
        const listed = process.replica.directory.placement(tenant)?.holders.some(holder => holder.node === node.id)
        if (!listed) continue
        const work = process.pool.use(tenant, async open => {
          const { vector, isCollected } = open
          const records = new Map<string, LwwRecord>()
          const bytes = new Map<string, string>()
          for (const [key, value] of await collect(open, prefixRange(prefixes.space(space.record)))) {
            if (await isHidden(open, key, value)) continue
            const name = nameOf(parseRecordKey(key))
            records.set(name, decodeRecord(value))
            bytes.set(name, value.toString('latin1'))
          }
          const setAside = new Map<string, LwwRecord>()
          for (const [, value] of await collect(open, prefixRange(prefixes.space(space.quarantine))))
            for (const op of decodeEntry(value).ops)
              setAside.set(nameOf(op), mergeOp(setAside.get(nameOf(op)) ?? EMPTY_RECORD, op))
          if (setAside.size > 0) this.#cluster.count('set aside')
          const { problems } = await checkTenant(open)
          return {
            node: node.id,
            tenant,
            records,
            bytes,
            vector: new Map(open.vector),
            outboxEntries: open.outbox.entries,
            problems,
            setAside,
            isSteady: isCollected && open.isCollected && sameVector(vector, open.vector),
          }
        })
        const settled = await this.#world.settle(work, 20_000)
        if (settled && 'value' in settled && settled.value) copies.push(settled.value)
        else
          this.#history.violations.push(
            `the copy of ${tenant} on ${node.id} cannot be read: ${JSON.stringify(settled)}`,
          )
      }
    }
    // What is set aside anywhere is not lost: an operator finds it there.
    const all = new Map<string, Map<string, LwwRecord>>()
    for (const { tenant, setAside } of copies) {
      const ofTenant = all.get(tenant) ?? new Map<string, LwwRecord>()
      all.set(tenant, ofTenant)
      for (const [name, record] of setAside)
        ofTenant.set(name, mergeRecords(ofTenant.get(name) ?? EMPTY_RECORD, record))
    }
    for (const { tenant, name, clock } of this.#unseen) {
      const latest = all.get(tenant)?.get(name)
      // Its vector covers what is set aside; who asks for that is told by the list of late writes.
      const isAside = [latest?.put, latest?.del].some(aside => aside && compareClocks(aside, clock) >= 0)
      if (!isAside)
        this.#history.violations.push(
          `${tenant}: a read of ${name} with a bookmark does not see the write at ${formatClock(clock)}`,
        )
    }
    // Writes from below the floor are merged by the copy that made them and set aside by the others; nothing else makes two copies with one history differ.
    for (const tenant of this.#cluster.repaired)
      if (
        !copies.some(copy => copy.tenant === tenant && copy.setAside.size > 0) &&
        !this.#cluster.counts.has('copy wiped')
      )
        this.#history.violations.push(`${tenant}: two copies with the same history differed`)
    return copies.map(copy => ({ ...copy, setAside: all.get(copy.tenant)! }))
  }
}

interface SeenCopy extends FinalCopy {
  /** Nothing was written or collected while it was read. */
  readonly isSteady: boolean
}

/** Whether the copies of each tenant were read at one and the same position, and with nothing left to collect. */
function isStill(copies: readonly SeenCopy[]): boolean {
  if (copies.some(({ isSteady }) => !isSteady)) return false
  const first = new Map<string, FinalCopy>()
  for (const copy of copies) {
    const other = first.get(copy.tenant) ?? copy
    first.set(copy.tenant, other)
    if (!sameVector(copy.vector, other.vector) || copy.outboxEntries > 0) return false
  }
  return true
}

interface Operation {
  readonly request: SimRequest
  readonly onAnswer: (answer: SimAnswer, calledAtMs: number) => void
}

const nameOf = (ref: RecordRef): string => `${ref.kind} ${ref.key.join(' ')}`

const versionAt = (clock: Clock): string => versionOf({ put: clock, del: undefined, fields: new Map() })
