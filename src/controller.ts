import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Activator } from './activator/activator.ts'
import type { RouterPort } from './activator/endpoints.ts'
import { HaproxyRouter } from './activator/haproxy.ts'
import { KubernetesRouter } from './activator/kubernetes.ts'
import { GrpcPeers } from './api/grpc/peer-client.ts'
import { closeServer, createHttpServer, listen } from './api/http/server.ts'
import { Connections } from './base/connections.ts'
import { PercolateError } from './base/errors.ts'
import { Lifecycle } from './base/lifecycle.ts'
import type { Logger } from './base/logger.ts'
import { Metrics } from './base/metrics.ts'
import { Probes } from './base/probes.ts'
import { Refusals } from './base/refusals.ts'
import type { Time } from './base/time.ts'
import { advertisedHost } from './config/advertised.ts'
import { kubernetesServiceUrl } from './config/load.ts'
import type { Config } from './config/settings.ts'
import { addActivatorMetrics, addControllerMetrics } from './controller-metrics.ts'
import { Jobs } from './jobs/jobs.ts'
import { JobStreamsKeeper } from './jobs/keep-streams.ts'
import type { ObjectStore } from './objects/port.ts'
import { PeerAuth } from './replication/auth.ts'
import type { Controller } from './replication/controller.ts'
import { controllerParts } from './replication/controller-parts.ts'
import type { Directory } from './replication/directory.ts'
import { SnapshotStore } from './replication/snapshots.ts'
import type { StreamPort } from './stream/port.ts'

export interface ControllerRoleOptions {
  readonly config: Config
  readonly logger: Logger
  readonly time: Time
  readonly stream: StreamPort
  readonly objects: ObjectStore | undefined
  /** Undefined: the part shares the process, and so the page of metrics, with a node. */
  readonly port: number | undefined
  readonly metrics?: Metrics
}

export interface RunningController {
  readonly port: number | undefined
  readonly controller: Controller
  readonly directory: Directory
  readonly activator: Activator | undefined
  stop(): Promise<void>
}

const PROBE_TIMEOUT_MS = 2000
const PEER_TIMEOUT_MS = 3000
const BODY_BYTES_MAX = 64 * 1024
/** Leases that a controller that goes waits for its successor's list. */
const RELEASE_LEASES = 3

