import { closeServer, createHttpServer, listen } from '../src/api/http/server.ts'
import { Connections } from '../src/base/connections.ts'
import { Lifecycle } from '../src/base/lifecycle.ts'
import type { Logger } from '../src/base/logger.ts'
import { Metrics } from '../src/base/metrics.ts'
import { Probes } from '../src/base/probes.ts'
import { Refusals } from '../src/base/refusals.ts'
import type { Time } from '../src/base/time.ts'
import type { Config } from '../src/config/settings.ts'
import { chooseEmbedder } from '../src/embedding/choose.ts'
import { Jobs } from '../src/jobs/jobs.ts'
import type { ObjectStore } from '../src/objects/port.ts'
import type { StreamPort } from '../src/stream/port.ts'
import { ParserPool } from './parse/pool.ts'
import { JobRunner } from './runner.ts'

export interface WorkerOptions {
  readonly config: Config
  readonly logger: Logger
  readonly time: Time
  readonly stream: StreamPort
  readonly objects: ObjectStore
  readonly nodeUrl: string
  /** Port for probes and metrics; undefined: none (the process has another server). */
  readonly port: number | undefined
  /** Registry to count in, when the worker shares its process. */
  readonly metrics?: Metrics
}

export interface RunningWorker {
  readonly port: number | undefined
  stop(): Promise<void>
}

const EMBED_ATTEMPTS_MAX = 3
const PROBE_TIMEOUT_MS = 2000

/** A worker: pulls jobs, does them, keeps nothing. */
export async function startWorker(options: WorkerOptions): Promise<RunningWorker> {
  const { config, logger, time, stream, objects } = options
  const lifecycle = new Lifecycle(logger)
  const metrics = options.metrics ?? new Metrics()
  const jobs = Jobs.of(config, { stream, time, tier: config.tier })
  const parsers = new ParserPool({
    time,
    warm: config.parsersWarm,
    memoryBytes: config.parseMemoryBytes,
    parseBytesMax: config.parseBytesMax,
    chunkChars: config.chunkChars,
  })
  parsers.start()
  lifecycle.add('parsers', () => parsers.stop())
  const runner = new JobRunner({
    jobs,
    objects,
    time,
    logger,
    nodeUrl: options.nodeUrl,
    embedder: chooseEmbedder(config, time, EMBED_ATTEMPTS_MAX),
    attemptsMax: config.jobAttemptsMax,
    concurrency: config.jobConcurrency,
    ackWaitMs: config.jobAckWaitMs,
    drainMs: config.drainMs,
    perTenantMax: config.jobsPerTenantMax || Math.ceil(config.jobConcurrency / 2),
    parsers,
    parseLimits: {
      bytesMax: config.parseBytesMax,
      timeoutMs: config.parseTimeoutMs,
      timeoutBaseMs: config.parseTimeoutBaseMs,
      timeoutPerMibMs: config.parseTimeoutPerMibMs,
    },
  })
  runner.addMetrics(metrics)
  runner.start()
  lifecycle.add('jobs', () => runner.stop())
  if (options.port === undefined) return { port: undefined, stop: () => lifecycle.stop() }
  const probes = new Probes(PROBE_TIMEOUT_MS)
  probes.add('stream', () => stream.ping())
  probes.add('objects', () => objects.ping())
  const app = createHttpServer({
    logger,
    metrics,
    probes,
    refusals: new Refusals({ logger, metrics, time }),
    connections: metrics.addConnections('worker', Connections.of(config)),
    bodyBytesMax: 1024,
    requestReadMs: config.requestReadMs,
    readerStallMs: config.readerStallMs,
  })
  const port = await listen(app, config.host, options.port, 'PERCOLATE_WORKER_PORT')
  lifecycle.add('probes', () => closeServer(app, config.drainMs))
  return { port, stop: () => lifecycle.stop() }
}
