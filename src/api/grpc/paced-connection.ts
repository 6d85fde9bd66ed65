import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'
import type { Turns } from '../../base/turns.ts'
import { Http2Frames } from './http2-frames.ts'

/** Parts of a piece that go on without a turn: four calls, each with a message. */
const AT_ONCE_MAX = 8
/** And in a turn. */
const IN_A_TURN_MAX = 4
/** Frames in a part that begin no call. */
const FRAMES_MAX = 64
/** Turns that a connection may miss because it is just written to: to one that always is, a part goes on as soon as it is not. */
const MISSED_MAX = 8
/** Node that reads nothing, and has nothing to write, for so long reads nothing any more. */
const DEAF_MS = 500

/**
 * A connection of the gRPC server, as grpc-js is given it. A client may open a thousand streams in one piece that is read (64 KiB), on each of which Node and grpc-js work at once, below every interceptor, whether there is
 * such a method or not, and be it reset in the next frame. Here a piece goes on in parts with one call each: a few at once, what is behind them in turns with other connections, and nothing is read meanwhile. Whoever makes
 * one call at a time waits for no turn. While Node writes to the client it does not read, and nothing goes on: who takes no answers cannot ask for more.
 *
 * Between two parts the event loop runs what was put off: Node tells of a new stream in the next tick.
 */
export class PacedConnection extends Duplex {
  readonly #socket: Socket
  readonly #turns: Turns
  readonly #frames = new Http2Frames()
  /** What was read last, as far as it did not go on yet. */
  #rest: Buffer | undefined
  #atOnce = 0
  #isWaiting = false
  /** Its turn came while Node was not reading. */
  #hasMissed = false
  #missed = 0
  /** Whether Node reads nothing any more is looked at then. */
  #deaf: NodeJS.Timeout | undefined
  /** Writes so far. */
  #writes = 0
  #waitsForTurns = true

  /** `stallMsMax`: for how long a client may take nothing of what was written to it. */
  constructor(socket: Socket, turns: Turns, stallMsMax = Number.POSITIVE_INFINITY) {
    super()
    this.#socket = socket
    this.#turns = turns
    socket.on('data', (piece: Buffer) => {
      this.#rest = piece
      this.#atOnce = AT_ONCE_MAX
      this.#pass()
    })
    this.on('resume', () => {
      if (!this.#hasMissed) return
      this.#hasMissed = false
      clearTimeout(this.#deaf)
      if (this.#missed < MISSED_MAX) this.#hold()
      else this.#pass()
    })
    // No client of gRPC ends its side and waits for answers; and Node would end the process when it writes one behind that (js_stream_socket asserts it, grpc-floods.test.ts).
    socket.once('end', () => this.destroy())
    // Node does not let go of a session that it has destroyed before what it writes there has gone.
    if (Number.isFinite(stallMsMax))
      socket.setTimeout(stallMsMax, () => {
        if (socket.writableLength > 0) this.destroy()
      })
    socket.once('error', error => this.destroy(error))
    socket.once('close', () => this.destroy())
  }

  /** Whoever is at the other end is one of us: nothing waits for a turn any more. */
  trust(): void {
    this.#waitsForTurns = false
  }

  /** What comes goes on by itself. */
  override _read(): void {}

  override _write(bytes: Buffer, _encoding: BufferEncoding, taken: (error?: Error | null) => void): void {
    this.#writes++
    this.#socket.write(bytes, taken)
  }

  override _writev(chunks: { chunk: Buffer }[], taken: (error?: Error | null) => void): void {
    this.#writes++
    this.#socket.cork()
    for (const [n, { chunk }] of chunks.entries()) this.#socket.write(chunk, n < chunks.length - 1 ? undefined : taken)
    this.#socket.uncork()
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#socket.end(() => done())
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#rest = undefined
    clearTimeout(this.#deaf)
    this.#socket.destroy()
    done(error)
  }

  /**
   * Ends a connection that Node reads no more, though it writes nothing: behind what breaks the protocol nghttp2 wants nothing, and leaves it to others to close (nghttp2_session_want_read). The end of its client would not be seen
   * behind what waits here, and its calls would stay for good.
   */
  #endWhenDeaf(): void {
    const writes = this.#writes
    const isIdle = () => writes === this.#writes && this.writableLength === 0
    clearTimeout(this.#deaf)
    this.#deaf = setTimeout(() => {
      if (!isIdle()) return this.#endWhenDeaf()
      // Node reads on one turn of the event loop after the last of a write has gone, which may have been in this one.
      setImmediate(() => {
        if (this.destroyed || !this.#hasMissed) return
        if (isIdle()) this.destroy()
        else this.#endWhenDeaf()
      })
    }, DEAF_MS).unref()
  }

  readonly #pass = (): void => {
    this.#isWaiting = false
    const piece = this.#rest
    if (piece && this.isPaused()) {
      this.#hasMissed = true
      this.#missed++
      this.#endWhenDeaf()
    } else if (piece) {
      this.#missed = 0
      const end = this.#frames.take(piece, 0, FRAMES_MAX)
      this.#rest = end < piece.length ? piece.subarray(end) : undefined
      this.push(piece.subarray(0, end))
    }
    this.#hold()
  }

  /** Reads on when nothing is left of the piece; otherwise the next part of it waits. */
  #hold(): void {
    if (this.destroyed) return
    if (!this.#rest) return void this.#socket.resume()
    this.#socket.pause()
    if (this.#isWaiting || this.#hasMissed) return
    this.#isWaiting = true
    if (!this.#waitsForTurns || --this.#atOnce > 0) process.nextTick(this.#pass)
    else
      this.#turns.wait(() => {
        this.#atOnce = IN_A_TURN_MAX
        this.#pass()
      })
  }
}
