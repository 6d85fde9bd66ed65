import { Agent, createServer, request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import { boundConnections } from '../base/bound-connections.ts'
import type { Connections } from '../base/connections.ts'
import { errorMessage, PercolateError, toPercolateError, toProblem } from '../base/errors.ts'
import { holdContinue, sayContinue } from '../base/expect-continue.ts'
import { bodyRefusal, gatherBodies } from '../base/gathered-bodies.ts'
import { assertEndToEnd, endToEnd, forwardable } from '../base/hop-by-hop.ts'
import { parseTenantId } from '../base/ids.ts'
import { assertExpectsNothing, closeBehindHalf, takeExpectations } from '../base/linger.ts'
import { listenError } from '../base/listen-error.ts'
import type { Logger } from '../base/logger.ts'
import { boundPipelined } from '../base/pipelined.ts'
import { isOfWaking, notYet } from './not-yet.ts'
import { NotYet, type WaitingRoom } from './room.ts'
import type { Backend } from './waiters.ts'

export interface ProxyOptions {
  readonly room: WaitingRoom
  readonly logger: Logger
  /** Of all tiers that speak the protocol. */
  readonly connections: Connections
  readonly host: string
  readonly port: number
}

/** What is sent on, also as a proxy asks for it, with the host. */
const ROUTES = /^(https?:\/\/[^/?#]*)?\/(api|v1)\//i
/** What a held request keeps in memory: its head, and the part of its body that Node reads ahead. */
const HELD_REQUEST_BYTES = 80 * 1024
/** How long a node may take to say that it takes a body. */
const CONFIRM_MS_MAX = 5000
/** What a refusal is no longer than; more is passed on without a look at it. */
const REFUSAL_BYTES_MAX = 16 * 1024
const SOCKETS_MAX = 1024
const STOP_MS_MAX = 5000
/** How long a client may take to send its headers, and the whole request. */
const HEADERS_MS_MAX = 30_000
const REQUEST_MS_MAX = 300_000
const CONNECTIONS_CHECK_MS = 5000

/**
 * Takes HTTP requests of a tier while it has no node: they are held, not read, until one is ready, and then sent through. A body leaves only when the node has said that it takes it, so that
 * a node that is not ready for the tenant yet can be asked again.
 */
export class HoldingHttpProxy {
  readonly #options: ProxyOptions
  readonly #server = createServer({
    keepAliveTimeout: 65_000,
    // Held requests are not read: the time for a whole request is longer than any hold.
    headersTimeout: HEADERS_MS_MAX,
    requestTimeout: REQUEST_MS_MAX,
    connectionsCheckingInterval: CONNECTIONS_CHECK_MS,
  })
  readonly #agent = new Agent({ keepAlive: true, maxSockets: SOCKETS_MAX, maxFreeSockets: 64 })

  constructor(options: ProxyOptions) {
    this.#options = options
    this.#server.on('request', (request, response) => {
      void this.#handle(request, response).catch(error => this.#fail(request, response, error))
    })
    boundPipelined(this.#server)
    gatherBodies(this.#server)
    takeExpectations(this.#server)
    boundConnections(this.#server, options.connections)
    holdContinue(this.#server)
  }

  async start(): Promise<number> {
    const { host, port } = this.#options
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', error => reject(listenError(error, host, port, 'PERCOLATE_ACTIVATOR_HTTP_PORT')))
      this.#server.listen(port, host, resolve)
    })
    return (this.#server.address() as { port: number }).port
  }

  async stop(): Promise<void> {
    this.#options.room.close()
    const closed = new Promise(resolve => this.#server.close(resolve))
    this.#server.closeIdleConnections()
    const timer = setTimeout(() => this.#server.closeAllConnections(), STOP_MS_MAX)
    await closed
    clearTimeout(timer)
    this.#agent.destroy()
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    assertExpectsNothing(request)
    // Probes of whoever routes here: this end is there.
    if (request.url === '/ready' || request.url === '/health') {
      closeBehindHalf(request, response)
      response.writeHead(200, { 'content-type': 'application/json' }).end('{"status":"holding"}')
      return
    }
    // Nobody is woken for what no node has.
    if (!ROUTES.test(request.url ?? ''))
      throw new PercolateError('ROUTE_NOT_FOUND', 'No such route while no node of this tier is running.')
    assertEndToEnd(request.headers)
    const tenant = parseTenantId(request.headers['x-tenant-id'])
    const gone = new AbortController()
    response.once('close', () => gone.abort())
    await this.#options.room.through(tenant, HELD_REQUEST_BYTES, gone.signal, (backend, mayRetry) =>
      this.#send(request, response, backend, mayRetry),
    )
  }

  #send(request: IncomingMessage, response: ServerResponse, backend: Backend, mayRetry: boolean): Promise<void> {
    const { headers, method, url } = request
    const length = headers['content-length']
    const hasBody = length === undefined ? headers['transfer-encoding'] !== undefined : length !== '0'
    const at = backend.http.lastIndexOf(':')
    return new Promise((resolve, reject) => {
      let isSent = false
      /** Of a request without a body. */
      let hasLeft = false
      const outgoing = httpRequest({
        agent: this.#agent,
        host: backend.http.slice(0, at).replace(/^\[|\]$/g, ''),
        port: Number(backend.http.slice(at + 1)),
        method,
        path: url,
        headers: { ...forwardable(headers), ...(hasBody ? { expect: '100-continue' } : {}) },
      })
      // One that waits for a connection says nothing when it is destroyed.
      const giveUp = (why: string) => {
        const error = new Error(why)
        outgoing.destroy(error)
        fail(error)
      }
      const confirm = setTimeout(() => giveUp('not confirmed'), CONFIRM_MS_MAX)
      const gone = () => giveUp('the client went away')
      response.once('close', gone)
      const done = () => {
        clearTimeout(confirm)
        response.off('close', gone)
      }
      outgoing.once('continue', () => {
        clearTimeout(confirm)
        isSent = true
        const refuse = (error: PercolateError) => {
          done()
          reject(error)
          outgoing.destroy()
        }
        const refusal = bodyRefusal(request)
        if (refusal) return refuse(refusal)
        request.once('error', error => {
          if (error instanceof PercolateError) refuse(error)
        })
        sayContinue(request, response)
        request.pipe(outgoing)
      })
      const onConnected = () => {
        hasLeft = true
        clearTimeout(confirm)
      }
      outgoing.once('socket', socket => {
        if (hasBody) return
        if (!socket.connecting) onConnected()
        else socket.once('connect', onConnected)
      })
      if (hasBody) outgoing.flushHeaders()
      else outgoing.end()
      const passOn = (answer: IncomingMessage, begun?: readonly Buffer[]) => {
        clearTimeout(confirm)
        closeBehindHalf(request, response)
        response.writeHead(answer.statusCode ?? 502, endToEnd(answer.headers))
        response.flushHeaders()
        for (const piece of begun ?? []) response.write(piece)
        if (answer.readableEnded) response.end()
        else answer.pipe(response)
        answer.once('error', () => response.destroy())
        response.once('close', () => {
          answer.destroy()
          done()
          resolve()
        })
      }
      outgoing.once('response', answer => {
        if (!mayRetry || isSent || !mayBeNotReady(answer)) return passOn(answer)
        // What it refuses for is in the body.
        void readBriefly(answer).then(
          body => {
            if (!isNotReady(answer, body)) return passOn(answer, body)
            done()
            if (hasBody) outgoing.destroy()
            reject(notYet(answer.headers['retry-after']))
          },
          // Nothing was done of it, whoever has gone since.
          error => {
            outgoing.destroy()
            fail(error, true)
          },
        )
      })
      const fail = (error: Error, isRefused = false) => {
        done()
        if (response.destroyed) return reject(new PercolateError('CANCELLED', 'The client went away.'))
        if (mayRetry && (isRefused || !(hasBody ? isSent : hasLeft))) return reject(new NotYet())
        reject(
          new PercolateError('NODE_UNAVAILABLE', 'The database node went away in the middle of the request.', {
            cause: error,
          }),
        )
      }
      outgoing.on('error', error => fail(error))
    })
  }

  #fail(request: IncomingMessage, response: ServerResponse, raw: unknown): void {
    if (response.destroyed || response.headersSent) {
      response.destroy()
      return
    }
    const error = toPercolateError(raw)
    if (error.code === 'INTERNAL') this.#options.logger.error({ err: errorMessage(raw) }, 'a held request failed')
    closeBehindHalf(request, response)
    response
      .writeHead(error.spec.http, {
        'content-type': 'application/problem+json',
        ...(error.retryAfterS === undefined ? {} : { 'retry-after': String(error.retryAfterS) }),
      })
      .end(JSON.stringify(toProblem(error)))
  }
}

/** 421, or 503 with `Retry-After` and without a clock: nothing was written. */
const mayBeNotReady = ({ statusCode, headers }: IncomingMessage): boolean =>
  statusCode === 421 ||
  (statusCode === 503 && headers['retry-after'] !== undefined && headers['x-percolate-clock'] === undefined)

/** The node is up, its copy not yet: see {@link isOfWaking}. */
function isNotReady({ statusCode }: IncomingMessage, body: readonly Buffer[]): boolean {
  if (statusCode === 421) return true
  try {
    return isOfWaking((JSON.parse(Buffer.concat(body).toString()) as { code?: unknown } | null)?.code)
  } catch {
    return false
  }
}

/** The body of a refusal, or the beginning of what is longer than one, which is then paused. Rejects when it breaks off, or takes too long. */
function readBriefly(answer: IncomingMessage): Promise<Buffer[]> {
  return new Promise((resolve, reject) => {
    const pieces: Buffer[] = []
    let bytes = 0
    const breakOff = () => {
      clearTimeout(late)
      reject(new Error('the refusal broke off'))
    }
    const late = setTimeout(breakOff, CONFIRM_MS_MAX)
    const settle = () => {
      clearTimeout(late)
      answer.pause()
      answer.off('data', read).off('end', settle).off('close', breakOff)
      resolve(pieces)
    }
    const read = (piece: Buffer) => {
      pieces.push(piece)
      bytes += piece.length
      if (bytes > REFUSAL_BYTES_MAX) settle()
    }
    // When its node dies it has a `close`, and not always an `error` or an `end`.
    answer.on('data', read).once('end', settle).once('close', breakOff)
    answer.once('error', breakOff)
  })
}
