import { GrpcForwarder } from './api/grpc/forward.ts'
import { HeldCalls } from './api/grpc/held-calls.ts'
import { GrpcPeers } from './api/grpc/peer-client.ts'
import { createGrpcApi } from './api/grpc/server.ts'
import { HeldAnswers } from './api/held-answers.ts'
import { HeldBodies } from './api/held-bodies.ts'
import { createHttpApi } from './api/http/api.ts'
import { closeServer, listen } from './api/http/server.ts'
import { Operations } from './api/operations/operations.ts'
import { SlowReaders } from './api/slow-readers.ts'
import { Connections } from './base/connections.ts'
import { PercolateError } from './base/errors.ts'
import type { TenantId } from './base/ids.ts'
import { Lifecycle } from './base/lifecycle.ts'
import { STAGED_BODY_BYTES_MIN, STAGED_BYTES_PER_BODY_BYTE } from './base/limits.ts'
import type { Logger } from './base/logger.ts'
import { Metrics } from './base/metrics.ts'
import { Probes } from './base/probes.ts'
import { Refusals } from './base/refusals.ts'
import type { Time } from './base/time.ts'
import { VERSION } from './base/version.ts'
import { ChatModel } from './chat/model.ts'
import { advertisedHost } from './config/advertised.ts'
import type { Config } from './config/settings.ts'
import { chooseEmbedder } from './embedding/choose.ts'
import { EmbedScheduler } from './jobs/embed-scheduler.ts'
import { Jobs } from './jobs/jobs.ts'
import { addNodeMetrics } from './node-metrics.ts'
import type { ObjectStore } from './objects/port.ts'
import { replicaSettings } from './replica-settings.ts'
import { PeerAuth } from './replication/auth.ts'
import { copyStore } from './replication/copy-store.ts'
import type { Member, Placement } from './replication/placement.ts'
import { Replica } from './replication/replica.ts'
import { SnapshotStore } from './replication/snapshots.ts'
import { Gate } from './session/gate.ts'
import { HeavyReads } from './session/heavy-reads.ts'
import { prefixes, prefixRange, space } from './storage/keys.ts'
import { collect } from './storage/kv.ts'
import { openRocksKv } from './storage/rocksdb.ts'
import type { StreamPort } from './stream/port.ts'
import { subjects } from './stream/subjects.ts'
import { Activity } from './tenant/activity.ts'
import { DataDir } from './tenant/data-dir.ts'
import { DiskGuard } from './tenant/disk-guard.ts'
import { openPool, type TenantHooks, type TenantStore } from './tenant/open-pool.ts'
import type { TenantPool } from './tenant/pool.ts'
import { StagingRoom } from './tenant/staging-room.ts'
import type { StreamCursor } from './tenant/state.ts'
import { refusalOf } from './tenant/write-ending.ts'

export interface NodeOptions {
  readonly config: Config
  readonly logger: Logger
  readonly time: Time
  /** Without a stream the node keeps changes to itself: no outbox, no jobs, no cluster. */
  readonly stream: StreamPort | undefined
  /** Where snapshots go; without it there are none. */
  readonly objects?: ObjectStore | undefined
  /** Opened by the caller when it needs the directory for more than the node. */
  readonly dataDir?: DataDir
}

export interface RunningNode {
  readonly node: string
  readonly httpPort: number
  readonly grpcPort: number
  /** For parts that share the process, and so the page of metrics. */
  readonly metrics: Metrics
  readonly replica: Replica | undefined
  stop(): Promise<void>
}

