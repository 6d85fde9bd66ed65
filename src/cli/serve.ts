import type { Command } from 'commander'
import type { Logger } from '../base/logger.ts'
import { offsetTime, systemTime } from '../base/time.ts'
import { searchPath } from '../config/environment.ts'
import type { Config } from '../config/settings.ts'
import type { S3ObjectStore } from '../objects/s3.ts'
import type { NatsStream } from '../stream/nats/adapter.ts'
import type { RunningUp } from '../up.ts'
import { addSettingFlags, configOf, guarded, loggerOf, runUntilSignal } from './common.ts'
import { say } from './output.ts'
import { readiness, whatIsAwaited } from './readiness.ts'

const NATS_TIMEOUT_MS = 5000

/** `percolate up`, `node`, `worker`, `gateway`: one artifact, several roles. Each loads its own code when it is started: a node that wakes must not wait for parsers that it does not use. */
export function addServeCommands(program: Command): void {
  addSettingFlags(program.command('up'), 'up')
    .description('run everything on this machine')
    .addHelpText('after', '\nExample:\n  percolate up --data-dir ~/percolate-data --http-port 9000')
    .action(guarded(up))
  addSettingFlags(program.command('node'), 'node')
    .description('run a database node')
    .addHelpText('after', '\nExample:\n  PERCOLATE_NATS_URL=nats://nats:4222 percolate node --data-dir /data')
    .action(guarded(node))
  addSettingFlags(program.command('controller'), 'controller')
    .description('run a controller, which keeps copies and homes where they should be')
    .addHelpText(
      'after',
      '\nExample:\n  PERCOLATE_NATS_URL=nats://nats:4222 PERCOLATE_CLUSTER_SECRET=… percolate controller',
    )
    .action(guarded(controller))
  addSettingFlags(program.command('worker'), 'worker')
    .description('run a worker that parses and embeds')
    .addHelpText(
      'after',
      '\nExample:\n  PERCOLATE_NATS_URL=nats://nats:4222 PERCOLATE_S3_SECRET_KEY=… percolate worker --tier small --node-url http://node:8080 --s3-endpoint http://s3:9000 --s3-access-key …',
    )
    .action(guarded(worker))
  addSettingFlags(program.command('gateway'), 'gateway')
    .description('run an upload gateway')
    .addHelpText(
      'after',
      '\nExample:\n  PERCOLATE_NATS_URL=nats://nats:4222 PERCOLATE_S3_SECRET_KEY=… percolate gateway --s3-endpoint http://s3:9000 --s3-access-key …',
    )
    .action(guarded(gateway))
}

/** How long `up` waits to be ready before it says what is awaited, and how often it looks. */
const READY_WAIT_MS = 10_000
const READY_LOOK_MS = 200

/** Says where everything is, as soon as it is ready, or what is awaited when that takes long. */
async function announce(running: RunningUp, config: Config, isStopping: () => boolean): Promise<void> {
  const untilMs = systemTime.monotonic() + READY_WAIT_MS
  let awaited: string
  for (;;) {
    awaited = whatIsAwaited(
      await Promise.all([readiness('node', running.httpUrl), readiness('gateway', running.gatewayUrl)]),
    )
    if (!awaited || isStopping() || systemTime.monotonic() >= untilMs) break
    await systemTime.sleep(READY_LOOK_MS, { ref: false })
  }
  if (isStopping()) return
  say(`
${awaited ? `Percolate has started, and is not ready yet (${awaited}); percolate status says when it is.` : 'Percolate is ready.'}

  API       ${running.httpUrl}   (docs: ${running.httpUrl}/docs)
  gRPC      ${running.grpcAddress}
  uploads   ${running.gatewayUrl}/upload
  streams   ${running.nats}
  objects   ${running.objects}
  data      ${config.dataDir}   (node ${running.node})

Try:
  curl -H 'X-Tenant-ID: demo' -F file=@README.md '${running.gatewayUrl}/upload?wait=30s'
  curl -H 'X-Tenant-ID: demo' '${running.httpUrl}/api/v1/resources?query=how+do+I+start'
  curl -H 'X-Tenant-ID: demo' -H 'Content-Type: application/json' -d '{"messages":[{"role":"user","content":"How do I start Percolate?"}]}' ${running.httpUrl}/api/v1/chat

Ctrl-C stops it.`)
}

async function up(options: Record<string, unknown>): Promise<void> {
  const config = configOf('up', options)
  const logger = loggerOf(config, 'up')
  warnIfOpen(config, logger)
  let stopping = false
  const { startUp } = await import('../up.ts')
  const running = await startUp({
    config,
    logger,
    time: systemTime,
    searchPath: searchPath(),
    onFatal: reason => {
      if (stopping) return
      logger.fatal(reason)
      process.exitCode = 1
      process.kill(process.pid, 'SIGTERM')
    },
  })
  void announce(running, config, () => stopping).catch(error =>
    logger.error({ err: error }, 'cannot say whether it is ready'),
  )
  await runUntilSignal(() => running.stop(), {
    stopMsMax: config.stopMs,
    onStopping: () => {
      stopping = true
      say('\nStopping: finishing what is under way …')
    },
  })
}

