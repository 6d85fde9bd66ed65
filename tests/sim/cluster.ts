import { ChangeOperations } from '../../src/api/operations/changes.ts'
import { PercolateError } from '../../src/base/errors.ts'
import { parseTenantId, type TenantId } from '../../src/base/ids.ts'
import type { Logger } from '../../src/base/logger.ts'
import type { Time } from '../../src/base/time.ts'
import { type Clock, formatClock } from '../../src/clock/hlc.ts'
import type { VersionVector } from '../../src/clock/vector.ts'
import type { ObjectStore } from '../../src/objects/port.ts'
import { isFloorOp } from '../../src/rem/floor.ts'
import type { LwwRecord, Op, RecordRef } from '../../src/rem/record.ts'
import { PeerAuth } from '../../src/replication/auth.ts'
import type { Controller } from '../../src/replication/controller.ts'
import { controllerParts } from '../../src/replication/controller-parts.ts'
import { copyStore } from '../../src/replication/copy-store.ts'
import type { PeerHandlers, PeerPort } from '../../src/replication/peer.ts'
import type { Member, Placement } from '../../src/replication/placement.ts'
import { type Durability, Replica, type ReplicaSettings } from '../../src/replication/replica.ts'
import { SnapshotStore } from '../../src/replication/snapshots.ts'
import type { Bookmark } from '../../src/session/bookmark.ts'
import type { SessionContext } from '../../src/session/context.ts'
import { askEach, lost, misdirected } from '../../src/session/forward.ts'
import { Gate } from '../../src/session/gate.ts'
import { HeavyReads } from '../../src/session/heavy-reads.ts'
import { read } from '../../src/session/read.ts'
import { ANY } from '../../src/session/request.ts'
import { type Ending, Session } from '../../src/session/session.ts'
import { write } from '../../src/session/write.ts'
import { decodeEntry } from '../../src/storage/codec.ts'
import { MemoryStream } from '../../src/stream/memory/adapter.ts'
import { MemoryLog } from '../../src/stream/memory/log.ts'
import type { PublishAck } from '../../src/stream/port.ts'
import { subjects } from '../../src/stream/subjects.ts'
import { Activity } from '../../src/tenant/activity.ts'
import { type DiskLife, nextLife, originOfLife } from '../../src/tenant/disk-life.ts'
import { openPool, type TenantStore } from '../../src/tenant/open-pool.ts'
import type { TenantPool } from '../../src/tenant/pool.ts'
import type { StreamCursor } from '../../src/tenant/state.ts'
import { never, SimDatabase, SimDisk, SimKv } from './disk.ts'
import type { StoredEntry } from './feeds.ts'
import { linkOf, NatsFaults, type SimClient } from './link.ts'
import type { Shake, World } from './world.ts'

/** Scaling is not simulated; the settings' default. */
const ACTIVE_WINDOW_MS = 300_000

const READER_GONE_MS = 1000
const BOOKMARK_WAIT_MS = 1000
const DURABILITY_TIMEOUT_MS = 3000

/** Simulated clients wait for every answer. */
const neverEnding = (): Ending => ({ signal: new AbortController().signal, hasEnded: false })

/** No answer from a node. `wasSent`: the request may have got there. */
class Unreachable extends PercolateError {
  readonly wasSent: boolean

  constructor(node: string, why: string, wasSent: boolean) {
    super('NODE_UNAVAILABLE', `${node} ${why}`)
    this.wasSent = wasSent
  }
}

export const crashPoints = ['before-commit', 'after-commit', 'before-publish', 'before-puback', 'after-puback'] as const
export type CrashPoint = (typeof crashPoints)[number]

export const TIMES: ReplicaSettings = {
  replicas: 2,
  syncStreams: 'per-tenant',
  syncReplicas: 1,
  syncMaxAgeMs: 600_000,
  syncBytesMax: 16 * 1024,
  poolBytesMax: 1024 * 1024 * 1024,
  directoryBytesMax: 512 * 1024 * 1024,
  heartbeatMs: 500,
  leaseMs: 2000,
  clockSkewMsMax: 5000,
  consumerIdleMs: 5000,
  hintGraceMs: 200,
  tombstoneMs: 8000,
  gcIntervalMs: 3000,
  antiEntropyMs: 4000,
  snapshotIntervalMs: 1e9,
  maintenanceMs: 500,
  moveAfterRequests: 12,
  moveWindowMs: 5000,
  moveRestMs: 10_000,
  handoverTimeoutMs: 1000,
  copyRetryMs: 300,
  copiesWaitMs: 600_000,
  partRecordsMax: 3,
  waitingEntriesMax: 8,
}

