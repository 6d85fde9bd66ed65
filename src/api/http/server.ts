import { isUtf8 } from 'node:buffer'
import { randomUUID } from 'node:crypto'
import { lookup } from 'node:dns/promises'
import fastify, {
  type FastifyBaseLogger,
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  LogController,
} from 'fastify'
import { boundConnections } from '../../base/bound-connections.ts'
import type { Connections } from '../../base/connections.ts'
import { headerOfExtra, PercolateError, toPercolateError, toProblem } from '../../base/errors.ts'
import { bodyRefusal, gatherBodies } from '../../base/gathered-bodies.ts'
import { assertEndToEnd } from '../../base/hop-by-hop.ts'
import { BODY_PARTS_MAX } from '../../base/limits.ts'
import { assertExpectsNothing, closeBehindHalf, isHalf, takeExpectations } from '../../base/linger.ts'
import { listenError } from '../../base/listen-error.ts'
import type { Logger } from '../../base/logger.ts'
import type { Metrics } from '../../base/metrics.ts'
import { boundPipelined } from '../../base/pipelined.ts'
import type { Probes } from '../../base/probes.ts'
import { Refusals } from '../../base/refusals.ts'
import { PEER_HEADER } from '../../replication/auth.ts'
import { bodyAjv, queryAjv, validationError } from '../validate.ts'
import { answerClientErrors } from './client-error.ts'
import { refuseConditions } from './conditions.ts'
import { BODY_DEPTH_MAX, ENTRIES_MAX, memberWithTooMuch } from './count-values.ts'
import { LastWord } from './last-word.ts'
import { cutOffStalled } from './stalled.ts'

export interface HttpServerOptions {
  readonly logger: Logger
  readonly metrics: Metrics
  readonly probes: Probes
  /** Where errors are counted and told; default: one of its own. */
  readonly refusals?: Refusals
  readonly connections: Connections
  readonly bodyBytesMax: number
  /** How long a client may take to send a request, ms; a quarter of it for the headers. */
  readonly requestReadMs: number
  /** How long a client may take nothing of an answer, ms. */
  readonly readerStallMs: number
  /** Paths (and what is below them) that are served by another part, and where that is. */
  readonly elsewhere?: Readonly<Record<string, string>>
  /** A database node, which every answer names. */
  readonly node?: string
  /** A database node: it is asked whether its copies can be used, too. */
  readonly hasCopies?: boolean
}

/** Set on a route's config: what the request duration is counted under. Default: method and pattern. */
declare module 'fastify' {
  interface FastifyContextConfig {
    operation?: string
    /** Values that a JSON body may have, about, and what to say of one with more. */
    bodyValues?: { readonly max: number; readonly remedy: string }
  }
}

const CONNECTIONS_CHECK_MS = 5000
/** Characters of a member's name that an error shows. */
const FIELD_CHARS_MAX = 80
const lastWords = new WeakMap<FastifyInstance, LastWord>()
const REQUEST_ID = /^[A-Za-z0-9._-]{1,64}$/

