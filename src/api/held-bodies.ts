import { PercolateError } from '../base/errors.ts'
import type { Time } from '../base/time.ts'
import { YieldingShares } from './yielding-shares.ts'

/** Bodies up to this size are counted, and never refused. */
export const SMALL_BODY_BYTES = 64 * 1024

/** How long a body that is still coming keeps its room when others need that, ms: 16 MiB over 30 Mbit/s. */
const COMING_MS = 5000

/** A body that is still coming. */
export interface ArrivingBody {
  /** Counts what came of it. TOO_BUSY when the bodies beside it leave no room. */
  add(bytes: number): void
  /** It was held back here, and goes on: its time begins anew. */
  resumed(): void
  /** It has come whole: it gives way to nobody any more. */
  whole(): void
  /** So much of what came as a body of its own, all of it when less came: held until what is returned is called; calling that again does nothing. */
  split(bytes: number): () => void
  /** What came of it is held no more; calling that again does nothing. */
  release(): void
}

/**
 * The bodies of requests that a node is working on, or that wait in it: what is parsed of one is held until its answer, so all of them together are bounded, and those of one tenant to half of that. What has not
 * come yet is not held: who announces a large body and sends none takes no room from others. Nor does who never sends the end: where there is no room, bodies that have been coming for {@link COMING_MS} give way, whatever their pace.
 */
export class HeldBodies extends YieldingShares {
  /** `bytesMax`: see `PERCOLATE_HELD_BODY_BYTES_MAX`. */
  constructor(bytesMax: number, time?: Pick<Time, 'monotonic'>) {
    super({
      max: bytesMax,
      smallMax: SMALL_BODY_BYTES,
      time,
      patienceMs: COMING_MS,
      refuse: (held, ofTenant) =>
        new PercolateError(
          'TOO_BUSY',
          `The requests ${ofTenant ? 'of this tenant, which may have half of the room, ' : ''}that this node is working on have ${held} bytes of bodies (PERCOLATE_HELD_BODY_BYTES_MAX); retry in a moment, or send fewer large requests at once.`,
        ),
    })
  }

  override check(bytes: number, tenant?: string): void {
    this.checkOrMakeRoom(bytes, 0, tenant, SMALL_BODY_BYTES)
  }

  /** Counts a body as it comes. `giveWay`: nothing more of it is taken, and why. */
  arriving(tenant?: string, giveWay: (error: PercolateError) => void = () => {}): ArrivingBody {
    const body = this.begin(tenant)
    let isComing = false
    const whole = () => {
      isComing = false
      this.forget(body)
    }
    const begins = () => {
      isComing = body.amount > 0
      this.heard(body, tenant, () => giveWay(tooSlow()))
    }
    return {
      add: bytes => {
        this.checkOrMakeRoom(bytes, body.amount, tenant, SMALL_BODY_BYTES, { asking: body })
        body.count(bytes)
        if (!isComing) begins()
      },
      resumed: () => {
        if (isComing) begins()
      },
      whole,
      split: bytes => {
        const part = this.begin(tenant)
        part.count(Math.min(bytes, body.amount))
        body.count(-part.amount)
        // What is left is of the next one.
        begins()
        return part.release
      },
      release: () => {
        whole()
        body.release()
      },
    }
  }
}

const tooSlow = () =>
  new PercolateError(
    'TOO_BUSY',
    `The body has been coming for more than ${COMING_MS / 1000} s, and others need the room that it takes (PERCOLATE_HELD_BODY_BYTES_MAX); send it again, or less at once.`,
  )
