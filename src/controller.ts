import { GrpcPeers } from './api/grpc/peer-client.ts'
import { closeServer, createHttpServer, listen } from './api/http/server.ts'
import { Lifecycle } from './base/lifecycle.ts'
import type { Logger } from './base/logger.ts'
import { Metrics } from './base/metrics.ts'
import { Probes } from './base/probes.ts'
import type { Time } from './base/time.ts'
import type { Config } from './config/settings.ts'
import { addControllerMetrics } from './controller-metrics.ts'
import type { ObjectStore } from './objects/port.ts'
import { PeerAuth } from './replication/auth.ts'
import { Controller } from './replication/controller.ts'
import { Directory } from './replication/directory.ts'
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
  stop(): Promise<void>
}

const PROBE_TIMEOUT_MS = 2000
const PEER_TIMEOUT_MS = 3000
const BODY_BYTES_MAX = 64 * 1024

/** The controller as a role: keeps placement as it should be while it leads; several stand by. It keeps nothing on disk. */
export async function startController(options: ControllerRoleOptions): Promise<RunningController> {
  const { config, logger, time, stream, objects } = options
  const lifecycle = new Lifecycle(logger)
  const name = `controller-${time.random(4).toString('hex')}`
  const directory = new Directory({
    stream,
    time,
    logger,
    replicas: config.syncReplicas,
    leaseMs: config.leaseMs,
    heartbeatMs: config.heartbeatMs,
    store: {
      load: async () => ({ placements: [], members: [] }),
      savePlacement: async () => {},
      saveMember: async () => {},
    },
    syncStreams: config.syncStreams,
    isObserver: true,
  })
  const auth = new PeerAuth(config.clusterSecret, name)
  const peers = new GrpcPeers({ auth, addressOf: node => directory.member(node)?.grpc, timeoutMs: PEER_TIMEOUT_MS })
  lifecycle.add('peers', () => peers.close())
  await directory.start()
  lifecycle.add('directory', () => directory.stop())
  const controller = new Controller({
    name,
    time,
    logger,
    directory,
    stream,
    peers,
    snapshots: objects && new SnapshotStore(objects, time, logger),
    replicas: config.replicas,
    leaseMs: config.leaseMs,
    roundMs: config.controllerRoundMs,
    replaceAfterMs: config.replaceAfterMs,
    forgetAfterMs: config.forgetAfterMs,
    streamIdleMs: config.streamIdleMs,
  })
  controller.start()
  lifecycle.add('controller', () => controller.stop())
  const metrics = options.metrics ?? new Metrics()
  addControllerMetrics(metrics, { controller, directory })
  let port: number | undefined
  if (options.port !== undefined) {
    const probes = new Probes(PROBE_TIMEOUT_MS)
    probes.add('stream', () => stream.ping())
    const app = createHttpServer({ logger, metrics, probes, bodyBytesMax: BODY_BYTES_MAX })
    port = await listen(app, config.host, options.port, 'PERCOLATE_CONTROLLER_PORT')
    lifecycle.add('http', () => closeServer(app, config.drainMs))
  }
  return { port, controller, directory, stop: () => lifecycle.stop() }
}
