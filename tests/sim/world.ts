import type { Time } from '../../src/base/time.ts'

/** A small seeded generator (mulberry32): equal seeds give equal runs. */
export class Random {
  #state: number

  constructor(seed: number) {
    this.#state = seed >>> 0
  }

  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0
    let t = this.#state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }

  int(min: number, max: number): number {
    return min + Math.floor(this.next() * (max - min + 1))
  }

  chance(probability: number): boolean {
    return this.next() < probability
  }

  pick<T>(items: readonly T[]): T {
    return items[Math.floor(this.next() * items.length)]!
  }

  bytes(count: number): Buffer {
    return Buffer.from(Array.from({ length: count }, () => this.int(0, 255)))
  }
}

/** Resolves when every promise that could go on has: ticks run after them. A turn of the event loop would do it too, at ten times the price. */
const settled = (): Promise<void> => new Promise(resolve => process.nextTick(resolve))

interface Timer {
  readonly atMs: number
  readonly order: number
  readonly fire: () => void
  cancelled: boolean
}

/** What a process' clocks do. */
export interface SimClock {
  readonly skewMs: number
  readonly isDead: boolean
  readonly pausedUntilMs?: number
}

const START_MS = 1_700_000_000_000

/**
 * Other schedules of one seed: waits last a little longer now and then, and what would be answered at once is answered after a few turns, or a moment. It draws from a generator of its own, and how often and how long is drawn
 * once a life. Equal seeds and shakes give equal runs.
 */
export class Shake {
  readonly #random: Random
  readonly #rate: number
  readonly #msMax: number

  /** @param shake 1 or more; which of the other schedules. */
  constructor(seed: number, shake: number) {
    this.#random = new Random(Math.imul(seed, 0x9e3779b1) ^ Math.imul(shake, 0x85ebca6b))
    this.#rate = this.#random.pick([0.01, 0.05, 0.2, 0.5])
    this.#msMax = this.#random.pick([0.2, 1, 5, 20])
  }

  /** Milliseconds that a wait lasts longer. */
  extraMs(): number {
    return this.#random.chance(this.#rate) ? this.#random.next() * this.#msMax : 0
  }

  /** Turns of the microtask queue that an answer takes longer. */
  extraTurns(): number {
    return this.#random.chance(this.#rate) ? this.#random.int(1, 8) : 0
  }
}

/** Simulated time: a heap of timers. Between two of them everything that can run without waiting does. */
export class World {
  readonly random: Random
  /** Undefined: the schedule is the seed's own. */
  readonly shake: Shake | undefined
  nowMs = 0
  #order = 0
  readonly #heap: Timer[] = []
  events = 0

  /** `shake`: which of the seed's other schedules; 0: its own. */
  constructor(seed: number, shake = 0) {
    this.random = new Random(seed)
    this.shake = shake > 0 ? new Shake(seed, shake) : undefined
  }

  at(delayMs: number, fire: () => void): Timer {
    const timer = { atMs: this.nowMs + Math.max(0, delayMs), order: this.#order++, fire, cancelled: false }
    this.#push(timer)
    return timer
  }

  /**
   * The time of one process, or of the servers: its clock may be wrong. Nothing that it waits for comes up while the process is paused, though its clocks go on; nothing ever again when it is dead.
   */
  timeOf(process: SimClock): Time {
    return {
      now: () => START_MS + Math.floor(this.nowMs) + process.skewMs,
      monotonic: () => this.nowMs,
      sleep: (ms, options = {}) =>
        new Promise<void>((resolve, reject) => {
          const { signal } = options
          const fail = () => reject(signal?.reason instanceof Error ? signal.reason : new Error('aborted'))
          if (signal?.aborted) return fail()
          const fire = () => {
            const pausedMs = (process.pausedUntilMs ?? 0) - this.nowMs
            if (pausedMs > 0 && !process.isDead) {
              timer = this.at(pausedMs, fire)
              return
            }
            signal?.removeEventListener('abort', onAbort)
            if (!process.isDead) resolve()
          }
          let timer = this.at(ms + (this.shake?.extraMs() ?? 0), fire)
          const onAbort = () => {
            timer.cancelled = true
            if (!process.isDead) fail()
          }
          signal?.addEventListener('abort', onAbort, { once: true })
        }),
      random: bytes => this.random.bytes(bytes),
    }
  }

  /** Lets `ms` pass. */
  async run(ms: number): Promise<void> {
    const until = this.nowMs + ms
    for (;;) {
      await settled()
      let next = this.#heap[0]
      // Nothing happens when a timer that was cancelled comes up: nothing has to be waited for.
      while (next?.cancelled && next.atMs <= until) {
        this.#pop()
        next = this.#heap[0]
      }
      if (!next || next.atMs > until) break
      this.#pop()
      this.nowMs = next.atMs
      this.events++
      next.fire()
    }
    this.nowMs = until
  }

  /** Runs until `done` holds, at most `ms`; whether it does. */
  async runUntil(done: () => boolean, ms: number): Promise<boolean> {
    const until = this.nowMs + ms
    while (this.nowMs < until) {
      if (done()) return true
      await this.run(Math.min(20, until - this.nowMs))
    }
    return done()
  }

  async settle<T>(work: Promise<T>, ms: number): Promise<{ value: T } | { error: unknown } | undefined> {
    let outcome: { value: T } | { error: unknown } | undefined
    work.then(
      value => {
        outcome = { value }
      },
      error => {
        outcome = { error }
      },
    )
    await this.runUntil(() => outcome !== undefined, ms)
    return outcome
  }

  #push(timer: Timer): void {
    const heap = this.#heap
    let at = heap.push(timer) - 1
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (!isBefore(timer, heap[parent]!)) break
      heap[at] = heap[parent]!
      at = parent
    }
    heap[at] = timer
  }

  #pop(): void {
    const heap = this.#heap
    const last = heap.pop()!
    if (heap.length === 0) return
    let at = 0
    for (;;) {
      const left = 2 * at + 1
      if (left >= heap.length) break
      const child = left + 1 < heap.length && isBefore(heap[left + 1]!, heap[left]!) ? left + 1 : left
      if (!isBefore(heap[child]!, last)) break
      heap[at] = heap[child]!
      at = child
    }
    heap[at] = last
  }
}

const isBefore = (a: Timer, b: Timer): boolean => a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order)
