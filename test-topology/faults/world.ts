import { spawnSync } from 'node:child_process'
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { findProgram, LocalCluster } from '../../src/cluster/cluster.ts'
import { natsUrl } from '../../src/cluster/configs.ts'
import { freePorts, Program } from '../../src/cluster/processes.ts'
import { TcpProxy } from '../tcp-proxy.ts'
import { Namespaces } from './namespaces.ts'
import { Provider } from './provider.ts'
import { giveOrders, hasStopped, nodeOptionsFor, type StopPoint } from './stop-points.ts'

export interface WorldOptions {
  readonly dataDir: string
  /** The nats-server program; default: the one that setup fetched, or on PATH. */
  readonly natsServer?: string | undefined
  readonly say: (text: string) => void
}

/** Waiting windows short enough that a fault and its repair take seconds. */
export const FAST: Readonly<Record<string, string>> = {
  PERCOLATE_HEARTBEAT_MS: '300',
  PERCOLATE_LEASE_MS: '1500',
  PERCOLATE_HINT_GRACE_MS: '200',
  PERCOLATE_ANTI_ENTROPY_MS: '2000',
  PERCOLATE_MAINTENANCE_MS: '300',
  PERCOLATE_COPY_RETRY_MS: '200',
  PERCOLATE_CONTROLLER_ROUND_MS: '300',
  PERCOLATE_REPLACE_AFTER_MS: '60000',
  PERCOLATE_CONSUMER_IDLE_MS: '5000',
  PERCOLATE_MOVE_AFTER_REQUESTS: '200',
  PERCOLATE_MOVE_REST_MS: '5000',
  PERCOLATE_DURABILITY_TIMEOUT_MS: '2000',
  PERCOLATE_LOG_LEVEL: 'info',
}
export const LEASE_MS = Number(FAST.PERCOLATE_LEASE_MS)

const NODES = ['node-1', 'node-2', 'node-3'] as const
const SERVERS = ['nats-1', 'nats-2', 'nats-3'] as const
const DISK_BYTES = 192 * 1024 * 1024
const DISK_RESERVE_BYTES = 32 * 1024 * 1024
/** Few, so that a busy machine gets there within the window for counting. */
const MOVE_AFTER_REQUESTS = 60
const REACH_MS_MAX = 4000
const RESTART_MS = 1000

const portOf = (address: string): number => Number(/:(\d+)$/.exec(address)![1])

/** A real cluster whose every connection, disk, clock, process and provider is in a test's hand. */
export class FaultWorld {
  readonly cluster: LocalCluster
  readonly provider: Provider
  /** Undefined: this machine does not allow networks of their own. */
  readonly namespaces: Namespaces | undefined
  /** Folders of the nodes that are disks of their own. */
  readonly disks: readonly string[]
  readonly nodes: readonly string[] = NODES
  readonly servers: readonly string[] = SERVERS
  readonly controllers = ['controller', 'controller-2'] as const
  /** Processes that ended though nobody had told them to, with their last words. They were started again. */
  readonly ended: readonly string[]
  readonly #stopping: AbortController
  readonly #proxies: ReadonlyMap<string, TcpProxy>
  readonly #second: Program
  readonly #offsets = new Map<string, number>()
  readonly #dataDir: string

  private constructor(
    parts: Pick<FaultWorld, 'cluster' | 'provider' | 'namespaces' | 'disks'> & {
      proxies: ReadonlyMap<string, TcpProxy>
      second: Program
      dataDir: string
      ended: readonly string[]
      stopping: AbortController
    },
  ) {
    this.cluster = parts.cluster
    this.provider = parts.provider
    this.namespaces = parts.namespaces
    this.disks = parts.disks
    this.#proxies = parts.proxies
    this.#second = parts.second
    this.#dataDir = parts.dataDir
    this.ended = parts.ended
    this.#stopping = parts.stopping
  }

