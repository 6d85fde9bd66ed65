import { PercolateError } from '../../src/base/errors.ts'
import { parseTenantId, type TenantId } from '../../src/base/ids.ts'
import { Slicer } from '../../src/base/slice.ts'
import { type Clock, compareClocks, formatClock } from '../../src/clock/hlc.ts'
import { sameVector, type VersionVector } from '../../src/clock/vector.ts'
import { mergeOp, mergeRecords } from '../../src/rem/merge.ts'
import { planDelete, planEntity, planMoment } from '../../src/rem/plan.ts'
import { EMPTY_RECORD, type LwwRecord, type Op, type RecordRef } from '../../src/rem/record.ts'
import { durabilities } from '../../src/replication/replica.ts'
import { isHidden } from '../../src/replication/transfer.ts'
import type { Bookmark } from '../../src/session/bookmark.ts'
import { decodeEntry, decodeRecord } from '../../src/storage/codec.ts'
import { parseRecordKey, prefixes, prefixRange, space } from '../../src/storage/keys.ts'
import { collect } from '../../src/storage/kv.ts'
import { subjects } from '../../src/stream/subjects.ts'
import { checkTenant } from '../../src/tenant/check.ts'
import { crashPoints, type SimAnswer, SimCluster, type SimNode, type SimRequest, versionOf } from './cluster.ts'
import { check, type FinalCopy, type History, newHistory } from './history.ts'
import { World } from './world.ts'

export interface RunOptions {
  readonly seed: number
  readonly operations?: number
  readonly trace?: boolean
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
const FAULTS = 7
const KEYS = 8
const LOOKS_MAX = 5
const RIVAL_MS_MAX = 4000

/** Kinds of fault; each run has some, and every kind has to have occurred when all runs are done. */
export const faultKinds = [
  'crash',
  'restart all',
  'disk lost',
  'disk put back',
  'NATS away',
  'node cut from NATS',
  'partition',
  'drop',
  'delay',
  'clock skew',
  'stream deleted',
  'stream tail lost',
  'message ids forgotten',
  'directory lost',
  'directory put back',
  'away beyond tombstones',
  'drain',
] as const
type FaultKind = (typeof faultKinds)[number]

/** A fault that destroys the only other place of an acknowledged write is no promise broken: such pairs never share a run. */
const losesDisks: readonly FaultKind[] = ['disk lost', 'disk put back']
const losesLog: readonly FaultKind[] = ['stream deleted', 'stream tail lost', 'directory lost', 'directory put back']

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
  #inFlight = 0
  #faults = 0

  constructor(options: RunOptions) {
    this.#options = options
    this.#world = new World(options.seed)
    const { random } = this.#world
    this.#cluster = new SimCluster(this.#world, random.int(3, 4))
    if (options.trace) this.#cluster.trace = []
    this.#tenants = ['a', 'b'].map(parseTenantId)
  }

