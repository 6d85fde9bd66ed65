import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { startGateway } from '../gateway/gateway.ts'
import { startWorker } from '../workers/worker.ts'
import { Lifecycle } from './base/lifecycle.ts'
import type { Logger } from './base/logger.ts'
import { retry } from './base/retry.ts'
import type { Time } from './base/time.ts'
import { PACKAGE_FOLDER } from './base/version.ts'
import type { Config } from './config/settings.ts'
import { startController } from './controller.ts'
import { Jobs } from './jobs/jobs.ts'
import { startNode } from './node.ts'
import { objectReserveBytes, startEmbeddedS3 } from './objects/embedded/server.ts'
import type { ObjectStore } from './objects/port.ts'
import { S3ObjectStore } from './objects/s3.ts'
import { NatsStream } from './stream/nats/adapter.ts'
import { streamDisk } from './stream/nats/disk.ts'
import { jetStreamHealth } from './stream/nats/health.ts'
import { startEmbeddedNats } from './stream/nats/server.ts'
import { addNatsMetrics, JetStreamWatch } from './stream/nats/watch.ts'
import { DataDir } from './tenant/data-dir.ts'

export interface UpOptions {
  readonly config: Config
  readonly logger: Logger
  readonly time: Time
  readonly searchPath: string
  /** Called when a part that everything needs has ended by itself. */
  readonly onFatal: (reason: string) => void
}

export interface RunningUp {
  readonly node: string
  readonly httpUrl: string
  readonly grpcAddress: string
  readonly gatewayUrl: string
  readonly nats: string
  readonly objects: string
  stop(): Promise<void>
}

const NATS_TIMEOUT_MS = 5000
const START_ATTEMPTS_MAX = 30

/** Everything on one machine: nats-server and S3 (embedded, unless settings name others), node, gateway, worker. */
export async function startUp(options: UpOptions): Promise<RunningUp> {
  const lifecycle = new Lifecycle(options.logger)
  try {
    return await assemble(options, lifecycle)
  } catch (error) {
    await lifecycle.stop()
    throw error
  }
}

async function assemble(options: UpOptions, lifecycle: Lifecycle): Promise<RunningUp> {
  const { config, logger, time } = options
  const dataDir = await DataDir.open(config.dataDir, config.nodeId)
  lifecycle.add('data directory', () => dataDir.close())
  const nats = await natsOf(options, lifecycle)
  const stream = new NatsStream({
    url: nats.url,
    name: `percolate-up-${dataDir.identity.node}`,
    requestTimeoutMs: NATS_TIMEOUT_MS,
    logger,
  })
  lifecycle.add('stream', () => stream.close())
  const { store, described } = await objectsOf(config, logger, lifecycle)
  const again = { time, attemptsMax: START_ATTEMPTS_MAX, delayMs: 100, delayMsMax: 1000 }
  await retry(again, () => store.prepare())
  const jobs = Jobs.of(config, { stream, time, tier: config.tier })
  await retry(again, () => jobs.prepare())

  // One node has no use for a second copy, and nobody to share its secret with.
  const clustered: Config = { ...config, clusterSecret: config.clusterSecret ?? randomBytes(32).toString('hex') }
  const node = await startNode({
    config: clustered,
    logger: logger.child({ part: 'node' }),
    time,
    stream,
    dataDir,
    objects: store,
  })
  lifecycle.add('node', () => node.stop())
  const httpUrl = `http://${urlHost(config.host)}:${node.httpPort}`
  const controller = await startController({
    config: clustered,
    logger: logger.child({ part: 'controller' }),
    time,
    stream,
    objects: store,
    port: undefined,
    metrics: node.metrics,
  })
  lifecycle.add('controller', () => controller.stop())
  const worker = await startWorker({
    config,
    logger: logger.child({ part: 'worker' }),
    time,
    stream,
    objects: store,
    nodeUrl: httpUrl,
    port: undefined,
    metrics: node.metrics,
  })
  lifecycle.add('worker', () => worker.stop())
  const gateway = await startGateway({
    config,
    logger: logger.child({ part: 'gateway' }),
    time,
    stream,
    objects: store,
  })
  lifecycle.add('gateway', () => gateway.stop())
  const restarts = addNatsMetrics(node.metrics)
  nats.onRestart(() => restarts.inc())
  return {
    node: node.node,
    httpUrl,
    grpcAddress: `${config.host}:${node.grpcPort}`,
    gatewayUrl: `http://${urlHost(config.host)}:${gateway.port}`,
    nats: nats.described,
    objects: described,
    stop: () => lifecycle.stop(),
  }
}

