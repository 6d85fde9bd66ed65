import { createHash } from 'node:crypto'
import { type Readable, Transform, type TransformCallback } from 'node:stream'
import { PercolateError } from '../src/base/errors.ts'

export interface Received {
  readonly bytes: number
  readonly sha256: string
}

/** Counts, hashes and limits the bytes of an upload on their way to S3, and gives up on a client that has gone silent. */
export class Meter extends Transform {
  readonly #bytesMax: number
  readonly #idleMs: number
  readonly #hash = createHash('sha256')
  #timer: NodeJS.Timeout | undefined
  #bytes = 0

  constructor(options: { bytesMax: number; idleMs: number }) {
    super()
    this.#bytesMax = options.bytesMax
    this.#idleMs = options.idleMs
    this.#rewind()
  }

  /** Once the stream has ended. */
  received(): Received {
    return { bytes: this.#bytes, sha256: this.#hash.digest('hex') }
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    this.#rewind()
    this.#bytes += chunk.length
    if (this.#bytes > this.#bytesMax) {
      done(
        new PercolateError(
          'UPLOAD_TOO_LARGE',
          `The file is larger than PERCOLATE_UPLOAD_BYTES_MAX, ${this.#bytesMax} bytes.`,
          { field: 'file' },
        ),
      )
      return
    }
    this.#hash.update(chunk)
    done(null, chunk)
  }

  override _flush(done: TransformCallback): void {
    clearTimeout(this.#timer)
    if (this.#bytes === 0)
      done(new PercolateError('UPLOAD_INVALID', 'The file is empty; send one with content.', { field: 'file' }))
    else done()
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    clearTimeout(this.#timer)
    done(error)
  }

  #rewind(): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      // While S3 holds us back the client is not to blame.
      if (this.writableLength > 0 || this.readableLength > 0) this.#rewind()
      else
        this.destroy(
          new PercolateError(
            'UPLOAD_STALLED',
            `The client sent nothing for ${this.#idleMs / 1000} s; nothing was kept. Send the file again.`,
          ),
        )
    }, this.#idleMs).unref()
  }
}

/** Pipes a part into the meter; a part that breaks off breaks the meter, and so the upload. */
export function meter(file: Readable, options: { bytesMax: number; idleMs: number }): Meter {
  const metered = new Meter(options)
  file.once('error', cause =>
    metered.destroy(
      new PercolateError('UPLOAD_INVALID', 'The upload is malformed or cut short; nothing was kept.', {
        field: 'file',
        cause,
      }),
    ),
  )
  file.once('close', () => {
    if (!file.readableEnded)
      metered.destroy(new PercolateError('CANCELLED', 'The client went away in the middle of the upload.'))
  })
  file.pipe(metered)
  return metered
}
