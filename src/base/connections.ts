import { readFileSync } from 'node:fs'
import type { Socket } from 'node:net'
import { systemTime, type Time } from './time.ts'

/** Of the file descriptors that a process may have, the share of one server's connections: databases, NATS and files need the rest. */
const DESCRIPTORS_SHARE = 8
/** Within this time, in milliseconds, a client that has connected asks for something; until then it goes after those that have asked before. */
const GRACE_MS = 5000

/**
 * The connections of one server. They are bounded: each takes a file descriptor, and a process without any cannot open its databases either. When one more comes, another goes: the oldest on which
 * nothing was ever asked, when that had the time to; else the one that nothing was asked on for the longest; else the oldest that may be about to ask. One on which a request is under way does not go:
 * when there is no other, the new one is closed at once.
 */
export class Connections {
  readonly max: number
  readonly #time: Pick<Time, 'monotonic'>
  /** On which nothing was ever asked, the oldest first, and when they came. */
  readonly #unused = new Map<Socket, number>()
  /** On which nothing is asked just now, the longest first. */
  readonly #idle = new Set<Socket>()
  readonly #busy = new Map<Socket, number>()
  #gaveWay = 0
  #refused = 0

  constructor(max: number, time: Pick<Time, 'monotonic'> = systemTime) {
    this.max = max
    this.#time = time
  }

  /** Of a server of a process with these settings: no more than an eighth of the file descriptors that the system gives it. */
  static of(config: { readonly connectionsMax: number }, descriptors = descriptorsMax()): Connections {
    return new Connections(Math.max(1, Math.min(config.connectionsMax, Math.floor(descriptors / DESCRIPTORS_SHARE))))
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

  /** A client has connected. False: there is no room, and it is closed. `close` ends it when it gives way. */
  take(socket: Socket, close: (socket: Socket) => void = other => other.destroy()): boolean {
    if (this.open >= this.max) {
      const other = this.#next()
      if (!other) {
        this.#refused++
        socket.destroy()
        return false
      }
      this.#gaveWay++
      this.#forget(other)
      close(other)
    }
    this.#unused.set(socket, this.#time.monotonic())
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

  /** Which gives way next. */
  #next(): Socket | undefined {
    const [unused] = this.#unused
    if (unused && this.#time.monotonic() - unused[1] >= GRACE_MS) return unused[0]
    const [idle] = this.#idle
    return idle ?? unused?.[0]
  }

  #forget(socket: Socket): void {
    this.#unused.delete(socket)
    this.#idle.delete(socket)
    this.#busy.delete(socket)
  }
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