/** Log lines go into the trace of a run, when there is one. */
const loggerOf = (cluster: SimCluster, name: string): Logger =>
  Object.fromEntries(
    ['fatal', 'error', 'warn', 'info', 'debug', 'trace'].map(level => [
      level,
      (details: unknown, text?: string) => {
        if (cluster.trace) cluster.note(`${name} ${level}: ${text ?? ''} ${JSON.stringify(details)}`)
        const { tenant, merged } = details as { tenant?: string; merged?: number }
        if (text?.startsWith(DIFFERED) && merged! > 0) cluster.repaired.add(tenant!)
      },
    ]),
  ) as unknown as Logger

export interface SimRequest {
  readonly tenant: TenantId
  readonly write?: (record: LwwRecord | undefined, clock: Clock) => readonly Op[]
  readonly ref: RecordRef
  /** Only if the record's latest clock is this one; decided by the home. */
  readonly ifVersion?: string
  readonly durability?: Durability
  readonly bookmark?: Bookmark
  /** A read that only the home answers. */
  readonly ofHome?: boolean
  /** How long a read takes under its lease. */
  readonly readMs?: number
  /** Milliseconds for which the provider of the write's embeddings hangs, before the copy is written or while it is planned. */
  readonly provider?: { readonly ms: number; readonly isPlanning: boolean }
}

export interface SimAnswer {
  readonly record: LwwRecord | undefined
  readonly exists: boolean
  readonly clock: Clock | undefined
  /** Of a write. */
  readonly bookmark: Bookmark | undefined
  readonly position: VersionVector
  readonly reached: Durability
  readonly node: string
  readonly disk: string
}

const DIFFERED = 'two copies that should have been equal differed'

/** The simulated log, which knows what it once had. */
class RememberingLog extends MemoryLog {
  readonly #stored = new Set<string>()
  readonly entries: StoredEntry[] = []
  /** Clocks of the floors that were ever set, as text. */
  readonly floors = new Set<string>()

  override publish(subject: string, data: Buffer, id: string): PublishAck {
    const ack = super.publish(subject, data, id)
    if (subject.startsWith('percolate.sync') && !ack.duplicate) {
      const { tenant, origin, sequence, ops } = decodeEntry(data)
      this.#stored.add(`${tenant} ${origin} ${sequence}`)
      for (const op of ops) if (isFloorOp(op)) this.floors.add(formatClock(op.clock))
      const changes = ops
        .filter(({ kind }) => kind !== 'setting')
        .map(op => ({ record: `${op.kind} ${op.key.join(' ')}`, clock: op.clock, op }))
      this.entries.push({ tenant, origin, sequence, changes })
    }
    return ack
  }

  /** One entry is gone from its stream, those behind it are not. Whether it was there. */
  loseEntry(tenant: TenantId, origin: string, sequence: number): boolean {
    const stream = this.streams.get(subjects.syncStream(tenant))
    const at = stream?.messages.findIndex(({ data }) => {
      const entry = decodeEntry(data)
      return entry.origin === origin && entry.sequence === sequence
    })
    if (!stream || at === undefined || at < 0) return false
    stream.messages.splice(at, 1)
    return true
  }

  hasHad(tenant: TenantId, origin: string, sequence: number): boolean {
    return this.#stored.has(`${tenant} ${origin} ${sequence}`)
  }
}

/** A simulated cluster: the real replication code, on simulated time, disks, network and servers. */
export class SimCluster {
  readonly world: World
  readonly servers = { skewMs: 0, isDead: false }
  readonly log: RememberingLog
  /** Tenants of which two copies with the same history differed, and were repaired. */
  readonly repaired = new Set<string>()
  readonly nodes: SimNode[]
  readonly counts = new Map<string, number>()
  readonly settings: ReplicaSettings
  readonly objects: ObjectStore | undefined
  readonly nats = new NatsFaults()
  /** Told when a copy is emptied to be made anew. */
  onWipe: (node: string, disk: string, tenant: TenantId) => void = () => {}
  /** Requests to the servers, by process. */
  readonly requests = new Map<string, number>()
  /** Databases that a process has open at once, from its start on. */
  openTenantsMax = 100
  /** A database that nobody uses closes after this long; undefined: it stays open. */
  tenantIdleMs: number | undefined
  natsDown = false
  dropRate = 0
  slowRate = 0
  readonly cuts = new Set<string>()
  readonly controllers: readonly SimController[]
  trace: string[] | undefined

