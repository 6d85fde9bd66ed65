import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect,
  constants,
  createServer,
  type Http2Server,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2'
import { createServer as createListener, type Socket } from 'node:net'
import { errorTable, grpcStatus, PercolateError, toPercolateError } from '../base/errors.ts'
import { forwardable } from '../base/hop-by-hop.ts'
import { parseTenantId } from '../base/ids.ts'
import { listenError } from '../base/listen-error.ts'
import type { ProxyOptions } from './http-proxy.ts'
import { isOfWaking, notYet } from './not-yet.ts'
import { NotYet } from './room.ts'
import type { Backend } from './waiters.ts'

/** Bytes of a call that are kept to be sent again; one that has sent more is not tried twice. */
const KEPT_BYTES_MAX = 64 * 1024
const SESSIONS_MAX = 256
/** What is sent on. */
const METHODS = '/percolate.v1.Rem/'
/** Calls that a client may have open on one connection; it opens more connections, or waits. Each may send {@link KEPT_BYTES_MAX} that nobody has asked for. */
const STREAMS_MAX = 256
/** Within which a client hears that its connection is closed, and ends its side of a call that was answered already. */
const LAST_WORD_MS = 500
const STOP_MS_MAX = 5000
const UNAVAILABLE = String(grpcStatus.UNAVAILABLE)

const lost = (cause?: unknown) =>
  new PercolateError(
    'NODE_UNAVAILABLE',
    'The database node went away in the middle of the call; what it did is not known.',
    { cause },
  )

const sessionOf = new WeakMap<Socket, ServerHttp2Session>()

/** Ends a connection that gives way to another. Its client is told first: a call that is on its way is then sent elsewhere, and not lost. */
function closeConnection(socket: Socket): void {
  const session = sessionOf.get(socket)
  if (!session || session.destroyed) return void socket.destroy()
  session.close()
  setTimeout(() => socket.destroy(), LAST_WORD_MS).unref()
}

/**
 * Takes gRPC calls of a tier while it has no node, as {@link HoldingHttpProxy} does for HTTP. It carries HTTP/2 streams as they are, and knows of gRPC only how to say no and to
 * understand that a node is not ready for the tenant yet.
 */
export class HoldingGrpcProxy {
  readonly #options: ProxyOptions
  /** Listens nowhere: it is given each connection that there is room for. */
  readonly #server: Http2Server
  readonly #listener = createListener(socket => this.#connected(socket))
  readonly #clients = new Set<ServerHttp2Session>()
  readonly #sessions = new Map<string, ClientHttp2Session>()