/** A Fastify server with what every role's server has: request ids, errors as problem details, metrics, probes. */
export function createHttpServer(options: HttpServerOptions): FastifyInstance {
  const { logger, metrics, probes, refusals = new Refusals({ logger, metrics }) } = options
  const app = fastify({
    loggerInstance: logger as FastifyBaseLogger,
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: options.bodyBytesMax,
    requestTimeout: options.requestReadMs,
    http: {
      headersTimeout: Math.ceil(options.requestReadMs / 4),
      connectionsCheckingInterval: Math.ceil(Math.min(CONNECTIONS_CHECK_MS, options.requestReadMs / 8)),
    },
    forceCloseConnections: 'idle',
    // Its own answer has no code.
    return503OnClosing: false,
    keepAliveTimeout: 65_000,
    genReqId: request => {
      const given = request.headers['x-request-id']
      return typeof given === 'string' && REQUEST_ID.test(given) ? given : randomUUID()
    },
    routerOptions: { maxParamLength: 4096, ignoreTrailingSlash: true },
    clientErrorHandler: answerClientErrors(metrics),
    frameworkErrors: (error, request, reply) => {
      closeBehindHalf(request.raw, reply.raw)
      sendError(error, request, reply, refusals)
    },
  })
  boundPipelined(app.server)
  gatherBodies(app.server)
  takeExpectations(app.server)
  boundConnections(app.server, options.connections)
  lastWords.set(app, new LastWord(app.server))
  closeBehindHalves(app)
  cutOffStalled(app.server, options.readerStallMs, () => metrics.countError('READER_STALLED'))
  app.setValidatorCompiler(({ schema, httpPart }) => {
    if ((schema as { 'x-checked-by-handler'?: boolean })['x-checked-by-handler'] || httpPart === 'headers')
      return value => ({ value })
    const ajv = httpPart === 'body' ? bodyAjv : queryAjv
    const validate = ajv.compile(schema as object)
    return value =>
      validate(value)
        ? { value }
        : {
            error: validationError(
              validate.errors ?? [],
              httpPart === 'querystring' ? 'query' : (httpPart ?? 'request'),
            ),
          }
  })
  const parseJson = app.getDefaultJsonParser('error', 'error')
  // Decoding is lenient: different bytes that are no UTF-8 would become the same text, and different ids one.
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request, body: Buffer, done) => {
    const invalid = (code: 'INVALID_JSON' | 'INVALID_ARGUMENT', message: string, field = 'body') =>
      done(new PercolateError(code, message, { field }))
    if (!isUtf8(body)) return invalid('INVALID_JSON', 'The body is not valid UTF-8; encode its text as UTF-8.')
    const { bodyValues } = request.routeOptions.config
    const tooMuch = memberWithTooMuch(body, bodyValues?.max ?? Number.POSITIVE_INFINITY)
    if (tooMuch) {
      const field = tooMuch.member.slice(0, FIELD_CHARS_MAX)
      const why = {
        levels: `is nested deeper than ${BODY_DEPTH_MAX} levels; send it flatter.`,
        entries: `has an object or a list with more than ${ENTRIES_MAX} entries; send fewer.`,
        parts: `has more than the ${BODY_PARTS_MAX} members, objects and lists that a body has room for; send it in several requests.`,
        values: `has more values than a body of ${bodyValues?.max} has room for; ${bodyValues?.remedy}`,
      }[tooMuch.of]
      return invalid('INVALID_ARGUMENT', `${field} ${why}`, field)
    }
    return parseJson(request, body.toString(), done)
  })
  app.setSerializerCompiler(() => value => JSON.stringify(value))
  app.setErrorHandler((error, request, reply) => sendError(error, request, reply, refusals))

  const elsewhere = (path: string) =>
    Object.entries(options.elsewhere ?? {}).find(([prefix]) => path === prefix || path.startsWith(`${prefix}/`))?.[1]
  const methods = new Map<string, Set<string>>()
  app.addHook('onRoute', route => {
    const known = methods.get(route.url) ?? new Set()
    for (const method of [route.method].flat()) known.add(method)
    methods.set(route.url, known)
  })
  const notFound = (request: FastifyRequest, reply: FastifyReply): PercolateError => {
    const path = request.url.split('?')[0]!
    const parts = partsOf(path)
    const allowed = parts && [...methods].find(([pattern]) => matchesPattern(pattern, parts))?.[1]
    if (!allowed || allowed.has(request.method))
      return new PercolateError(
        'ROUTE_NOT_FOUND',
        `There is no ${request.method} ${path.slice(0, 200)} here; ${elsewhere(path) ?? '/docs lists the routes'}.`,
      )
    void reply.header('allow', [...allowed].join(', '))
    return new PercolateError(
      'METHOD_NOT_ALLOWED',
      `${request.method} is not offered here; use ${[...allowed].join(' or ')}.`,
    )
  }
  app.setNotFoundHandler((request, reply) => sendError(notFound(request, reply), request, reply, refusals))

  let isClosing = false
  app.addHook('preClose', async () => {
    isClosing = true
  })
  app.addHook('onClose', async () => refusals.flush())
  app.addHook('onRequest', async (request, reply) => {
    void reply.header('x-request-id', request.id)
    // Came on a connection that was in use when the server began to close; Fastify closes it behind the answer.
    if (isClosing)
      throw request.headers[PEER_HEADER] === undefined
        ? new PercolateError('SHUTTING_DOWN', 'This process is draining; retry on another.')
        : new PercolateError('MISDIRECTED', 'This node is draining, and has done nothing; ask another.')
    // Who forwarded the request puts its own name over the second.
    if (options.node !== undefined)
      void reply.header('x-percolate-node', options.node).header('x-percolate-entry-node', options.node)
    // Before its body is read.
    assertExpectsNothing(request.raw)
    if (request.is404) throw notFound(request, reply)
    assertEndToEnd(request.headers)
    refuseConditions(request)
  })
  app.addHook('preParsing', (request, _reply, payload, done) => done(bodyRefusal(request.raw) ?? null, payload))
  app.addHook('onResponse', async (request, reply) => {
    const operation =
      request.routeOptions.config?.operation ?? `${request.method} ${request.routeOptions.url ?? 'unknown'}`
    metrics.observeRequest('http', operation, String(reply.statusCode), reply.elapsedTime / 1000)
  })

  app.get('/health', { schema: { tags: ['operations'], summary: 'The process runs' } }, async () => ({ status: 'ok' }))
  const ready = (path: string, summary: string, copies: boolean) =>
    app.get(path, { schema: { tags: ['operations'], summary } }, async (_request, reply) => {
      const { ready, probes: results } = await probes.check({ copies })
      return reply.code(ready ? 200 : 503).send({ status: ready ? 'ready' : 'not ready', probes: results })
    })
  ready('/ready', 'The process can do its work: named probes, 503 when one fails', false)
  if (options.hasCopies)
    ready(
      '/ready/copies',
      'The same, and the copies that the node started with can be used again: for rolling updates, which must not take the next node before',
      true,
    )
  app.get(
    '/metrics',
    { config: { isForOperators: true }, schema: { tags: ['operations'], summary: 'Prometheus metrics' } },
    async (_request, reply) => reply.type(metrics.registry.contentType).send(await metrics.registry.metrics()),
  )
  return app
}

