import { createGrpcApi } from './api/grpc/server.ts'
import { createHttpApi } from './api/http/api.ts'
import { closeServer, listen } from './api/http/server.ts'
import { Operations } from './api/operations/operations.ts'
import { PercolateError } from './base/errors.ts'
import type { TenantId } from './base/ids.ts'
import { Lifecycle } from './base/lifecycle.ts'
import type { Logger } from './base/logger.ts'
import { Metrics } from './base/metrics.ts'
import { Probes } from './base/probes.ts'
import type { Time } from './base/time.ts'
import { VERSION } from './base/version.ts'
import { ChatModel } from './chat/model.ts'
import type { Config } from './config/settings.ts'
import { chooseEmbedder } from './embedding/choose.ts'
import { EmbedScheduler } from './jobs/embed-scheduler.ts'
import { Jobs } from './jobs/jobs.ts'
import { addNodeMetrics } from './node-metrics.ts'
import { Publisher } from './replication/publisher.ts'
import { prefixes, prefixRange, space } from './storage/keys.ts'
import { collect } from './storage/kv.ts'
import { openRocksKv } from './storage/rocksdb.ts'
import type { StreamPort } from './stream/port.ts'
import { Activity } from './tenant/activity.ts'
import { DataDir } from './tenant/data-dir.ts'
import { DiskGuard } from './tenant/disk-guard.ts'
import { TenantPool } from './tenant/pool.ts'
import { Tenant } from './tenant/tenant.ts'

export interface NodeOptions {
  readonly config: Config
  readonly logger: Logger
  readonly time: Time
  /** Without a stream the node keeps changes to itself: no outbox, no jobs. */
  readonly stream: StreamPort | undefined
  /** Opened by the caller when it needs the directory for more than the node. */
  readonly dataDir?: DataDir
}

export interface RunningNode {
  readonly node: string
  readonly httpPort: number
  readonly grpcPort: number
  /** For parts that share the process, and so the page of metrics. */
  readonly metrics: Metrics
  stop(): Promise<void>
}

/** Bytes that RocksDB takes for an open tenant beside its write buffer and block cache. */
const TENANT_BASE_BYTES = 512 * 1024
/** Decoded records of one tenant. */
const RECORD_CACHE_BYTES = 1024 * 1024
const POOL_WAIT_MS_MAX = 5000
const IDLE_CHECK_MS_MAX = 5000
const EMBED_CHECK_MS = 5000
const PROBE_TIMEOUT_MS = 2000

