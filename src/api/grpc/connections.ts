import diagnostics from 'node:diagnostics_channel'
import type { Http2Session } from 'node:http2'
import type { Socket } from 'node:net'
import { ServerInterceptingCall, type ServerInterceptor } from '@grpc/grpc-js'
import type { Connections } from '../../base/connections.ts'
import { streamOf } from './open-calls.ts'

/** Where Node tells of every connection that a server of this process has taken (node:diagnostics_channel, "net.server.socket"): grpc-js shows its own to nobody. */
const CHANNEL = 'net.server.socket'

/** Within which a client hears that its connection is closed. */
const LAST_WORD_MS = 500

/** Bounds the connections of the gRPC server: those with an open call are in use. */
export class GrpcConnections {
  readonly #connections: Connections
  readonly #sockets = new Map<string, Socket>()
  readonly #sessions = new WeakMap<Socket, Http2Session>()
  #port: number | undefined

  constructor(connections: Connections) {
    this.#connections = connections
  }

  /** From when the server listens on `port`. */
  watch(port: number): void {
    this.#port = port
    diagnostics.subscribe(CHANNEL, this.#onSocket)
  }

  stop(): void {
    diagnostics.unsubscribe(CHANNEL, this.#onSocket)
  }

  /** A connection with a call is in use, refused or not. To be put behind the innermost interceptor, which has to see the call of grpc-js itself. */
  readonly interceptor: ServerInterceptor = (_method, call) => {
    const stream = streamOf(call)
    const socket = this.#sockets.get(nameOf(stream?.session?.socket))
    if (stream?.session && socket && !stream.destroyed && !stream.closed) {
      this.#sessions.set(socket, stream.session)
      stream.once('close', this.#connections.begin(socket))
    }
    return new ServerInterceptingCall(call)
  }

  /** Tells the client first, when it has asked for something before: a call that is on its way is then sent elsewhere, and not lost. */
  readonly #close = (socket: Socket): void => {
    const session = this.#sessions.get(socket)
    if (!session || session.destroyed) return void socket.destroy()
    session.close()
    setTimeout(() => session.destroy(), LAST_WORD_MS).unref()
  }

  readonly #onSocket = (message: unknown): void => {
    const { socket } = message as { socket: Socket }
    if (socket.localPort !== this.#port || !this.#connections.take(socket, this.#close)) return
    const name = nameOf(socket)
    this.#sockets.set(name, socket)
    socket.once('close', () => {
      if (this.#sockets.get(name) === socket) this.#sockets.delete(name)
    })
  }
}

/** The other end of a connection, which no two that are open share. */
const nameOf = (socket: Pick<Socket, 'remoteAddress' | 'remotePort'> | undefined): string =>
  `${socket?.remoteAddress} ${socket?.remotePort}`
