import type { Server } from 'node:http'
import type { Socket } from 'node:net'
import { PercolateError, toProblem } from '../../base/errors.ts'
import { answerUnderWay } from './server-socket.ts'

/** Within which clients take the last word. */
const LAST_WORD_MS = 500

/** The connections of a server, so that one that must not wait any longer can still say so: a connection that just goes tells nothing. */
export class LastWord {
  readonly #server: Server
  readonly #sockets = new Set<Socket>()

  constructor(server: Server) {
    this.#server = server
    server.on('connection', (socket: Socket) => {
      this.#sockets.add(socket)
      socket.once('close', () => this.#sockets.delete(socket))
    })
  }

  /** Answers SHUTTING_DOWN to every request whose answer has not begun, and cuts all connections a moment later. */
  say(): void {
    const error = new PercolateError(
      'SHUTTING_DOWN',
      'This process is going, and the request did not end in time; whether a write was done is not known. Turn to another.',
    )
    const body = JSON.stringify(toProblem(error))
    for (const socket of this.#sockets) {
      const answer = answerUnderWay(socket)
      if (!answer || answer.headersSent || answer.writableEnded) continue
      answer
        .writeHead(error.spec.http, {
          'content-type': 'application/problem+json',
          'content-length': Buffer.byteLength(body),
          'retry-after': String(error.retryAfterS),
          connection: 'close',
        })
        .end(body)
    }
    setTimeout(() => this.#server.closeAllConnections(), LAST_WORD_MS).unref()
  }
}
