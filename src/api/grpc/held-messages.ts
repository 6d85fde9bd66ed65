import type { ServerHttp2Stream } from 'node:http2'
import type { PercolateError } from '../../base/errors.ts'
import type { ArrivingBody, HeldBodies } from '../held-bodies.ts'
import { framedBytes } from './frames.ts'
import type { Received } from './strict-messages.ts'

/** What was counted for messages that were given to a handler which has not taken that over. */
const given = new WeakMap<object, { readonly release: () => void; readonly waiting: Set<() => void> }>()

/**
 * What one call has sent and nobody has done with, as the held bodies count it: a message that is still coming, its bytes, then what is made of it. It goes with the call's stream, or, once the handler
 * has taken it over, when that lets go of it.
 */
export class HeldMessages {
  readonly #coming: ArrivingBody
  readonly #waiting = new Set<() => void>()
  #hasEnded = false

  /** `giveWay`: ends the call, with the error that its client is told. */
  constructor(bodies: HeldBodies, stream: ServerHttp2Stream, giveWay: (error: PercolateError) => void) {
    this.#coming = bodies.arriving(undefined, giveWay)
    stream.once('close', () => this.end())
  }

  /** TOO_BUSY when there are too many beside it. */
  receive(bytes: number): void {
    if (!this.#hasEnded) this.#coming.add(bytes)
  }

  /** The call was held back here, and goes on. */
  resumed(): void {
    this.#coming.resumed()
  }

  /** Makes a message of what came; see {@link Received.decode}. */
  open(received: Received): object {
    const release = this.#coming.split(framedBytes(received.bytes))
    try {
      const message = received.decode()
      this.#waiting.add(release)
      given.set(message, { release, waiting: this.#waiting })
      return message
    } catch (error) {
      release()
      throw error
    }
  }

  /** Of what came nothing is held here any more: it was handed to a service that reads by itself. */
  letGo(): void {
    this.#coming.split(Number.POSITIVE_INFINITY)()
  }

  /** Lets go of everything that no handler has taken over. */
  end(): void {
    this.#hasEnded = true
    this.#coming.release()
    for (const release of this.#waiting) release()
    this.#waiting.clear()
  }
}

/** Takes over what was counted for a message, which is held until what is returned is called. Of a message that was taken over before: nothing. */
export function takeOver(message: object): () => void {
  const held = given.get(message)
  if (!held) return () => {}
  given.delete(message)
  held.waiting.delete(held.release)
  return held.release
}
