/**
 * The one table of errors. Every error that leaves a process is a {@link PercolateError} with a code from here;
 * HTTP status, gRPC status, retry class and log level follow from the code. `docs/errors.md` is generated from it.
 */

/** gRPC status numbers, as in grpc/status (https://grpc.github.io/grpc/core/md_doc_statuscodes.html). */
export const grpcStatus = {
  CANCELLED: 1,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  ABORTED: 10,
  OUT_OF_RANGE: 11,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  DATA_LOSS: 15,
} as const

/** `never`: the same request fails again; `later`: retry after a pause; `fix`: change the request or the setting first. */
export type RetryClass = 'never' | 'later' | 'fix'

export interface ErrorSpec {
  readonly http: number
  readonly grpc: number
  readonly retry: RetryClass
  readonly log: 'debug' | 'info' | 'warn' | 'error'
  readonly doc: string
}

const spec = (
  http: number,
  grpc: keyof typeof grpcStatus,
  retry: RetryClass,
  log: ErrorSpec['log'],
  doc: string,
): ErrorSpec => ({ http, grpc: grpcStatus[grpc], retry, log, doc })

export const errorTable = {
  TENANT_MISSING: spec(
    400,
    'INVALID_ARGUMENT',
    'fix',
    'debug',
    'The request has no `X-Tenant-ID` header (gRPC: `x-tenant-id` metadata).',
  ),
  TENANT_INVALID: spec(
    400,
    'INVALID_ARGUMENT',
    'fix',
    'debug',
    'The tenant id does not match `[a-z0-9][a-z0-9_-]{0,62}`.',
  ),
  INVALID_ARGUMENT: spec(
    400,
    'INVALID_ARGUMENT',
    'fix',
    'debug',
    'A field is missing, unknown, of the wrong type or out of range; the detail names it.',
  ),
  INVALID_JSON: spec(400, 'INVALID_ARGUMENT', 'fix', 'debug', 'The body is not valid JSON, or not UTF-8.'),
  INVALID_CURSOR: spec(
    400,
    'INVALID_ARGUMENT',
    'fix',
    'debug',
    'The cursor is malformed, or belongs to another listing, query or tenant.',
  ),
  INVALID_CLOCK: spec(
    400,
    'INVALID_ARGUMENT',
    'fix',
    'debug',
    'The `X-Percolate-As-Of` clock is malformed or lies in the future.',
  ),
  CLOCK_SETTLED: spec(
    409,
    'FAILED_PRECONDITION',
    'fix',
    'info',
    'The `X-Percolate-As-Of` clock lies below the garbage collection floor: deletes from that time are forgotten.',
  ),
  INVALID_BOOKMARK: spec(
    400,
    'INVALID_ARGUMENT',
    'fix',
    'debug',
    'The `X-Percolate-Bookmark` is malformed, or belongs to another tenant or an erased one. A write waits for nothing that its bookmark names: it is done all the same, and takes nothing from one of another tenant.',
  ),
  BOOKMARK_NOT_REACHED: spec(
    503,
    'UNAVAILABLE',
    'later',
    'info',
    'No holder that could be asked has applied the bookmark yet. When it lasts, the write that it names was lost or set aside: see the guide for when to drop it.',
  ),
  DURABILITY_NOT_REACHED: spec(
    503,
    'UNAVAILABLE',
    'later',
    'warn',
    'The write stands, at a lower durability than asked for; `X-Percolate-Durability` says which, `X-Percolate-Bookmark` where.',
  ),
  CHANGES_EXPIRED: spec(
    410,
    'OUT_OF_RANGE',
    'fix',
    'info',
    'The change feed no longer reaches back to that position; read anew with the `bookmark` of the answer as `X-Percolate-Bookmark`, then follow from its `cursor`.',
  ),
  TENANT_UNAVAILABLE: spec(
    503,
    'UNAVAILABLE',
    'later',
    'warn',
    'No node that holds the tenant can be reached, or none has caught up yet.',
  ),
  PLACEMENT_UNKNOWN: spec(
    503,
    'UNAVAILABLE',
    'later',
    'warn',
    'Who holds the tenant cannot be known now: the cluster directory is away or being rebuilt.',
  ),
  HOME_UNAVAILABLE: spec(
    503,
    'UNAVAILABLE',
    'later',
    'warn',
    "Conditional writes and reads at the home need the tenant's home, which is away or changing.",
  ),
  MISDIRECTED: spec(
    421,
    'UNAVAILABLE',
    'later',
    'debug',
    'A node forwarded the request here, but this node does not serve the tenant; the sender asks another.',
  ),
  PEER_FORBIDDEN: spec(
    403,
    'FAILED_PRECONDITION',
    'never',
    'warn',
    'The request claims to come from a node of the cluster and does not prove it.',
  ),
  ENTRY_REFUSED: spec(
    422,
    'INVALID_ARGUMENT',
    'never',
    'warn',
    'A replication entry is malformed, too large, of another tenant or incarnation, or of an unknown version.',
  ),
  CLOCK_SKEWED: spec(
    503,
    'UNAVAILABLE',
    'later',
    'error',
    "This node's wall clock is further from the cluster's than allowed; writes are refused, reads go on.",
  ),
  NODE_ID_IN_USE: spec(
    500,
    'FAILED_PRECONDITION',
    'fix',
    'error',
    'Another process of the cluster runs under the same node id.',
  ),
  SNAPSHOT_INVALID: spec(
    422,
    'DATA_LOSS',
    'fix',
    'error',
    'A snapshot is cut short, altered, or of another tenant, incarnation or version; nothing of it is used.',
  ),
  CONFLICT: spec(409, 'ABORTED', 'later', 'info', 'Another process changed the same thing first.'),
  EMBEDDING_INVALID: spec(
    400,
    'INVALID_ARGUMENT',
    'fix',
    'debug',
    'An embedding has the wrong length, or a component that is not a finite number.',
  ),
  EMBEDDING_MODEL_MISMATCH: spec(
    409,
    'FAILED_PRECONDITION',
    'fix',
    'warn',
    "The tenant's vectors come from another embedding model or have other dimensions; they cannot be mixed.",
  ),
  NOT_FOUND: spec(404, 'NOT_FOUND', 'never', 'debug', 'The record does not exist for this tenant.'),
  ROUTE_NOT_FOUND: spec(404, 'UNIMPLEMENTED', 'never', 'debug', 'No such route.'),
  REQUEST_MALFORMED: spec(
    400,
    'INVALID_ARGUMENT',
    'fix',
    'debug',
    'What came is no request: HTTP cannot read it, its body comes in thousands of chunks of a few bytes, or the gRPC call has no message, several, or one that does not decode.',
  ),
  HEADERS_TOO_LARGE: spec(431, 'RESOURCE_EXHAUSTED', 'fix', 'debug', 'Request line and headers exceed 16 KiB.'),
  REQUEST_TIMEOUT: spec(
    408,
    'DEADLINE_EXCEEDED',
    'later',
    'debug',
    'The request did not come in time: see `PERCOLATE_REQUEST_READ_MS`, also for gRPC calls until the client has ended its side, and for a message of a stream.',
  ),
  READER_STALLED: spec(
    408,
    'RESOURCE_EXHAUSTED',
    'later',
    'info',
    'The client took nothing of an answer for `PERCOLATE_READER_STALL_MS`, or not all of a large one while others need its room, and is cut off; read faster, ask for less at once, or go on from the last cursor. A write whose answer was cut off may have been done.',
  ),
  METHOD_NOT_ALLOWED: spec(405, 'UNIMPLEMENTED', 'fix', 'debug', 'The route exists with other methods only.'),
  PRECONDITION_FAILED: spec(
    412,
    'FAILED_PRECONDITION',
    'fix',
    'debug',
    '`If-Match` or `If-None-Match` does not hold for the record as it is now.',
  ),
  CLOCK_NOT_LATER: spec(
    409,
    'FAILED_PRECONDITION',
    'fix',
    'debug',
    'A condition came with an `X-Percolate-As-Of` that is not later than what the record has: the write would be overtaken at once, and nobody would see it.',
  ),
  BODY_TOO_LARGE: spec(
    413,
    'RESOURCE_EXHAUSTED',
    'fix',
    'debug',
    'The body, one field of it, or what an entity or edge would become with it, is larger than its limit; the detail says what to do (send less at once, upload a file, remove what is not needed).',
  ),
  UNSUPPORTED_MEDIA_TYPE: spec(
    415,
    'INVALID_ARGUMENT',
    'fix',
    'debug',
    'The content type is not one that the route takes.',
  ),
  COMPRESSION_UNSUPPORTED: spec(
    415,
    'UNIMPLEMENTED',
    'fix',
    'debug',
    'Messages of gRPC calls are not taken compressed; send them without (`grpc-encoding: identity`, the default of every client).',
  ),
  EXPECTATION_FAILED: spec(
    417,
    'INVALID_ARGUMENT',
    'fix',
    'debug',
    'The request has an `Expect` other than `100-continue`.',
  ),
  UPLOAD_INVALID: spec(
    400,
    'INVALID_ARGUMENT',
    'fix',
    'debug',
    'The multipart upload has no part `file`, or the file is empty or cut short.',
  ),
  UPLOAD_TOO_LARGE: spec(413, 'RESOURCE_EXHAUSTED', 'fix', 'info', 'The uploaded file is larger than the limit.'),
  UPLOAD_STALLED: spec(
    408,
    'DEADLINE_EXCEEDED',
    'later',
    'info',
    'The client sent nothing, or too little, for longer than the limit, was the slowest while others waited, or took longer than an upload may; nothing was kept.',
  ),
  JOB_STATE: spec(409, 'FAILED_PRECONDITION', 'fix', 'info', 'The job is not in a state that allows this.'),
  DOCUMENT_UNSUPPORTED: spec(
    422,
    'INVALID_ARGUMENT',
    'fix',
    'info',
    'The document is of a type that no parser takes, or not of the type that it claims to be.',
  ),
  DOCUMENT_DAMAGED: spec(422, 'INVALID_ARGUMENT', 'fix', 'info', 'The document is truncated or corrupt.'),
  DOCUMENT_ENCRYPTED: spec(422, 'INVALID_ARGUMENT', 'fix', 'info', 'The document is protected by a password.'),
  DOCUMENT_TOO_COSTLY: spec(
    422,
    'RESOURCE_EXHAUSTED',
    'fix',
    'warn',
    'Parsing the document would exceed a bound on size, processor time or memory (a zip bomb does).',
  ),
  DOCUMENT_EMPTY: spec(422, 'INVALID_ARGUMENT', 'fix', 'info', 'The document contains no text.'),
  TOO_BUSY: spec(503, 'UNAVAILABLE', 'later', 'warn', 'A bounded queue is full; retry after `Retry-After`.'),
  OUTBOX_FULL: spec(
    503,
    'UNAVAILABLE',
    'later',
    'error',
    'Unpublished changes have reached their byte limit because the stream is away; writes are refused, reads go on.',
  ),
  DISK_FULL: spec(
    507,
    'RESOURCE_EXHAUSTED',
    'later',
    'error',
    'Less disk space is free than the reserve; writes are refused until there is more, reads go on. A write that met a disk without room has it too, and those that were under way beside it: the detail says then that what became of it is not known, as of [answers that no node gave](#answers-that-no-node-gave). As a node starts, or opens a tenant: there is not even room to open a database; free space, or take a larger volume.',
  ),
  SHUTTING_DOWN: spec(503, 'UNAVAILABLE', 'later', 'info', 'The process is draining.'),
  STREAM_UNAVAILABLE: spec(503, 'UNAVAILABLE', 'later', 'warn', 'NATS JetStream cannot be reached.'),
  STREAM_FULL: spec(
    503,
    'UNAVAILABLE',
    'later',
    'error',
    'A stream in NATS JetStream is at its byte limit, or the servers have no room for another one.',
  ),
  OBJECT_STORE_UNAVAILABLE: spec(
    503,
    'UNAVAILABLE',
    'later',
    'warn',
    'The S3 endpoint cannot be reached or refuses the request, or its disk is full; nothing of an upload was kept.',
  ),
  NODE_UNAVAILABLE: spec(
    503,
    'UNAVAILABLE',
    'later',
    'warn',
    'The database node cannot be reached, or was lost while it worked on a request that another had sent on to it: the detail says then that what a write did is not known, as of [answers that no node gave](#answers-that-no-node-gave).',
  ),
  EMBEDDING_UNAVAILABLE: spec(
    503,
    'UNAVAILABLE',
    'later',
    'warn',
    'The embedding provider cannot be reached or refuses the request.',
  ),
  CHAT_UNAVAILABLE: spec(
    503,
    'UNAVAILABLE',
    'later',
    'warn',
    'The chat model endpoint cannot be reached or refuses the request.',
  ),
  DEADLINE_EXCEEDED: spec(
    504,
    'DEADLINE_EXCEEDED',
    'later',
    'info',
    'The deadline passed before the answer was ready.',
  ),
  CANCELLED: spec(
    499,
    'CANCELLED',
    'never',
    'debug',
    'The client went away. A write that was under way is either not made at all or stands as a whole.',
  ),
  CONFIG_INVALID: spec(
    500,
    'FAILED_PRECONDITION',
    'fix',
    'error',
    'A setting is wrong; start-up is refused and every wrong setting is named.',
  ),
  DATA_DIR_IN_USE: spec(
    500,
    'FAILED_PRECONDITION',
    'fix',
    'error',
    'Another Percolate process holds the data directory.',
  ),
  PORT_IN_USE: spec(500, 'FAILED_PRECONDITION', 'fix', 'error', 'Another process listens on the port.'),
  FORMAT_UNSUPPORTED: spec(
    500,
    'DATA_LOSS',
    'fix',
    'error',
    'Data on disk was written in a format that this version does not read.',
  ),
  DATA_CORRUPT: spec(500, 'DATA_LOSS', 'never', 'error', 'Data on disk does not decode or contradicts itself.'),
  STORAGE_FAILED: spec(
    500,
    'INTERNAL',
    'later',
    'error',
    'RocksDB failed to read or write (I/O error). What became of a write, also of one beside it, is not known when the detail says so, as of [answers that no node gave](#answers-that-no-node-gave).',
  ),
  INTERNAL: spec(
    500,
    'INTERNAL',
    'never',
    'error',
    'A defect in Percolate; the log has the details under the request id.',
  ),
} as const satisfies Record<string, ErrorSpec>

