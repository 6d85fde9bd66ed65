import { createHash, randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, join, resolve } from 'node:path'
import { PercolateError } from '../base/errors.ts'
import { makeFolder } from '../base/make-folder.ts'
import { timeoutSignal } from '../base/timeout.ts'
import { PACKAGE_FOLDER } from '../base/version.ts'
import { haproxyConfig, type NatsServerPlan, natsConfig, natsUrl } from './configs.ts'
import { freePorts, Program, type ProgramSpec } from './processes.ts'

export interface ClusterOptions {
  readonly dataDir: string
  readonly nodes: number
  readonly nats: number
  readonly zones: number
  readonly workers: number
  readonly replicas: number
  readonly syncStreams: string
  /** Further settings of one node. */
  readonly envOf?: (node: string) => Readonly<Record<string, string>>
  /** Further places that the router knows, for nodes that join later. */
  readonly spareNodes?: number
  /** Further workers, which start later. */
  readonly spareWorkers?: number
  /** Where the code of a process is, asked at each start of it; this package by default. */
  readonly packageOf?: (name: string) => string
  /** Where a process listens, and others reach it: loopback by default, where router and object store listen always. */
  readonly hostOf?: (name: string) => string
  /** Goes before the command of a process, such as one that runs it in a network of its own. */
  readonly wrapperOf?: (name: string) => readonly string[]
  /** Settings of every role, as environment variables. */
  readonly env?: Readonly<Record<string, string>>
  readonly natsProgram: string
  readonly haproxyProgram: string
  readonly onExit: (name: string, reason: string) => void
  readonly onProgress?: (text: string) => void
}

interface Secrets {
  readonly nats: string
  readonly cluster: string
  readonly accessKey: string
  readonly secretKey: string
}

export interface ClusterAddresses {
  readonly api: string
  readonly grpc: string
  readonly gateway: string
  readonly router: string
  readonly nats: string
  readonly s3: string
  readonly controller: string
  readonly workers: { readonly name: string; readonly url: string }[]
  /** `host:port` of the monitoring endpoint of each nats-server. */
  readonly natsMonitors: { readonly name: string; readonly at: string }[]
  readonly nodes: { readonly name: string; readonly zone: string; readonly url: string; readonly grpc: string }[]
}

/** Ports of what there is one of. */
const FIXED_PORTS = 9
/** The tier of a local cluster. */
const TIER = 'small'
/** Of HAProxy's statistics, https://docs.haproxy.org/2.6/management.html#9.1. */
const STATUS_COLUMN = 17
const SOCKET_PATH_BYTES_MAX = 90
const LOOPBACK = '127.0.0.1'

/** Finds a program on PATH and in the usual places, or where `npm run setup` put it. */
export function findProgram(name: string, searchPath: string, hint: string): string {
  const cached = join(PACKAGE_FOLDER, '.cache', name)
  const found = [...searchPath.split(delimiter), '/usr/sbin', '/usr/local/sbin', cached]
    .filter(Boolean)
    .map(folder => join(folder, name))
    .find(path => existsSync(path))
  if (found) return found
  throw new PercolateError('CONFIG_INVALID', `${name} is not on this machine. ${hint}`)
}

/**
 * A whole cluster of real processes on this machine: nats-servers, nodes in zones, a controller, a worker, a gateway, an S3 endpoint, and HAProxy as the router. None of them outlives
 * this one. Ports and secrets are kept in the data directory, so that a second start finds the same cluster.
 */
export class LocalCluster {
  readonly options: ClusterOptions
  readonly programs = new Map<string, Program>()
  readonly addresses: ClusterAddresses
  readonly secrets: Secrets
  readonly #ports: readonly number[]

