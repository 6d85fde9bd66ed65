import { performance } from 'node:perf_hooks'
import { SLICE_MS_MAX } from './limits.ts'

/** Work of many connections, a slice of it each time that the event loop comes round. */
export class Turns {
  readonly #due: (() => void)[] = []
  readonly #reading: (() => void)[] = []
  #isRunning = false

  /** Work that does not take long. What it puts off to the next tick is done before anything else, and is part of the slice. */
  wait(work: () => void): void {
    this.#due.push(work)
    this.#run()
  }

  /** Reading from a connection again: a piece of it is taken apart at once, whatever is in it, so that one goes in each round. */
  waitToRead(read: () => void): void {
    this.#reading.push(read)
    this.#run()
  }

  #run(): void {
    if (this.#isRunning) return
    this.#isRunning = true
    setImmediate(() => {
      try {
        this.#reading.shift()?.()
      } finally {
        // What comes meanwhile has its turn in the next round.
        this.#slice(performance.now() + SLICE_MS_MAX, this.#due.length)
      }
    })
  }

  #slice(untilMs: number, left: number): void {
    const work = this.#due.shift()
    try {
      work?.()
    } finally {
      // Behind what the work has put off.
      process.nextTick(queueMicrotask, () => {
        if (left > 1 && performance.now() < untilMs) return this.#slice(untilMs, left - 1)
        this.#isRunning = false
        if (this.#due.length > 0 || this.#reading.length > 0) this.#run()
      })
    }
  }
}