async function node(options: Record<string, unknown>): Promise<void> {
  const config = configOf('node', options)
  const logger = loggerOf(config, 'node')
  warnIfOpen(config, logger)
  const [{ startNode }, stream, objects] = await Promise.all([
    import('../node.ts'),
    config.natsUrl === undefined ? undefined : streamOf(config, logger, 'percolate-node'),
    objectsOf(config),
  ])
  if (!stream)
    logger.warn(
      'PERCOLATE_NATS_URL is not set: changes are not published, and nothing embeds what the provider could not',
    )
  const running = await startNode({
    config,
    logger,
    time: offsetTime(systemTime, config.clockOffsetMs),
    stream,
    objects,
  })
  logger.info(
    { node: running.node, http: running.httpPort, grpc: running.grpcPort, dataDir: config.dataDir },
    'node is ready',
  )
  await runUntilSignal(
    async () => {
      await running.stop()
      objects?.close()
      await stream?.close()
    },
    { stopMsMax: config.stopMs },
  )
}

async function controller(options: Record<string, unknown>): Promise<void> {
  const config = configOf('controller', options)
  const logger = loggerOf(config, 'controller')
  const [{ startController }, stream, objects] = await Promise.all([
    import('../controller.ts'),
    streamOf(config, logger, 'percolate-controller'),
    objectsOf(config),
  ])
  const running = await startController({
    config,
    logger,
    time: systemTime,
    stream,
    objects,
    port: config.controllerPort,
  })
  logger.info({ port: running.port }, 'controller is ready')
  await runUntilSignal(
    async () => {
      await running.stop()
      objects?.close()
      await stream.close()
    },
    { stopMsMax: config.stopMs },
  )
}

/** Snapshots need an object store; a cluster can do without. */
async function objectsOf(config: Config): Promise<S3ObjectStore | undefined> {
  return config.s3Endpoint === undefined ? undefined : storeOf(config, config.s3Endpoint)
}

async function storeOf(config: Config, endpoint: string): Promise<S3ObjectStore> {
  const { S3ObjectStore } = await import('../objects/s3.ts')
  return new S3ObjectStore({
    endpoint,
    region: config.s3Region,
    bucket: config.s3Bucket,
    accessKey: config.s3AccessKey!,
    secretKey: config.s3SecretKey!,
  })
}

async function streamOf(config: Config, logger: Logger, name: string): Promise<NatsStream> {
  const { NatsStream } = await import('../stream/nats/adapter.ts')
  return new NatsStream({ url: config.natsUrl!, name, requestTimeoutMs: NATS_TIMEOUT_MS, logger })
}

async function worker(options: Record<string, unknown>): Promise<void> {
  const config = configOf('worker', options)
  const logger = loggerOf(config, 'worker')
  const [{ startWorker }, stream, objects] = await Promise.all([
    import('../../workers/worker.ts'),
    streamOf(config, logger, 'percolate-worker'),
    storeOf(config, config.s3Endpoint!),
  ])
  const running = await startWorker({
    config,
    logger,
    time: systemTime,
    stream,
    objects,
    nodeUrl: config.nodeUrl,
    port: config.workerPort,
  })
  logger.info({ tier: config.tier, port: running.port, concurrency: config.jobConcurrency }, 'worker is ready')
  await runWithServices(running, { config, objects, stream })
}

async function gateway(options: Record<string, unknown>): Promise<void> {
  const config = configOf('gateway', options)
  const logger = loggerOf(config, 'gateway')
  warnIfOpen(config, logger)
  const [{ startGateway }, stream, objects] = await Promise.all([
    import('../../gateway/gateway.ts'),
    streamOf(config, logger, 'percolate-gateway'),
    storeOf(config, config.s3Endpoint!),
  ])
  void objects.prepare().catch(error => logger.warn({ reason: String(error) }, 'the bucket cannot be made yet'))
  const running = await startGateway({ config, logger, time: systemTime, stream, objects })
  logger.info({ port: running.port }, 'gateway is ready')
  await runWithServices(running, { config, objects, stream })
}

/** Until a signal comes; then the role stops before what it uses is closed. */
const runWithServices = (
  running: { stop(): Promise<void> },
  { config, objects, stream }: { config: Config; objects: S3ObjectStore; stream: NatsStream },
): Promise<void> =>
  runUntilSignal(
    async () => {
      await running.stop()
      objects.close()
      await stream.close()
    },
    { stopMsMax: config.stopMs },
  )

function warnIfOpen(config: Config, logger: Logger): void {
  if (/^(127\.|localhost$|::1$)/.test(config.host)) return
  logger.warn(
    { host: config.host },
    'listening beyond this machine, and nothing is authenticated yet: whoever reaches the ports can read and write every tenant',
  )
}