  /** `objects`: where tenants have their snapshots; without it there are none. */
  constructor(
    world: World,
    nodeCount: number,
    settings: ReplicaSettings = TIMES,
    controllerCount = 1,
    objects?: ObjectStore,
  ) {
    this.world = world
    this.objects = objects
    this.settings = settings
    this.log = new RememberingLog(world.timeOf(this.servers))
    this.nodes = Array.from({ length: nodeCount }, (_, n) => new SimNode(this, `n${n + 1}`, `z${(n % 3) + 1}`))
    this.controllers = Array.from({ length: controllerCount }, (_, n) => new SimController(this, `c${n + 1}`))
  }

  count(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1)
  }

  note(text: string): void {
    this.trace?.push(`${(this.world.nowMs / 1000).toFixed(3)} ${text}`)
  }

  node(id: string): SimNode | undefined {
    return this.nodes.find(node => node.id === id)
  }

  isCut(a: string, b: string): boolean {
    return this.cuts.has(`${a}|${b}`) || this.cuts.has(`${b}|${a}`)
  }

  delayMs(): number {
    const { random } = this.world
    if (this.slowRate > 0 && random.chance(this.slowRate)) {
      this.count('delay')
      return random.int(50, 800)
    }
    return 0.1 + random.next() * 2
  }

  /** A call over the simulated network: may be slow, lost on the way there or back, or cut off. */
  async call<T>(from: SimProcess, to: SimNode, work: (process: SimProcess) => Promise<T>): Promise<T> {
    const { time } = from
    const unreachable = (why: string, wasSent = true) => new Unreachable(to.id, why, wasSent)
    await time.sleep(this.delayMs())
    const target = to.process
    if (this.isCut(from.node.id, to.id) || this.world.random.chance(this.dropRate)) {
      this.count(this.isCut(from.node.id, to.id) ? 'partitioned call' : 'drop')
      await time.sleep(500)
      throw unreachable('cannot be reached', false)
    }
    if (!target) throw unreachable('is down', false)
    let outcome: { value: T } | { error: unknown } | undefined
    const done = target
      .whenAwake()
      .then(() => work(target))
      .then(
        value => {
          outcome = { value }
        },
        error => {
          outcome = { error }
        },
      )
    const patience = async () => {
      for (let waitedMs = 0; !outcome && !target.isDead && waitedMs < 20_000; waitedMs += 250) await time.sleep(250)
    }
    await Promise.race([done, patience()])
    if (!outcome) throw unreachable('did not answer')
    await time.sleep(this.delayMs())
    if (this.isCut(from.node.id, to.id) || this.world.random.chance(this.dropRate)) {
      this.count('lost answer')
      await time.sleep(500)
      throw unreachable('did not answer')
    }
    if ('error' in outcome) throw outcome.error
    return outcome.value
  }
}

/** One life of a node's process. */
export class SimProcess implements SimClient {
  readonly name: string
  readonly node: SimNode
  readonly time: Time
  readonly replica: Replica
  readonly pool: TenantPool
  readonly changes: ChangeOperations
  readonly #context: SessionContext
  readonly #gate: Gate
  isDead = false
  /** As a server that has closed its door: what it has let in is answered, nothing new is. */
  isClosed = false
  /** Requests that are being answered. */
  handling = 0
  /** Nothing of it runs until then, while its clocks go on. */
  pausedUntilMs = 0
  /** Set to be paused at the next time that it gets there. */
  armedPause: { readonly point: string; readonly ms: number } | undefined
  /** Ends the transfers that this process reads. */
  readonly reading = new Set<() => void>()
  /** Set to be killed at the next time that it gets there. */
  armed: CrashPoint | undefined

