import { createWriteStream, type WriteStream } from 'node:fs'

/** A file that what a process says is added to. What cannot be written, as on a full disk, is left out: whoever keeps the log goes on, and adds again what can be written later. */
export class LogFile {
  readonly #path: string
  #stream: WriteStream | undefined

  constructor(path: string) {
    this.#path = path
  }

  write(text: string): void {
    this.#stream ??= this.#open()
    this.#stream.write(text)
  }

  end(): void {
    this.#stream?.end()
    this.#stream = undefined
  }

  #open(): WriteStream {
    const stream = createWriteStream(this.#path, { flags: 'a' })
    stream.on('error', () => {
      if (this.#stream === stream) this.#stream = undefined
    })
    return stream
  }
}
