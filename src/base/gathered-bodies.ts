import type { IncomingMessage, Server } from 'node:http'
import { PercolateError } from './errors.ts'

/** What is gathered before it goes on, and what goes on by itself. */
const PIECE_BYTES = 16 * 1024
/** Chunks that came together of which a body may have so many, however small they are; of more, the average must be {@link CHUNK_BYTES_MIN}. */
const CHUNKS_ANY_SIZE_MAX = 4096
/** Node works on each chunk of a body by itself, for as long as on a hundred bytes of JSON. */
const CHUNK_BYTES_MIN = 32

/** Bytes that come in chunks of any size, put together to pieces of some size. */
export class Gathered {
  /** As it came: most bodies are one chunk. */
  #first: Buffer | undefined
  #room: Buffer | undefined
  #used = 0
  #chunks = 0
  #bytes = 0

  /** There are many chunks that came with others, and they are tiny. Who sends a line now and then sends each by itself. */
  get isTiny(): boolean {
    return this.#chunks > CHUNKS_ANY_SIZE_MAX && this.#bytes < this.#chunks * CHUNK_BYTES_MIN
  }

  /** Bytes that have not gone on. */
  get held(): number {
    return this.#first?.length ?? this.#used
  }

  /** The next pieces, when there are any. */
  add(chunk: Buffer): Buffer[] {
    if (this.held > 0) {
      this.#bytes += chunk.length
      this.#chunks++
    }
    if (chunk.length >= PIECE_BYTES) return [...this.end(), chunk]
    if (this.held === 0) {
      this.#first = chunk
      return []
    }
    const ready = this.held + chunk.length > PIECE_BYTES ? this.end() : []
    if (this.#first) this.#copy(this.#first)
    this.#first = undefined
    this.#copy(chunk)
    return ready
  }

  /** What is left. */
  end(): Buffer[] {
    const room = this.#room?.subarray(0, this.#used)
    // A few bytes do not hold on to the room that they were gathered in.
    const rest = this.#first ?? (room && room.length < PIECE_BYTES / 2 ? Buffer.from(room) : room)
    this.#first = undefined
    this.#room = undefined
    this.#used = 0
    return rest ? [rest] : []
  }

  #copy(chunk: Buffer): void {
    this.#room ??= Buffer.allocUnsafeSlow(PIECE_BYTES)
    this.#used += chunk.copy(this.#room, this.#used)
  }
}

const refusals = new WeakMap<IncomingMessage, PercolateError>()

/** Why the body of a request is not taken; undefined: so far it is. */
export const bodyRefusal = (request: IncomingMessage): PercolateError | undefined => refusals.get(request)

/**
 * Gives the bodies of a server's requests in pieces of some size, in whatever chunks clients send them (`Transfer-Encoding: chunked`): each chunk is a Buffer, which takes some 250 bytes beside what is in it, and every stream that it
 * goes through works on it for microseconds. What has come in one turn of the event loop goes on in it: Node runs what waits for the next tick behind each chunk. A body in very many tiny chunks breaks off with an `error` (REQUEST_MALFORMED, see {@link bodyRefusal}), and nothing more of it is read.
 */
export function gatherBodies(server: Server): void {
  server.prependListener('request', gather)
}

function gather(request: IncomingMessage): void {
  const isChunked = request.headers['transfer-encoding'] !== undefined
  const gathered = new Gathered()
  // Node's parser gives what it has taken apart to `push`.
  const give = request.push.bind(request)
  let isSoon = false
  const goOn = () => {
    isSoon = false
    for (const piece of gathered.end()) give(piece)
  }
  request.push = (chunk: Buffer | null) => {
    if (refusals.has(request)) return false
    if (chunk === null) {
      goOn()
      return give(null)
    }
    for (const piece of gathered.add(chunk)) give(piece)
    if (isChunked && gathered.isTiny) {
      const error = tinyChunks()
      refusals.set(request, error)
      gathered.end()
      process.nextTick(() => {
        if (request.listenerCount('error') > 0) request.emit('error', error)
      })
      return false
    }
    if (!isSoon && gathered.held > 0) {
      isSoon = true
      setImmediate(goOn)
    }
    return request.readableLength + gathered.held < request.readableHighWaterMark
  }
}

const tinyChunks = () =>
  new PercolateError(
    'REQUEST_MALFORMED',
    `The body comes in more than ${CHUNKS_ANY_SIZE_MAX} chunks of less than ${CHUNK_BYTES_MIN} bytes on the average; send it in larger chunks, or with Content-Length.`,
    { field: 'Transfer-Encoding' },
  )