  constructor(node: SimNode) {
    this.node = node
    this.name = node.id
    const self = this
    this.time = node.cluster.world.timeOf({
      get skewMs() {
        return node.skewMs
      },
      get isDead() {
        return self.isDead
      },
      get pausedUntilMs() {
        return self.pausedUntilMs
      },
    })
    const { cluster, disk } = node
    const { time } = this
    const logger = loggerOf(cluster, node.id)
    const stream = new MemoryStream(cluster.log, linkOf(cluster, this))
    const store: TenantStore = {
      tenants: async () => [...new Set([...disk.databases.keys(), ...disk.halfMade])].sort().map(parseTenantId),
      has: async id => disk.databases.has(id),
      open: async id => {
        if (!disk.databases.has(id)) {
          // Whoever is killed here leaves a folder without a database.
          disk.halfMade.add(id)
          await this.#wait('before-commit')
          disk.halfMade.delete(id)
        }
        return this.#kv(id)
      },
      remove: async id => {
        this.reach('removing')
        await this.#wait('before-commit')
        disk.databases.delete(id)
      },
      setAside: async id => {
        cluster.count('damaged copy set aside')
        disk.databases.delete(id)
        return id
      },
      setOtherAside: async (id, incarnation) => {
        cluster.count('other incarnation set aside')
        disk.others.set(`${id}.${incarnation}`, disk.databases.get(id)!)
        disk.databases.delete(id)
        return id
      },
      making: async (id, incarnation) => void disk.making.set(id, incarnation),
      makingOf: id => disk.making.get(id),
      made: async id => void disk.making.delete(id),
    }
    const copies = copyStore(store, time)
    const noted = disk.notes.get('life')
    const life = nextLife(noted === undefined ? undefined : (JSON.parse(noted) as DiskLife), String(node.boots), () =>
      time.random(4).toString('hex'),
    )
    disk.notes.set('life', JSON.stringify(life))
    this.replica = new Replica({
      identity: { node: node.id, disk: disk.id, zone: node.zone, tier: 'small', version: 'sim' },
      addresses: () => ({ http: node.id, grpc: node.id }),
      settings: cluster.settings,
      time,
      logger,
      stream,
      activity: new Activity(time, ACTIVE_WINDOW_MS),
      pool: hooks =>
        openPool(
          {
            time,
            logger,
            store,
            limits: {
              openMax: cluster.openTenantsMax,
              memoryBytesMax: 1e12,
              tenantBytes: 1,
              idleMs: cluster.tenantIdleMs ?? Number.POSITIVE_INFINITY,
              waitMsMax: 5000,
            },
            tenant: {
              origin: originOfLife(node.id, disk.id, life.id),
              outboxEnabled: true,
              outboxBytesMax: 1e9,
              recordCacheBytes: 1e6,
              changesMax: 50,
            },
          },
          hooks,
        ),
      copies: {
        ...copies,
        wipe: id => {
          cluster.count('copy wiped')
          cluster.onWipe(node.id, disk.id, id)
          return copies.wipe(id)
        },
      },
      store: {
        load: async () => ({
          placements: notesOf<Placement>(disk, 'placement'),
          members: notesOf<Member>(disk, 'member'),
        }),
        savePlacement: async placement => {
          if (!this.isDead) disk.notes.set(`placement.${placement.tenant}`, JSON.stringify(placement))
        },
        saveMember: async member => {
          if (!this.isDead) disk.notes.set(`member.${member.node}`, JSON.stringify(member))
        },
        loadCursor: async name => {
          const text = disk.notes.get(`cursor.${name}`)
          return text === undefined ? undefined : (JSON.parse(text) as StreamCursor)
        },
        saveCursor: async (name, cursor) => {
          if (!this.isDead) disk.notes.set(`cursor.${name}`, JSON.stringify(cursor))
        },
      },
      peers: () => this.#peers(),
      snapshots: cluster.objects && new SnapshotStore(cluster.objects, time, logger),
    })
    const { replica } = this
    const { pool } = replica
    this.pool = pool
    this.#context = {
      time,
      pool,
      replica,
      durability: 'local',
      durabilityTimeoutMs: DURABILITY_TIMEOUT_MS,
      admitTenant: () => replica.membership.admitWrite(),
      onTenant: () => {},
    }
    const heavyReads = new HeavyReads({ heavyReadsMax: 4, heavyReadsWaitingMax: 1000 })
    this.changes = new ChangeOperations({ ...this.#context, heavyReads } as never, {
      feedsMax: 1000,
      tenantFeedsMax: 1000,
    })
    this.#gate = new Gate({ replica, auth: new PeerAuth(undefined, node.id), bookmarkWaitMs: BOOKMARK_WAIT_MS })
    if (cluster.tenantIdleMs !== undefined) void this.#closeIdle(cluster.tenantIdleMs)
  }

  async #closeIdle(everyMs: number): Promise<void> {
    while (!this.isDead) {
      await this.time.sleep(everyMs, { ref: false }).catch(() => {})
      if (!this.isDead) this.pool.closeIdle()
    }
  }

  kill(): void {
    if (this.isDead) return
    this.isDead = true
    // Who sends to a process that is gone notices by its pings.
    for (const end of this.reading) this.node.cluster.world.at(READER_GONE_MS, end)
    if (this.node.disk.lies) this.node.boots++
    this.node.disk.crash()
    if (this.node.process === this) this.node.process = undefined
  }

  /** A client's request, or one that another node forwarded: what HTTP and gRPC do with theirs. */
  async handle(request: SimRequest, forwardedBy: string | undefined): Promise<SimAnswer> {
    await this.whenAwake()
    if (this.isClosed) throw new Unreachable(this.name, 'takes no requests any more', false)
    this.handling++
    try {
      return await this.#handle(request, forwardedBy)
    } finally {
      this.handling--
    }
  }

  async #handle(request: SimRequest, forwardedBy: string | undefined): Promise<SimAnswer> {
    const { tenant, ifVersion, bookmark, durability } = request
    const consistency = { ...ANY, bookmark, durability, needsHome: request.ofHome ?? ifVersion !== undefined }
    const access = request.write ? 'write' : 'read'
    const session = new Session({ tenant, access, consistency, asOf: undefined, forwardedBy }, neverEnding())
    const answer = await this.#gate.answer(
      session,
      () => (request.write ? this.#write(session, request, request.write) : this.#read(session, request)),
      targets => this.#forward(request, targets),
    )
    this.#gate.answered(session)
    return answer
  }

  /** The transport between two nodes; which failures let the next node be asked is the session's to say. */
  #forward(request: SimRequest, targets: readonly Member[]): Promise<SimAnswer> {
    const { cluster, id } = this.node
    return askEach(targets, async ({ node }) => {
      cluster.count('forwarded')
      try {
        return await cluster.call(this, cluster.node(node)!, process => process.handle(request, id))
      } catch (error) {
        if (error instanceof Unreachable) throw lost(node, error, error.wasSent && request.write !== undefined)
        throw error instanceof PercolateError && error.code === 'MISDIRECTED'
          ? misdirected(node, error.extra?.lacks)
          : error
      }
    })
  }

  async #read(session: Session, { ref, readMs }: SimRequest): Promise<SimAnswer> {
    const record = await read(
      this.#context,
      session,
      async open => {
        if (readMs) await this.time.sleep(readMs)
        return open.record(ref)
      },
      () => undefined,
    )
    return this.#answerOf(record, session, 'local')
  }

  async #write(session: Session, { ref, ifVersion, provider }: SimRequest, plan: NonNullable<SimRequest['write']>) {
    // As operations do that need an embedding: it is asked for after the gate, and before the tenant is opened.
    if (provider && !provider.isPlanning) await this.time.sleep(provider.ms)
    try {
      await write(this.#context, session, async context => {
        if (provider?.isPlanning) await this.time.sleep(provider.ms)
        const record = await context.read(ref)
        if (ifVersion !== undefined && versionOf(record) !== ifVersion)
          throw new PercolateError('PRECONDITION_FAILED', 'changed')
        return { ops: plan(record, context.clock), result: undefined }
      })
    } catch (error) {
      // It says that the write stands, and how far it got.
      if (!(error instanceof PercolateError) || error.code !== 'DURABILITY_NOT_REACHED') throw error
    }
    return this.#answerOf(undefined, session, session.outcome!.reached)
  }

  #answerOf(record: LwwRecord | undefined, { outcome }: Session, reached: Durability): SimAnswer {
    const { id, disk } = this.node
    return {
      record,
      exists: record !== undefined,
      clock: outcome?.clock,
      bookmark: outcome?.bookmark,
      position: outcome?.bookmark.vector ?? new Map(),
      reached,
      node: id,
      disk: disk.id,
    }
  }

  #kv(id: TenantId): SimKv {
    const { databases } = this.node.disk
    let database = databases.get(id)
    if (!database) {
      database = new SimDatabase()
      databases.set(id, database)
    }
    const { shake } = this.node.cluster.world
    return new SimKv(database, {
      isDead: () => this.isDead,
      wait: point => this.#wait(point),
      shake: shake && (() => this.#shake(shake)),
    })
  }

  async #shake(shake: Shake): Promise<void> {
    const ms = shake.extraMs()
    if (ms > 0) await this.time.sleep(ms)
    for (let turns = shake.extraTurns(); turns > 0; turns--) await undefined
    if (this.isDead) return never()
  }

  async #wait(point: CrashPoint | 'read'): Promise<void> {
    if (point !== 'read' && this.reach(point)) return never()
    const { slowDiskMsMax, cluster } = this.node
    const slowMs = slowDiskMsMax > 0 && point === 'before-commit' ? cluster.world.random.int(0, slowDiskMsMax) : 0
    await this.time.sleep(point === 'before-commit' ? slowMs + 0.2 + cluster.world.random.next() : 0.05)
    if (this.isDead) return never()
  }

  get isCut(): boolean {
    return this.node.natsCut
  }

  pause(ms: number): void {
    this.pausedUntilMs = Math.max(this.pausedUntilMs, this.node.cluster.world.nowMs + ms)
  }

  /** Resolves when it runs; never when it dies before. */
  async whenAwake(): Promise<void> {
    while (this.pausedUntilMs > this.node.cluster.world.nowMs) await this.time.sleep(0.01)
  }

  /** Dies here if it is armed for this point, or is paused. */
  reach(point: string): boolean {
    if (this.isDead) return true
    if (this.armedPause?.point === point) {
      this.node.cluster.count(`pause ${point}`)
      this.node.cluster.note(`${this.node.id} is paused ${point}`)
      this.pause(this.armedPause.ms)
      this.armedPause = undefined
    }
    if (this.armed !== point) return false
    this.node.cluster.count(`crash ${point}`)
    this.node.cluster.note(`${this.node.id} dies ${point}`)
    this.kill()
    return true
  }

  #peers(): PeerPort {
    const { cluster } = this.node
    return {
      to: id => {
        const target = cluster.node(id)
        const call = <T>(work: (process: SimProcess) => Promise<T>): Promise<T> =>
          target
            ? cluster.call(this, target, work)
            : Promise.reject(new PercolateError('NODE_UNAVAILABLE', `${id} is not known`))
        const handlers: PeerHandlers = {
          status: tenant => call(process => process.replica.service.status(tenant)),
          awaitVector: (...args) => call(process => process.replica.service.awaitVector(...args)),
          transfer: (...args) => streamParts(this, call, process => process.replica.service.transfer(...args)),
          digests: (...args) => call(process => process.replica.service.digests(...args)),
          bucket: (...args) => call(process => process.replica.service.bucket(...args)),
          records: (...args) => call(process => process.replica.service.records(...args)),
          promiseFloor: (...args) => call(process => process.replica.service.promiseFloor(...args)),
          hasRead: (...args) => call(process => process.replica.service.hasRead(...args)),
          requestHome: (...args) => call(process => process.replica.service.requestHome(...args)),
          noteActive: (...args) => call(process => process.replica.service.noteActive(...args)),
          push: (...args) => call(process => process.replica.service.push(...args)),
          offer: (...args) => call(process => process.replica.service.offer(...args)),
          late: (...args) => call(process => process.replica.service.late(...args)),
          keepLate: (...args) => call(process => process.replica.service.keepLate(...args)),
          parked: (...args) => call(process => process.replica.service.parked(...args)),
          keepParked: (...args) => call(process => process.replica.service.keepParked(...args)),
          dismissLate: (...args) => call(process => process.replica.service.dismissLate(...args)),
        }
        return handlers
      },
    }
  }
}

