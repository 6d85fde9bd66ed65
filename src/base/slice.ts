import { performance } from 'node:perf_hooks'
import { setImmediate as immediate } from 'node:timers/promises'
import { SLICE_MS_MAX } from './limits.ts'

/**
 * Cuts long computations into slices, so that other requests get the event loop in between: call `await pause()`
 * between units of work; it returns at once until {@link SLICE_MS_MAX} ms have been used up.
 */
export class Slicer {
  #startedAt = performance.now()
  /** Infinity in the simulator, where a pause of real time would make a run differ from its repetition. */
  static sliceMs: number = SLICE_MS_MAX

  get due(): boolean {
    return performance.now() - this.#startedAt >= Slicer.sliceMs
  }

  async pause(): Promise<void> {
    if (!this.due) return
    await immediate()
    this.#startedAt = performance.now()
  }
}