  private constructor(options: ClusterOptions, secrets: Secrets, ports: readonly number[]) {
    this.options = options
    this.secrets = secrets
    this.#ports = ports
    const [api, grpc, stats, gateway, s3, controller] = ports as number[] & { readonly length: 6 }
    this.addresses = {
      api: `http://127.0.0.1:${api}`,
      grpc: `127.0.0.1:${grpc}`,
      router: `http://127.0.0.1:${stats}`,
      gateway: `http://${this.#hostOf('gateway')}:${gateway}`,
      s3: `http://${LOOPBACK}:${s3}`,
      controller: `http://${this.#hostOf('controller')}:${controller}`,
      workers: this.#workers.map(({ name, port }) => ({ name, url: `http://${this.#hostOf(name)}:${port}` })),
      nats: this.#natsPlans.map(({ host, port }) => `${host}:${port}`).join(','),
      natsMonitors: this.#natsPlans.map(({ name, host, monitorPort }) => ({ name, at: `${host}:${monitorPort}` })),
      nodes: this.#places.map(({ name, host, zone, http, grpc: port }) => ({
        name,
        zone,
        url: `http://${host}:${http}`,
        grpc: `${host}:${port}`,
      })),
    }
  }

  static async prepare(options: ClusterOptions): Promise<LocalCluster> {
    await makeFolder(join(options.dataDir, 'logs'), { setting: '--data-dir' })
    const path = join(options.dataDir, 'cluster.json')
    const { nats, nodes, spareNodes = 0, workers, spareWorkers = 0 } = options
    const wanted = FIXED_PORTS + 3 * nats + 2 * (nodes + spareNodes) + workers + spareWorkers
    let kept: { secrets: Secrets; ports: number[] } | undefined
    if (existsSync(path)) kept = JSON.parse(await readFile(path, 'utf8')) as { secrets: Secrets; ports: number[] }
    const ports = kept && kept.ports.length >= wanted ? kept.ports : await freePorts(wanted)
    const secrets = kept?.secrets ?? {
      nats: randomBytes(24).toString('hex'),
      cluster: randomBytes(24).toString('hex'),
      accessKey: `percolate${randomBytes(6).toString('hex')}`,
      secretKey: randomBytes(30).toString('base64url'),
    }
    await writeFile(`${path}.new`, JSON.stringify({ secrets, ports }, undefined, 2), { mode: 0o600 })
    await rename(`${path}.new`, path)
    const cluster = new LocalCluster(options, secrets, ports)
    await cluster.#plan()
    return cluster
  }

  /** Starts everything in the order in which it is needed; each part is ready when the next one starts. */
  async start(): Promise<void> {
    const say = this.options.onProgress ?? (() => {})
    const stage = async (text: string, names: readonly string[]) => {
      say(text)
      for (const name of names) this.program(name).launch()
      await Promise.all(names.map(name => this.program(name).whenReady()))
    }
    const names = [...this.programs.keys()]
    const nodes = this.addresses.nodes.slice(0, this.options.nodes).map(({ name }) => name)
    await stage(`${this.options.nats} nats-server, object store`, [
      ...names.filter(name => name.startsWith('nats-')),
      's3',
    ])
    await stage(`${nodes.length} nodes in ${this.options.zones} zones`, nodes)
    const workers = this.addresses.workers.slice(0, this.options.workers).map(({ name }) => name)
    await stage('router, controller, gateway, worker', ['router', 'controller', 'gateway', ...workers])
    if (nodes.length > 0) {
      say('the router finds the nodes')
      await this.program('router').until(() => routerHas(this.addresses.router, nodes))
    }
  }

  program(name: string): Program {
    const program = this.programs.get(name)
    if (!program) throw new PercolateError('INVALID_ARGUMENT', `The cluster has no process ${name}.`)
    return program
  }

  /** Names of the nodes that run. */
  runningNodes(): string[] {
    return this.addresses.nodes.map(({ name }) => name).filter(name => this.program(name).isRunning)
  }

  /** Stops what takes requests first, then what it needs. */
  async stop(): Promise<void> {
    const groups = [/^(gateway|worker-)/, /^node-/, /^(router|controller)/, /^(nats-|s3)/]
    for (const group of groups)
      await Promise.all([...this.programs].filter(([name]) => group.test(name)).map(([, program]) => program.stop()))
  }

  get natsUrl(): string {
    return this.#natsPlans.map(({ host, port }) => natsUrl(port, this.secrets.nats, host)).join(',')
  }

  #hostOf(name: string): string {
    return this.options.hostOf?.(name) ?? LOOPBACK
  }

  get #natsPlans(): NatsServerPlan[] {
    return Array.from({ length: this.options.nats }, (_, n) => {
      const folder = join(this.options.dataDir, `nats-${n + 1}`)
      return {
        name: `nats-${n + 1}`,
        host: this.#hostOf(`nats-${n + 1}`),
        port: this.#ports[FIXED_PORTS + 3 * n]!,
        clusterPort: this.#ports[FIXED_PORTS + 3 * n + 1]!,
        monitorPort: this.#ports[FIXED_PORTS + 3 * n + 2]!,
        store: join(folder, 'store'),
        pidPath: join(folder, 'nats-server.pid'),
      }
    })
  }

  get #places() {
    const { nodes, nats, zones, spareNodes = 0 } = this.options
    const first = FIXED_PORTS + 3 * nats
    return Array.from({ length: nodes + spareNodes }, (_, n) => ({
      name: `node-${n + 1}`,
      host: this.#hostOf(`node-${n + 1}`),
      zone: `zone-${(n % zones) + 1}`,
      http: this.#ports[first + 2 * n]!,
      grpc: this.#ports[first + 2 * n + 1]!,
    }))
  }

  get #workers() {
    const { nodes, nats, spareNodes = 0, workers, spareWorkers = 0 } = this.options
    const first = FIXED_PORTS + 3 * nats + 2 * (nodes + spareNodes)
    return Array.from({ length: workers + spareWorkers }, (_, n) => ({
      name: `worker-${n + 1}`,
      port: this.#ports[first + n]!,
    }))
  }

  async #plan(): Promise<void> {
    const { dataDir, natsProgram, haproxyProgram, nats } = this.options
    const [api, grpc, stats, gateway, s3, controller, activatorHttp, activatorGrpc] = this.#ports as number[] & {
      readonly length: 8
    }
    const plans = this.#natsPlans
    for (const plan of plans) {
      const folder = join(dataDir, plan.name)
      await mkdir(folder, { recursive: true, mode: 0o700 })
      const path = join(folder, 'nats-server.conf')
      await writeFile(path, natsConfig(plan, plans, this.secrets.nats), { mode: 0o600 })
      this.#add(plan.name, [natsProgram, '-c', path], {}, () => canConnect(plan.port, plan.host))
    }
    const routerPath = join(dataDir, 'haproxy.cfg')
    const adminSocket = await socketPath(dataDir)
    await writeFile(
      routerPath,
      haproxyConfig({
        httpPort: api!,
        grpcPort: grpc!,
        statsPort: stats!,
        nodes: this.#places,
        activator: { host: this.#hostOf('controller'), http: activatorHttp!, grpc: activatorGrpc! },
        tier: TIER,
        adminSocket,
      }),
      { mode: 0o600 },
    )
    const libraries = join(PACKAGE_FOLDER, '.cache', 'haproxy', 'lib')
    this.#add(
      'router',
      [haproxyProgram, '-db', '-f', routerPath],
      existsSync(libraries) ? { LD_LIBRARY_PATH: libraries } : {},
      () => isOk(`http://127.0.0.1:${stats}/health`),
    )
    const shared = {
      PERCOLATE_NATS_URL: this.natsUrl,
      PERCOLATE_CLUSTER_SECRET: this.secrets.cluster,
      PERCOLATE_S3_ENDPOINT: this.addresses.s3,
      PERCOLATE_S3_ACCESS_KEY: this.secrets.accessKey,
      PERCOLATE_S3_SECRET_KEY: this.secrets.secretKey,
      PERCOLATE_REPLICAS: String(this.options.replicas),
      PERCOLATE_SYNC_REPLICAS: String(Math.min(3, nats)),
      PERCOLATE_JOB_REPLICAS: String(Math.min(3, nats)),
      PERCOLATE_SYNC_STREAMS: this.options.syncStreams,
      ...this.options.env,
    }
    const role = (name: string, args: readonly string[], env: Record<string, string>, port: number) =>
      this.#add(
        name,
        () => [
          process.execPath,
          join(this.options.packageOf?.(name) ?? PACKAGE_FOLDER, 'bin', 'percolate.mjs'),
          ...args,
        ],
        { ...shared, PERCOLATE_HOST: this.#hostOf(name), ...env },
        () => isOk(`http://${this.#hostOf(name)}:${port}/ready`),
      )
    this.#add(
      's3',
      [process.execPath, join(PACKAGE_FOLDER, 'bin', 'percolate.mjs'), 's3'],
      { ...shared, PERCOLATE_DATA_DIR: join(dataDir, 's3'), PERCOLATE_S3_PORT: String(s3) },
      () => canConnect(s3!, LOOPBACK),
    )
    for (const { name, zone, http, grpc: port } of this.#places)
      role(
        name,
        ['node'],
        {
          PERCOLATE_DATA_DIR: join(dataDir, name),
          PERCOLATE_NODE_ID: name,
          PERCOLATE_ZONE: zone,
          PERCOLATE_HTTP_PORT: String(http),
          PERCOLATE_GRPC_PORT: String(port),
          ...this.options.envOf?.(name),
        },
        http,
      )
    role(
      'controller',
      ['controller'],
      {
        PERCOLATE_CONTROLLER_PORT: String(controller),
        PERCOLATE_ACTIVATOR_TIERS: TIER,
        PERCOLATE_ACTIVATOR_HTTP_PORT: String(activatorHttp),
        PERCOLATE_ACTIVATOR_GRPC_PORT: String(activatorGrpc),
        PERCOLATE_ROUTER: 'haproxy',
        PERCOLATE_ROUTER_SOCKET: adminSocket,
      },
      controller!,
    )
    role('gateway', ['gateway'], { PERCOLATE_GATEWAY_PORT: String(gateway) }, gateway!)
    for (const { name, port } of this.#workers)
      role(name, ['worker'], { PERCOLATE_WORKER_PORT: String(port), PERCOLATE_NODE_URL: this.addresses.api }, port)
  }

  #add(
    name: string,
    command: ProgramSpec['command'],
    env: Record<string, string>,
    ready: () => Promise<boolean>,
  ): void {
    const wrapper = this.options.wrapperOf?.(name) ?? []
    const program = new Program({
      name,
      command: () => [...wrapper, ...(typeof command === 'function' ? command() : command)],
      env,
      logPath: join(this.options.dataDir, 'logs', `${name}.log`),
      ready,
    })
    program.onExit = (...args) => this.options.onExit(...args)
    this.programs.set(name, program)
  }
}

