import { type Readable, Transform } from 'node:stream'
import { PercolateError } from '../../base/errors.ts'

/** What is gathered before it goes on, and what goes on by itself. */
const PIECE_BYTES = 16 * 1024
/** Chunks of which a body may have so many, however small they are; of more, the average must be {@link CHUNK_BYTES_MIN}. */
const CHUNKS_ANY_SIZE_MAX = 4096
/** Node works on each chunk of a body by itself, for as long as on a hundred bytes of JSON. */
const CHUNK_BYTES_MIN = 64

/**
 * The bytes of a body in pieces of some size, in whatever chunks a client sends them (`Transfer-Encoding: chunked`): each chunk is a Buffer, which takes some 250 bytes beside what is in it, and a body in chunks of one byte that is
 * kept until it is whole took that for each of its bytes.
 */
export class Gathered {
  #room: Buffer | undefined
  #used = 0
  #chunks = 0
  #bytes = 0

  /** There are many chunks, and they are tiny. */
  get isTiny(): boolean {
    return this.#chunks > CHUNKS_ANY_SIZE_MAX && this.#bytes < this.#chunks * CHUNK_BYTES_MIN
  }

  /** The next pieces, when there are any. */
  add(chunk: Buffer): Buffer[] {
    this.#bytes += chunk.length
    this.#chunks++
    if (chunk.length >= PIECE_BYTES) return [...this.end(), chunk]
    const ready = this.#used + chunk.length > PIECE_BYTES ? this.end() : []
    this.#room ??= Buffer.allocUnsafeSlow(PIECE_BYTES)
    this.#used += chunk.copy(this.#room, this.#used)
    return ready
  }

  /** What is left, of a body that has come to its end. */
  end(): Buffer[] {
    const rest = this.#room?.subarray(0, this.#used)
    this.#room = undefined
    this.#used = 0
    return rest ? [rest] : []
  }
}

/**
 * A body in pieces of some size. `onBytes`: told of all that comes, and may refuse it. `onTiny`: told when the body is refused for its chunks (REQUEST_MALFORMED), and whose rest is not to be taken apart: the
 * connection has to close behind the answer. Of a body that is refused otherwise the rest is read, and kept by nobody, so that the answer gets through.
 */
export function gather(
  source: Readable,
  onBytes: (bytes: number) => void,
  onTiny: (error: PercolateError) => void,
): Readable {
  const gathered = new Gathered()
  const pieces = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      try {
        onBytes(chunk.length)
        for (const piece of gathered.add(chunk)) pieces.push(piece)
        if (gathered.isTiny) throw tinyChunks()
        done()
      } catch (error) {
        source.unpipe(pieces)
        if (gathered.isTiny) onTiny(error as PercolateError)
        else source.resume()
        done(error as Error)
      }
    },
    flush(done) {
      for (const piece of gathered.end()) pieces.push(piece)
      done()
    },
  })
  // Nobody listens yet, or ever, where a request is refused before its body is read.
  pieces.on('error', () => {})
  source.once('error', error => pieces.destroy(error))
  return source.pipe(pieces)
}

const tinyChunks = () =>
  new PercolateError(
    'REQUEST_MALFORMED',
    `The body comes in more than ${CHUNKS_ANY_SIZE_MAX} chunks of less than ${CHUNK_BYTES_MIN} bytes on the average; send it in larger chunks, or with Content-Length.`,
    { field: 'Transfer-Encoding' },
  )
