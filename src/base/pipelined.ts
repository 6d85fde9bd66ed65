import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { lingerAtEnd } from './linger.ts'
import { Turns } from './turns.ts'

/** Requests of one connection that are worked on at once. Their answers go out one after the other, and each is kept until those before it were taken. */
const AT_ONCE_MAX = 4
/** Requests of one connection that wait behind these. */
const WAITING_MAX = 64
/** What tells Node's parser that nothing behind a head is for it (pipelined.test.ts). */
const NOTHING_FOLLOWS = 2

/**
 * A client may send requests without waiting for the answers (https://www.rfc-editor.org/rfc/rfc9112#section-9.3.2): of one connection a few are worked on at once, a few more wait in order, and nothing is read meanwhile. The answer to
 * the last that may wait closes the connection, and what was sent behind it is not looked at: the client sends it again. Node would take apart all of a piece that it has read, 64 KiB with over a thousand
 * requests perhaps, keep what they come to, and work on them or, when the client goes, make an error for each; and when a connection goes it tells the first of them alone. Those that waited are begun in
 * turns with those of other connections, and the event loop goes round in between: whoever sends one request at a time waits for none of them. For a server whose handlers are set already.
 */
export function boundPipelined(server: Server): void {
  const lines = new WeakMap<Socket, Line>()
  const turns = new Turns()
  const handlers = server.listeners('request') as ((request: IncomingMessage, response: ServerResponse) => void)[]
  server.removeAllListeners('request')
  server.on('request', (request, response) => {
    const { socket } = request
    const line = lines.get(socket) ?? new Line(socket, turns)
    lines.set(socket, line)
    line.enter(response, () => {
      for (const handle of handlers) handle.call(server, request, response)
    })
  })
}

/** The requests of one connection that have no answer yet. */
class Line {
  readonly #socket: Socket
  readonly #turns: Turns
  readonly #open = new Set<ServerResponse>()
  #waiting: { response: ServerResponse; begin: () => void }[] = []
  #isHeld = false
  #isFull = false
  #isPausing = false

  constructor(socket: Socket, turns: Turns) {
    this.#socket = socket
    this.#turns = turns
    // By then the first has been told.
    socket.once('close', () => setImmediate(() => this.#end()))
  }

  enter(response: ServerResponse, begin: () => void): void {
    if (this.#open.size < AT_ONCE_MAX && this.#waiting.length === 0) this.#begin(response, begin)
    else {
      this.#waiting.push({ response, begin })
      this.#hold()
      if (this.#waiting.length >= WAITING_MAX) this.#takeNoMore(response)
    }
  }

  /** The answer to this request is the last of the connection. */
  #takeNoMore(response: ServerResponse): void {
    this.#isFull = true
    response.shouldKeepAlive = false
    const { parser } = this.#socket as { parser?: { onIncoming?: () => number } | null }
    if (!parser?.onIncoming) return void this.#socket.destroy()
    parser.onIncoming = () => NOTHING_FOLLOWS
    lingerAtEnd(this.#socket)
  }

  #begin(response: ServerResponse, begin: () => void): void {
    this.#open.add(response)
    response.once('close', () => {
      this.#open.delete(response)
      if (this.#waiting.length > 0) this.#turns.wait(() => this.#next())
    })
    begin()
  }

  #next(): void {
    if (this.#socket.destroyed || this.#open.size >= AT_ONCE_MAX) return
    const next = this.#waiting.shift()
    if (next) this.#begin(next.response, next.begin)
    if (this.#waiting.length > 0) this.#hold()
    else if (this.#isHeld && !this.#isFull) {
      this.#isHeld = false
      this.#turns.waitToRead(() => {
        if (!this.#isHeld) this.#socket.resume()
      })
    }
  }

  /** Behind a request without a body Node reads on, whatever was said before. That the client has gone shows when the next answer is written. */
  #hold(): void {
    this.#isHeld = true
    this.#socket.pause()
    if (this.#isPausing) return
    this.#isPausing = true
    setImmediate(() => {
      this.#isPausing = false
      if (this.#waiting.length > 0) this.#socket.pause()
    })
  }

  #end(): void {
    this.#waiting = []
    for (const response of this.#open) {
      response.destroy()
      // As Node has it of the first: whoever asks from now on whether there was a `close` must not wait for it.
      ;(response as { _closed?: boolean })._closed = true
      response.emit('close')
    }
  }
}