/** A path that a Unix socket can have: the system allows about 100 bytes. */
async function socketPath(dataDir: string): Promise<string> {
  const path = resolve(dataDir, 'haproxy.sock')
  if (Buffer.byteLength(path) <= SOCKET_PATH_BYTES_MAX) return path
  const name = createHash('sha256').update(path).digest('hex').slice(0, 16)
  const folder = join(tmpdir(), `percolate-${name}`)
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const { uid, mode } = await stat(folder)
  if (uid !== process.getuid?.() || (mode & 0o077) !== 0)
    throw new PercolateError('DATA_DIR_IN_USE', `${folder} belongs to somebody else, or is open to others; remove it.`)
  return join(folder, 'haproxy.sock')
}

/** Whether the router sends requests of both protocols to all of the nodes: it looks at each by itself, and at each protocol apart. */
async function routerHas(url: string, nodes: readonly string[]): Promise<boolean> {
  const answer = await fetch(`${url}/;csv`, { signal: timeoutSignal(1000) })
  const rows = (await answer.text()).split('\n').map(line => line.split(','))
  const isUp = (backend: string, node: string) =>
    rows.some(row => row[0] === backend && row[1] === node && row[STATUS_COLUMN]?.startsWith('UP'))
  return nodes.every(node => isUp(`http_${TIER}`, node) && isUp(`grpc_${TIER}`, node))
}

async function isOk(url: string): Promise<boolean> {
  const answer = await fetch(url, { signal: timeoutSignal(1000) })
  await answer.arrayBuffer()
  return answer.ok
}

function canConnect(port: number, host: string): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect({ port, host, timeout: 500 })
    const end = (ok: boolean) => {
      socket.destroy()
      resolve(ok)
    }
    socket
      .once('connect', () => end(true))
      .once('error', () => end(false))
      .once('timeout', () => end(false))
  })
}
