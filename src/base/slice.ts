import { performance } from 'node:perf_hooks'
import { setImmediate as immediate } from 'node:timers/promises'
import { SLICE_MS_MAX } from './limits.ts'

/**
 * Cuts long computations into slices, so that other requests get the event loop in between: call `await pause()`
 * between units of work; it returns at once until {@link SLICE_MS_MAX} ms have been used up. In loops of very small units ask `due` first: an await costs more than they do.
 */
export class Slicer {
  #startedAt = performance.now()
  readonly #throwIfEnded: (() => void) | undefined
  /** Infinity in the simulator, where a pause of real time would make a run differ from its repetition. */
  static sliceMs: number = SLICE_MS_MAX

  /** `throwIfEnded` is called after each pause, and throws when nobody waits for the result any more. */
  constructor(throwIfEnded?: () => void) {
    this.#throwIfEnded = throwIfEnded
  }

  get due(): boolean {
    return performance.now() - this.#startedAt >= Slicer.sliceMs
  }

  async pause(): Promise<void> {
    if (!this.due) return
    await immediate()
    this.throwIfEnded()
    this.#startedAt = performance.now()
  }

  /** For steps that wait by themselves, as for the disk. */
  throwIfEnded(): void {
    this.#throwIfEnded?.()
  }
}
