import type { Server } from 'node:http'
import { answerUnderWay } from './server-socket.ts'

/** Makes the time that an answer may stall differ from every time in whole milliseconds. */
const HALF_A_MS = 0.5

/**
 * Closes a connection that takes nothing of its answer for `stallMs`: what waits to be sent is memory of this process. `onStalled` is told of each. An answer that is not there yet, and one that is
 * taken however slowly, may take their time: Node takes every part that the system accepted for a sign of life (https://nodejs.org/api/http.html#serversettimeoutmsecs-callback).
 */
export function cutOffStalled(server: Server, stallMs: number, onStalled: () => void): void {
  /*
   * A socket has one timer (`socket.timeout`, milliseconds) for two purposes: while a request is received or answered Node sets it to the time given here, between two requests to the keep-alive time, and
   * this listener hears of both. Which of them has passed shows only in the value: the keep-alive time is a whole number, and this one is not, also when a setting makes them alike.
   */
  const stallTimerMs = stallMs + HALF_A_MS
  server.setTimeout(stallTimerMs, socket => {
    const isUnused = socket.timeout !== stallTimerMs && !answerUnderWay(socket)
    const isStalled = socket.writableLength > 0
    if (isStalled) onStalled()
    // An answer that is not there yet may take its time; a request has to come within `requestTimeout`, which Node sees to.
    if (isStalled || isUnused) socket.destroy()
  })
}
