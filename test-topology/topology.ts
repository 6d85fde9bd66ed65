import { randomBytes } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { PercolateError } from '../src/base/errors.ts'
import { makeFolder } from '../src/base/make-folder.ts'
import { PACKAGE_FOLDER } from '../src/base/version.ts'
import { type ClusterOptions, findProgram, LocalCluster } from '../src/cluster/cluster.ts'
import { natsUrl } from '../src/cluster/configs.ts'
import { freePorts, Program } from '../src/cluster/processes.ts'
import { Autoscaler, type ScalerState } from './autoscaler/autoscaler.ts'
import { type Override, readScaledObjects } from './autoscaler/scaled-object.ts'
import { prometheusConfig, writeTargets } from './prometheus.ts'
import { Recorded } from './record.ts'
import { ReplicaSet } from './replica-set.ts'
import { TcpProxy } from './tcp-proxy.ts'

export interface TopologyOptions {
  readonly dataDir: string
  /** Divides every waiting window: KEDA's, the HPA's, Prometheus' and ours. 1: as in production. */
  readonly speed: number
  /** The manifest with the ScaledObjects of a tier. */
  readonly scaling?: string
  readonly overrides?: readonly Override[]
  readonly zones?: number
  readonly nats?: number
  readonly replicas?: number
  /** Without an autoscaler, this many of each run all the time. */
  readonly fixed?: { readonly nodes: number; readonly workers: number }
  readonly env?: Readonly<Record<string, string>>
  /** Of nodes only. */
  readonly nodeEnv?: Readonly<Record<string, string>>
  readonly packageOf?: ClusterOptions['packageOf']
  readonly onEvent?: (event: TopologyEvent) => void
}

export interface TopologyEvent {
  readonly atMs: number
  readonly text: string
}

export interface TopologySample {
  readonly atMs: number
  /** Nodes and workers that were asked for, exist, and answer /ready. */
  readonly nodes: Count
  readonly workers: Count
  /** What the triggers read last. */
  readonly tenants: number | undefined
  readonly jobs: number | undefined
}
interface Count {
  readonly wanted: number
  readonly present: number
  readonly ready: number
}

export const DEFAULT_SCALING = join(PACKAGE_FOLDER, 'k8s', 'tiers', 'small', 'scaling.yaml')
/** Places in the router when nothing is scaled. */
const NODES_MAX = 10
const ROUTER_MS_MAX = 30_000
const SAMPLE_MS = 500
/** How often a PodMonitor of ours is scraped. */
const SCRAPE_S = 5
const SCRAPE_MS_MIN = 200
/** How long the kubelet waits before it starts a container that ended again. */
const RESTART_S = 10
const RESTART_MS_MIN = 500
const ACTIVE_WINDOW_S = 300
const ACTIVE_WINDOW_MS_MIN = 4000
const WAKE_S = 60
const WAKE_MS_MIN = 3000

/** Windows of our own that scenarios in seconds cannot wait for. */
const fastSettings = (speed: number): Record<string, string> => ({
  // Nodes are numbered from 1 here.
  PERCOLATE_FIRST_ORDINAL: '1',
  PERCOLATE_ACTIVE_WINDOW_MS: String(Math.round(Math.max(ACTIVE_WINDOW_MS_MIN, (ACTIVE_WINDOW_S * 1000) / speed))),
  PERCOLATE_WAKE_MS: String(Math.round(Math.max(WAKE_MS_MIN, (WAKE_S * 1000) / speed))),
  ...(speed === 1
    ? {}
    : {
        PERCOLATE_HEARTBEAT_MS: '500',
        PERCOLATE_LEASE_MS: '3000',
        PERCOLATE_HINT_GRACE_MS: '200',
        PERCOLATE_MAINTENANCE_MS: '300',
        PERCOLATE_COPY_RETRY_MS: '200',
        PERCOLATE_CONTROLLER_ROUND_MS: '300',
        PERCOLATE_ANTI_ENTROPY_MS: '3000',
        PERCOLATE_MOVE_AFTER_REQUESTS: '20',
        PERCOLATE_MOVE_REST_MS: '3000',
      }),
})

/**
 * Percolate as it runs in a cluster, as real processes on this machine: three zones with a nats-server each, nodes and workers that come and go, controller, gateway, object store, HAProxy in
 * Envoy's place, Prometheus, and an autoscaler that reads the ScaledObjects of `k8s/`.
 */
export class TestTopology {
  readonly options: TopologyOptions
  readonly cluster: LocalCluster
  readonly prometheusUrl: string
  readonly #events: Recorded<TopologyEvent>
  readonly #samples: Recorded<TopologySample>
  readonly #scalers: Autoscaler[]
  readonly #nodes: ReplicaSet
  readonly #workers: ReplicaSet
  readonly #prometheus: Program
  readonly #proxies: ReadonlyMap<string, TcpProxy>
  /** Programs that are kept down, as on machines that are gone. */
  readonly #down = new Set<string>()
  readonly #stop = new AbortController()
  #sampling: Promise<void> = Promise.resolve()
  #isStopping = false
  readonly token = randomBytes(24).toString('hex')

