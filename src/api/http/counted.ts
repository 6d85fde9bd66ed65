import { type Readable, Transform } from 'node:stream'

/** A body as it comes. `onBytes` is told of all of it, and may refuse it by what it throws: nothing more is read then, as when it is destroyed. `onWhole`: it has come to its end. */
export function counted(source: Readable, onBytes: (bytes: number) => void, onWhole: () => void): Readable {
  const body = new Transform({
    transform(piece: Buffer, _encoding, done) {
      try {
        onBytes(piece.length)
        done(null, piece)
      } catch (error) {
        source.unpipe(body)
        done(error as Error)
      }
    },
    flush(done) {
      onWhole()
      done()
    },
  })
  // Nobody listens yet, or ever, where a request is refused before its body is read.
  body.on('error', () => {})
  source.once('error', error => body.destroy(error))
  return source.pipe(body)
}
