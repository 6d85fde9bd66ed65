const HEAD_BYTES = 5

/** Follows the frames of messages in what a call receives, of which it keeps nothing: a byte that says whether the message is compressed, four of its length, the message. */
export class Frames {
  readonly #head = Buffer.alloc(HEAD_BYTES)
  #headBytes = 0
  #left = 0

  /** Whether a message has begun that has not ended. */
  get isWithin(): boolean {
    return this.#headBytes > 0
  }

  /** Takes the next bytes; how many messages ended in them. */
  push(data: Buffer): number {
    let ended = 0
    for (let at = 0; at < data.length; ) {
      if (this.#headBytes < HEAD_BYTES) {
        this.#head[this.#headBytes++] = data[at++]!
        if (this.#headBytes < HEAD_BYTES) continue
        this.#left = this.#head.readUInt32BE(1)
      } else {
        const taken = Math.min(this.#left, data.length - at)
        at += taken
        this.#left -= taken
      }
      if (this.#left > 0) continue
      this.#headBytes = 0
      ended++
    }
    return ended
  }
}

/** Bytes of a message with its frame. */
export const framedBytes = (message: Uint8Array): number => HEAD_BYTES + message.length