/** Bytes that RocksDB takes for an open tenant beside its write buffer and block cache. */
const TENANT_BASE_BYTES = 512 * 1024
/** Decoded records of one tenant. */
const RECORD_CACHE_BYTES = 1024 * 1024
const POOL_WAIT_MS_MAX = 5000
const IDLE_CHECK_MS_MAX = 5000
const EMBED_CHECK_MS = 5000
/** What the last requests of a stopping node get to be answered in, when its time for requests is over. */
const LAST_ANSWERS_MS_MAX = 3000
const PROBE_TIMEOUT_MS = 2000
const PEER_TIMEOUT_MS = 3000
/** Copies of the cluster directory that production asks for. */
const DIRECTORY_REPLICAS_MIN = 3
/** Nodes that are named in the answer of a probe. */
const NAMED_MAX = 5

/** The database node, built, started, and drained on stop: servers first, then the cluster (outbox, homes), then the tenants, then the data directory. */
export async function startNode(options: NodeOptions): Promise<RunningNode> {
  const { config, logger, time, stream } = options
  const lifecycle = new Lifecycle(logger)
  try {
    return await assemble(options, lifecycle)
  } catch (error) {
    await lifecycle.stop()
    throw error
  }

  async function assemble({ dataDir: given, objects }: NodeOptions, parts: Lifecycle): Promise<RunningNode> {
    const dataDir = given ?? (await DataDir.open(config.dataDir, config.nodeId))
    if (!given) parts.add('data directory', () => dataDir.close())
    const { node } = dataDir.identity
    const metrics = new Metrics()
    const probes = new Probes(PROBE_TIMEOUT_MS)
    const activity = new Activity(time, config.activeWindowMs)

    const disk = new DiskGuard(dataDir.path, config.diskReserveBytes, dataDir.ballast)
    await disk.start()
    parts.add('disk guard', () => disk.stop())
    probes.add('disk', () => disk.admit())
    const store: TenantStore = {
      tenants: () => dataDir.tenants(),
      has: id => dataDir.hasTenant(id),
      open: (id, isSuspect = false) =>
        dataDir.ballast.lend(() =>
          openRocksKv(dataDir.tenantPath(id), {
            isSuspect,
            createIfMissing: true,
            writeBufferBytes: config.writeBufferBytes,
            blockCacheBytes: config.blockCacheBytes,
          }),
        ),
      remove: id => dataDir.removeTenant(id),
      setAside: id => dataDir.setTenantAside(id, config.damagedCopiesMax, time.now()),
      setOtherAside: (id, incarnation) => dataDir.setOtherAside(id, incarnation),
      making: (id, incarnation) => dataDir.makingTenant(id, incarnation),
      makingOf: id => dataDir.makingOf(id),
      made: id => dataDir.madeTenant(id),
    }
    const stopping = new StopTimes(time, config.drainMs)
    const room = new StagingRoom(config.stagedTextBytesMax, time)
    const stagedBytesMax = STAGED_BYTES_PER_BODY_BYTE * Math.max(config.bodyBytesMax, STAGED_BODY_BYTES_MIN)
    const openTenants = (hooks?: TenantHooks) =>
      openPool(
        {
          time,
          logger,
          store,
          limits: {
            openMax: config.openTenantsMax,
            memoryBytesMax: config.tenantMemoryBytes,
            tenantBytes: TENANT_BASE_BYTES + RECORD_CACHE_BYTES + config.writeBufferBytes + config.blockCacheBytes,
            idleMs: config.tenantIdleMs,
            waitMsMax: POOL_WAIT_MS_MAX,
          },
          tenant: {
            origin: dataDir.origin,
            outboxEnabled: stream !== undefined,
            outboxBytesMax: config.outboxBytesMax,
            recordCacheBytes: RECORD_CACHE_BYTES,
            changesMax: config.changesMax,
            stagedBytesMax,
            writeWaitMsMax: config.writeWaitMs,
          },
          room,
          disk,
        },
        hooks,
      )
    const addresses = { http: '', grpc: '' }
    const auth = new PeerAuth(config.clusterSecret, node)
    const replica =
      stream &&
      joinCluster(options, {
        stream,
        dataDir,
        store,
        pool: openTenants,
        auth,
        objects,
        activity,
        addresses: () => addresses,
      })
    const pool = replica?.pool ?? openTenants()
    parts.add('tenants', () => pool.stop())
    probes.add('tenants', () => {
      if (pool.exhaustedMs > POOL_WAIT_MS_MAX)
        throw new PercolateError(
          'TOO_BUSY',
          `all ${config.openTenantsMax} open tenants (PERCOLATE_OPEN_TENANTS_MAX) are in use, and others wait`,
        )
    })

    const hasPending = async (id: TenantId) =>
      (await pool.use(
        id,
        async tenant =>
          (
            await collect(tenant, { ...prefixRange(prefixes.space(space.embeddingPending)), limit: 1, values: false })
          ).length > 0,
      )) ?? false
    let scheduler: EmbedScheduler | undefined
    if (stream && replica) {
      parts.add('peers', () => replica.peers.close?.())
      const jobs = Jobs.of(config, { stream, time, tier: config.tier })
      const embeds = new EmbedScheduler({ jobs, time, logger, hasPending, checkMs: EMBED_CHECK_MS })
      scheduler = embeds
      parts.add('embed scheduler', () => embeds.stop())
      embeds.start()
      // Without it reads go on, and writes until the outbox is full: no reason to turn everybody away.
      probes.add('stream', () => stream.ping(), { required: false })
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
    const onTenant = (id: TenantId) => {
      if (replica) replica.active.note(id)
      else if (pool.isOpen(id)) activity.note(id)
      // A tenant that nobody has written is none.
      else void pool.has(id).then(has => has && activity.note(id))
    }
    const heavyReads = new HeavyReads(config)
    const operations = new Operations(
      {
        time,
        logger,
        pool,
        embedder,
        heavyReads,
        onPending: id => scheduler?.notify(id),
        replica,
        durability: config.durability,
        durabilityTimeoutMs: config.durabilityTimeoutMs,
        stagedBytesMax,
        takeTurn: (textBytes, ending) => {
          const sinceMs = time.monotonic()
          const waits = { room, time, waitMsMax: config.writeWaitMs }
          return room.takeTurn(textBytes, () => refusalOf(waits, { ending, textBytes }, sinceMs))
        },
        admitTenant: () => {
          disk.admit()
          replica?.membership.admitWrite()
        },
        onTenant: id => (replica ? replica.active : activity).note(id),
      },
      chatModel,
      config,
    )
    const gate = replica && new Gate({ replica, auth, bookmarkWaitMs: config.bookmarkWaitMs })
    if (replica) {
      const running = replica
      parts.add('cluster', async () => {
        const left = await running.drain(stopping.closingMs())
        if (left.unpublished > 0 || left.notSaved > 0) logger.warn(left, 'left the cluster with something undone')
      })
    }
    // A tick above it may carry over into the next millisecond.
    const asOfAheadMsMax = Math.max(0, config.clockSkewMsMax - 1)
    const bodies = new HeldBodies(config.heldBodyBytesMax)
    const answers = new HeldAnswers(config.heldAnswerBytesMax, { time, patienceMs: config.readerStallMs })
    const calls = new HeldCalls(config.grpcCallsMax, { time, patienceMs: config.requestReadMs })
    const readers = new SlowReaders(config.readerStallMs, metrics)
    const refusals = new Refusals({ logger, metrics, time })
    parts.add('refusals', () => refusals.flush())
    const httpApi = await createHttpApi({
      logger,
      metrics,
      probes,
      refusals,
      connections: metrics.addConnections('http', Connections.of(config)),
      bodyBytesMax: config.bodyBytesMax,
      requestReadMs: config.requestReadMs,
      readerStallMs: config.readerStallMs,
      time,
      operations,
      node,
      asOfAheadMsMax,
      onTenant,
      readers,
      bodies,
      answers,
      gate,
    })
    await replica?.load()
    const httpPort = await listen(httpApi, config.host, config.httpPort, 'PERCOLATE_HTTP_PORT')
    parts.add('http', () => closeServer(httpApi, stopping.requestsMs()))
    const forwarder = gate && new GrpcForwarder(auth)
    if (forwarder) parts.add('forwarder', () => forwarder.close())
    const grpcApi = await createGrpcApi({
      logger,
      metrics,
      refusals,
      probes,
      time,
      operations,
      node,
      bodyBytesMax: config.bodyBytesMax,
      requestReadMs: config.requestReadMs,
      host: config.host,
      port: config.grpcPort,
      drainMs: () => stopping.requestsMs(),
      asOfAheadMsMax,
      onTenant,
      readers,
      bodies,
      answers,
      calls,
      connections: metrics.addConnections('grpc', Connections.of(config)),
      gate,
      forwarder,
      peers: replica && { handlers: replica.service, auth, logger },
    })
    parts.add('grpc', () => grpcApi.stop())

    addNodeMetrics({
      metrics,
      pool,
      activity,
      tier: config.tier,
      replica,
      changes: operations.changes,
      heavyReads,
      disk,
      room,
      bodies,
      answers,
      calls,
    })
    const ticker = setInterval(() => pool.closeIdle(), Math.min(IDLE_CHECK_MS_MAX, config.tenantIdleMs)).unref()
    parts.add('idle closing', () => clearInterval(ticker))
    let draining = false
    probes.add('serving', () => {
      if (draining) throw new PercolateError('SHUTTING_DOWN', 'draining')
    })
    if (replica) {
      const running = replica
      const host = advertisedHost(config)
      addresses.http = `${host}:${config.advertiseHttpPort ?? httpPort}`
      addresses.grpc = `${host}:${config.advertiseGrpcPort ?? grpcApi.port}`
      addClusterProbes(probes, running, config, options.stream!)
      await running.start()
      parts.add(
        'sweep',
        startSweep(running, hasPending, id => scheduler?.notify(id), pool),
      )
    }
    return {
      node,
      httpPort,
      grpcPort: grpcApi.port,
      metrics,
      replica,
      stop: async () => {
        draining = true
        await replica?.beginDrain()
        // They would last for ever; their clients come back to another node.
        operations.changes.places.close()
        // Routers look at /ready and turn away before the doors close.
        if (replica && config.drainNoticeMs > 0) await time.sleep(config.drainNoticeMs)
        stopping.begin()
        const done = new AbortController()
        const { signal } = done
        void time.sleep(config.drainMs, { signal, ref: false }).then(
          () => room.close(),
          () => {},
        )
        await replica?.handOff(config.drainMs)
        await lifecycle.stop()
        done.abort()
      },
    }
  }
}

/** How a stop shares its time: once PERCOLATE_DRAIN_MS for handing off and for requests, once for closing. */
class StopTimes {
  readonly #time: Time
  readonly #drainMs: number
  #beganAtMs: number | undefined

  constructor(time: Time, drainMs: number) {
    this.#time = time
    this.#drainMs = drainMs
  }

  begin(): void {
    this.#beganAtMs = this.#time.monotonic()
  }

  /** Until the connections of requests are cut: those that are refused at the end are answered before. */
  requestsMs(): number {
    return this.#leftMs(this.#drainMs + Math.min(this.#drainMs, LAST_ANSWERS_MS_MAX))
  }

  closingMs(): number {
    return this.#leftMs(2 * this.#drainMs)
  }

  /** A start that failed is not told to stop. */
  #leftMs(ms: number): number {
    return this.#beganAtMs === undefined ? ms : Math.max(0, this.#beganAtMs + ms - this.#time.monotonic())
  }
}

