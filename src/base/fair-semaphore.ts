import { PercolateError } from './errors.ts'
import { systemTime, type Time } from './time.ts'

export interface FairSemaphoreOptions {
  readonly permits: number
  /** Permits that one key may hold at once; the others wait, also while permits are free. */
  readonly perKeyMax: number
  /** Callers that may wait before new ones are refused with TOO_BUSY. */
  readonly waitersMax: number
  /** Of these, those of one key. */
  readonly waitersPerKeyMax: number
  /** What is busy, for the error text. */
  readonly name: string
  readonly time?: Pick<Time, 'monotonic'> | undefined
}

interface Share {
  held: number
  readonly waiters: { readonly sinceMs: number; readonly grant: () => void }[]
}

/**
 * Bounded concurrency shared between keys (tenants): no key holds more than its share, and keys that wait are served in turn, whatever the
 * length of their queues. Within a key: first in, first out.
 */
export class FairSemaphore {
  readonly #options: FairSemaphoreOptions
  /** In the order in which their turns come. A key that neither holds nor waits is not here. */
  readonly #shares = new Map<string, Share>()
  #held = 0
  #waiting = 0

  constructor(options: FairSemaphoreOptions) {
    this.#options = options
  }

  get held(): number {
    return this.#held
  }

  get waiting(): number {
    return this.#waiting
  }

  /** Whether somebody waits who would get the permit that this key releases: who has its share waits for its own. */
  isWanted(key: string): boolean {
    if (this.#waiting === 0) return false
    const { perKeyMax } = this.#options
    for (const [other, share] of this.#shares)
      if (share.waiters.length > 0 && (other === key || share.held < perKeyMax)) return true
    return false
  }

  /** Of other keys, those that have waited for so long, and would get a permit if there was one: as many as their shares have room for. */
  waitingOfOthers(key: string, waitedMs: number): number {
    if (this.#waiting === 0) return 0
    const { perKeyMax, time = systemTime } = this.#options
    const beforeMs = time.monotonic() - waitedMs
    let count = 0
    for (const [other, { held, waiters }] of this.#shares) {
      if (other === key) continue
      for (let n = 0; n < waiters.length && held + n < perKeyMax && waiters[n]!.sinceMs <= beforeMs; n++) count++
    }
    return count
  }

  /** Whether {@link acquire} would refuse this key now, because too many wait. */
  isFull(key: string): boolean {
    const { permits, perKeyMax, waitersMax, waitersPerKeyMax } = this.#options
    const { held, waiters } = this.#shares.get(key) ?? { held: 0, waiters: [] }
    if (this.#held < permits && held < perKeyMax) return false
    return this.#waiting >= waitersMax || waiters.length >= waitersPerKeyMax
  }

  /** Resolves to a release function; calling it again does nothing. Throws TOO_BUSY when the queue is full, CANCELLED when the signal fires. */
  async acquire(key: string, signal?: AbortSignal): Promise<() => void> {
    const { permits, perKeyMax, name, time = systemTime } = this.#options
    if (signal?.aborted) throw new PercolateError('CANCELLED', `Gave up waiting for ${name}.`)
    const share = this.#shares.get(key) ?? { held: 0, waiters: [] }
    if (this.#held < permits && share.held < perKeyMax) {
      this.#held++
      share.held++
      this.#shares.set(key, share)
      return this.#release(key, share)
    }
    if (this.isFull(key)) throw new PercolateError('TOO_BUSY', `Too many requests wait for ${name}; retry in a moment.`)
    await new Promise<void>((resolve, reject) => {
      const waiter = {
        sinceMs: time.monotonic(),
        grant: () => {
          signal?.removeEventListener('abort', onAbort)
          resolve()
        },
      }
      const onAbort = () => {
        const at = share.waiters.indexOf(waiter)
        if (at < 0) return
        share.waiters.splice(at, 1)
        this.#waiting--
        this.#forget(key, share)
        reject(new PercolateError('CANCELLED', `Gave up waiting for ${name}.`))
      }
      signal?.addEventListener('abort', onAbort, { once: true })
      share.waiters.push(waiter)
      this.#waiting++
      this.#shares.set(key, share)
    })
    return this.#release(key, share)
  }

  #release(key: string, share: Share): () => void {
    let released = false
    return () => {
      if (released) return
      released = true
      share.held--
      this.#held--
      this.#grantNext()
      this.#forget(key, share)
    }
  }

  /** A permit passes straight from a releaser to the next in turn, so `held` never exceeds `permits`. */
  #grantNext(): void {
    for (const [key, share] of this.#shares) {
      if (share.waiters.length === 0 || share.held >= this.#options.perKeyMax) continue
      this.#held++
      share.held++
      this.#waiting--
      // To the end of the line.
      this.#shares.delete(key)
      this.#shares.set(key, share)
      share.waiters.shift()!.grant()
      return
    }
  }

  #forget(key: string, share: Share): void {
    if (share.held === 0 && share.waiters.length === 0 && this.#shares.get(key) === share) this.#shares.delete(key)
  }
}
