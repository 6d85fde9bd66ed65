import { PercolateError } from './errors.ts'

export interface SemaphoreOptions {
  readonly permits: number
  /** Callers that may wait before new ones are refused with TOO_BUSY. */
  readonly waitersMax: number
  /** What is busy, for the error text. */
  readonly name: string
}

/** Bounded concurrency with a bounded queue: first in, first out among those of one rank, lower ranks first. */
export class Semaphore {
  readonly #options: SemaphoreOptions
  readonly #waiters: { readonly rank: number; readonly grant: () => void }[] = []
  #held = 0

  constructor(options: SemaphoreOptions) {
    this.#options = options
  }

  get held(): number {
    return this.#held
  }

  get waiting(): number {
    return this.#waiters.length
  }

  /** Resolves to a release function, to be called exactly once; calling it again does nothing. */
  async acquire(signal?: AbortSignal, rank = 0): Promise<() => void> {
    if (this.#held < this.#options.permits) {
      this.#held++
      return this.#release()
    }
    if (this.#waiters.length >= this.#options.waitersMax) {
      throw new PercolateError('TOO_BUSY', `Too many requests wait for ${this.#options.name}; retry in a moment.`)
    }
    await new Promise<void>((resolve, reject) => {
      const waiter = {
        rank,
        grant: () => {
          signal?.removeEventListener('abort', onAbort)
          resolve()
        },
      }
      const onAbort = () => {
        const at = this.#waiters.indexOf(waiter)
        if (at >= 0) this.#waiters.splice(at, 1)
        reject(new PercolateError('CANCELLED', `Gave up waiting for ${this.#options.name}.`))
      }
      if (signal?.aborted) {
        onAbort()
        return
      }
      signal?.addEventListener('abort', onAbort, { once: true })
      let at = this.#waiters.length
      while (at > 0 && this.#waiters[at - 1]!.rank > rank) at--
      this.#waiters.splice(at, 0, waiter)
    })
    return this.#release()
  }

  /** A permit passes straight from a releaser to the first waiter, so `held` never exceeds `permits`. */
  #release(): () => void {
    let released = false
    return () => {
      if (released) return
      released = true
      const next = this.#waiters.shift()
      if (next) next.grant()
      else this.#held--
    }
  }
}
