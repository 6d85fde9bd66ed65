import { PercolateError } from '../base/errors.ts'
import { HalfShares } from './half-shares.ts'

/** Bodies up to this size are counted, and never refused. */
export const SMALL_BODY_BYTES = 64 * 1024

/** A body that is still coming. */
export interface ArrivingBody {
  /** Counts what came of it. TOO_BUSY when the bodies beside it leave no room. */
  add(bytes: number): void
  /** So much of what came as a body of its own, all of it when less came: held until what is returned is called; calling that again does nothing. */
  split(bytes: number): () => void
  /** What came of it is held no more; calling that again does nothing. */
  release(): void
}

/**
 * The bodies of requests that a node is working on, or that wait in it: what is parsed of one is held until its answer, so all of them together are bounded, and those of one tenant to half of that. What has not
 * come yet is not held: who announces a large body and sends none takes no room from others.
 */
export class HeldBodies extends HalfShares {
  /** `bytesMax`: see `PERCOLATE_HELD_BODY_BYTES_MAX`. */
  constructor(bytesMax: number) {
    super({
      max: bytesMax,
      smallMax: SMALL_BODY_BYTES,
      refuse: (held, ofTenant) =>
        new PercolateError(
          'TOO_BUSY',
          `The requests ${ofTenant ? 'of this tenant, which may have half of the room, ' : ''}that this node is working on have ${held} bytes of bodies (PERCOLATE_HELD_BODY_BYTES_MAX); retry in a moment, or send fewer large requests at once.`,
        ),
    })
  }

  /** Counts a body as it comes. */
  arriving(tenant?: string): ArrivingBody {
    const body = this.begin(tenant)
    return {
      add: bytes => {
        this.checkMore(bytes, body.amount, tenant)
        body.count(bytes)
      },
      split: bytes => {
        const part = this.begin(tenant)
        part.count(Math.min(bytes, body.amount))
        body.count(-part.amount)
        return part.release
      },
      release: body.release,
    }
  }
}