/** A transfer, part by part over the network; each part may be the last that arrives. */
async function* streamParts<T>(
  reader: SimProcess,
  call: <R>(work: (process: SimProcess) => Promise<R>) => Promise<R>,
  open: (process: SimProcess) => AsyncIterable<T>,
): AsyncGenerator<T> {
  let iterator: AsyncIterator<T> | undefined
  let source: SimProcess | undefined
  const end = () => {
    if (source && !source.isDead) void iterator?.return?.()
  }
  reader.reading.add(end)
  try {
    for (;;) {
      const next = await call(async process => {
        if (source && source !== process) throw new PercolateError('NODE_UNAVAILABLE', 'the source was restarted')
        source = process
        iterator ??= open(process)[Symbol.asyncIterator]()
        return iterator.next()
      })
      if (next.done) return
      yield next.value
    }
  } finally {
    reader.reading.delete(end)
    end()
  }
}

export class SimNode {
  readonly cluster: SimCluster
  readonly id: string
  readonly zone: string
  disk: SimDisk
  process: SimProcess | undefined
  skewMs = 0
  natsCut = false
  /** A commit takes up to this long. */
  slowDiskMsMax = 0
  /** How often its machine was started. It goes down with the process when its disk has lied: what a process wrote outlives the process. */
  boots = 1
  #disks = 0

