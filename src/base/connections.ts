import { readFileSync } from 'node:fs'
import type { Server, Socket } from 'node:net'
import type { Logger } from './logger.ts'

/** Of the file descriptors that a process may have, the share of one server's connections: databases, NATS and files need the rest. */
const DESCRIPTORS_SHARE = 4

/**
 * The connections of one server. They are bounded: each takes a file descriptor, and a process without any cannot open its databases either. When one more comes, the oldest on which nothing was
 * ever asked goes, else the one that nothing was asked on for the longest; one on which a request is under way does not. When there is no other, the new one is closed at once.
 */
export class Connections {
  readonly max: number
  /** On which nothing was ever asked, the oldest first: they go before those that somebody uses. */
  readonly #unused = new Set<Socket>()
  /** On which nothing is asked just now, the longest first. */
  readonly #idle = new Set<Socket>()
  readonly #busy = new Map<Socket, number>()
  #gaveWay = 0
  #refused = 0

  constructor(max: number) {
    this.max = max
  }

  /** Of a server of a process with these settings: no more than a quarter of the file descriptors that the system gives it. */
  static of(
    config: { readonly connectionsMax: number },
    logger: Pick<Logger, 'warn'>,
    descriptors = descriptorsMax(),
  ): Connections {
    const max = Math.max(1, Math.min(config.connectionsMax, Math.floor(descriptors / DESCRIPTORS_SHARE)))
    if (max < config.connectionsMax)
      logger.warn(
        { descriptors, connections: max },
        'a server takes fewer connections than PERCOLATE_CONNECTIONS_MAX says, a quarter of the file descriptors of this process: raise their number (ulimit -n), or lower the setting',
      )
    return new Connections(max)
  }

  get open(): number {
    return this.#unused.size + this.#idle.size + this.#busy.size
  }

  /** Idle ones that were closed for others. */
  get gaveWay(): number {
    return this.#gaveWay
  }

  /** New ones that were closed at once. */
  get refused(): number {
    return this.#refused
  }

  /** A client has connected. False: there is no room, and it is closed. */
  take(socket: Socket): boolean {
    if (this.open >= this.max) {
      const [longest = this.#idle.values().next().value] = this.#unused
      if (!longest) {
        this.#refused++
        socket.destroy()
        return false
      }
      this.#gaveWay++
      this.#forget(longest)
      longest.destroy()
    }
    this.#unused.add(socket)
    socket.once('close', () => this.#forget(socket))
    return true
  }

  /** A request has come on a connection; returns what ends it. Calling that again does nothing. */
  begin(socket: Socket): () => void {
    const running = this.#busy.get(socket)
    // It was refused, or is closed.
    if (running === undefined && !this.#unused.delete(socket) && !this.#idle.delete(socket)) return () => {}
    this.#busy.set(socket, (running ?? 0) + 1)
    let isOver = false
    return () => {
      const left = this.#busy.get(socket)
      if (isOver || left === undefined) return
      isOver = true
      if (left > 1) this.#busy.set(socket, left - 1)
      else {
        this.#busy.delete(socket)
        this.#idle.add(socket)
      }
    }
  }

  #forget(socket: Socket): void {
    this.#unused.delete(socket)
    this.#idle.delete(socket)
    this.#busy.delete(socket)
  }
}

/** Bounds the connections of an HTTP/1.1 server. */
export function boundConnections(server: Server, connections: Connections): void {
  server.on('connection', socket => connections.take(socket))
  server.on('request', (request: { socket: Socket }, response: NodeJS.EventEmitter) => {
    response.once('close', connections.begin(request.socket))
  })
}

/** How many files a process may have open; no bound where that cannot be read. */
function descriptorsMax(): number {
  try {
    const [, soft] = /^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8')) ?? []
    return soft === undefined ? Number.POSITIVE_INFINITY : Number(soft)
  } catch {
    return Number.POSITIVE_INFINITY
  }
}
