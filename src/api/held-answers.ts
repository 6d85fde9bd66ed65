import { PercolateError } from '../base/errors.ts'
import type { Share } from '../base/half-shares.ts'
import type { Time } from '../base/time.ts'
import { YieldingShares } from './yielding-shares.ts'

/** Answers up to this size are counted, and refused only when twice as much is held as may be. */
export const SMALL_ANSWER_BYTES = 64 * 1024

/** What is held of one answer. */
export interface HeldAnswer extends Share {
  /** Counts so many bytes when fewer are counted by now; what it had before was taken. TOO_BUSY when the answers beside it leave no room. */
  atLeast(bytes: number): void
}

export interface HeldAnswersOptions {
  readonly time?: Pick<Time, 'monotonic'>
  /** After so long without being taken an answer gives way to another, ms. Default: never. */
  readonly patienceMs?: number
}

/**
 * Answers that were made and that their clients have not taken: each is memory of this process until the system has the last of it. All of them together are bounded, and those of one tenant to half of
 * that. What cannot be refused when it is made (small answers, and those to writes, which stand) may fill the bound once more; then no request is begun.
 *
 * As long as there is room a client may take its time, since who takes some of an answer now and then is not cut off. When another does not fit, large answers that had their time give way, the oldest first, if that makes room.
 */
export class HeldAnswers extends YieldingShares {
  /** `bytesMax`: see `PERCOLATE_HELD_ANSWER_BYTES_MAX`. */
  constructor(bytesMax: number, { time, patienceMs }: HeldAnswersOptions = {}) {
    super({
      max: bytesMax,
      smallMax: SMALL_ANSWER_BYTES,
      time,
      patienceMs,
      refuse: (held, ofTenant) =>
        new PercolateError(
          'TOO_BUSY',
          `The clients of this ${ofTenant ? 'tenant, which may have half of the room,' : 'node'} have ${held} bytes of answers to take (PERCOLATE_HELD_ANSWER_BYTES_MAX); read what was asked for, ask for less at once (limit), or retry in a moment.`,
        ),
    })
  }

  /** TOO_BUSY when no request may begin, whatever it asks for. Small answers give way for that, too. */
  admit(tenant: string): void {
    this.checkOrMakeRoom(SMALL_ANSWER_BYTES + 1, 0, tenant, 0, { times: 2 })
  }

  /** `cutOff`: ends the answer when it has to give way. */
  answer(tenant: string, cutOff: () => void): HeldAnswer {
    const share = this.begin(tenant)
    return {
      get amount() {
        return share.amount
      },
      count: bytes => {
        share.count(bytes)
        this.heard(share, tenant, cutOff)
      },
      atLeast: bytes => {
        const more = bytes - share.amount
        if (more > 0) {
          this.checkOrMakeRoom(more, share.amount, tenant, SMALL_ANSWER_BYTES + 1, { asking: share })
          share.count(more)
        }
        this.heard(share, tenant, cutOff)
      },
      release: () => {
        this.forget(share)
        share.release()
      },
    }
  }
}