  async go(): Promise<RunResult> {
    const { seed, operations = OPERATIONS } = this.#options
    const world = this.#world
    for (const node of this.#cluster.nodes) node.start()
    await world.run(3500)
    this.#scheduleFaults(operations * 150)
    for (let n = 0; n < operations; n++) {
      await world.runUntil(() => this.#inFlight < 6, 60_000)
      void this.#operate(n)
      await world.run(world.random.int(20, 260))
    }
    await world.runUntil(() => this.#inFlight === 0, 60_000)
    let healed = await this.#heal()
    let copies = await this.#finalCopies()
    // A floor may have moved while the copies were read.
    for (let n = 0; n < LOOKS_MAX && healed && !isStill(copies); n++) {
      healed = await world.runUntil(() => this.#unrest(false) === '', 400_000)
      copies = await this.#finalCopies()
    }
    if (!healed) this.#history.violations.push(`the cluster did not come to rest: ${this.#unrest(true)}`)
    return {
      seed,
      violations: check(this.#history, copies),
      counts: this.#cluster.counts,
      operations,
      acknowledged: this.#history.acked.length,
      faults: this.#faults,
      simulatedMs: world.nowMs,
      trace: this.#cluster.trace ?? [],
    }
  }

  #scheduleFaults(spanMs: number): void {
    const { random } = this.#world
    const allowed = faultKinds.filter(kind => !(random.int(0, 1) === 0 ? losesDisks : losesLog).includes(kind))
    const kinds = random.chance(0.5)
      ? allowed.filter(kind => !losesLog.includes(kind))
      : allowed.filter(kind => !losesDisks.includes(kind))
    for (let n = 0; n < FAULTS; n++) {
      const kind = random.pick(kinds)
      this.#world.at(random.int(500, spanMs), () => {
        this.#faults++
        this.#cluster.count(`fault: ${kind}`)
        this.#inflict(kind)
      })
    }
  }

  #inflict(kind: FaultKind): void {
    const world = this.#world
    const { random } = world
    const cluster = this.#cluster
    const node = random.pick(cluster.nodes)
    cluster.note(`fault: ${kind} (${node.id})`)
    const heal = (ms: number, act: () => void) => world.at(ms, act)
    switch (kind) {
      case 'crash': {
        if (!node.process) return
        node.process.armed = random.pick(crashPoints)
        const process = node.process
        // What never gets there is killed anyway.
        world.at(1500, () => {
          if (!process.isDead) cluster.count('crash anywhere')
          process.kill()
        })
        heal(random.int(1600, 9000), () => node.start())
        return
      }
      case 'restart all':
        for (const each of cluster.nodes) {
          each.process?.kill()
          heal(random.int(200, 4000), () => each.start())
        }
        return
      case 'disk lost':
        this.#loseDisk(node, () => node.loseDisk())
        return
      case 'disk put back': {
        const backup = node.disk.clone()
        backup.crash()
        const sinceMs = world.nowMs
        world.at(random.int(1000, 6000), () => this.#loseDisk(node, () => (node.disk = backup), sinceMs))
        return
      }
      case 'NATS away':
        cluster.natsDown = true
        heal(random.int(300, 9000), () => {
          cluster.natsDown = false
        })
        return
      case 'node cut from NATS':
        node.natsCut = true
        heal(random.int(300, 9000), () => {
          node.natsCut = false
        })
        return
      case 'partition': {
        const others = cluster.nodes.filter(other => other !== node && random.chance(0.7))
        for (const other of others) cluster.cuts.add(`${node.id}|${other.id}`)
        heal(random.int(500, 9000), () => cluster.cuts.clear())
        return
      }
      case 'drop':
        cluster.dropRate = random.next() * 0.2
        heal(random.int(500, 6000), () => {
          cluster.dropRate = 0
        })
        return
      case 'delay':
        cluster.slowRate = random.next() * 0.4
        heal(random.int(500, 6000), () => {
          cluster.slowRate = 0
        })
        return
      case 'clock skew':
        node.skewMs = random.pick([-240_000, -30_000, -3000, 3000, 30_000, 240_000])
        heal(random.int(2000, 12_000), () => {
          node.skewMs = 0
        })
        return
      case 'stream deleted':
        cluster.log.deleteStream(subjects.syncStream(random.pick(this.#tenants)))
        return
      case 'stream tail lost': {
        const stream = cluster.log.streams.get(subjects.syncStream(random.pick(this.#tenants)))
        stream?.loseTail(random.int(1, 5))
        return
      }
      case 'message ids forgotten':
        for (const stream of cluster.log.streams.values()) stream.forgetIds()
        return
      case 'directory lost':
        cluster.log.dropBucket(subjects.clusterBucket)
        return
      case 'directory put back': {
        const records = [...cluster.log.bucket(subjects.clusterBucket).records.values()]
        world.at(random.int(1000, 6000), () => cluster.log.restoreBucket(subjects.clusterBucket, records))
        return
      }
      case 'away beyond tombstones':
        // What it writes last stays with it.
        node.natsCut = true
        world.at(random.int(500, 2500), () => {
          node.process?.kill()
          node.natsCut = false
        })
        heal(random.int(25_000, 40_000), () => node.start())
        return
      case 'drain': {
        const process = node.process
        if (!process) return
        void process.replica
          .beginDrain()
          .then(() => process.replica.handOff(1500))
          .then(() => process.replica.drain(3000))
          .catch(() => {})
          .finally(() => process.kill())
        heal(random.int(4000, 9000), () => {
          process.kill()
          node.start()
        })
        return
      }
    }
  }

  /** One disk at a time, and only while another node has a whole copy of each tenant: more is no promise. */
  #loseDisk(node: SimNode, replace: () => void, sinceMs = Number.NEGATIVE_INFINITY): void {
    const cluster = this.#cluster
    if (!node.process) return
    const isSafe = this.#tenants.every(tenant => {
      if (!node.disk.databases.has(tenant)) return true
      return cluster.nodes.some(
        other =>
          other !== node &&
          other.process?.replica.copies.isCurrent(tenant) &&
          node.process!.replica.copies.isCurrent(tenant),
      )
    })
    if (!isSafe || this.#history.lostDisks.size > 0) return
    cluster.count('disk gone')
    node.process.kill()
    this.#history.lostDisks.set(node.disk.id + node.id, sinceMs)
    replace()
    this.#world.at(this.#world.random.int(200, 4000), () => node.start())
  }

  async #operate(n: number): Promise<void> {
    const { random } = this.#world
    const cluster = this.#cluster
    const tenant = random.pick(this.#tenants)
    const favourite = cluster.nodes[tenant.charCodeAt(0) % cluster.nodes.length]!
    const entry = random.chance(0.6) ? favourite : random.pick(cluster.nodes)
    if (!entry.process) return
    const outcome = this.#request(n, tenant)
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
    try {
      const answer = await Promise.race([
        process.handle(outcome.request, undefined),
        this.#world.timeOf({ skewMs: 0, isDead: false }).sleep(25_000),
      ])
      if (answer) outcome.onAnswer(answer)
    } catch (error) {
      cluster.count(error instanceof PercolateError ? `answer ${error.code}` : 'answer INTERNAL')
      if (!(error instanceof PercolateError))
        this.#history.violations.push(`an operation failed with ${String((error as Error).stack)}`)
    } finally {
      this.#inFlight--
    }
  }

  #request(n: number, tenant: TenantId): Operation {
    const { random } = this.#world
    const durability = random.pick(durabilities)
    const kind = random.next()
    const id = `e${random.int(0, KEYS - 1)}`
    if (kind < 0.15) return this.#readRequest(tenant)
    if (kind < 0.3) return this.#conditional(tenant, durability, n)
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
      onAnswer: answer => {
        this.#acknowledge(tenant, ref, field, isDelete ? 'del' : 'put', answer, undefined)
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
      onAnswer: (answer: SimAnswer) => {
        this.#cluster.count('conditional write')
        this.#acknowledge(tenant, ref, 'property:n', 'put', answer, ifVersion)
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
    answer: {
      clock: Clock | undefined
      reached: Acked['reached']
      node: string
      disk: string
      position: VersionVector
    },
    ifVersion: string | undefined,
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
    const heal = () => {
      cluster.natsDown = false
      cluster.dropRate = 0
      cluster.slowRate = 0
      cluster.cuts.clear()
      for (const node of cluster.nodes) {
        node.natsCut = false
        node.skewMs = 0
        if (node.process) node.process.armed = undefined
        node.start()
      }
    }
    // Faults that were to heal later are over now, and those that were still to come do not.
    cluster.note('healing')
    for (let n = 0; n < 4; n++) {
      heal()
      await this.#world.run(12_000)
    }
    heal()
    return this.#world.runUntil(() => this.#unrest(false) === '', 400_000)
  }

  /** What is not at rest yet. */
  #unrest(isVerbose: boolean): string {
    const cluster = this.#cluster
    const found: string[] = []
    for (const tenant of this.#tenants) {
      const placement = cluster.nodes.flatMap(({ process }) => process?.replica.directory.placement(tenant) ?? [])[0]
      if (!placement) continue
      const active = placement.holders.filter(({ state }) => state === 'active')
      if (active.length !== placement.holders.length || active.length !== cluster.settings.replicas)
        found.push(`${tenant} has holders ${JSON.stringify(placement.holders)}`)
      for (const { node } of placement.holders) {
        const process = cluster.node(node)?.process
        if (!process?.replica.copies.isCurrent(tenant))
          found.push(
            `${tenant} on ${node} is ${process?.replica.copies.state(tenant)}: ${process?.replica.copies.reason(tenant)}`,
          )
        for (const open of process?.pool.openTenants() ?? []) {
          if (open.id !== tenant) continue
          if (open.outbox.entries > 0)
            found.push(
              `${tenant} on ${node} has ${open.outbox.entries} entries to publish: ${process?.replica.publisher.describe(tenant)}`,
            )
          if (process!.replica.maintenance.hasParked(tenant)) found.push(`${tenant} on ${node} has parked entries`)
          if (!open.isCollected) found.push(`${tenant} on ${node} has garbage`)
          if (process!.replica.applier.hasHole(tenant)) found.push(`${tenant} on ${node} has a hole`)
        }
      }
      const opened = placement.holders.flatMap(
        ({ node }) =>
          cluster
            .node(node)
            ?.process?.pool.openTenants()
            .filter(({ id }) => id === tenant) ?? [],
      )
      const vectors = opened.map(open => JSON.stringify([...open.vector].sort()))
      if (new Set(vectors).size > 1) found.push(`${tenant} has vectors ${vectors.join(' / ')}`)
      const floors = opened.map(open => open.floor && formatClock(open.floor.clock))
      if (new Set(floors).size > 1) found.push(`${tenant} has floors ${floors.join(' / ')}`)
      if (!isVerbose && found.length > 0) return found[0]!
    }
    return found.join('; ')
  }

  async #finalCopies(): Promise<FinalCopy[]> {
    const copies: FinalCopy[] = []
    for (const node of this.#cluster.nodes) {
      const process = node.process
      if (!process) continue
      for (const tenant of this.#tenants) {
        if (process.replica.copies.state(tenant) === 'absent') continue
        const listed = process.replica.directory.placement(tenant)?.holders.some(holder => holder.node === node.id)
        if (!listed) continue
        const work = process.pool.use(tenant, async open => {
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

/** Whether the copies of each tenant were read at one and the same position. */
function isStill(copies: readonly FinalCopy[]): boolean {
  const first = new Map<string, FinalCopy>()
  for (const copy of copies) {
    const other = first.get(copy.tenant) ?? copy
    first.set(copy.tenant, other)
    if (!sameVector(copy.vector, other.vector) || copy.outboxEntries > 0) return false
  }
  return true
}

type Acked = History['acked'][number]

interface Operation {
  readonly request: SimRequest
  readonly onAnswer: (answer: SimAnswer) => void
}

const nameOf = (ref: RecordRef): string => `${ref.kind} ${ref.key.join(' ')}`
