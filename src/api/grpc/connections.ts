import diagnostics from 'node:diagnostics_channel'
import type { Socket } from 'node:net'
import { ServerInterceptingCall, type ServerInterceptor } from '@grpc/grpc-js'
import type { Connections } from '../../base/connections.ts'
import { streamOf } from './open-calls.ts'

/** Where Node tells of every connection that a server of this process has taken (node:diagnostics_channel, "net.server.socket"): grpc-js shows its own to nobody. */
const CHANNEL = 'net.server.socket'

/** Bounds the connections of the gRPC server: those with an open call are in use. */
export class GrpcConnections {
  readonly #connections: Connections
  readonly #sockets = new Map<string, Socket>()
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

  /** To be put before those that may refuse a call: a connection with one is in use. */
  readonly interceptor: ServerInterceptor = (_method, call) => {
    const stream = streamOf(call)
    const socket = this.#sockets.get(nameOf(stream?.session?.socket))
    if (stream && socket && !stream.destroyed && !stream.closed) stream.once('close', this.#connections.begin(socket))
    return new ServerInterceptingCall(call)
  }

  readonly #onSocket = (message: unknown): void => {
    const { socket } = message as { socket: Socket }
    if (socket.localPort !== this.#port || !this.#connections.take(socket)) return
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
