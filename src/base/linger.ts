import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { PercolateError } from './errors.ts'
import { bodyRefusal } from './gathered-bodies.ts'

/** How long a connection that is closed behind its last answer may go on sending, and how much of it is read: all of that is thrown away. */
const LINGER_MS = 5000
const LINGER_BYTES_MAX = 4 * 1024 * 1024

/**
 * Has Node's server end only our side of a connection behind its last answer (`Connection: close`), and take what still comes until the client has ended its own: the system resets a connection that is closed with something unread,
 * and answers that are on their way are lost (https://www.rfc-editor.org/rfc/rfc9112#section-9.6). Nothing of that is taken apart.
 */
export function lingerAtEnd(socket: Socket): void {
  socket.destroySoon = () => linger(socket)
}

/** Whether the request has a body that has not come whole, or that was not taken. */
export const isHalf = (request: IncomingMessage): boolean =>
  bodyRefusal(request) !== undefined || (!request.complete && hasBody(request))

const hasBody = ({ headers }: IncomingMessage): boolean =>
  headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0

/**
 * Closes the connection behind an answer that comes before its request has come whole: nothing of the rest is taken apart. Node reads it to find the next request, and each chunk takes as long as a hundred bytes, so that a client that is
 * refused kept the event loop busy with a body that nobody wanted. For an answer whose head is not written yet.
 */
export function closeBehindHalf(request: IncomingMessage, response: ServerResponse): void {
  if (!isHalf(request) || response.headersSent) return
  response.shouldKeepAlive = false
  lingerAtEnd(request.socket)
}

/** Requests that expect of the server what it does not do. */
const unmet = new WeakSet<IncomingMessage>()

/** Whether the request expects something that nobody here does (https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1). */
export const expectsTooMuch = (request: IncomingMessage): boolean => unmet.has(request)

/** EXPECTATION_FAILED for such a request. */
export function assertExpectsNothing(request: IncomingMessage): void {
  if (!expectsTooMuch(request)) return
  throw new PercolateError(
    'EXPECTATION_FAILED',
    'What the request expects is not done here; send it without `Expect`, or with `Expect: 100-continue`.',
    { field: 'Expect' },
  )
}

/**
 * Gives requests that expect what nobody here does to those who answer all others, which refuse them (see {@link expectsTooMuch}): they are bounded and counted as others are. Node answers them by itself, as many as
 * come in one piece at once, and reads on.
 */
export function takeExpectations(server: Server): void {
  server.on('checkExpectation', (request: IncomingMessage, response: ServerResponse) => {
    unmet.add(request)
    server.emit('request', request, response)
  })
}

function linger(socket: Socket): void {
  let left = LINGER_BYTES_MAX
  const late = setTimeout(() => socket.destroy(), LINGER_MS).unref()
  socket.once('close', () => clearTimeout(late))
  socket.once('end', () => socket.destroy())
  socket.end()
  // Node's server reads on at the end of a pause, and gives the connection over, reading or not, to who listens for what comes.
  socket.pause()
  socket.once('resume', () => {
    socket.removeAllListeners('data')
    socket.on('data', (piece: Buffer) => {
      left -= piece.length
      // The client is held, and finds the answer.
      if (left < 0) socket.pause()
    })
  })
  socket.resume()
}
