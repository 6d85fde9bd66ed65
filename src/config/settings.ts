/**
 * The one table of settings: environment variable, flag, type, default, unit and meaning. `load.ts` checks everything at once from it, `docs/config.md`
 * is generated from it, and the command line's flags come from it.
 */
export type Role = 'up' | 'node' | 'worker' | 'gateway'

interface Base {
  /** `PERCOLATE_…`; the flag is the same in kebab case: `PERCOLATE_HTTP_PORT` and `--http-port`. */
  readonly env: string
  readonly roles: readonly Role[]
  readonly doc: string
  /** Never printed, logged, or taken from a flag (which `ps` would show). */
  readonly secret?: boolean
}
export interface TextSetting extends Base {
  readonly type: 'text' | 'path' | 'url'
  readonly default?: string
  readonly pattern?: string
}
export interface ChoiceSetting extends Base {
  readonly type: 'choice'
  readonly choices: readonly string[]
  readonly default: string
}
export interface NumberSetting extends Base {
  readonly type: 'integer'
  readonly default?: number
  readonly min: number
  readonly max: number
  readonly unit?: string
}
export type Setting = TextSetting | ChoiceSetting | NumberSetting

const ALL: readonly Role[] = ['up', 'node', 'worker', 'gateway']
const DATABASE: readonly Role[] = ['up', 'node']
const GATEWAY: readonly Role[] = ['up', 'gateway']
const WORKER: readonly Role[] = ['up', 'worker']
const MIB = 1024 * 1024

