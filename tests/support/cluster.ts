import { systemTime } from '../../src/base/time.ts'
import { loadConfig } from '../../src/config/load.ts'
import { type RunningController, startController } from '../../src/controller.ts'
import type { S3ObjectStore } from '../../src/objects/s3.ts'
import type { NatsStream } from '../../src/stream/nats/adapter.ts'
import type { EmbeddedNats } from '../../src/stream/nats/server.ts'
import { connectNats, eventually, logger, startTestNats, startTestNode, type TestNode, tempFolder } from './running.ts'

/** Waiting windows for tests; the secret that nodes know one another by. */
export const FAST = {
  PERCOLATE_CLUSTER_SECRET: 'a-secret-only-for-these-tests',
  PERCOLATE_SYNC_REPLICAS: '1',
  PERCOLATE_HEARTBEAT_MS: '200',
  PERCOLATE_LEASE_MS: '1000',
  PERCOLATE_HINT_GRACE_MS: '100',
  PERCOLATE_MAINTENANCE_MS: '100',
  PERCOLATE_ANTI_ENTROPY_MS: '500',
  PERCOLATE_COPY_RETRY_MS: '100',
  PERCOLATE_CONTROLLER_ROUND_MS: '100',
  PERCOLATE_REPLACE_AFTER_MS: '1500',
  PERCOLATE_DURABILITY_TIMEOUT_MS: '3000',
  PERCOLATE_STREAM_IDLE_MS: '3600000',
  PERCOLATE_DRAIN_MS: '3000',
}

export interface ClusterNode extends TestNode {
  readonly name: string
  readonly stream: NatsStream
}

/** Nodes in one process, as real as they get short of processes: own disks, own connections to a real nats-server. */
export class TestCluster {
  readonly nats: EmbeddedNats
  readonly folder: string
  readonly nodes = new Map<string, ClusterNode>()
  readonly #env: Record<string, string>
  readonly #objects: S3ObjectStore | undefined
  readonly #folders = new Map<string, string>()
  #controller: { running: RunningController; stream: NatsStream } | undefined

  private constructor(
    nats: EmbeddedNats,
    folder: string,
    env: Record<string, string>,
    objects: S3ObjectStore | undefined,
  ) {
    this.nats = nats
    this.folder = folder
    this.#env = { ...FAST, ...env }
    this.#objects = objects
  }

  static async start(
    options: {
      nodes?: readonly string[]
      env?: Record<string, string>
      objects?: S3ObjectStore
      controller?: boolean
      nats?: EmbeddedNats
    } = {},
  ): Promise<TestCluster> {
    const folder = await tempFolder()
    const cluster = new TestCluster(
      options.nats ?? (await startTestNats(folder)),
      folder,
      options.env ?? {},
      options.objects,
    )
    for (const name of options.nodes ?? ['n1', 'n2', 'n3']) await cluster.startNode(name)
    if (options.controller ?? true) await cluster.startController()
    return cluster
  }

  node(name: string): ClusterNode {
    return this.nodes.get(name)!
  }

  /** `natsUrl`: when the node reaches NATS another way than the others. */
  async startNode(name: string, env: Record<string, string> = {}, natsUrl = this.nats.url): Promise<ClusterNode> {
    const folder = this.#folders.get(name) ?? (await tempFolder())
    this.#folders.set(name, folder)
    const stream = connectNats(natsUrl)
    try {
      const node = await startTestNode({
        env: { ...this.#env, PERCOLATE_NODE_ID: name, PERCOLATE_ZONE: `z-${name}`, ...env },
        stream,
        folder,
        ...(this.#objects ? { objects: this.#objects } : {}),
      })
      const running = { ...node, name, stream }
      this.nodes.set(name, running)
      return running
    } catch (error) {
      await stream.close()
      throw error
    }
  }

  async stopNode(name: string): Promise<void> {
    const node = this.nodes.get(name)
    this.nodes.delete(name)
    await node?.stop()
    await node?.stream.close()
  }

  /** The node comes back with an empty disk. */
  async loseDisk(name: string): Promise<void> {
    await this.stopNode(name)
    this.#folders.set(name, await tempFolder())
  }

  /** The controller as it runs now. */
  get controller(): RunningController {
    return this.#controller!.running
  }

  async startController(env: Record<string, string> = {}): Promise<void> {
    const stream = connectNats(this.nats.url)
    const running = await startController({
      config: loadConfig({ role: 'controller', env: { ...this.#env, ...env, PERCOLATE_NATS_URL: this.nats.url } }),
      logger,
      time: systemTime,
      stream,
      objects: this.#objects,
      port: env.PERCOLATE_CONTROLLER_PORT === undefined ? undefined : Number(env.PERCOLATE_CONTROLLER_PORT),
    })
    this.#controller = { running, stream }
  }

  async stopController(): Promise<void> {
    await this.#controller?.running.stop()
    await this.#controller?.stream.close()
    this.#controller = undefined
  }

  /** The nodes that hold a tenant completely, the home first. */
  async holders(tenant: string, count = 2): Promise<string[]> {
    let last: unknown
    return eventually(`${tenant} has ${count} holders`, async () => {
      const any = [...this.nodes.values()][0]!
      const { body } = await any.request('GET', '/api/v1/replication', { tenant })
      last = body
      const current = (body.holders ?? []).filter(
        (holder: { copy: string; state: string }) => holder.copy === 'current' && holder.state === 'active',
      )
      if (current.length !== count || body.home === null) return undefined
      const names = current.map((holder: { node: string }) => holder.node) as string[]
      return names.sort((a, b) => Number(b === body.home) - Number(a === body.home))
    }).catch((error: Error) => {
      throw new Error(`${error.message}: ${JSON.stringify(last)}`)
    })
  }

  /** A node that does not hold the tenant. */
  async outsider(tenant: string): Promise<ClusterNode> {
    const holders = await this.holders(tenant)
    return [...this.nodes.values()].find(({ name }) => !holders.includes(name))!
  }

  async stop(): Promise<void> {
    await this.stopController()
    for (const name of [...this.nodes.keys()]) await this.stopNode(name)
    await this.nats.stop()
  }
}
