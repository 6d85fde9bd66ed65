import type { IncomingMessage } from 'node:http'

/** Bytes of a body that are kept for sending it again; the conditional writes and queries that a handover overtakes are small. */
export const KEPT_BODY_BYTES_MAX = 64 * 1024

/** The body of a request that is being sent on, for as long as it is small: a node that takes it and then says that it did nothing, because it stopped serving the tenant, has cost nothing. */
export class KeptBody {
  #pieces: Buffer[] = []
  #bytes = 0
  #isWhole = false

  constructor(request: IncomingMessage) {
    const onData = (chunk: Buffer) => {
      this.#bytes += chunk.length
      if (this.#bytes <= KEPT_BODY_BYTES_MAX) return void this.#pieces.push(chunk)
      this.#pieces = []
      request.off('data', onData)
    }
    request.on('data', onData)
    request.once('end', () => {
      this.#isWhole = this.#bytes <= KEPT_BODY_BYTES_MAX
    })
  }

  /** Undefined: it is too large, or has not come to its end. */
  get whole(): Buffer | undefined {
    return this.#isWhole ? Buffer.concat(this.#pieces) : undefined
  }
}