  constructor(options: ProxyOptions) {
    this.#options = options
    this.#server = createServer({
      settings: { initialWindowSize: KEPT_BYTES_MAX, maxConcurrentStreams: STREAMS_MAX },
    })
  }

  async start(): Promise<number> {
    const { host, port } = this.#options
    await new Promise<void>((resolve, reject) => {
      const fail = (error: Error) => reject(listenError(error, host, port, 'PERCOLATE_ACTIVATOR_GRPC_PORT'))
      this.#listener.once('error', fail)
      this.#listener.listen(port, host, () => {
        // One that could not be taken, for want of descriptors, say, was closed.
        this.#listener.on('error', () => {})
        this.#listener.off('error', fail)
        resolve()
      })
    })
    return (this.#listener.address() as { port: number }).port
  }

  async stop(): Promise<void> {
    this.#options.room.close()
    const closed = new Promise(resolve => this.#listener.close(resolve))
    for (const session of this.#clients) session.close()
    const timer = setTimeout(() => {
      for (const session of this.#clients) session.destroy()
    }, STOP_MS_MAX)
    await closed
    clearTimeout(timer)
    for (const session of this.#sessions.values()) session.close()
  }

  #connected(socket: Socket): void {
    const { connections } = this.#options
    if (!connections.take(socket, closeConnection)) return
    const begun = (session: ServerHttp2Session) => {
      sessionOf.set(socket, session)
      this.#clients.add(session)
      session.once('close', () => this.#clients.delete(session))
      session.on('error', () => {})
      session.on('stream', (stream, headers) => {
        stream.once('close', connections.begin(socket))
        this.#take(stream, headers)
      })
    }
    // Node makes the session before it returns.
    this.#server.once('session', begun)
    this.#server.emit('connection', socket)
    this.#server.off('session', begun)
  }

  #take(stream: ServerHttp2Stream, headers: IncomingHttpHeaders): void {
    stream.on('error', () => {})
    stream.once('finish', () => setTimeout(letGo, LAST_WORD_MS, stream).unref())
    void this.#handle(stream, headers).catch(error => refuse(stream, error))
  }

  async #handle(stream: ServerHttp2Stream, headers: IncomingHttpHeaders): Promise<void> {
    // Nobody is woken for what no node has, nor for reflection and health, of which each process speaks for itself.
    if (!headers[':path']?.startsWith(METHODS))
      throw new PercolateError('ROUTE_NOT_FOUND', 'No such method while no node of this tier is running.')
    const tenant = parseTenantId(headers['x-tenant-id'])
    const gone = new AbortController()
    stream.once('close', () => gone.abort())
    const body = new KeptBody(stream)
    await this.#options.room.through(tenant, KEPT_BYTES_MAX, gone.signal, (backend, mayRetry) =>
      this.#send(stream, headers, body, backend, mayRetry),
    )
  }

  #send(
    stream: ServerHttp2Stream,
    headers: IncomingHttpHeaders,
    body: KeptBody,
    backend: Backend,
    mayRetry: boolean,
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      const sent: OutgoingHttpHeaders = {
        ...forwardable(headers),
        // gRPC demands it of every hop.
        te: 'trailers',
        ':authority': backend.grpc,
      }
      let outgoing: ClientHttp2Stream
      try {
        outgoing = this.#session(backend).request(sent, { endStream: false })
      } catch {
        reject(new NotYet())
        return
      }
      let hasAnswered = false
      let isGivenUp = false
      let trailers: IncomingHttpHeaders | undefined
      const cancel = () => outgoing.close()
      stream.once('close', cancel)
      const again = (why = new NotYet()) => {
        isGivenUp = true
        stream.off('close', cancel)
        body.detach()
        outgoing.close()
        reject(why)
      }
      body.attach(outgoing)
      outgoing.once('response', answer => {
        if (mayRetry && body.isWhole && isNotReady(answer)) return again(notYet(answer['retry-after']))
        hasAnswered = true
        if (stream.destroyed || stream.closed) return
        const { ':status': code = 200, ...rest } = answer
        const isOver = answer['grpc-status'] !== undefined
        // Of HTTP alone, such as 415: no status of gRPC follows.
        const isGrpc = code === 200
        stream.respond({ ':status': code, ...rest }, isOver ? { endStream: true } : { waitForTrailers: isGrpc })
        if (isOver) return
        if (isGrpc) stream.once('wantTrailers', () => stream.sendTrailers(trailers ?? statusHeaders(lost())))
        outgoing.pipe(stream)
      })
      outgoing.once('trailers', received => {
        trailers = received
      })
      outgoing.on('error', error => {
        // Whoever takes it next has the body now.
        if (isGivenUp || hasAnswered) return
        if (mayRetry && body.isWhole && /REFUSED|ECONN/.test(String((error as NodeJS.ErrnoException).code)))
          return again()
        reject(lost(error))
      })
      // A connection that goes ends its streams without an error.
      outgoing.once('close', () => {
        if (isGivenUp) return
        stream.off('close', cancel)
        if (!hasAnswered) return reject(lost())
        // What came is passed on, and behind it the status, or that there is none.
        if (!stream.writableEnded) stream.end()
        resolve()
      })
    })
  }

  #session({ node, grpc }: Backend): ClientHttp2Session {
    const known = this.#sessions.get(grpc)
    if (known && !known.destroyed && !known.closed) return known
    for (const [name, oldest] of this.#sessions) {
      if (this.#sessions.size < SESSIONS_MAX) break
      this.#sessions.delete(name)
      // Its calls end first.
      oldest.close()
    }
    const session = connect(`http://${grpc}`)
    session.on('error', error =>
      this.#options.logger.debug({ node, reason: String(error) }, 'a node cannot be reached'),
    )
    session.once('close', () => {
      if (this.#sessions.get(grpc) === session) this.#sessions.delete(grpc)
    })
    this.#sessions.set(grpc, session)
    return session
  }
}

/** Nothing was written, and waking explains it. A conditional write whose home changed behind it may stand, and no clock says so here, as it does by HTTP. */
const isNotReady = (answer: IncomingHttpHeaders): boolean =>
  answer['grpc-status'] === UNAVAILABLE &&
  answer['percolate-code'] !== 'HOME_UNAVAILABLE' &&
  isOfWaking(answer['percolate-code'])

/** The client's side of a call, whose beginning is kept until it is too long to be sent again. */
class KeptBody {
  readonly #stream: ServerHttp2Stream
  readonly #chunks: Buffer[] = []
  #bytes = 0
  #isEnded = false
  #to: ClientHttp2Stream | undefined
  isWhole = true

  constructor(stream: ServerHttp2Stream) {
    this.#stream = stream
    stream.pause()
    stream.on('data', (chunk: Buffer) => {
      if (stream.closed) return
      this.#bytes += chunk.length
      if (this.#bytes > KEPT_BYTES_MAX) {
        this.isWhole = false
        this.#chunks.length = 0
      } else this.#chunks.push(chunk)
      if (this.#to && !this.#to.write(chunk)) {
        stream.pause()
        this.#to.once('drain', () => stream.resume())
      }
    })
    stream.once('end', () => {
      this.#isEnded = true
      this.#to?.end()
    })
  }

  attach(to: ClientHttp2Stream): void {
    this.#to = to
    for (const chunk of this.#chunks) to.write(chunk)
    if (this.#isEnded) to.end()
    else this.#stream.resume()
  }

  detach(): void {
    this.#stream.pause()
    this.#to = undefined
  }
}

/** Of a call that was answered: who does not end its side would keep the stream, and so would what came of it and was never read. */
function letGo(stream: ServerHttp2Stream): void {
  stream.close(constants.NGHTTP2_NO_ERROR)
  stream.resume()
}

function refuse(stream: ServerHttp2Stream, raw: unknown): void {
  if (stream.destroyed || stream.closed || stream.headersSent) {
    stream.close()
    return
  }
  const error = toPercolateError(raw)
  stream.respond(
    { ':status': 200, 'content-type': 'application/grpc+proto', ...statusHeaders(error) },
    { endStream: true },
  )
}

/** An error as gRPC carries it. */
const statusHeaders = ({ code, message }: PercolateError): OutgoingHttpHeaders => ({
  'grpc-status': String(errorTable[code].grpc),
  'grpc-message': encodeURIComponent(message.toWellFormed()),
  'percolate-code': code,
})
