import { PercolateError } from '../../base/errors.ts'

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

/** Pieces that one message may come in, however small they are; in more of them, their average must be {@link PIECE_BYTES_MIN}. */
const PIECES_ANY_SIZE_MAX = 256
const PIECE_BYTES_MIN = 64

/** The pieces that a message comes in (DATA frames). Each is kept until the message is whole, and takes some 150 bytes beside what is in it. */
export class MessagePieces {
  #pieces = 0
  #bytes = 0

  /** REQUEST_MALFORMED when there are many, and they are tiny. */
  note(bytes: number): void {
    this.#bytes += bytes
    if (++this.#pieces <= PIECES_ANY_SIZE_MAX || this.#bytes >= this.#pieces * PIECE_BYTES_MIN) return
    throw new PercolateError(
      'REQUEST_MALFORMED',
      `The message comes in more than ${PIECES_ANY_SIZE_MAX} DATA frames of less than ${PIECE_BYTES_MIN} bytes on the average; send it in larger ones.`,
      { field: 'message' },
    )
  }

  /** Another message begins. */
  begin(): void {
    this.#pieces = 0
    this.#bytes = 0
  }
}

/** Bytes of a message with its frame. */
export const framedBytes = (message: Uint8Array): number => HEAD_BYTES + message.length
