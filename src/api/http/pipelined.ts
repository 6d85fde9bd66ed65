import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'

/** Requests of one connection that are worked on at once. Their answers go out one after the other, and each is kept until those before it were taken. */
const AT_ONCE_MAX = 4

/**
 * A client may send requests without waiting for the answers (https://www.rfc-editor.org/rfc/rfc9112#section-9.3.2): of one connection a few are worked on at once, the others wait in order, and no more is read meanwhile than
 * the piece that is there. Node begins with all of them, and keeps what they come to; and when the connection goes it tells the first of them alone.
 */
export function boundPipelined(app: FastifyInstance): void {
  const lines = new WeakMap<Socket, Line>()
  app.addHook('onRequest', (request, reply, done) => {
    const { socket }: IncomingMessage = request.raw
    const line = lines.get(socket) ?? new Line(socket)
    lines.set(socket, line)
    line.enter(reply.raw, done)
  })
}

/** The requests of one connection that have no answer yet. */
class Line {
  readonly #socket: Socket
  readonly #open = new Set<ServerResponse>()
  readonly #waiting: (() => void)[] = []
  #isHeld = false

  constructor(socket: Socket) {
    this.#socket = socket
    // By then the first has been told.
    socket.once('close', () => setImmediate(() => this.#end()))
  }

  enter(response: ServerResponse, begin: () => void): void {
    if (this.#open.size < AT_ONCE_MAX) this.#begin(response, begin)
    else {
      this.#waiting.push(() => this.#begin(response, begin))
      this.#hold()
    }
  }

  #begin(response: ServerResponse, begin: () => void): void {
    this.#open.add(response)
    response.once('close', () => {
      this.#open.delete(response)
      if (this.#socket.destroyed) return
      this.#waiting.shift()?.()
      if (this.#waiting.length > 0) this.#hold()
      else if (this.#isHeld) {
        this.#isHeld = false
        this.#socket.resume()
      }
    })
    begin()
  }

  /** Behind a request without a body Node reads on, whatever was said before. That the client has gone shows when the next answer is written. */
  #hold(): void {
    this.#isHeld = true
    this.#socket.pause()
    setImmediate(() => {
      if (this.#waiting.length > 0) this.#socket.pause()
    })
  }

  #end(): void {
    this.#waiting.length = 0
    for (const response of this.#open) {
      response.destroy()
      response.emit('close')
    }
  }
}
