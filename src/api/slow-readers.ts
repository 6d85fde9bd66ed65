import type { EventEmitter } from 'node:events'
import { drained } from '../base/drained.ts'
import { PercolateError } from '../base/errors.ts'
import type { Metrics } from '../base/metrics.ts'

/** Those who are sent an answer and do not take it: what waits for them is memory of this process, which they may keep only so long. Plain answers by HTTP see `cutOffStalled`. */
export class SlowReaders {
  readonly #stallMsMax: number
  readonly #metrics: Metrics

  /** `stallMsMax`: how long a reader may take nothing. */
  constructor(stallMsMax: number, metrics: Metrics) {
    this.#stallMsMax = stallMsMax
    this.#metrics = metrics
  }

  /** How long a reader may take nothing, ms. */
  get stallMsMax(): number {
    return this.#stallMsMax
  }

  /** Counts one that others cut off. */
  countStalled(): void {
    this.#metrics.countError('READER_STALLED')
  }

  /** Calls back, and counts it, when what is begun now is not taken in time: unless what is returned is called before. */
  watch(onStalled: () => void): () => void {
    const timer = setTimeout(() => {
      this.countStalled()
      onStalled()
    }, this.#stallMsMax).unref()
    return () => clearTimeout(timer)
  }

  /** Waits for a stream that is full; false when its reader is gone, or is to be cut off, which is counted. */
  async keepsUp(stream: EventEmitter): Promise<boolean> {
    const how = await drained(stream, this.#stallMsMax)
    if (how === 'stalled') this.countStalled()
    return how === 'drained'
  }

  /** Whether the rest of an answer, which nothing will follow, is not taken: its stream neither drains nor closes. Cut it off; it is counted. */
  async leavesRest(stream: EventEmitter): Promise<boolean> {
    const isStalled = (await drained(stream, this.#stallMsMax)) === 'stalled'
    if (isStalled) this.countStalled()
    return isStalled
  }

  /** As {@link keepsUp}, for one whose end is told by a signal. READER_STALLED: cut it off. */
  async wait(stream: EventEmitter, signal: AbortSignal): Promise<void> {
    if ((await drained(stream, this.#stallMsMax, signal)) === 'stalled')
      throw new PercolateError('READER_STALLED', `The client took nothing of the answer for ${this.#stallMsMax} ms.`)
  }
}
