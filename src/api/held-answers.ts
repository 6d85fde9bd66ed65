import { PercolateError } from '../base/errors.ts'
import { HalfShares, type Share } from './half-shares.ts'

/** Answers up to this size are counted, and refused only when twice as much is held as may be. */
export const SMALL_ANSWER_BYTES = 64 * 1024

/** What is held of one answer. */
export interface HeldAnswer extends Share {
  /** Counts so many bytes when fewer are counted by now. TOO_BUSY when the answers beside it leave no room. */
  atLeast(bytes: number): void
}

/**
 * Answers that were made and that their clients have not taken: each is memory of this process until the system has the last of it. All of them together are bounded, and those of one tenant to half of
 * that. What cannot be refused when it is made (small answers, and those to writes, which stand) may fill the bound once more; then no request is begun.
 */
export class HeldAnswers extends HalfShares {
  /** `bytesMax`: see `PERCOLATE_HELD_ANSWER_BYTES_MAX`. */
  constructor(bytesMax: number) {
    super({
      max: bytesMax,
      smallMax: SMALL_ANSWER_BYTES,
      refuse: (held, ofTenant) =>
        new PercolateError(
          'TOO_BUSY',
          `The clients of this ${ofTenant ? 'tenant, which may have half of the room,' : 'node'} have ${held} bytes of answers to take (PERCOLATE_HELD_ANSWER_BYTES_MAX); read what was asked for, ask for less at once (limit), or retry in a moment.`,
        ),
    })
  }

  /** TOO_BUSY when no request may begin, whatever it asks for. */
  admit(tenant: string): void {
    this.checkMore(SMALL_ANSWER_BYTES + 1, 0, tenant, 2)
  }

  answer(tenant: string): HeldAnswer {
    const share = this.begin(tenant)
    return Object.assign(share, {
      atLeast: (bytes: number) => {
        const more = bytes - share.amount
        if (more <= 0) return
        this.checkMore(more, share.amount, tenant)
        share.count(more)
      },
    })
  }
}