export const settings = {
  dataDir: {
    env: 'PERCOLATE_DATA_DIR',
    type: 'path',
    default: './data',
    roles: DATABASE,
    doc: 'Where everything is kept.',
  },
  host: {
    env: 'PERCOLATE_HOST',
    type: 'text',
    default: '127.0.0.1',
    roles: ALL,
    doc: 'Address that servers listen on. Anything but loopback is open to the network: nothing is authenticated yet.',
  },
  httpPort: {
    env: 'PERCOLATE_HTTP_PORT',
    type: 'integer',
    default: 8080,
    min: 0,
    max: 65535,
    roles: DATABASE,
    doc: 'HTTP API of the database node; 0 takes a free port.',
  },
  grpcPort: {
    env: 'PERCOLATE_GRPC_PORT',
    type: 'integer',
    default: 50051,
    min: 0,
    max: 65535,
    roles: DATABASE,
    doc: 'gRPC API of the database node; 0 takes a free port.',
  },
  gatewayPort: {
    env: 'PERCOLATE_GATEWAY_PORT',
    type: 'integer',
    default: 8081,
    min: 0,
    max: 65535,
    roles: GATEWAY,
    doc: 'Upload gateway; 0 takes a free port.',
  },
  workerPort: {
    env: 'PERCOLATE_WORKER_PORT',
    type: 'integer',
    default: 8082,
    min: 0,
    max: 65535,
    roles: ['worker'],
    doc: "The worker's `/health`, `/ready` and `/metrics`; 0 takes a free port.",
  },
  nodeId: {
    env: 'PERCOLATE_NODE_ID',
    type: 'text',
    pattern: '^[a-zA-Z0-9][a-zA-Z0-9_-]{0,62}$',
    roles: DATABASE,
    doc: 'Name of the node; default: made with the data directory and kept in it.',
  },
  tier: {
    env: 'PERCOLATE_TIER',
    type: 'text',
    default: 'small',
    pattern: '^[a-z0-9][a-z0-9_-]{0,31}$',
    roles: ALL,
    doc: 'Tier whose tenants are served and whose jobs are pulled.',
  },
  natsUrl: {
    env: 'PERCOLATE_NATS_URL',
    type: 'text',
    secret: true,
    roles: ALL,
    doc: 'NATS servers, separated by commas, such as `nats://127.0.0.1:4222`. `up` starts its own when this is not set; a `node` without it keeps changes to itself. May contain credentials.',
  },
  natsPort: {
    env: 'PERCOLATE_NATS_PORT',
    type: 'integer',
    default: 0,
    min: 0,
    max: 65535,
    roles: ['up'],
    doc: 'Port of the embedded nats-server; 0 takes a free one.',
  },
  natsServer: {
    env: 'PERCOLATE_NATS_SERVER',
    type: 'path',
    roles: ['up'],
    doc: 'The nats-server program; default: the one on PATH, else the one that `npm run setup` fetched.',
  },
  jobReplicas: {
    env: 'PERCOLATE_JOB_REPLICAS',
    type: 'integer',
    default: 1,
    min: 1,
    max: 5,
    roles: ALL,
    doc: 'Replicas of the job streams and the job records, at most the number of NATS servers.',
  },
  s3Endpoint: {
    env: 'PERCOLATE_S3_ENDPOINT',
    type: 'url',
    roles: [...GATEWAY, 'worker'],
    doc: 'S3 endpoint for uploads. `up` serves its own on disk when this is not set.',
  },
  s3Port: {
    env: 'PERCOLATE_S3_PORT',
    type: 'integer',
    default: 0,
    min: 0,
    max: 65535,
    roles: ['up'],
    doc: 'Port of the embedded S3 endpoint; 0 takes a free one.',
  },
  s3Region: {
    env: 'PERCOLATE_S3_REGION',
    type: 'text',
    default: 'us-east-1',
    roles: [...GATEWAY, 'worker'],
    doc: 'S3 region.',
  },
  s3Bucket: {
    env: 'PERCOLATE_S3_BUCKET',
    type: 'text',
    default: 'percolate',
    pattern: '^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$',
    roles: [...GATEWAY, 'worker'],
    doc: 'Bucket for uploads; made when missing.',
  },
  s3AccessKey: {
    env: 'PERCOLATE_S3_ACCESS_KEY',
    type: 'text',
    roles: [...GATEWAY, 'worker'],
    doc: 'Access key id for `PERCOLATE_S3_ENDPOINT`.',
  },
  s3SecretKey: {
    env: 'PERCOLATE_S3_SECRET_KEY',
    type: 'text',
    secret: true,
    roles: [...GATEWAY, 'worker'],
    doc: 'Secret key for `PERCOLATE_S3_ENDPOINT`.',
  },
  nodeUrl: {
    env: 'PERCOLATE_NODE_URL',
    type: 'url',
    default: 'http://127.0.0.1:8080',
    roles: ['worker'],
    doc: 'Where workers reach the database (a node, or the router in front of nodes).',
  },
  bodyBytesMax: {
    env: 'PERCOLATE_BODY_BYTES_MAX',
    type: 'integer',
    default: 4 * MIB,
    min: 1024,
    max: 64 * MIB,
    unit: 'bytes',
    roles: DATABASE,
    doc: 'Largest request body of the HTTP and gRPC APIs. A larger one holds the event loop longer while it is parsed.',
  },
  openTenantsMax: {
    env: 'PERCOLATE_OPEN_TENANTS_MAX',
    type: 'integer',
    default: 256,
    min: 1,
    max: 10000,
    roles: DATABASE,
    doc: 'Tenant databases open at once (about 8 file descriptors each).',
  },
  tenantMemoryBytes: {
    env: 'PERCOLATE_TENANT_MEMORY_BYTES',
    type: 'integer',
    default: 512 * MIB,
    min: 16 * MIB,
    max: 1024 * 1024 * MIB,
    unit: 'bytes',
    roles: DATABASE,
    doc: 'Estimated memory of all open tenants (write buffers, block caches, vectors); beyond it the least recently used close.',
  },
  tenantIdleMs: {
    env: 'PERCOLATE_TENANT_IDLE_MS',
    type: 'integer',
    default: 300_000,
    min: 100,
    max: 86_400_000,
    unit: 'ms',
    roles: DATABASE,
    doc: 'An unused tenant database closes after this long.',
  },
  writeBufferBytes: {
    env: 'PERCOLATE_WRITE_BUFFER_BYTES',
    type: 'integer',
    default: 1 * MIB,
    min: 64 * 1024,
    max: 256 * MIB,
    unit: 'bytes',
    roles: DATABASE,
    doc: 'RocksDB memtable of one tenant.',
  },
  blockCacheBytes: {
    env: 'PERCOLATE_BLOCK_CACHE_BYTES',
    type: 'integer',
    default: 4 * MIB,
    min: 64 * 1024,
    max: 1024 * MIB,
    unit: 'bytes',
    roles: DATABASE,
    doc: 'RocksDB block cache of one tenant.',
  },
  outboxBytesMax: {
    env: 'PERCOLATE_OUTBOX_BYTES_MAX',
    type: 'integer',
    default: 256 * MIB,
    min: 1024,
    max: 1024 * 1024 * MIB,
    unit: 'bytes',
    roles: DATABASE,
    doc: "Unpublished changes of one tenant; beyond it that tenant's writes get 503 until the stream is back.",
  },
  diskReserveBytes: {
    env: 'PERCOLATE_DISK_RESERVE_BYTES',
    type: 'integer',
    default: 64 * MIB,
    min: 0,
    max: 1024 ** 5,
    unit: 'bytes',
    roles: DATABASE,
    doc: 'Free space of the data directory below which writes are refused (507), before RocksDB would stall on a full disk.',
  },
  syncMaxAgeMs: {
    env: 'PERCOLATE_SYNC_MAX_AGE_MS',
    type: 'integer',
    default: 7 * 86_400_000,
    min: 60_000,
    max: 90 * 86_400_000,
    unit: 'ms',
    roles: DATABASE,
    doc: "How long a tenant's sync stream keeps changes.",
  },
  activeWindowMs: {
    env: 'PERCOLATE_ACTIVE_WINDOW_MS',
    type: 'integer',
    default: 300_000,
    min: 100,
    max: 86_400_000,
    unit: 'ms',
    roles: DATABASE,
    doc: 'A tenant counts as active for this long after a request.',
  },
  drainMs: {
    env: 'PERCOLATE_DRAIN_MS',
    type: 'integer',
    default: 15_000,
    min: 100,
    max: 600_000,
    unit: 'ms',
    roles: ALL,
    doc: 'How long a stopping process waits for running requests and jobs.',
  },
  uploadBytesMax: {
    env: 'PERCOLATE_UPLOAD_BYTES_MAX',
    type: 'integer',
    default: 5 * 1024 * MIB,
    min: 1024,
    max: 48 * 1024 * MIB,
    unit: 'bytes',
    roles: GATEWAY,
    doc: 'Largest uploaded file.',
  },
  uploadsMax: {
    env: 'PERCOLATE_UPLOADS_MAX',
    type: 'integer',
    default: 4,
    min: 1,
    max: 1000,
    roles: GATEWAY,
    doc: 'Uploads that stream to S3 at once; others wait. Each takes two parts of 5 MiB and what the collector has not taken back yet.',
  },
  uploadsWaitingMax: {
    env: 'PERCOLATE_UPLOADS_WAITING_MAX',
    type: 'integer',
    default: 500,
    min: 0,
    max: 100_000,
    roles: GATEWAY,
    doc: 'Uploads that wait for their turn before new ones get 503.',
  },
  uploadIdleMs: {
    env: 'PERCOLATE_UPLOAD_IDLE_MS',
    type: 'integer',
    default: 30_000,
    min: 100,
    max: 3_600_000,
    unit: 'ms',
    roles: GATEWAY,
    doc: 'An upload whose client sends nothing for this long is dropped.',
  },
  jobAttemptsMax: {
    env: 'PERCOLATE_JOB_ATTEMPTS_MAX',
    type: 'integer',
    default: 5,
    min: 1,
    max: 100,
    roles: WORKER,
    doc: 'How often a job is started before it is dead-lettered.',
  },
  jobConcurrency: {
    env: 'PERCOLATE_JOB_CONCURRENCY',
    type: 'integer',
    default: 2,
    min: 1,
    max: 256,
    roles: WORKER,
    doc: 'Jobs that a worker runs at once.',
  },
  jobAckWaitMs: {
    env: 'PERCOLATE_JOB_ACK_WAIT_MS',
    type: 'integer',
    default: 30_000,
    min: 500,
    max: 3_600_000,
    unit: 'ms',
    roles: [...WORKER, 'gateway'],
    doc: 'A job whose worker is silent for this long is given to another. Must be the same everywhere.',
  },
  jobRecordMaxAgeMs: {
    env: 'PERCOLATE_JOB_RECORD_MAX_AGE_MS',
    type: 'integer',
    default: 30 * 86_400_000,
    min: 60_000,
    max: 365 * 86_400_000,
    unit: 'ms',
    roles: [...WORKER, 'gateway'],
    doc: 'How long the record of a job is kept after its last change. The job message itself never expires.',
  },
  parseTimeoutMs: {
    env: 'PERCOLATE_PARSE_TIMEOUT_MS',
    type: 'integer',
    default: 120_000,
    min: 100,
    max: 3_600_000,
    unit: 'ms',
    roles: WORKER,
    doc: 'Longest time that parsing one document may take.',
  },
  parseMemoryBytes: {
    env: 'PERCOLATE_PARSE_MEMORY_BYTES',
    type: 'integer',
    default: 768 * MIB,
    min: 64 * MIB,
    max: 64 * 1024 * MIB,
    unit: 'bytes',
    roles: WORKER,
    doc: 'Heap of the process that parses one document.',
  },
  parseBytesMax: {
    env: 'PERCOLATE_PARSE_BYTES_MAX',
    type: 'integer',
    default: 256 * MIB,
    min: 1024,
    max: 16 * 1024 * MIB,
    unit: 'bytes',
    roles: WORKER,
    doc: 'Largest document that is parsed; also the most that the parts of a DOCX or XLSX may unpack to.',
  },
  chunkChars: {
    env: 'PERCOLATE_CHUNK_CHARS',
    type: 'integer',
    default: 1200,
    min: 200,
    max: 20_000,
    unit: 'characters',
    roles: WORKER,
    doc: 'Length that chunks aim for.',
  },
  embeddingUrl: {
    env: 'PERCOLATE_EMBEDDING_URL',
    type: 'url',
    roles: [...DATABASE, 'worker'],
    doc: 'Base URL of an OpenAI-compatible API, such as `https://api.openai.com/v1`. Without it the built-in embedder is used.',
  },
  embeddingModel: {
    env: 'PERCOLATE_EMBEDDING_MODEL',
    type: 'text',
    roles: [...DATABASE, 'worker'],
    doc: 'Model id for `PERCOLATE_EMBEDDING_URL`.',
  },
  embeddingApiKey: {
    env: 'PERCOLATE_EMBEDDING_API_KEY',
    type: 'text',
    secret: true,
    roles: [...DATABASE, 'worker'],
    doc: 'API key for `PERCOLATE_EMBEDDING_URL`.',
  },
  embeddingDimensions: {
    env: 'PERCOLATE_EMBEDDING_DIMENSIONS',
    type: 'integer',
    min: 1,
    max: 4096,
    roles: [...DATABASE, 'worker'],
    doc: "Dimensions to ask the model for; default: the model's own.",
  },
  embeddingTimeoutMs: {
    env: 'PERCOLATE_EMBEDDING_TIMEOUT_MS',
    type: 'integer',
    default: 10_000,
    min: 100,
    max: 600_000,
    unit: 'ms',
    roles: [...DATABASE, 'worker'],
    doc: 'Longest wait for one answer of the embedding provider.',
  },
  embeddingCacheBytes: {
    env: 'PERCOLATE_EMBEDDING_CACHE_BYTES',
    type: 'integer',
    default: 32 * MIB,
    min: 1024,
    max: 4096 * MIB,
    unit: 'bytes',
    roles: [...DATABASE, 'worker'],
    doc: 'Vectors from the provider kept in memory.',
  },
  chatUrl: {
    env: 'PERCOLATE_CHAT_URL',
    type: 'url',
    roles: DATABASE,
    doc: 'Base URL of an OpenAI-compatible API for chat answers. Without it answers are quoted from the stored text.',
  },
  chatModel: { env: 'PERCOLATE_CHAT_MODEL', type: 'text', roles: DATABASE, doc: 'Model id for `PERCOLATE_CHAT_URL`.' },
  chatApiKey: {
    env: 'PERCOLATE_CHAT_API_KEY',
    type: 'text',
    secret: true,
    roles: DATABASE,
    doc: 'API key for `PERCOLATE_CHAT_URL`.',
  },
  chatTimeoutMs: {
    env: 'PERCOLATE_CHAT_TIMEOUT_MS',
    type: 'integer',
    default: 60_000,
    min: 100,
    max: 600_000,
    unit: 'ms',
    roles: DATABASE,
    doc: 'Longest wait for the chat model.',
  },
  logLevel: {
    env: 'PERCOLATE_LOG_LEVEL',
    type: 'choice',
    choices: ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'],
    default: 'info',
    roles: ALL,
    doc: 'How much is logged, as JSON lines on standard error.',
  },
} as const satisfies Record<string, Setting>

export type SettingName = keyof typeof settings

type ValueOf<S> = S extends { type: 'integer'; default: number }
  ? number
  : S extends { type: 'integer' }
    ? number | undefined
    : S extends { type: 'choice'; choices: readonly (infer C)[] }
      ? C
      : S extends { default: string }
        ? string
        : string | undefined

/** Checked and frozen. */
export type Config = { readonly [Name in SettingName]: ValueOf<(typeof settings)[Name]> }

export const flagOf = (setting: Setting): string =>
  `--${setting.env.slice('PERCOLATE_'.length).toLowerCase().replaceAll('_', '-')}`