export type ErrorCode = keyof typeof errorTable

/** Members of an answer that a client also looks for where a success has them, and what nodes tell one another: the header or metadata of the same meaning. */
export const headerOfExtra: Readonly<Record<string, string>> = {
  bookmark: 'x-percolate-bookmark',
  lacks: 'x-percolate-lacks',
  durability: 'x-percolate-durability',
}

export interface ErrorOptions {
  /** The request field at fault, as a path such as `resources[3].content`. */
  readonly field?: string
  /** When to come back, seconds. */
  readonly retryAfterS?: number
  /** Further members of the answer, such as a cursor to go on from. */
  readonly extra?: Readonly<Record<string, string>>
  readonly cause?: unknown
}

/** The only error that crosses a boundary. The message is for the person who made the request: never put a secret into it. */
export class PercolateError extends Error {
  override readonly name = 'PercolateError'
  readonly code: ErrorCode
  readonly field: string | undefined
  readonly retryAfterS: number | undefined
  readonly extra: Readonly<Record<string, string>> | undefined

  constructor(code: ErrorCode, message: string, options: ErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.field = options.field
    this.extra = options.extra
    this.retryAfterS = options.retryAfterS ?? (errorTable[code].http === 503 ? 1 : undefined)
  }

  get spec(): ErrorSpec {
    return errorTable[this.code]
  }
}

