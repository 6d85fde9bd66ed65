import {
  constants,
  type Http2Server,
  type Http2Session,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2'
import { createServer, type Socket } from 'node:net'
import { type Server, ServerCredentials } from '@grpc/grpc-js'
import type { Connections } from '../../base/connections.ts'
import { Turns } from '../../base/turns.ts'
import { streamOf } from './open-calls.ts'
import { PacedConnection } from './paced-connection.ts'

/** Within which a client hears that its connection is closed, and ends its side of a call that was answered already. */
const LAST_WORD_MS = 500

const pacedOf = new WeakMap<Http2Session, PacedConnection>()

/** To be told when a call has proved that it comes from a node: on its connection calls of many tenants come, and what nodes say to one another. */
export const trustConnectionOf = (call: object): void => {
  const session = streamOf((call as { call?: object }).call)?.session
  if (session) pacedOf.get(session)?.trust()
}

/** The connections of a gRPC server: they are bounded, those with an open stream are in use, and each is paced. */
export class GrpcConnections {
  readonly #connections: Connections
  readonly #turns = new Turns()
  readonly #inject: (socket: Socket, connection: PacedConnection) => void
  readonly #sessions = new WeakMap<Socket, ServerHttp2Session>()
  readonly #stallMsMax: number
  readonly #open = new Set<Socket>()

  /** Of a server that listens nowhere else. `stallMsMax`: see {@link PacedConnection}. */
  constructor(connections: Connections, server: Server, stallMsMax: number) {
    this.#connections = connections
    this.#stallMsMax = stallMsMax
    const injector = server.createConnectionInjector(ServerCredentials.createInsecure())
    const http2 = http2Of(server)
    const sockets = new WeakMap<Http2Session, Socket>()
    this.#inject = (socket, connection) => {
      const begun = (session: ServerHttp2Session) => {
        sockets.set(session, socket)
        pacedOf.set(session, connection)
        this.#sessions.set(socket, session)
      }
      // Node makes the session before it returns.
      http2.on('session', begun)
      try {
        injector.injectConnection(connection)
      } finally {
        http2.off('session', begun)
      }
    }
    const handlers = http2.listeners('stream') as ((stream: ServerHttp2Stream, ...head: unknown[]) => void)[]
    http2.removeAllListeners('stream')
    http2.on('stream', (stream: ServerHttp2Stream, ...head: unknown[]) => {
      // What goes wrong with it ends it, and nobody else needs to hear of that.
      stream.on('error', () => {})
      // grpc-js does not look, and throws where nobody catches it.
      if (stream.destroyed || stream.closed) return
      stream.once('close', connections.begin(sockets.get(stream.session!)!))
      for (const handle of handlers) handle.call(http2, stream, ...head)
      // What has no such method is answered below every interceptor. Who does not end its side would keep the stream.
      if (stream.writableEnded) setTimeout(() => stream.close(constants.NGHTTP2_NO_ERROR), LAST_WORD_MS).unref()
    })
  }

  /** Takes connections from now on, until it is told to stop. */
  listen(at: { readonly host: string; readonly port: number }): Promise<{ readonly port: number; stop(): void }> {
    const listener = createServer({ allowHalfOpen: true, noDelay: true }, socket => {
      if (!this.#connections.take(socket, this.#close)) return
      this.#open.add(socket)
      socket.once('close', () => this.#open.delete(socket))
      this.#inject(socket, new PacedConnection(socket, this.#turns, this.#stallMsMax))
    })
    return new Promise((resolve, reject) => {
      listener.once('error', reject)
      listener.listen(at.port, at.host, () => {
        // One that could not be taken, for want of descriptors, say, was closed.
        listener.on('error', () => {})
        listener.off('error', reject)
        resolve({ port: (listener.address() as { port: number }).port, stop: () => void listener.close() })
      })
    })
  }

  /** Tells the client first: a call that is on its way is then sent elsewhere, and not lost. */
  readonly #close = (socket: Socket): void => {
    const session = this.#sessions.get(socket)
    if (!session || session.destroyed) return void socket.destroy()
    session.close()
    setTimeout(() => socket.destroy(), LAST_WORD_MS).unref()
  }

  /** Closes those that are still open, whatever they are at. */
  end(): void {
    for (const socket of this.#open) socket.destroy()
  }
}

/** The HTTP/2 server that grpc-js gives injected connections to; nothing public leads there (grpc-internals.test.ts). */
function http2Of(server: Server): Http2Server {
  const [http2] = (server as unknown as { http2Servers: Map<Http2Server, unknown> }).http2Servers.keys()
  return http2!
}