/** See {@link closeBehindHalf}. */
export function closeBehindHalves(app: FastifyInstance): void {
  app.addHook('onSend', ({ raw: request }, { raw: response }, _payload, done) => {
    if (!isHalf(request)) return done()
    // What came in one piece with the head is looked at first.
    setImmediate(() => {
      closeBehindHalf(request, response)
      done()
    })
  })
}

/** Parts of a path, more than any route has. */
const PARTS_MAX = 16

/** The parts of a path, without empty ones at its end; undefined: more than routes have. Looked at once from its end: a path is up to 16 KiB of slashes. */
function partsOf(path: string): string[] | undefined {
  let end = path.length
  while (path[end - 1] === '/') end--
  const parts = path.slice(0, end).split('/', PARTS_MAX + 1)
  return parts.length > PARTS_MAX ? undefined : parts
}

const matchesPattern = (pattern: string, given: readonly string[]): boolean => {
  const wanted = pattern.split('/')
  return wanted.length === given.length && wanted.every((part, n) => part.startsWith(':') || part === given[n])
}

/** Every error of a request ends here: problem details out, the cause into the log. */
export function sendError(
  raw: unknown,
  request: FastifyRequest,
  reply: FastifyReply,
  refusals: Refusals,
): FastifyReply {
  const error = fromFastify(raw)
  refusals.tell(error, { request: request.id, method: request.method, route: request.routeOptions.url })
  if (error.retryAfterS !== undefined) void reply.header('retry-after', error.retryAfterS)
  for (const [name, value] of Object.entries(error.extra ?? {}))
    if (headerOfExtra[name]) void reply.header(headerOfExtra[name], value)
  return reply
    .code(error.spec.http)
    .type('application/problem+json')
    .send(
      JSON.stringify({ ...toProblem(error, request.id), ...(/^\/v1\//.test(request.url) ? openAiError(error) : {}) }),
    )
}

/** What OpenAI's clients look for in the body of an error, so that they show its text. */
const openAiError = ({ message, code, field, spec }: PercolateError) => ({
  error: {
    message,
    type: spec.http >= 500 ? 'server_error' : 'invalid_request_error',
    param: field ?? null,
    code: code.toLowerCase(),
  },
})

function fromFastify(raw: unknown): PercolateError {
  if (raw instanceof PercolateError) return raw
  const error = raw as FastifyError
  switch (error.code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new PercolateError(
        'BODY_TOO_LARGE',
        'The body is larger than PERCOLATE_BODY_BYTES_MAX allows; send less at once, or upload a file to the gateway.',
      )
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return new PercolateError('UNSUPPORTED_MEDIA_TYPE', 'Send JSON with "Content-Type: application/json".', {
        field: 'Content-Type',
      })
    case 'FST_ERR_CTP_EMPTY_JSON_BODY':
      return new PercolateError('INVALID_JSON', 'The body is empty; send a JSON object.')
    case 'FST_ERR_CTP_INVALID_CONTENT_LENGTH':
      return new PercolateError('INVALID_ARGUMENT', 'The body is not as long as Content-Length says.', {
        field: 'Content-Length',
      })
    case 'FST_ERR_BAD_URL':
      return new PercolateError(
        'INVALID_ARGUMENT',
        'The URL is not valid percent-encoding of UTF-8; encode each id with encodeURIComponent, or what your language has for it.',
        { field: 'url' },
      )
    case 'FST_ERR_CTP_INVALID_JSON_BODY':
      return new PercolateError('INVALID_JSON', 'The body is not valid JSON.')
  }
  if (raw instanceof SyntaxError && error.statusCode === 400)
    return new PercolateError('INVALID_JSON', `The body is not valid JSON: ${error.message}.`)
  if (error.statusCode !== undefined && error.statusCode >= 400 && error.statusCode < 500)
    return new PercolateError('INVALID_ARGUMENT', error.message)
  return toPercolateError(raw)
}

/** Listens, or says in one sentence that the port is taken. `variable` names the setting to change. */
export async function listen(app: FastifyInstance, host: string, port: number, variable: string): Promise<number> {
  const { level } = app.log
  // Fastify announces every address; the roles say in one place where they listen.
  if (level === 'info') app.log.level = 'warn'
  try {
    // One server, with all that is set up for it: of localhost Fastify would make a second one for its other address.
    await app.listen({ host: host === 'localhost' ? (await lookup(host)).address : host, port })
  } catch (error) {
    throw listenError(error, host, port, variable)
  } finally {
    app.log.level = level
  }
  const address = app.server.address()
  return typeof address === 'object' && address !== null ? address.port : port
}

/** Closes a server: no new connections, running requests may finish for `drainMs`, then they are told so, and their connections are cut. */
export async function closeServer(app: FastifyInstance, drainMs: number): Promise<void> {
  const timer = setTimeout(() => lastWords.get(app)?.say(), drainMs).unref()
  await app.close()
  clearTimeout(timer)
}
