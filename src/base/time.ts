import { randomBytes } from 'node:crypto'
import { performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'

/** Wall time, timers and randomness come through this port only, so that a simulator can drive everything. */
export interface Time {
  /** Wall clock, milliseconds since the epoch, an integer. */
  now(): number
  /** Monotonic clock, milliseconds, fractional. */
  monotonic(): number
  /** Resolves after `ms`, or rejects with the signal's reason. An unreferenced wait does not keep the process alive. */
  sleep(ms: number, options?: { signal?: AbortSignal; ref?: boolean }): Promise<void>
  random(bytes: number): Buffer
}

/** The same time with another wall clock: for trying out what a wrong one does. */
export const offsetTime = (time: Time, offsetMs: number): Time =>
  offsetMs === 0 ? time : { ...time, now: () => time.now() + offsetMs }

export const systemTime: Time = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  sleep: async (ms, options = {}) => {
    await sleep(ms, undefined, { ref: options.ref ?? true, ...(options.signal ? { signal: options.signal } : {}) })
  },
  random: bytes => randomBytes(bytes),
}
