import { Agent, createServer, request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import { boundConnections } from '../base/bound-connections.ts'
import type { Connections } from '../base/connections.ts'
import { errorMessage, PercolateError, toPercolateError, toProblem } from '../base/errors.ts'
import { holdContinue, sayContinue } from '../base/expect-continue.ts'
import { bodyRefusal, gatherBodies } from '../base/gathered-bodies.ts'
import { assertEndToEnd, endToEnd, forwardable } from '../base/hop-by-hop.ts'
import { parseTenantId } from '../base/ids.ts'
import { closeBehindHalf, refuseExpectations } from '../base/linger.ts'
import { listenError } from '../base/listen-error.ts'
import type { Logger } from '../base/logger.ts'
import { boundPipelined } from '../base/pipelined.ts'
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

/** What a held request keeps in memory: its head, and the part of its body that Node reads ahead. */
const HELD_REQUEST_BYTES = 80 * 1024
/** How long a node may take to say that it takes a body. */
const CONFIRM_MS_MAX = 5000
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
    refuseExpectations(this.#server)
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
    // Probes of whoever routes here: this end is there.
    if (request.url === '/ready' || request.url === '/health') {
      closeBehindHalf(request, response)
      response.writeHead(200, { 'content-type': 'application/json' }).end('{"status":"holding"}')
      return
    }
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
      outgoing.once('response', answer => {
        clearTimeout(confirm)
        if (mayRetry && !isSent && isNotReady(answer)) {
          answer.resume()
          answer.once('end', () => {
            done()
            if (hasBody) outgoing.destroy()
            reject(new NotYet())
          })
          return
        }
        closeBehindHalf(request, response)
        response.writeHead(answer.statusCode ?? 502, endToEnd(answer.headers))
        response.flushHeaders()
        answer.pipe(response)
        answer.once('error', () => response.destroy())
        response.once('close', () => {
          answer.destroy()
          done()
          resolve()
        })
      })
      const fail = (error: Error) => {
        done()
        if (response.destroyed) return reject(new PercolateError('CANCELLED', 'The client went away.'))
        if (mayRetry && !(hasBody ? isSent : hasLeft)) return reject(new NotYet())
        reject(
          new PercolateError('NODE_UNAVAILABLE', 'The database node went away in the middle of the request.', {
            cause: error,
          }),
        )
      }
      outgoing.on('error', fail)
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

/** 503 with `Retry-After`, before any of the body was asked for, and without a clock: the node is up, its copy not yet, and nothing was written. */
const isNotReady = ({ statusCode, headers }: IncomingMessage): boolean =>
  statusCode === 421 ||
  (statusCode === 503 && headers['retry-after'] !== undefined && headers['x-percolate-clock'] === undefined)
