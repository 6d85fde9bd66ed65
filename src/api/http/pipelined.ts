import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'

/** Requests of one connection that are worked on at once. Their answers go out one after the other, and each is kept until those before it were taken. */
const AT_ONCE_MAX = 4

interface Line {
  open: number
  readonly waiting: (() => void)[]
}

/**
 * A client may send requests without waiting for the answers (https://www.rfc-editor.org/rfc/rfc9112#section-9.3.2): of one connection a few are worked on at once, the others wait in order, and no more are read meanwhile than
 * the piece that is there. Node begins with all of them, and keeps what they come to.
 */
export function boundPipelined(app: FastifyInstance): void {
  const lines = new WeakMap<Socket, Line>()
  const begin = (line: Line, response: ServerResponse, next: () => void) => {
    line.open++
    response.once('close', () => {
      line.open--
      line.waiting.shift()?.()
    })
    next()
  }
  app.addHook('onRequest', (request, reply, done) => {
    const { socket }: IncomingMessage = request.raw
    const line = lines.get(socket) ?? { open: 0, waiting: [] }
    lines.set(socket, line)
    const { open, waiting } = line
    if (open < AT_ONCE_MAX) return begin(line, reply.raw, done)
    socket.pause()
    waiting.push(() => {
      // Nobody is there any more who would take an answer.
      if (socket.destroyed) return
      if (waiting.length === 0) socket.resume()
      begin(line, reply.raw, done)
    })
  })
}