  static async start({ dataDir, natsServer, say }: WorldOptions): Promise<FaultWorld> {
    const ended: string[] = []
    const stopping = new AbortController()
    const isStopped = stopping.signal
    let world: FaultWorld | undefined
    const made = Namespaces.make([...NODES, ...SERVERS])
    const namespaces = made instanceof Namespaces ? made : undefined
    if (!(made instanceof Namespaces)) say(`NO NETWORK NAMESPACES HERE, only proxies cut: ${made.reason}`)
    const host = namespaces?.host ?? '127.0.0.1'
    const path = process.env.PATH ?? ''
    const plan = {
      dataDir,
      nodes: NODES.length,
      nats: SERVERS.length,
      zones: 3,
      workers: 0,
      replicas: 2,
      syncStreams: 'per-tenant',
      env: FAST,
      natsProgram: natsServer ?? findProgram('nats-server', path, 'Run "npm run setup".'),
      haproxyProgram: findProgram('haproxy', path, 'Run "npm run setup".'),
      ...(namespaces
        ? {
            // It listens on loopback alone.
            hostOf: (name: string) => (name === 's3' ? '127.0.0.1' : namespaces.hostOf(name)),
            wrapperOf: (name: string) => namespaces.wrapperOf(name),
          }
        : {}),
      onExit: (name: string, reason: string) => {
        say(`${name} ENDED BY ITSELF: ${reason}`)
        ended.push(`${name}: ${reason}`)
        // As a pod would be.
        if (!isStopped.aborted) setTimeout(() => !isStopped.aborted && world?.program(name).launch(), RESTART_MS)
      },
    }
    // Once to learn the ports, once more with the proxies in between.
    const { addresses, secrets } = await LocalCluster.prepare(plan)
    const nats = addresses.nats.split(',').map(portOf)
    const proxies = new Map<string, TcpProxy>()
    const through = async (name: string, port: number, target: string) => {
      proxies.set(name, await new TcpProxy(port, plan.hostOf?.(target), host).start())
    }
    await through('s3', portOf(addresses.s3), 's3')
    const disks: string[] = []
    for (const { name, url, grpc } of addresses.nodes) {
      for (const [n, port] of nats.entries()) await through(`${name} nats-${n + 1}`, port, `nats-${n + 1}`)
      await through(`peers http ${name}`, portOf(url), name)
      await through(`peers grpc ${name}`, portOf(grpc), name)
      const folder = join(dataDir, name)
      await mkdir(folder, { recursive: true })
      const options = `size=${DISK_BYTES},mode=700`
      if (spawnSync('mount', ['-t', 'tmpfs', '-o', options, 'percolate-test', folder]).status === 0) disks.push(folder)
    }
    if (disks.length === 0) say('NO DISKS OF THEIR OWN HERE: none is filled')
    const portAt = (name: string) => proxies.get(name)!.port
    const provider = await new Provider(host).start()
    const cluster = await LocalCluster.prepare({
      ...plan,
      env: {
        ...FAST,
        PERCOLATE_MOVE_AFTER_REQUESTS: String(MOVE_AFTER_REQUESTS),
        PERCOLATE_DISK_RESERVE_BYTES: String(DISK_RESERVE_BYTES),
        PERCOLATE_S3_ENDPOINT: `http://${host}:${portAt('s3')}`,
        PERCOLATE_EMBEDDING_URL: provider.url,
        PERCOLATE_EMBEDDING_MODEL: 'under-test',
      },
      envOf: node => ({
        PERCOLATE_NATS_URL: nats.map((_, n) => natsUrl(portAt(`${node} nats-${n + 1}`), secrets.nats, host)).join(','),
        PERCOLATE_ADVERTISE_HOST: host,
        PERCOLATE_ADVERTISE_HTTP_PORT: String(portAt(`peers http ${node}`)),
        PERCOLATE_ADVERTISE_GRPC_PORT: String(portAt(`peers grpc ${node}`)),
        NODE_OPTIONS: nodeOptionsFor(ordersOf(dataDir, node)),
      }),
    })
    const second = await secondController(cluster, dataDir, host)
    world = new FaultWorld({ cluster, provider, namespaces, disks, proxies, second, dataDir, ended, stopping })
    try {
      await cluster.start()
      await second.start()
    } catch (error) {
      await world.stop()
      throw error
    }
    return world
  }

  program(name: string): Program {
    return name === 'controller-2' ? this.#second : this.cluster.program(name)
  }

  folderOf(node: string): string {
    return join(this.#dataDir, node)
  }

  /** What a stopped nats-server has kept is gone. */
  async loseStore(server: string): Promise<void> {
    await rm(join(this.#dataDir, server, 'store'), { recursive: true })
  }

  /** Cuts the proxies that are meant, for a while. Names: `node-1 nats-2`, `peers http node-1`. */
  async cutOff(isMeant: (proxy: string) => boolean, ms: number): Promise<void> {
    const meant = [...this.#proxies].filter(([name]) => isMeant(name)).map(([, proxy]) => proxy)
    for (const proxy of meant) proxy.cut()
    await sleep(ms)
    for (const proxy of meant) proxy.heal()
  }

  /** The wall clock of a running node jumps. */
  async jumpClock(node: string, offsetMs: number): Promise<void> {
    this.#offsets.set(node, offsetMs)
    await giveOrders(this.program(node), ordersOf(this.#dataDir, node), { clockOffsetMs: offsetMs })
  }

  /** Has a node stop itself where it comes to the point next; whether it did within some seconds. It stays so until SIGCONT. */
  async stopAt(node: string, point: StopPoint): Promise<boolean> {
    const program = this.program(node)
    const path = ordersOf(this.#dataDir, node)
    const clockOffsetMs = this.#offsets.get(node) ?? 0
    await giveOrders(program, path, { clockOffsetMs, stopAt: point })
    if (await hasStopped(program, REACH_MS_MAX)) return true
    await giveOrders(program, path, { clockOffsetMs })
    // It may have got there at the last moment.
    await program.signal('SIGCONT')
    return false
  }

  async stop(): Promise<void> {
    this.#stopping.abort()
    this.namespaces?.heal()
    this.provider.release()
    await this.#second.stop()
    await this.cluster.stop()
    for (const proxy of this.#proxies.values()) await proxy.stop()
    await this.provider.stop()
    for (const path of this.disks) spawnSync('umount', [path])
    this.namespaces?.remove()
  }
}

const ordersOf = (dataDir: string, node: string): string => join(dataDir, `${node}.orders.json`)

/** One that stands by, so that there is somebody to lead while the first is paused. */
async function secondController(cluster: LocalCluster, dataDir: string, host: string): Promise<Program> {
  const [port] = await freePorts(1)
  const { spec } = cluster.program('controller')
  const { PERCOLATE_ACTIVATOR_TIERS, PERCOLATE_ROUTER, PERCOLATE_ROUTER_SOCKET, ...env } = spec.env
  return new Program({
    ...spec,
    name: 'controller-2',
    env: { ...env, PERCOLATE_CONTROLLER_PORT: String(port) },
    logPath: join(dataDir, 'logs', 'controller-2.log'),
    ready: async () => (await fetch(`http://${host}:${port}/ready`)).ok,
  })
}
