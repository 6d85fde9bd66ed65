import { performance } from 'node:perf_hooks'
import { setImmediate as immediate } from 'node:timers/promises'
import { SLICE_MS_MAX } from './limits.ts'

/**
 * Cuts long computations into slices, so that other requests get the event loop in between: call `await pause()`
 * between units of work; it returns at once until {@link SLICE_MS_MAX} ms have been used up.
 */
export class Slicer {
  #startedAt = performance.now()
  readonly #sliceMs: number

  constructor(sliceMs: number = SLICE_MS_MAX) {
    this.#sliceMs = sliceMs
  }

  get due(): boolean {
    return performance.now() - this.#startedAt >= this.#sliceMs
  }

  async pause(): Promise<void> {
    if (!this.due) return
    await immediate()
    this.#startedAt = performance.now()
  }
}
