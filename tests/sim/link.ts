import { PercolateError } from '../../src/base/errors.ts'
import type { Time } from '../../src/base/time.ts'
import type { MemoryLink } from '../../src/stream/memory/adapter.ts'
import type { KvUpdate } from '../../src/stream/port.ts'
import { subjects } from '../../src/stream/subjects.ts'
import type { SimCluster } from './cluster.ts'
import { never } from './disk.ts'

/** How long a client waits for an answer of the servers. */
export const REQUEST_MS = 400
/** What a watch that is deaf asks anew after. */
const DEAF_LOOK_MS = 200

/** A process that speaks to the simulated servers. */
export interface SimClient {
  readonly name: string
  readonly time: Time
  readonly isDead: boolean
  /** Cut off from the servers, alone. */
  readonly isCut: boolean
  /** The crash point that it is about to die at. */
  readonly armed: string | undefined
  /** Told of every moment at which it may die or be paused; whether it is dead. */
  reach(point: string): boolean
}

/** What is wrong with the simulated servers now, beside being away. Times are the world's. */
export class NatsFaults {
  /** By client: until when its watches are deaf, and when that began. */
  readonly deaf = new Map<string, { readonly sinceMs: number; readonly untilMs: number }>()
  /** Whether watches stay open, and deaf, while the servers are away, as those of the real client do; they end at once otherwise. */
  watchesOutliveServers = false
  unrulyUntilMs = 0
  /** Reads of keys are up to this far behind. */
  lagMsMax = 0
  lateRate = 0
  /** Streams and buckets without a leader: nothing of theirs is answered. */
  readonly leaderless = new Map<string, number>()
  /** Streams that answer for themselves, and deliver nothing. */
  readonly unreadable = new Map<string, number>()

  clear(): void {
    this.deaf.clear()
    this.unrulyUntilMs = 0
    this.lagMsMax = 0
    this.lateRate = 0
    this.leaderless.clear()
    this.unreadable.clear()
  }
}

/** One client's way to the simulated servers, with everything that may go wrong on it. */
export function linkOf(cluster: SimCluster, client: SimClient): MemoryLink {
  const { nats, world } = cluster
  const { time } = client
  const isAway = () => cluster.natsDown || client.isCut
  const isOff = (names: ReadonlyMap<string, number>, name: string | undefined) =>
    name !== undefined && (names.get(name) ?? 0) > world.nowMs
  const fail = async (why: string, what: string): Promise<never> => {
    cluster.count(why)
    await time.sleep(REQUEST_MS)
    throw new PercolateError('STREAM_UNAVAILABLE', `${what}: the servers cannot be reached`)
  }
  return {
    time,
    request: async (what, name) => {
      if (client.isDead) return never()
      if (client.reach(`before-${what}`)) return never()
      cluster.requests.set(client.name, (cluster.requests.get(client.name) ?? 0) + 1)
      await time.sleep(cluster.delayMs())
      if (client.isDead) return never()
      if (cluster.natsDown) await fail('NATS away', what)
      if (client.isCut) await fail('node cut from NATS', what)
      if (isOff(nats.leaderless, name)) await fail('no leader', what)
      if (isOff(nats.unreadable, name) && what === 'consume') await fail('stream not read', what)
      if (world.random.chance(cluster.dropRate)) await fail('drop', what)
    },
    answer: async what => {
      if (client.isDead) return never()
      if (client.reach(what === 'publish' ? 'before-puback' : `answered-${what}`)) return never()
      if (what === 'publish' && client.armed === 'after-puback') world.at(0.01, () => void client.reach('after-puback'))
      await time.sleep(cluster.delayMs())
      if (client.isDead) return never()
      if (world.random.chance(cluster.dropRate)) await fail('lost PubAck', what)
    },
    push: (what, name) => {
      if (client.isDead || isAway() || isOff(nats.leaderless, name) || isOff(nats.unreadable, name)) return undefined
      if (what === 'announce' && world.random.chance(Math.max(0.05, cluster.dropRate))) {
        cluster.count('lost hint')
        return undefined
      }
      if (what === 'watch' && nats.unrulyUntilMs > world.nowMs && world.random.chance(0.3)) {
        cluster.count('late watch event')
        return world.random.int(50, 2000)
      }
      return cluster.delayMs()
    },
    deafMs: openedAtMs => {
      if (nats.watchesOutliveServers && (isAway() || isOff(nats.leaderless, subjects.clusterBucket)))
        return DEAF_LOOK_MS
      const deaf = nats.deaf.get(client.name)
      return deaf && openedAtMs <= deaf.sinceMs ? Math.max(0, deaf.untilMs - world.nowMs) : 0
    },
    arrange: updates => (nats.unrulyUntilMs > world.nowMs ? disorder(cluster, updates) : (updates as KvUpdate[])),
    lagMs: () => {
      if (nats.lagMsMax === 0 || world.random.chance(0.5)) return 0
      cluster.count('stale read')
      return world.random.int(1, nats.lagMsMax)
    },
    lateMs: () => {
      if (nats.lateRate === 0 || !world.random.chance(nats.lateRate)) return undefined
      cluster.count('late PubAck')
      return world.random.int(300, 5000)
    },
  }
}

/** Another update first, or one of them twice; those of one key stay in order. */
function disorder(cluster: SimCluster, updates: readonly KvUpdate[]): KvUpdate[] {
  const { random } = cluster.world
  const [first, ...rest] = updates
  if (!first) return []
  if (random.chance(0.1)) {
    cluster.count('repeated watch event')
    return [first, first, ...rest]
  }
  const other = random.chance(0.3) ? rest.findIndex(({ key }) => key !== first.key) : -1
  if (other < 0) return [...updates]
  cluster.count('watch events in another order')
  return [rest[other]!, first, ...rest.slice(0, other), ...rest.slice(other + 1)]
}