  private constructor(parts: {
    options: TopologyOptions
    cluster: LocalCluster
    proxies: ReadonlyMap<string, TcpProxy>
    prometheus: Program
    prometheusUrl: string
    objects: Awaited<ReturnType<typeof readScaledObjects>>
  }) {
    const { options, cluster, proxies, prometheus, prometheusUrl, objects } = parts
    this.options = options
    this.cluster = cluster
    this.prometheusUrl = prometheusUrl
    this.#prometheus = prometheus
    this.#proxies = proxies
    this.#events = new Recorded(join(options.dataDir, 'events.jsonl'))
    this.#samples = new Recorded(join(options.dataDir, 'samples.jsonl'))
    const onChange = () => void this.#writeTargets()
    const onScale = (name: string) => (from: number, to: number, reason: string) =>
      this.note(`${name}: ${from} → ${to} (${reason})`)
    const set = (name: string, names: readonly string[]) =>
      new ReplicaSet({
        programs: names.map(each => cluster.program(each)),
        restartMs: Math.max(RESTART_MS_MIN, (RESTART_S * 1000) / options.speed),
        isDown: each => this.#down.has(each),
        onScale: onScale(name),
        onChange,
        onProblem: text => this.note(text),
      })
    this.#nodes = set(
      'nodes',
      cluster.addresses.nodes.map(({ name }) => name),
    )
    this.#workers = set(
      'workers',
      cluster.addresses.workers.map(({ name }) => name),
    )
    const hosts = new Map([
      ['prometheus-operated.monitoring.svc:9090', new URL(prometheusUrl).host],
      [NATS_HOST, cluster.addresses.natsMonitors[0]!.at],
      ...cluster.addresses.natsMonitors.map(({ name, at }): [string, string] => [`${name}.${NATS_HOST}`, at]),
    ])
    const targets = new Map([
      ['percolate-node', this.#nodes],
      ['percolate-worker', this.#workers],
    ])
    this.#scalers = options.fixed
      ? []
      : objects.map(object => {
          const target = targets.get(object.target.name)
          if (!target)
            throw new PercolateError(
              'INVALID_ARGUMENT',
              `${object.name} scales ${object.target.name}, which is not here.`,
            )
          return new Autoscaler(object, target, hosts, options.speed)
        })
  }

  static async prepare(options: TopologyOptions): Promise<TestTopology> {
    const objects = await readScaledObjects(options.scaling ?? DEFAULT_SCALING, options.overrides)
    const most = (target: string, fallback: number) =>
      objects.find(object => object.target.name === target)?.maxReplicaCount ?? fallback
    const path = process.env.PATH ?? ''
    const hint = 'Run "npm run setup".'
    const plan: ClusterOptions = {
      dataDir: options.dataDir,
      nodes: 0,
      spareNodes: options.fixed ? NODES_MAX : most('percolate-node', NODES_MAX),
      workers: 0,
      spareWorkers: options.fixed?.workers ?? most('percolate-worker', 1),
      nats: options.nats ?? 3,
      zones: options.zones ?? 3,
      replicas: options.replicas ?? 2,
      syncStreams: 'per-tenant',
      natsProgram: findProgram('nats-server', path, hint),
      haproxyProgram: findProgram('haproxy', path, hint),
      env: { ...fastSettings(options.speed), ...options.env },
      ...(options.packageOf ? { packageOf: options.packageOf } : {}),
      onExit: () => {},
    }
    await makeFolder(options.dataDir, { setting: '--data-dir', mode: 0o755 })
    // Once to learn the ports, once more with the proxies in between.
    const { addresses, secrets } = await LocalCluster.prepare(plan)
    const proxies = new Map<string, TcpProxy>()
    const through = async (name: string, address: string) =>
      void proxies.set(name, await new TcpProxy(portOf(address)).start())
    const nats = addresses.nats.split(',')
    for (const { name, url, grpc } of addresses.nodes) {
      for (const [n, address] of nats.entries()) await through(`${name} nats-${n + 1}`, address)
      await through(`peers http ${name}`, url)
      await through(`peers grpc ${name}`, grpc)
    }
    const portAt = (name: string) => proxies.get(name)!.port
    const cluster = await LocalCluster.prepare({
      ...plan,
      envOf: node => ({
        PERCOLATE_NATS_URL: nats.map((_, n) => natsUrl(portAt(`${node} nats-${n + 1}`), secrets.nats)).join(','),
        PERCOLATE_ADVERTISE_HTTP_PORT: String(portAt(`peers http ${node}`)),
        PERCOLATE_ADVERTISE_GRPC_PORT: String(portAt(`peers grpc ${node}`)),
        ...options.nodeEnv,
      }),
    })
    const folder = join(options.dataDir, 'prometheus')
    await mkdir(folder, { recursive: true })
    const [port] = (await freePorts(1)) as [number]
    const prometheusUrl = `http://127.0.0.1:${port}`
    await writeFile(
      join(folder, 'prometheus.json'),
      prometheusConfig(Math.max(SCRAPE_MS_MIN, (SCRAPE_S * 1000) / options.speed), join(folder, 'targets.json')),
    )
    await writeTargets(join(folder, 'targets.json'), [])
    const prometheus = new Program({
      name: 'prometheus',
      command: [
        findProgram('prometheus', path, hint),
        `--config.file=${join(folder, 'prometheus.json')}`,
        `--storage.tsdb.path=${join(folder, 'data')}`,
        `--web.listen-address=127.0.0.1:${port}`,
        '--storage.tsdb.retention.time=1d',
        '--log.level=warn',
      ],
      env: {},
      logPath: join(options.dataDir, 'logs', 'prometheus.log'),
      ready: async () => (await fetch(`${prometheusUrl}/-/ready`)).ok,
    })
    return new TestTopology({ options, cluster, proxies, prometheus, prometheusUrl, objects })
  }

  async start(): Promise<void> {
    for (const [name, program] of this.cluster.programs)
      if (!/^(node|worker)-/.test(name)) program.onExit = () => void this.#ended(name)
    this.note('starting')
    await Promise.all([this.cluster.start(), this.#prometheus.start()])
    await this.#writeTargets()
    const { fixed } = this.options
    if (fixed) {
      this.#nodes.scale(fixed.nodes, 'as asked')
      this.#workers.scale(fixed.workers, 'as asked')
      await Promise.all([this.#nodes.whenReady(), this.#workers.whenReady()])
      if (fixed.nodes > 0) await this.routerHas(fixed.nodes)
    } else await this.#routerHas(/^http_small,activator,.*,(UP|no check),/gm, 1, 'the activator')
    for (const scaler of this.#scalers) scaler.start()
    this.#sampling = this.#sample()
    this.note('ready')
  }

  async stop(): Promise<void> {
    if (this.#isStopping) return
    this.#isStopping = true
    this.note('stopping')
    await Promise.all(this.#scalers.map(scaler => scaler.stop()))
    this.#nodes.stop()
    this.#workers.stop()
    this.#stop.abort()
    await this.#sampling
    for (const proxy of this.#proxies.values()) proxy.heal()
    await Promise.all([this.cluster.stop(), this.#prometheus.stop()])
    for (const proxy of this.#proxies.values()) await proxy.stop()
    await Promise.all([this.#events.written(), this.#samples.written()])
  }

  /** What happened, the latest last. */
  get events(): readonly TopologyEvent[] {
    return this.#events.items
  }

  get samples(): readonly TopologySample[] {
    return this.#samples.items
  }

  get nodes(): ReplicaSet {
    return this.#nodes
  }

  get workers(): ReplicaSet {
    return this.#workers
  }

  /** What scales nodes. */
  get nodeScaler(): Autoscaler {
    return this.#scalers.find(({ object }) => object.target.name === 'percolate-node')!
  }

  scalers(): readonly ScalerState[] {
    return this.#scalers.map(scaler => scaler.state())
  }

  /** When the router gives requests to at least so many nodes. */
  routerHas(nodes: number): Promise<void> {
    return this.#routerHas(/^http_small,node-\d+,.*,(UP|no check),/gm, nodes, `${nodes} nodes`)
  }

  async #routerHas(server: RegExp, count: number, what: string): Promise<void> {
    for (const until = Date.now() + ROUTER_MS_MAX; ; await sleep(50)) {
      const text = await (await fetch(`${this.cluster.addresses.router}/;csv`)).text()
      if ((text.match(server) ?? []).length >= count) return
      if (Date.now() > until) throw new PercolateError('INTERNAL', `The router does not find ${what}.`)
    }
  }

  note(text: string): void {
    const event = { atMs: Date.now(), text }
    this.#events.add(event)
    this.options.onEvent?.(event)
  }

  /** kill -9 of a process, or of a zone: all processes in it. It comes back by itself, or after `downMs`. */
  async kill(name: string, downMs = 0): Promise<string[]> {
    const names = this.#namesOf(name).filter(each => this.#program(each).isRunning)
    this.note(`kill -9 ${names.join(' ')}${downMs > 0 ? `, down for ${downMs / 1000} s` : ''}`)
    for (const each of this.#namesOf(name)) if (downMs > 0) this.#down.add(each)
    await Promise.all(names.map(each => this.#program(each).signal('SIGKILL')))
    for (const each of names) {
      const set = [this.#nodes, this.#workers].find(one => one.has(each))
      if (set) set.ended(each, 'killed')
      else void this.#ended(each)
    }
    if (downMs > 0)
      void sleep(downMs, undefined, { signal: this.#stop.signal }).then(
        () => this.revive(name),
        () => {},
      )
    return names
  }

  /** What was killed for a time comes back now. */
  revive(name: string): void {
    this.note(`${name} is back`)
    for (const each of this.#namesOf(name)) {
      this.#down.delete(each)
      if (!/^(node|worker)-/.test(each)) void this.#ended(each)
    }
    this.#nodes.reconcile()
    this.#workers.reconcile()
  }

  /** Cuts a node, or the nodes of a zone, off from NATS, its peers, or both; nothing comes through for `ms`. */
  async partition(name: string, from: 'nats' | 'peers' | 'all', ms: number): Promise<string[]> {
    const nodes = this.#namesOf(name).filter(each => this.#nodes.isPresent(each))
    if (nodes.length === 0)
      throw new PercolateError(
        'INVALID_ARGUMENT',
        `${name} has no node that runs now; partitions are of nodes, or the nodes of a zone.`,
      )
    const cut = [...this.#proxies].filter(([path]) =>
      nodes.some(
        node =>
          (from !== 'peers' && path.startsWith(`${node} nats-`)) ||
          (from !== 'nats' && /^peers /.test(path) && path.endsWith(` ${node}`)),
      ),
    )
    this.note(`${nodes.join(' ')} cut off from ${from === 'all' ? 'NATS and peers' : from} for ${ms / 1000} s`)
    for (const [, proxy] of cut) proxy.cut()
    void sleep(ms, undefined, { signal: this.#stop.signal }).then(
      () => {
        for (const [, proxy] of cut) proxy.heal()
        this.note(`${nodes.join(' ')} reachable again`)
      },
      () => {},
    )
    return nodes
  }

  zoneOf(name: string): string | undefined {
    const { nodes } = this.cluster.addresses
    const nats = /^nats-(\d+)$/.exec(name)
    const zones = this.options.zones ?? 3
    if (nats) return `zone-${((Number(nats[1]) - 1) % zones) + 1}`
    return nodes.find(node => node.name === name)?.zone
  }

  #namesOf(name: string): string[] {
    if (!/^zone-\d+$/.test(name)) {
      this.#program(name)
      return [name]
    }
    const names = [...this.cluster.programs.keys()].filter(each => this.zoneOf(each) === name)
    if (names.length === 0) throw new PercolateError('INVALID_ARGUMENT', `There is no ${name}.`)
    return names
  }

  #program(name: string): Program {
    return name === 'prometheus' ? this.#prometheus : this.cluster.program(name)
  }

  /** Something that there is always one of ended: it is started again, as the kubelet would. */
  async #ended(name: string): Promise<void> {
    await sleep(Math.max(RESTART_MS_MIN, (RESTART_S * 1000) / this.options.speed))
    if (this.#isStopping || this.#down.has(name)) return
    const program = this.#program(name)
    if (program.isRunning) return
    program.launch()
    this.note(`${name} started again`)
  }

  async #writeTargets(): Promise<void> {
    const { controller, gateway, nodes, workers } = this.cluster.addresses
    const running = (set: ReplicaSet, all: readonly { name: string; url: string }[]) =>
      all
        .filter(({ name }) => set.isPresent(name))
        .map(({ name, url }) => ({ component: set === this.#nodes ? 'node' : 'worker', name, url }))
    await writeTargets(join(this.options.dataDir, 'prometheus', 'targets.json'), [
      { component: 'controller', name: 'controller', url: controller },
      { component: 'gateway', name: 'gateway', url: gateway },
      ...running(this.#nodes, nodes),
      ...running(this.#workers, workers),
    ]).catch(error => this.note(`Prometheus' targets could not be written: ${String(error)}`))
  }

  async #sample(): Promise<void> {
    const { signal } = this.#stop
    while (!signal.aborted) {
      const states = this.scalers()
      const value = (name: string) => Object.values(states.find(state => state.name === name)?.values ?? {})[0]
      const sample: TopologySample = {
        atMs: Date.now(),
        nodes: await this.#nodes.count(),
        workers: await this.#workers.count(),
        tenants: value('percolate-node'),
        jobs: value('percolate-worker'),
      }
      this.#samples.add(sample)
      await sleep(SAMPLE_MS, undefined, { signal }).catch(() => {})
    }
  }
}

/** As the ScaledObjects name it. */
const NATS_HOST = 'percolate-nats.percolate.svc.cluster.local:8222'

const portOf = (address: string): number => Number(/:(\d+)$/.exec(address)![1])
