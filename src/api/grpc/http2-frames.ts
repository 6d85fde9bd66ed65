/** What a client sends before its first frame (https://www.rfc-editor.org/rfc/rfc9113#section-3.4). */
const PREFACE_BYTES = 24
const HEAD_BYTES = 9
const TYPE_AT = 3
/** Frames that may begin a call: its head, or the last part of it. */
const HEADERS = 1
const CONTINUATION = 9
/** Node destroys the session of a client that says so with an error, within the frame: what it then reads on from the same piece is memory that it has freed, and the process ends. */
const GOAWAY = 7

/** Where the frames of a connection end (https://www.rfc-editor.org/rfc/rfc9113#section-4.1), in bytes that come in pieces of any size. */
export class Http2Frames {
  readonly #head = Buffer.alloc(HEAD_BYTES)
  #headBytes = 0
  /** Bytes of the preface, or of the frame whose head was read last, that have not come yet. */
  #left = PREFACE_BYTES
  #endsPart = false

  /** Where what is to go on at once ends, of `piece` from `from` on: behind the first frame that may begin a call, or ends them all, or behind so many others. The next call goes on there. */
  take(piece: Buffer, from: number, framesMax: number): number {
    let at = from
    for (let frames = 0; ; ) {
      const skipped = Math.min(this.#left, piece.length - at)
      this.#left -= skipped
      at += skipped
      if (this.#left > 0) return at
      if (this.#endsPart) {
        this.#endsPart = false
        return at
      }
      if (at === piece.length || frames >= framesMax) return at
      const copied = piece.copy(this.#head, this.#headBytes, at, at + HEAD_BYTES - this.#headBytes)
      this.#headBytes += copied
      at += copied
      if (this.#headBytes < HEAD_BYTES) return at
      this.#headBytes = 0
      this.#left = this.#head.readUIntBE(0, 3)
      const type = this.#head[TYPE_AT]
      this.#endsPart = type === HEADERS || type === CONTINUATION || type === GOAWAY
      frames++
    }
  }
}