function joinCluster(
  { config, logger, time }: NodeOptions,
  parts: {
    stream: StreamPort
    dataDir: DataDir
    store: TenantStore
    pool: (hooks: TenantHooks) => TenantPool
    auth: PeerAuth
    objects: ObjectStore | undefined
    activity: Activity
    addresses: () => { http: string; grpc: string }
  },
): Replica {
  const { dataDir, store, auth, objects, ...rest } = parts
  return new Replica({
    ...rest,
    identity: {
      ...dataDir.identity,
      zone: config.zone,
      tier: config.tier,
      version: VERSION,
      ...(config.routerHost === undefined ? {} : { routerHost: config.routerHost }),
      ...(config.podName === undefined ? {} : { pod: config.podName }),
    },
    settings: replicaSettings(config),
    time,
    logger,
    copies: copyStore(store, time),
    store: {
      load: async () => ({
        placements: (await dataDir.notes('placement.')) as Placement[],
        members: (await dataDir.notes('member.')) as Member[],
      }),
      savePlacement: placement => dataDir.note(`placement.${placement.tenant}`, placement),
      saveMember: member => dataDir.note(`member.${member.node}`, member),
      loadCursor: async name => (await dataDir.notes(`cursor.${name}.`))[0] as StreamCursor | undefined,
      saveCursor: (name, cursor) => dataDir.note(`cursor.${name}.`, cursor),
    },
    peers: addressOf => new GrpcPeers({ auth, addressOf, timeoutMs: PEER_TIMEOUT_MS }),
    snapshots: objects && new SnapshotStore(objects, time, logger),
  })
}