/** The controller as a role: keeps placement as it should be while it leads; several stand by. It keeps nothing on disk. */
export async function startController(options: ControllerRoleOptions): Promise<RunningController> {
  const { config, logger, time, stream, objects } = options
  const lifecycle = new Lifecycle(logger)
  const name = `controller-${time.random(4).toString('hex')}`
  const auth = new PeerAuth(config.clusterSecret, name)
  const { directory, peers, controller } = controllerParts({
    name,
    time,
    logger,
    stream,
    peers: addressOf => new GrpcPeers({ auth, addressOf, timeoutMs: PEER_TIMEOUT_MS }),
    snapshots: objects && new SnapshotStore(objects, time, logger),
    replicas: config.replicas,
    directoryReplicas: config.syncReplicas,
    directoryBytesMax: config.directoryBytesMax,
    syncStreams: config.syncStreams,
    leaseMs: config.leaseMs,
    heartbeatMs: config.heartbeatMs,
    roundMs: config.controllerRoundMs,
    replaceAfterMs: config.replaceAfterMs,
    forgetAfterMs: config.forgetAfterMs,
    streamIdleMs: config.streamIdleMs,
    syncBytesMax: config.syncBytesMax,
  })
  lifecycle.add('peers', () => peers.close?.())
  await directory.start()
  lifecycle.add('directory', () => directory.stop())
  const metrics = options.metrics ?? new Metrics()
  let isStarted = false
  let port: number | undefined
  if (options.port !== undefined) {
    const probes = new Probes(PROBE_TIMEOUT_MS)
    probes.add('stream', () => stream.ping())
    // A roll goes on to the next one when this one can take its place: a watch that has told of nothing yet may be deaf.
    probes.add('directory', () => {
      if (!isStarted || !directory.isWatching || !directory.hasTold)
        throw new PercolateError('PLACEMENT_UNKNOWN', 'the cluster directory is not known yet')
    })
    const app = createHttpServer({
      logger,
      metrics,
      probes,
      refusals: new Refusals({ logger, metrics, time }),
      connections: metrics.addConnections('controller', Connections.of(config)),
      bodyBytesMax: BODY_BYTES_MAX,
      requestReadMs: config.requestReadMs,
      readerStallMs: config.readerStallMs,
    })
    port = await listen(app, config.host, options.port, 'PERCOLATE_CONTROLLER_PORT')
    lifecycle.add('http', () => closeServer(app, config.drainMs))
  }
  let activator: Activator | undefined
  if (config.activatorTiers !== undefined) {
    activator = new Activator({
      time,
      logger,
      directory,
      isLeading: () => controller.isLeading,
      tiers: [...new Set(config.activatorTiers.split(','))],
      host: config.host,
      advertisedHost: config.routerHost ?? advertisedHost(config),
      pod: config.podName,
      firstOrdinal: config.firstOrdinal,
      forgetAfterMs: config.forgetAfterMs,
      httpPort: config.activatorHttpPort,
      grpcPort: config.activatorGrpcPort,
      connections: {
        http: metrics.addConnections('activator http', Connections.of(config)),
        grpc: metrics.addConnections('activator grpc', Connections.of(config)),
      },
      requestsMax: config.heldRequestsMax,
      bytesMax: config.heldBytesMax,
      holdMs: config.holdMs,
      wakeMs: config.wakeMs,
      resyncMs: config.routerResyncMs,
      releaseMs: RELEASE_LEASES * config.leaseMs,
      noticeMs: config.drainNoticeMs,
      drainMs: config.drainMs,
      router: await routerOf(config),
    })
    await activator.start()
    const held = activator
    lifecycle.add('activator', () => held.stop())
    const jobStreams = jobStreamsOf(activator.tiers, options)
    jobStreams.start()
    lifecycle.add('job streams', () => jobStreams.stop())
    addActivatorMetrics(metrics, activator.tiers, { activator, jobStreams })
  }
  addControllerMetrics(metrics, activator?.tiers ?? [config.tier], { controller, directory, stream })
  controller.start()
  isStarted = true
  // The first to stop: only when another one leads is the rest not needed any more.
  lifecycle.add('controller', () => controller.stop())
  return { port, controller, directory, activator, stop: () => lifecycle.stop() }
}

function jobStreamsOf(tiers: readonly string[], options: ControllerRoleOptions): JobStreamsKeeper {
  const { config, logger, time, stream } = options
  const jobs = tiers.map(tier => Jobs.of(config, { stream, time, tier }))
  return new JobStreamsKeeper({ jobs, time, logger, checkMs: config.jobStreamsCheckMs })
}

async function routerOf(config: Config): Promise<RouterPort | undefined> {
  if (config.router === 'haproxy') {
    if (config.routerSocket === undefined)
      throw new PercolateError(
        'CONFIG_INVALID',
        'PERCOLATE_ROUTER=haproxy needs PERCOLATE_ROUTER_SOCKET, the path of its admin socket.',
      )
    return new HaproxyRouter(config.routerSocket)
  }
  if (config.router !== 'kubernetes') return undefined
  const credentials = config.kubernetesCredentials
  const url = config.kubernetesUrl ?? kubernetesServiceUrl()
  if (!url)
    throw new PercolateError(
      'CONFIG_INVALID',
      'PERCOLATE_ROUTER=kubernetes outside of a pod needs PERCOLATE_KUBERNETES_URL.',
    )
  const namespace =
    config.kubernetesNamespace ?? (await readFile(join(credentials, 'namespace'), 'utf8').catch(() => '')).trim()
  if (namespace === '')
    throw new PercolateError(
      'CONFIG_INVALID',
      'PERCOLATE_ROUTER=kubernetes needs PERCOLATE_KUBERNETES_NAMESPACE, or a service account that says it.',
    )
  return new KubernetesRouter({ url, credentials, namespace })
}
