import { PercolateError } from '../base/errors.ts'

/** Bodies up to this size are counted, and never refused. */
export const SMALL_BODY_BYTES = 64 * 1024

/** The bodies of requests that a node is working on, or that wait in it: what is parsed of one is held until its answer, so all of them together are bounded. */
export class HeldBodies {
  readonly #bytesMax: number
  #bytes = 0
  #refused = 0

  /** `bytesMax`: see `PERCOLATE_HELD_BODY_BYTES_MAX`. */
  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax
  }

  get bytes(): number {
    return this.#bytes
  }

  get refused(): number {
    return this.#refused
  }

  /** Counts a body until what it returns is called; calling that again does nothing. TOO_BUSY when there are too many beside it; alone every body is taken. */
  hold(bytes: number): () => void {
    if (bytes > SMALL_BODY_BYTES && this.#bytes > 0 && this.#bytes + bytes > this.#bytesMax) {
      this.#refused++
      throw new PercolateError(
        'TOO_BUSY',
        `The requests that this node is working on have ${this.#bytes} bytes of bodies (PERCOLATE_HELD_BODY_BYTES_MAX); retry in a moment, or send fewer large requests at once.`,
      )
    }
    this.#bytes += bytes
    let isHeld = true
    return () => {
      if (isHeld) this.#bytes -= bytes
      isHeld = false
    }
  }
}
