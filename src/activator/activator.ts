import type { Connections } from '../base/connections.ts'
import type { Logger } from '../base/logger.ts'
import type { Time } from '../base/time.ts'
import type { Directory } from '../replication/directory.ts'
import { activeHolders, choosePlaces, type Member } from '../replication/placement.ts'
import { ACTIVATOR, type Destination, EndpointsKeeper, type RouterPort } from './endpoints.ts'
import { HoldingGrpcProxy } from './grpc-proxy.ts'
import { HoldingHttpProxy } from './http-proxy.ts'
import { extentOf, neededNodes } from './needed.ts'
import { WaitingRoom } from './room.ts'
import type { WaitersOptions } from './waiters.ts'

export interface ActivatorOptions {
  readonly time: Time
  readonly logger: Logger
  readonly directory: Directory
  readonly isLeading: () => boolean
  readonly tiers: readonly string[]
  readonly host: string
  /** Host under which the router reaches this process, and its name there. */
  readonly advertisedHost: string
  /** The pod that this process runs in, when it is one. */
  readonly pod: string | undefined
  readonly firstOrdinal: number
  /** A node that is silent for longer does not count any more. */
  readonly forgetAfterMs: number
  /** Of the first tier; the next ones listen on the ports behind it. 0: free ones. */
  readonly httpPort: number
  readonly grpcPort: number
  /** Of the ports of all tiers, by what they speak. */
  readonly connections: { readonly http: Connections; readonly grpc: Connections }
  readonly requestsMax: number
  readonly bytesMax: number
  readonly holdMs: number
  readonly wakeMs: number
  readonly resyncMs: number
  /** For how long a process that goes answers while the router's list still names it, … */
  readonly releaseMs: number
  /** … then for whoever has not heard of the new list yet, … */
  readonly noticeMs: number
  /** … and until what it holds has got a node, before it says no to the rest. */
  readonly drainMs: number
  readonly router: RouterPort | undefined
}

const DRAIN_LOOK_MS = 50

interface TierParts {
  readonly room: WaitingRoom
  readonly http: HoldingHttpProxy
  readonly grpc: HoldingGrpcProxy
  httpPort: number
  grpcPort: number
}

/** Holds the requests of tiers that are scaled to zero until a node is ready, and tells the router where requests go. */
export class Activator {
  readonly #options: ActivatorOptions
  readonly #tiers = new Map<string, TierParts>()
  readonly #keeper: EndpointsKeeper | undefined