/** A server that listens everywhere is reached on loopback. */
const urlHost = (host: string): string =>
  host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host.includes(':') ? `[${host}]` : host

async function natsOf(
  options: UpOptions,
  lifecycle: Lifecycle,
): Promise<{ url: string; described: string; onRestart: (listener: () => void) => void }> {
  const { config, logger, time } = options
  if (config.natsUrl !== undefined) return { url: config.natsUrl, described: 'external', onRestart: () => {} }
  const folder = join(config.dataDir, 'nats')
  const server = await startEmbeddedNats({
    folder,
    host: '127.0.0.1',
    port: config.natsPort,
    program: config.natsServer,
    cacheFolder: join(PACKAGE_FOLDER, '.cache', 'nats-server'),
    searchPath: options.searchPath,
    logger,
    onExit: reason => options.onFatal(`The embedded nats-server ended: ${reason}`),
  })
  lifecycle.add('nats-server', () => server.stop())
  let restarted = () => {}
  const watch = new JetStreamWatch({
    disk: streamDisk(folder, config.diskReserveBytes, time),
    health: jetStreamHealth(() => server.monitorUrl, time),
    time,
    restart: () => server.restart(),
    say: text => logger.warn({ part: 'nats' }, text),
    onRestart: () => restarted(),
  })
  watch.start()
  lifecycle.add('watch over the nats-server', () => watch.stop())
  return {
    url: server.url,
    described: `embedded nats-server ${server.version}, pid ${server.pid}`,
    onRestart: listener => {
      restarted = listener
    },
  }
}

async function objectsOf(
  config: Config,
  logger: Logger,
  lifecycle: Lifecycle,
): Promise<{ store: ObjectStore; described: string }> {
  if (config.s3Endpoint !== undefined) {
    const store = new S3ObjectStore({
      endpoint: config.s3Endpoint,
      region: config.s3Region,
      bucket: config.s3Bucket,
      accessKey: config.s3AccessKey!,
      secretKey: config.s3SecretKey!,
    })
    lifecycle.add('object store client', () => store.close())
    return { store, described: 'external' }
  }
  const { accessKey, secretKey } = await embeddedCredentials(config.dataDir)
  const folder = join(config.dataDir, 's3')
  const server = await startEmbeddedS3({
    folder,
    host: '127.0.0.1',
    port: config.s3Port,
    region: config.s3Region,
    accessKey,
    secretKey,
    reserveBytes: objectReserveBytes(config),
    logger: logger.child({ part: 's3' }),
  })
  lifecycle.add('embedded S3', () => server.stop())
  const store = new S3ObjectStore({
    endpoint: server.endpoint,
    region: config.s3Region,
    bucket: config.s3Bucket,
    accessKey,
    secretKey,
  })
  lifecycle.add('object store client', () => store.close())
  return { store, described: `embedded, ${server.endpoint}, keys in ${join(config.dataDir, 's3.json')}` }
}

/** Made once, readable by the owner only. */
async function embeddedCredentials(dataDir: string): Promise<{ accessKey: string; secretKey: string }> {
  const path = join(dataDir, 's3.json')
  if (existsSync(path)) return JSON.parse(await readFile(path, 'utf8')) as { accessKey: string; secretKey: string }
  const made = {
    accessKey: `percolate${randomBytes(6).toString('hex')}`,
    secretKey: randomBytes(30).toString('base64url'),
  }
  await writeFile(`${path}.new`, JSON.stringify(made, undefined, 2), { mode: 0o600 })
  await rename(`${path}.new`, path)
  return made
}
