import { startGateway } from '../../gateway/gateway.ts'
import { systemTime } from '../../src/base/time.ts'
import type { Config } from '../../src/config/settings.ts'
import { Jobs } from '../../src/jobs/jobs.ts'
import type { S3ObjectStore } from '../../src/objects/s3.ts'
import type { NatsStream } from '../../src/stream/nats/adapter.ts'
import { startWorker } from '../../workers/worker.ts'
import {
  type Answer,
  connectNats,
  logger,
  request,
  startTestNats,
  startTestNode,
  startTestObjects,
  type TestNode,
  tempFolder,
  testConfig,
} from './running.ts'

/** What documents are worked on with: a nats-server, an S3 endpoint, a node, and what a test starts of gateways and workers. */
export class Ingestion {
  readonly folder: string
  readonly config: Config
  readonly stream: NatsStream
  readonly objects: S3ObjectStore
  readonly node: TestNode
  readonly jobs: Jobs
  readonly #stops: (() => unknown)[]
  #gatewayUrl = ''

  private constructor(
    parts: Pick<Ingestion, 'folder' | 'config' | 'stream' | 'objects' | 'node'>,
    stops: (() => unknown)[],
  ) {
    this.folder = parts.folder
    this.config = parts.config
    this.stream = parts.stream
    this.objects = parts.objects
    this.node = parts.node
    this.#stops = stops
    const { config, stream } = parts
    this.jobs = Jobs.of(config, { stream, time: systemTime, tier: config.tier })
  }

  /** `env`: settings of the node and of all that is started later. `isNodeAlone`: the node has no stream of its own. */
  static async start({
    env = {},
    isNodeAlone = false,
  }: {
    env?: Record<string, string>
    isNodeAlone?: boolean
  } = {}): Promise<Ingestion> {
    const folder = await tempFolder()
    const nats = await startTestNats(folder)
    const stream = connectNats(nats.url)
    const { objects, stop: stopObjects } = await startTestObjects(folder)
    const node = await startTestNode(isNodeAlone ? { env } : { stream, env })
    const stops = [() => nats.stop(), () => stream.close(), stopObjects, () => node.stop()]
    return new Ingestion({ folder, config: testConfig(folder, env), stream, objects, node }, stops)
  }

  /** Where {@link upload} goes. Returns its URL. */
  async startGateway(): Promise<string> {
    const { config, stream, objects } = this
    const gateway = await startGateway({ config, logger, time: systemTime, stream, objects })
    this.#gatewayUrl = `http://127.0.0.1:${gateway.port}`
    this.#stops.push(() => gateway.stop())
    return this.#gatewayUrl
  }

  async startWorker(): Promise<void> {
    const { config, stream, objects, node } = this
    const worker = await startWorker({
      config,
      logger,
      time: systemTime,
      stream,
      objects,
      nodeUrl: node.url,
      port: 0,
    })
    this.#stops.push(() => worker.stop())
  }

  /** `fields`: parts of the form beside the file. */
  upload(
    name: string,
    content: Buffer | string,
    fields: Record<string, string> = {},
    tenant = 'acme',
  ): Promise<Answer> {
    const form = new FormData()
    for (const [field, value] of Object.entries(fields)) form.set(field, value)
    form.set('file', new Blob([content as never]), name)
    return request(`${this.#gatewayUrl}/upload`, 'POST', { tenant, body: form })
  }

  /** To be stopped before what it was started with. */
  also(stop: () => unknown): void {
    this.#stops.push(stop)
  }

  async stop(): Promise<void> {
    for (const stop of this.#stops.splice(0).reverse()) await stop()
  }
}