  constructor(options: ActivatorOptions) {
    this.#options = options
    const { time, logger, tiers, host, httpPort, grpcPort, requestsMax, bytesMax, holdMs, wakeMs } = options
    for (const [n, tier] of tiers.entries()) {
      const room = new WaitingRoom({
        time,
        picker: () => this.#picker(tier),
        requestsMax,
        bytesMax,
        holdMs,
        wakeMs,
      })
      const shared = { room, logger, host }
      const { connections } = options
      this.#tiers.set(tier, {
        room,
        http: new HoldingHttpProxy({
          ...shared,
          connections: connections.http,
          port: httpPort === 0 ? 0 : httpPort + n,
        }),
        grpc: new HoldingGrpcProxy({
          ...shared,
          connections: connections.grpc,
          port: grpcPort === 0 ? 0 : grpcPort + n,
        }),
        httpPort: 0,
        grpcPort: 0,
      })
    }
    const { router, isLeading, resyncMs, directory } = options
    this.#keeper =
      router &&
      new EndpointsKeeper({
        time,
        logger,
        router,
        tiers,
        ready: tier => this.ready(tier).map(destinationOf),
        activator: tier => this.#self(tier),
        isLeading: () => isLeading() && directory.isWatching,
        resyncMs,
      })
  }

  async start(): Promise<void> {
    for (const parts of this.#tiers.values()) {
      parts.httpPort = await parts.http.start()
      parts.grpcPort = await parts.grpc.start()
    }
    this.#keeper?.start()
  }

  /** After the controller gave up the lead: its successor's list is waited for, so that there is no moment in which requests go nowhere. */
  async stop(): Promise<void> {
    const { time, logger, releaseMs, noticeMs, drainMs } = this.#options
    await this.#keeper?.stop()
    if (this.#keeper && !(await this.#keeper.released(releaseMs)))
      logger.warn('nobody took over the list of the router; requests of tiers without a node go nowhere now')
    if (this.#keeper) await time.sleep(noticeMs)
    const untilMs = time.monotonic() + drainMs
    const rooms = [...this.#tiers.values()].map(({ room }) => room)
    while (rooms.some(({ held }) => held > 0) && time.monotonic() < untilMs) await time.sleep(DRAIN_LOOK_MS)
    await Promise.all([...this.#tiers.values()].flatMap(({ http, grpc }) => [http.stop(), grpc.stop()]))
  }

  get tiers(): readonly string[] {
    return [...this.#tiers.keys()]
  }

  get routerCounts(): { readonly writes: number; readonly failures: number } {
    return this.#keeper?.counts ?? { writes: 0, failures: 0 }
  }

  room(tier: string): WaitingRoom {
    return this.#tiers.get(tier)!.room
  }

  /** `host:port` where a tier's requests are held. */
  addresses(tier: string): { readonly http: string; readonly grpc: string } {
    const { http, grpc } = this.#self(tier)
    return { http, grpc }
  }

  /** The nodes of a tier that take requests now. */
  ready(tier: string): Member[] {
    return this.#options.directory
      .members()
      .map(({ member }) => member)
      .filter(
        ({ node, state, tier: its }) =>
          state === 'ready' && its === tier && this.#options.directory.isPresumedLive(node),
      )
  }

  /** Nodes that a tier needs for every tenant to have a copy that runs ({@link neededNodes}). */
  needed(tier: string): number {
    const { directory, firstOrdinal } = this.#options
    return neededNodes({
      placements: directory.placements().filter(placement => placement.tier === tier),
      ready: new Set(this.ready(tier).map(({ node }) => node)),
      waiting: this.room(tier).waiting(),
      firstOrdinal,
    })
  }

  /** How far up a tier's nodes and copies reach ({@link extentOf}). Who has been silent for as long as makes it a holder no more is not waited for. */
  extent(tier: string): number {
    const { directory, firstOrdinal, forgetAfterMs } = this.#options
    return extentOf({
      placements: directory.placements().filter(placement => placement.tier === tier),
      members: directory
        .members()
        .filter(({ member }) => member.tier === tier && directory.silentMs(member.node) < forgetAfterMs)
        .map(({ member }) => ({ member, isHeard: directory.isPresumedLive(member.node) })),
      firstOrdinal,
    })
  }

  /** Where a tenant's requests go: its home, another node that holds it, or the one that its id falls to. Always the same while nothing changes. */
  #picker(tier: string): ReturnType<WaitersOptions['picker']> {
    const ready = this.ready(tier)
    if (ready.length === 0) return undefined
    const byName = (node: string | undefined) => ready.find(member => member.node === node)
    return tenant => {
      const placement = this.#options.directory.placement(tenant)
      const holder = placement && activeHolders(placement).find(({ node }) => byName(node))
      return byName(placement?.home) ?? byName(holder?.node) ?? byName(choosePlaces(tenant, ready, 1)[0])
    }
  }

  #self(tier: string): Destination {
    const { advertisedHost, pod } = this.#options
    const { httpPort, grpcPort } = this.#tiers.get(tier)!
    return { name: ACTIVATOR, http: `${advertisedHost}:${httpPort}`, grpc: `${advertisedHost}:${grpcPort}`, pod }
  }
}

const destinationOf = ({ node, http, grpc, zone, routerHost, pod }: Member): Destination => {
  const at = (address: string) =>
    routerHost === undefined ? address : `${routerHost}:${address.slice(address.lastIndexOf(':') + 1)}`
  return { name: node, http: at(http), grpc: at(grpc), zone, pod }
}