/** The database node, built, started, and drained on stop: servers first, then the outbox, then the tenants, then the data directory. */
export async function startNode(options: NodeOptions): Promise<RunningNode> {
  const { config, logger, time, stream } = options
  const lifecycle = new Lifecycle(logger)
  try {
    return await assemble(options, lifecycle)
  } catch (error) {
    await lifecycle.stop()
    throw error
  }

  async function assemble({ dataDir: given }: NodeOptions, parts: Lifecycle): Promise<RunningNode> {
    const dataDir = given ?? (await DataDir.open(config.dataDir, config.nodeId))
    if (!given) parts.add('data directory', () => dataDir.close())
    const metrics = new Metrics()
    const probes = new Probes(PROBE_TIMEOUT_MS)
    const activity = new Activity(time, config.activeWindowMs)

    const disk = new DiskGuard(dataDir.path, config.diskReserveBytes)
    await disk.start()
    parts.add('disk guard', () => disk.stop())
    probes.add('disk', () => disk.admit())
    let publisher: Publisher | undefined
    const pool = new TenantPool({
      time,
      logger,
      openMax: config.openTenantsMax,
      memoryBytesMax: config.tenantMemoryBytes,
      tenantBytes: TENANT_BASE_BYTES + RECORD_CACHE_BYTES + config.writeBufferBytes + config.blockCacheBytes,
      idleMs: config.tenantIdleMs,
      waitMsMax: POOL_WAIT_MS_MAX,
      exists: id => dataDir.hasTenant(id),
      open: async id => {
        const kv = await openRocksKv(dataDir.tenantPath(id), {
          createIfMissing: true,
          writeBufferBytes: config.writeBufferBytes,
          blockCacheBytes: config.blockCacheBytes,
        })
        const tenant = await Tenant.open(id, kv, {
          time,
          origin: dataDir.origin,
          outboxEnabled: stream !== undefined,
          outboxBytesMax: config.outboxBytesMax,
          recordCacheBytes: RECORD_CACHE_BYTES,
          admitWrite: () => disk.admit(),
          onCommit: (changed, batch) => {
            if (batch.outbox.entries > 0) publisher?.notify(changed.id)
          },
        }).catch(async error => {
          await kv.close()
          throw error
        })
        if (tenant.outbox.entries > 0) publisher?.notify(id)
        return tenant
      },
    })
    parts.add('tenants', () => pool.stop())

    const hasPending = async (id: TenantId) =>
      (await pool.use(
        id,
        async tenant =>
          (
            await collect(tenant, { ...prefixRange(prefixes.space(space.embeddingPending)), limit: 1, values: false })
          ).length > 0,
      )) ?? false
    let scheduler: EmbedScheduler | undefined
    if (stream) {
      publisher = new Publisher({
        stream,
        pool,
        time,
        logger,
        replicas: config.jobReplicas,
        maxAgeMs: config.syncMaxAgeMs,
      })
      const running = publisher
      parts.add('publisher', () => running.stop(config.drainMs))
      const jobs = new Jobs({
        stream,
        time,
        tier: config.tier,
        replicas: config.jobReplicas,
        ackWaitMs: config.jobAckWaitMs,
        recordMaxAgeMs: config.jobRecordMaxAgeMs,
      })
      const embeds = new EmbedScheduler({ jobs, time, logger, hasPending, checkMs: EMBED_CHECK_MS })
      scheduler = embeds
      parts.add('embed scheduler', () => embeds.stop())
      embeds.start()
      probes.add('stream', () => stream.ping())
    }

    const chatModel =
      config.chatUrl === undefined
        ? undefined
        : new ChatModel({
            url: config.chatUrl,
            model: config.chatModel!,
            apiKey: config.chatApiKey,
            timeoutMs: config.chatTimeoutMs,
          })
    const embedder = chooseEmbedder(config, time, 1)
    const operations = new Operations(
      { time, logger, pool, embedder, onPending: id => scheduler?.notify(id) },
      chatModel,
    )
    const onTenant = (id: TenantId) => activity.note(id)
    const httpApi = await createHttpApi({
      logger,
      metrics,
      probes,
      bodyBytesMax: config.bodyBytesMax,
      time,
      operations,
      node: dataDir.identity.node,
      version: VERSION,
      onTenant,
    })
    const httpPort = await listen(httpApi, config.host, config.httpPort, 'PERCOLATE_HTTP_PORT')
    parts.add('http', () => closeServer(httpApi, config.drainMs))
    const grpcApi = await createGrpcApi({
      logger,
      metrics,
      probes,
      time,
      operations,
      node: dataDir.identity.node,
      bodyBytesMax: config.bodyBytesMax,
      host: config.host,
      port: config.grpcPort,
      drainMs: config.drainMs,
      onTenant,
    })
    parts.add('grpc', () => grpcApi.stop())

    addNodeMetrics({ metrics, pool, activity, tier: config.tier, publisher: () => publisher, disk })
    const ticker = setInterval(() => pool.closeIdle(), Math.min(IDLE_CHECK_MS_MAX, config.tenantIdleMs)).unref()
    parts.add('idle closing', () => clearInterval(ticker))
    if (stream)
      parts.add(
        'sweep',
        startSweep(dataDir, hasPending, id => scheduler?.notify(id), pool),
      )
    let draining = false
    probes.add('serving', () => {
      if (draining) throw new PercolateError('SHUTTING_DOWN', 'draining')
    })
    return {
      node: dataDir.identity.node,
      httpPort,
      grpcPort: grpcApi.port,
      metrics,
      stop: () => {
        draining = true
        return lifecycle.stop()
      },
    }
  }
}

/** After a start, each tenant is opened once: what a crash left in its outbox is published, what lacks embeddings is queued. */
function startSweep(
  dataDir: DataDir,
  hasPending: (id: TenantId) => Promise<boolean>,
  onPending: (id: TenantId) => void,
  pool: TenantPool,
): () => Promise<void> {
  let stopped = false
  const sweeping = (async () => {
    for (const id of await dataDir.tenants()) {
      if (stopped) return
      // A full pool has better things to do; requests open their tenants anyway.
      if (await hasPending(id).catch(() => false)) onPending(id)
      if (pool.stats().open > 64) await new Promise(resolve => setTimeout(resolve, 20).unref())
    }
  })().catch(() => {})
  return async () => {
    stopped = true
    await sweeping
  }
}