function addClusterProbes(probes: Probes, replica: Replica, config: Config, stream: StreamPort): void {
  probes.add(
    'copies',
    () => {
      const left = replica.firstCopies.left()
      if (left === 0) return
      throw new PercolateError(
        'TENANT_UNAVAILABLE',
        left === undefined
          ? 'not a member of the cluster yet'
          : `${left} of the copies that this node started with are being checked or made anew; other nodes answer for them`,
      )
    },
    { required: 'copies' },
  )
  probes.add('cluster', () => {
    if (replica.membership.isFenced)
      throw new PercolateError('NODE_ID_IN_USE', 'another process runs under this node id')
    if (replica.state !== 'starting') return
    const awaited = replica.directory.unreported
    throw new PercolateError(
      'PLACEMENT_UNKNOWN',
      awaited.length === 0
        ? 'not a member of the cluster yet'
        : `not a member of the cluster yet: the directory was lost, and ${awaited.slice(0, NAMED_MAX).join(', ')} ${awaited.length > 1 ? 'have' : 'has'} not entered all tenants yet`,
    )
  })
  probes.add(
    'directory',
    () => {
      if (!replica.directory.isWatching) throw new PercolateError('PLACEMENT_UNKNOWN', 'the cluster directory is away')
    },
    { required: false },
  )
  if (config.mode !== 'production') return
  let known: number | undefined
  probes.add('stream-replicas', async () => {
    try {
      known = (await stream.streamInfo(`KV_${subjects.clusterBucket}`))?.replicas ?? 0
    } catch (error) {
      // While NATS is away, reads and local writes go on: what was right before is not wrong for that.
      if (known === undefined) throw error
    }
    if (known < DIRECTORY_REPLICAS_MIN)
      throw new PercolateError(
        'STREAM_UNAVAILABLE',
        `production needs ${DIRECTORY_REPLICAS_MIN} NATS servers; the cluster directory has ${known} copies`,
      )
  })
}

/** After a start, each tenant that lacks embeddings is queued for them, when its copy is current. */
function startSweep(
  replica: Replica,
  hasPending: (id: TenantId) => Promise<boolean>,
  onPending: (id: TenantId) => void,
  pool: TenantPool,
): () => Promise<void> {
  let stopped = false
  const sweeping = (async () => {
    for (const id of replica.copies.tenants()) {
      while (!stopped && replica.copies.state(id) === 'verifying')
        await new Promise(resolve => setTimeout(resolve, 50).unref())
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
