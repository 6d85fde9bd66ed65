import { createHash } from 'node:crypto'
import { type Readable, Transform, type TransformCallback } from 'node:stream'
import { PercolateError } from '../src/base/errors.ts'

export interface Received {
  readonly bytes: number
  readonly sha256: string
}

/** Counts, hashes and limits the bytes of an upload on their way to S3. */
export class Meter extends Transform {
  readonly #bytesMax: number
  readonly #hash = createHash('sha256')
  #bytes = 0

  constructor(bytesMax: number) {
    super()
    this.#bytesMax = bytesMax
  }

  /** Once the stream has ended. */
  received(): Received {
    return { bytes: this.#bytes, sha256: this.#hash.digest('hex') }
  }

  /** Whether S3 is behind: the client is not to blame for what it does not send meanwhile. */
  get isHeldBack(): boolean {
    return this.writableLength > 0 || this.readableLength > 0
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
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
    if (this.#bytes === 0)
      done(new PercolateError('UPLOAD_INVALID', 'The file is empty; send one with content.', { field: 'file' }))
    else done()
  }
}

/** Resolves when bytes of the part have come, or its end has. */
export async function firstBytes(file: Readable): Promise<void> {
  if (file.readableLength > 0 || file.readableEnded || file.destroyed) return
  await new Promise<void>(resolve => {
    const come = () => {
      for (const event of ['readable', 'error', 'close']) file.off(event, come)
      resolve()
    }
    for (const event of ['readable', 'error', 'close']) file.on(event, come)
  })
}

/** Pipes a part into the meter; a part that breaks off, and a client that is given up, break the meter, and so the upload. */
export function meter(file: Readable, options: { bytesMax: number; stalled: AbortSignal }): Meter {
  const metered = new Meter(options.bytesMax)
  const malformed = (cause: unknown) =>
    metered.destroy(
      cause instanceof PercolateError
        ? cause
        : new PercolateError('UPLOAD_INVALID', 'The upload is malformed or cut short; nothing was kept.', {
            field: 'file',
            cause,
          }),
    )
  const goneAway = () =>
    metered.destroy(new PercolateError('CANCELLED', 'The client went away in the middle of the upload.'))
  // It may have broken off while it waited for its place.
  if (file.errored) malformed(file.errored)
  else if (file.destroyed && !file.readableEnded) goneAway()
  file.once('error', malformed)
  file.once('close', () => {
    if (!file.readableEnded) goneAway()
  })
  const giveUp = () => metered.destroy(options.stalled.reason as Error)
  options.stalled.addEventListener('abort', giveUp, { once: true })
  metered.once('close', () => options.stalled.removeEventListener('abort', giveUp))
  if (options.stalled.aborted) giveUp()
  file.pipe(metered)
  return metered
}
