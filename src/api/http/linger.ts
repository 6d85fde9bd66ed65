import type { Socket } from 'node:net'
import type { FastifyReply } from 'fastify'

/** How long a connection that is closed behind its last answer may go on sending, and how much: all of it is thrown away. */
const LINGER_MS = 5000
const LINGER_BYTES_MAX = 4 * 1024 * 1024

/**
 * Has Node's server end only our side of a connection behind its last answer (`Connection: close`), and take what still comes until the client has ended its own: the system resets a connection that is closed with something unread,
 * and answers that are on their way are lost (https://www.rfc-editor.org/rfc/rfc9112#section-9.6). Nothing of that is taken apart.
 */
export function lingerAtEnd(socket: Socket): void {
  socket.destroySoon = () => linger(socket)
}

/** Closes the connection behind this answer, and lingers. */
export function closeBehind(reply: FastifyReply): void {
  void reply.header('connection', 'close')
  lingerAtEnd(reply.request.raw.socket)
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
      if (left < 0) socket.destroy()
    })
  })
  socket.resume()
}