  constructor(cluster: SimCluster, id: string, zone: string) {
    this.cluster = cluster
    this.id = id
    this.zone = zone
    this.disk = new SimDisk(`d${++this.#disks}`)
  }

  start(): void {
    if (this.process) return
    const process = new SimProcess(this)
    this.process = process
    const starting = process.replica.load().then(() => process.replica.start())
    void starting.catch(error => {
      this.cluster.note(`${this.id} failed to start: ${String(error)}`)
      process.kill()
      // A supervisor starts it again.
      this.cluster.world.at(1000, () => this.start())
    })
  }

  loseDisk(): void {
    this.disk = new SimDisk(`d${++this.#disks}`)
  }
}

/** A controller, on a process of its own that is never killed, but may be paused: nodes must be safe whatever it does. */
export class SimController implements SimClient {
  readonly controller: Controller
  readonly name: string
  readonly time: Time
  readonly isDead = false
  readonly isCut = false
  readonly armed = undefined
  readonly skewMs = 0
  pausedUntilMs = 0
  /** Paused for this long when it next changes the directory. */
  armedPauseMs = 0
  readonly #cluster: SimCluster

  constructor(cluster: SimCluster, name: string) {
    this.name = name
    this.#cluster = cluster
    this.time = cluster.world.timeOf(this)
    const { time } = this
    const link = linkOf(cluster, this)
    const stream = new MemoryStream(cluster.log, link)
    const caller = { node: { id: 'controller' }, time } as unknown as SimProcess
    const { directory, controller } = controllerParts({
      name,
      time,
      logger: loggerOf(cluster, name),
      stream,
      peers: () => ({
        to: id =>
          ({
            hasRead: (...args: Parameters<PeerHandlers['hasRead']>) => {
              const target = cluster.node(id)
              if (!target) throw new PercolateError('NODE_UNAVAILABLE', `${id} is not known`)
              return cluster.call(caller, target, running => running.replica.service.hasRead(...args))
            },
          }) as PeerHandlers,
      }),
      snapshots: cluster.objects && new SnapshotStore(cluster.objects, time, loggerOf(cluster, name)),
      replicas: cluster.settings.replicas,
      directoryReplicas: cluster.settings.syncReplicas,
      directoryBytesMax: cluster.settings.directoryBytesMax,
      syncStreams: cluster.settings.syncStreams,
      heartbeatMs: cluster.settings.heartbeatMs,
      leaseMs: cluster.settings.leaseMs,
      roundMs: 500,
      replaceAfterMs: 6000,
      forgetAfterMs: 15_000,
      streamIdleMs: 6000,
      syncBytesMax: cluster.settings.syncBytesMax,
    })
    this.controller = controller
    void directory.start()
    controller.start()
  }

  reach(point: string): boolean {
    if (this.armedPauseMs > 0 && point === 'before-kv.update') {
      this.#cluster.count('pause of a controller before it decides')
      this.pausedUntilMs = this.#cluster.world.nowMs + this.armedPauseMs
      this.armedPauseMs = 0
    }
    return false
  }
}

const notesOf = <T>(disk: SimDisk, kind: string): T[] =>
  [...disk.notes].flatMap(([key, text]) => (key.startsWith(`${kind}.`) ? [JSON.parse(text) as T] : []))

/** Names a record's state by its latest clock. */
export function versionOf(record: LwwRecord | undefined): string {
  if (!record) return 'none'
  const clocks = [record.put, record.del, ...[...record.fields.values()].map(({ clock }) => clock)]
  return clocks
    .flatMap(clock =>
      clock
        ? [`${String(clock.wall).padStart(15, '0')}.${String(clock.counter).padStart(6, '0')}.${clock.origin}`]
        : [],
    )
    .sort()
    .at(-1)!
}
