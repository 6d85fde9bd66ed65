import type { TenantId } from '../../src/base/ids.ts'
import { formatClock } from '../../src/clock/hlc.ts'
import type { Durability } from '../../src/replication/replica.ts'
import { decodeEntry } from '../../src/storage/codec.ts'
import { subjects } from '../../src/stream/subjects.ts'
import { crashPoints, type SimCluster, type SimNode, TIMES, versionOf } from './cluster.ts'
import type { SimDisk } from './disk.ts'
import type { History } from './history.ts'
import type { Random, World } from './world.ts'

/** Kinds of fault; each run has some, and every kind has to have occurred when all runs are done. */
export const plainFaults = [
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

/** Those of a wide world: what attacks from outside found, and our own plain worlds had not. */
export const wideFaults = [
  'watch deaf',
  'watch unruly',
  'reads of the directory late',
  'NATS down and back',
  'leader lost',
  'stream unreadable',
  'PubAck late',
  'provider hangs',
  'slow disk',
  'process paused',
  'paused at a point',
  'rot',
  'rot at open',
  'disk lies',
  'clock jumps',
  'busy drain',
  'controller paused',
  'refused at the door',
  'entries lost for good',
  'copy moved under load',
  'home lost unread',
] as const

/** Those of lives that ask for them by name: too much is lost with each to draw them among the others. */
export const focusFaults = ['all stores lost', 'holder left behind', 'clocks apart'] as const
type WideFault = (typeof wideFaults)[number] | (typeof focusFaults)[number]
export type FaultKind = (typeof plainFaults)[number] | WideFault

/** Where a process is paused between what it looked at and what it does. */
export const pausePoints = [
  'before-commit',
  'after-commit',
  'before-publish',
  'before-puback',
  'answered-kv.get',
  'before-kv.update',
  'answered-kv.update',
  'answered-streamInfo',
] as const

/** A fault that destroys the only other place of an acknowledged write is no promise broken: such pairs never share a run. */
const losesDisks: readonly FaultKind[] = [
  'disk lost',
  'disk put back',
  'rot',
  'rot at open',
  'disk lies',
  'entries lost for good',
  // While it is away, its disk is no place for whoever decides next.
  'home lost unread',
]
const losesLog: readonly FaultKind[] = [
  'stream deleted',
  'stream tail lost',
  'directory lost',
  'directory put back',
  'all stores lost',
  'holder left behind',
]

const FAULTS = 7
const WIDE_FAULTS = 9

export interface ContendOptions {
  /** What the write to the home has to reach; the stream, by default. */
  readonly durability?: Durability
  /** When the rivals come, in milliseconds. */
  readonly rivalMs?: readonly [min: number, max: number]
}

/** What faults ask of the clients. */
export interface FaultClients {
  /** Writes to a node, each of which waits for a provider for that long. */
  writeSlowly(node: SimNode, ms: number): void
  /** So many writes to a node at once, which count as acknowledged when the stream has them. */
  burst(node: SimNode, tenant: TenantId, writes: number): void
  /** Requests for tenants that nobody knows, each of which is refused for what it says. */
  refuse(node: SimNode, tenants: number): void
  /** A conditional write to the home, and rivals on the same version who come to other nodes later. */
  contend(home: SimNode, tenant: TenantId, options?: ContendOptions): void
}

export interface FaultOptions {
  readonly isWide: boolean
  /** These alone, of those of its world. */
  readonly focus?: readonly FaultKind[] | undefined
}

/** Inflicts faults on a cluster and takes them back: all that happens is decided by the world's seed. */
export class Faults {
  readonly #world: World
  readonly #random: Random
  readonly #cluster: SimCluster
  readonly #tenants: readonly TenantId[]
  readonly #history: History
  readonly #clients: FaultClients
  readonly #options: FaultOptions
  #isOver = false
  inflicted = 0
  /** A provider that hangs for up to this long. */
  providerMsMax = 0

  constructor(
    cluster: SimCluster,
    tenants: readonly TenantId[],
    history: History,
    clients: FaultClients,
    options: FaultOptions,
  ) {
    this.#world = cluster.world
    this.#random = cluster.world.random
    this.#cluster = cluster
    this.#tenants = tenants
    this.#history = history
    this.#clients = clients
    this.#options = options
  }

  schedule(spanMs: number): void {
    const random = this.#random
    const { isWide, focus } = this.#options
    const all: readonly FaultKind[] = focus ?? (isWide ? [...plainFaults, ...wideFaults] : plainFaults)
    const allowed = all.filter(kind => !(random.int(0, 1) === 0 ? losesDisks : losesLog).includes(kind))
    const ofWorld = random.chance(0.5)
      ? allowed.filter(kind => !losesLog.includes(kind))
      : allowed.filter(kind => !losesDisks.includes(kind))
    const kinds = focus ?? ofWorld
    for (let n = 0; n < (isWide ? WIDE_FAULTS : FAULTS); n++) {
      const kind = random.pick(kinds)
      this.#world.at(random.int(500, spanMs), () => {
        if (this.#isOver) return
        this.inflicted++
        this.#cluster.count(`fault: ${kind}`)
        this.inflict(kind)
      })
    }
  }

  /** Takes everything back; nothing new happens from now on. */
  heal(): void {
    const cluster = this.#cluster
    this.#isOver = true
    this.providerMsMax = 0
    cluster.natsDown = false
    cluster.dropRate = 0
    cluster.slowRate = 0
    cluster.cuts.clear()
    cluster.nats.clear()
    for (const controller of cluster.controllers) {
      controller.pausedUntilMs = 0
      controller.armedPauseMs = 0
    }
    for (const node of cluster.nodes) {
      node.natsCut = false
      node.skewMs = 0
      node.slowDiskMsMax = 0
      if (node.process) {
        node.process.armed = undefined
        node.process.armedPause = undefined
        node.process.pausedUntilMs = 0
      }
      node.start()
    }
  }

  inflict(kind: FaultKind): void {
    const node = this.#random.pick(this.#cluster.nodes)
    this.#cluster.note(`fault: ${kind} (${node.id})`)
    if ((plainFaults as readonly string[]).includes(kind))
      this.#inflictPlain(kind as (typeof plainFaults)[number], node)
    else this.#inflictWide(kind as WideFault, node)
  }

  #inflictPlain(kind: (typeof plainFaults)[number], node: SimNode): void {
    const world = this.#world
    const random = this.#random
    const cluster = this.#cluster
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
        const backup: SimDisk = node.disk.clone()
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
        for (const data of stream?.loseTail(random.int(1, 5)) ?? [])
          for (const { clock } of decodeEntry(data).ops)
            this.#history.outOfStream.add(versionOf({ put: clock, del: undefined, fields: new Map() }))
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
          .then(() => process.changes.places.close())
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

  #inflictWide(kind: WideFault, node: SimNode): void {
    const world = this.#world
    const random = this.#random
    const cluster = this.#cluster
    const { nats } = cluster
    const heal = (ms: number, act: () => void) => world.at(ms, act)
    switch (kind) {
      case 'watch deaf':
        this.#deafen(random.chance(0.4) ? undefined : node.id, random.int(2000, 12_000))
        return
      case 'watch unruly':
        nats.unrulyUntilMs = world.nowMs + random.int(2000, 8000)
        return
      case 'reads of the directory late':
        nats.lagMsMax = random.int(50, 3000)
        heal(random.int(500, 5000), () => {
          nats.lagMsMax = 0
        })
        return
      case 'NATS down and back':
        cluster.natsDown = true
        heal(random.int(500, 6000), () => {
          cluster.natsDown = false
          this.#deafen(undefined, random.int(8000, 11_000))
        })
        return
      case 'leader lost': {
        const name = random.chance(0.5) ? subjects.clusterBucket : this.#aStream()
        nats.leaderless.set(name, world.nowMs + random.int(500, 6000))
        return
      }
      case 'stream unreadable':
        nats.unreadable.set(this.#aStream(), world.nowMs + random.int(1000, 45_000))
        return
      case 'PubAck late':
        nats.lateRate = random.next()
        heal(random.int(500, 6000), () => {
          nats.lateRate = 0
        })
        return
      case 'provider hangs':
        this.providerMsMax = random.int(500, 8000)
        heal(random.int(1000, 8000), () => {
          this.providerMsMax = 0
        })
        return
      case 'slow disk':
        node.slowDiskMsMax = random.int(50, 1500)
        heal(random.int(1000, 6000), () => {
          node.slowDiskMsMax = 0
        })
        return
      case 'process paused':
        node.process?.pause(random.int(500, 9000))
        return
      case 'paused at a point':
        if (node.process) node.process.armedPause = { point: random.pick(pausePoints), ms: random.int(1000, 9000) }
        return
      case 'rot':
        this.#rot(node, 'records')
        return
      case 'rot at open':
        this.#rot(node, 'meta')
        return
      case 'disk lies': {
        if (!this.#mayLose(node)) return
        this.#markLost(node, world.nowMs)
        for (const database of node.disk.databases.values()) database.lies = true
        world.at(random.int(50, 3000), () => {
          cluster.count('disk lied')
          node.process?.kill()
          world.at(random.int(200, 4000), () => node.start())
        })
        return
      }
      case 'clock jumps': {
        const jumpMs = random.pick([4000, 20_000, 120_000])
        node.skewMs = jumpMs
        heal(random.int(300, 3000), () => {
          node.skewMs = -jumpMs
          heal(random.int(300, 3000), () => {
            node.skewMs = 0
          })
        })
        return
      }
      case 'busy drain':
        this.#clients.writeSlowly(node, random.int(500, 5000))
        world.at(random.int(1, 800), () => this.#inflictPlain('drain', node))
        return
      case 'controller paused': {
        const controller = cluster.controllers.find(each => each.controller.isLeading) ?? cluster.controllers[0]!
        const ms = random.int(1500, 8000)
        if (random.chance(0.5)) controller.armedPauseMs = ms
        else controller.pausedUntilMs = world.nowMs + ms
        return
      }
      case 'refused at the door':
        this.#clients.refuse(node, random.int(20, 100))
        return
      case 'entries lost for good':
        this.#loseEntries(node)
        return
      case 'home lost unread':
        this.#loseHomeUnread()
        return
      case 'holder left behind':
        this.#leaveBehind()
        return
      case 'clocks apart':
        this.#partClocks()
        return
      case 'all stores lost':
        this.#loseStores()
        heal(random.int(500, 6000), () => {
          cluster.natsDown = false
        })
        return
      case 'copy moved under load': {
        this.providerMsMax = 4000
        heal(random.int(4000, 10_000), () => {
          this.providerMsMax = 0
        })
        const tenant = random.pick(this.#tenants)
        // As an operator's order, or traffic: a copy more than there should be, so that one has to go.
        void node.process?.replica.directory
          .update(tenant, current =>
            current.holders.some(holder => holder.node === node.id)
              ? undefined
              : { ...current, holders: [...current.holders, { node: node.id, state: 'joining' }] },
          )
          .then(standing => {
            if (standing) cluster.count('copy moved')
          })
          .catch(() => {})
        return
      }
    }
  }

  /** Nobody but its home can read the tenant's stream while the home decides; then the home is gone, and another holder is asked to decide on. */
  #loseHomeUnread(): void {
    const cluster = this.#cluster
    const { nodes, nats } = cluster
    const world = this.#world
    const random = this.#random
    const tenant = random.pick(this.#tenants)
    const home = nodes.find(({ process }) => process?.replica.homes.holdsLease(tenant))
    const { process } = home ?? {}
    if (!home || !process) return
    nats.unreadable.set(subjects.syncStream(tenant), world.nowMs + random.int(6000, 15_000))
    this.#clients.contend(home, tenant)
    world.at(random.int(200, 1500), () => {
      if (!process.isDead) cluster.count('home lost unread')
      process.kill()
      world.at(random.int(6000, 15_000), () => home.start())
    })
  }

  /**
   * The clock of a home and those of the others differ by more than an entry may be ahead of who reads it, each within the bound. The home decides; then it goes, with its disk or without, or hands the home over, with the
   * tenant open or closed.
   */
  #partClocks(): void {
    const cluster = this.#cluster
    const { nodes } = cluster
    const world = this.#world
    const random = this.#random
    const tenant = random.pick(this.#tenants)
    const home = nodes.find(({ process }) => process?.replica.homes.holdsLease(tenant))
    if (!home || nodes.some(({ skewMs }) => skewMs !== 0)) return
    const apartMs = random.int(0.6 * TIMES.clockSkewMsMax, 0.95 * TIMES.clockSkewMsMax)
    for (const node of nodes) node.skewMs = node === home ? apartMs : -apartMs
    const isLost = random.chance(0.5)
    const losesDisk = random.chance(0.3)
    const decidesMs = random.int(1500, 4000)
    world.at(decidesMs, () => this.#clients.contend(home, tenant, { rivalMs: [500, 12_000] }))
    world.at(decidesMs + random.int(200, 1500), () => {
      const { process } = home
      if (!process) return
      cluster.count('clocks apart')
      if (isLost) {
        if (losesDisk) this.#loseDisk(home, () => home.loseDisk())
        process.kill()
        world.at(random.int(300, 8000), () => home.start())
        return
      }
      const { homes, directory } = process.replica
      const heir = directory.placement(tenant)?.holders.find(holder => holder.node !== home.id)
      if (heir) void homes.handOver(tenant, heir.node).catch(() => {})
    })
    world.at(decidesMs + random.int(8000, 16_000), () => {
      for (const node of nodes) node.skewMs = 0
    })
  }

  #loseStores(): void {
    const { log } = this.#cluster
    this.#cluster.natsDown = true
    log.dropBucket(subjects.clusterBucket)
    for (const name of [...log.streams.keys()]) log.deleteStream(name)
  }

  /**
   * One of three holders is cut off from everybody while the home decides, and the other holder gets to know. Then all servers lose their stores, those two are away with their disks, and the third is back: alone, with a
   * stream that is empty, or that its own writes make anew.
   */
  #leaveBehind(): void {
    const cluster = this.#cluster
    const { nodes } = cluster
    const world = this.#world
    const random = this.#random
    const tenant = random.pick(this.#tenants)
    const holders = nodes.filter(({ process }) => process?.replica.copies.isCurrent(tenant))
    const home = holders.find(({ process }) => process!.replica.homes.holdsLease(tenant))
    if (!home || holders.length < 3) return
    const left = random.pick(holders.filter(holder => holder !== home))
    const others = nodes.filter(other => other !== left)
    const isRestarted = random.chance(0.5)
    left.natsCut = true
    for (const other of others) cluster.cuts.add(`${other.id}|${left.id}`)
    if (isRestarted) left.process!.kill()
    this.#clients.contend(home, tenant, { durability: 'replicated', rivalMs: [3000, 20_000] })
    const lostMs = random.int(1000, 3000)
    // The others may have made the stream anew by then.
    const awayMs = lostMs + (random.chance(0.5) ? 0 : random.int(1500, 6000))
    const backMs = lostMs + random.int(200, 1500)
    world.at(lostMs, () => this.#loseStores())
    world.at(backMs, () => {
      cluster.natsDown = false
    })
    world.at(awayMs, () => {
      cluster.count('holder left behind')
      // What only a stream and the disk of its home had is not vouched for.
      for (const { ifVersion, reached, clock } of this.#history.acked)
        if (ifVersion !== undefined && reached !== 'replicated')
          this.#history.outOfStream.add(versionOf({ put: clock, del: undefined, fields: new Map() }))
      for (const other of others) {
        other.process?.kill()
        world.at(random.int(9000, 14_000), () => other.start())
      }
    })
    world.at(Math.max(awayMs, backMs), () => {
      cluster.cuts.clear()
      left.natsCut = false
      left.start()
    })
  }

  #aStream(): string {
    return subjects.syncStream(this.#random.pick(this.#tenants))
  }

  /** Watches that are open now, of one client or of all. */
  #deafen(client: string | undefined, ms: number): void {
    const { nats, nodes, controllers } = this.#cluster
    const sinceMs = this.#world.nowMs
    const names =
      client === undefined ? [...nodes.map(({ id }) => id), ...controllers.map(({ name }) => name)] : [client]
    for (const name of names) nats.deaf.set(name, { sinceMs, untilMs: sinceMs + ms })
  }

  #rot(node: SimNode, rot: 'records' | 'meta'): void {
    const tenant = this.#random.pick(this.#tenants)
    const database = node.disk.databases.get(tenant)
    if (!database || !this.#mayLose(node)) return
    this.#cluster.count('disk rotten')
    // What only this disk has cannot be read any more.
    this.#markLost(node, Number.NEGATIVE_INFINITY)
    database.rot = rot
    if (rot !== 'meta') return
    node.process?.kill()
    this.#world.at(this.#random.int(200, 4000), () => node.start())
  }

  /**
   * A node writes what no other has read yet; the stream loses the first of it, and the node its disk. Nobody has that entry any more; whoever waits for it has to go on in the end, with all that came
   * behind it, and that is more than what waits in memory.
   */
  #loseEntries(node: SimNode): void {
    const cluster = this.#cluster
    const { log, nodes } = cluster
    const { process } = node
    const tenant = this.#random.pick(this.#tenants)
    if (!process?.replica.copies.isCurrent(tenant) || !this.#mayLose(node)) return
    const others = nodes.filter(other => other !== node)
    for (const other of others) other.natsCut = true
    const before = log.entries.length
    this.#clients.burst(node, tenant, 40)
    this.#world.at(this.#random.int(600, 2500), () => {
      const open = process.isDead ? undefined : process.pool.openTenants().find(({ id }) => id === tenant)
      const entries = log.entries
        .slice(before)
        .filter(entry => entry.tenant === tenant && entry.origin === open?.origin)
      if (entries.length > 12 && this.#mayLose(node)) {
        const { origin, sequence, changes } = entries[0]!
        if (log.loseEntry(tenant, origin, sequence)) {
          cluster.count('entry lost for good')
          for (const { clock } of changes) this.#history.excused.add(formatClock(clock))
          this.#loseDisk(node, () => node.loseDisk())
        }
      }
      for (const other of others) other.natsCut = false
    })
  }

  /** One disk at a time, and only while another node has a whole copy of each tenant: more is no promise. */
  #mayLose(node: SimNode): boolean {
    const { process } = node
    if (!process || this.#history.lostDisks.size > 0) return false
    return this.#tenants.every(tenant => {
      if (!node.disk.databases.has(tenant)) return true
      return this.#cluster.nodes.some(
        other =>
          other !== node && other.process?.replica.copies.isCurrent(tenant) && process.replica.copies.isCurrent(tenant),
      )
    })
  }

  #markLost(node: SimNode, sinceMs: number): void {
    this.#history.lostDisks.set(node.disk.id + node.id, sinceMs)
  }

  #loseDisk(node: SimNode, replace: () => void, sinceMs = Number.NEGATIVE_INFINITY): void {
    if (!this.#mayLose(node)) return
    this.#cluster.count('disk gone')
    node.process!.kill()
    this.#markLost(node, sinceMs)
    replace()
    this.#world.at(this.#random.int(200, 4000), () => node.start())
  }
}