/** RFC 9457 problem details, with `code` as the stable extension member. */
export interface Problem {
  type: string
  title: string
  status: number
  code: ErrorCode
  detail: string
  field?: string
  request_id?: string
}

/** Characters of an error's text and of its field that are sent: they may show what a client sent, which is megabytes long at times, and routers take some 15 KiB of trailers of a gRPC call (HAProxy), in which a character has up to nine bytes. */
export const ERROR_TEXT_CHARS_MAX = 1024

/** As much of an error's text as is sent. */
export const shortened = (text: string): string =>
  text.length > ERROR_TEXT_CHARS_MAX ? `${text.slice(0, ERROR_TEXT_CHARS_MAX - 1)}…` : text

export function toProblem(error: PercolateError, requestId?: string): Problem {
  return {
    type: `https://percolate.dev/errors/${error.code.toLowerCase().replaceAll('_', '-')}`,
    title: titleOf(error.code),
    status: error.spec.http,
    code: error.code,
    detail: shortened(error.message),
    ...(error.field === undefined ? {} : { field: error.field.slice(0, ERROR_TEXT_CHARS_MAX) }),
    ...(requestId === undefined ? {} : { request_id: requestId }),
    ...error.extra,
  }
}

const titleOf = (code: ErrorCode) => {
  const words = code.toLowerCase().replaceAll('_', ' ')
  return words.charAt(0).toUpperCase() + words.slice(1)
}

export const isErrorCode = (value: unknown): value is ErrorCode => typeof value === 'string' && value in errorTable

/** What is not ours becomes INTERNAL; the original stays as `cause` for the log and never reaches a client. */
export function toPercolateError(error: unknown): PercolateError {
  if (error instanceof PercolateError) return error
  return new PercolateError('INTERNAL', 'Internal error; the server log has the details under this request id.', {
    cause: error,
  })
}

export const errorMessage = (error: unknown): string => (error instanceof Error ? error.message : String(error))
