import type { Server } from 'node:http'
import type { Socket } from 'node:net'

/** Node keeps the answer that is under way on the socket. */
type ServerSocket = Socket & { readonly _httpMessage?: object | null }

/**
 * Closes a connection that takes nothing of its answer for `stallMs`: what waits to be sent is memory of this process. `onStalled` is told of each. An answer that is not there yet, and one that is
 * taken however slowly, may take their time: Node takes every part that the system accepted for a sign of life (https://nodejs.org/api/http.html#serversettimeoutmsecs-callback).
 */
export function cutOffStalled(server: Server, stallMs: number, onStalled: () => void): void {
  // Node keeps the time that it gives to an unused connection in the same place: the fraction tells them apart.
  const timeoutMs = stallMs + 0.5
  server.setTimeout(timeoutMs, (socket: ServerSocket) => {
    if (socket.writableLength > 0) onStalled()
    // An answer that is not there yet; or a request, of which `requestTimeout` sees that it comes in time.
    else if (socket._httpMessage || socket.timeout === timeoutMs) return
    // Who listens to this has to close unused connections, too.
    socket.destroy()
  })
}
