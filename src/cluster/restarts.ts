import type { Time } from '../base/time.ts'

/** Long enough to see the others answer for a process that went. */
export const RESTART_MS = 5000
/** A process that fails again and again is tried this seldom at last. */
export const RESTART_MS_MAX = 300_000
/** One that ran for this long was well: what ends it then is a new failure. */
export const WELL_AFTER_MS = 60_000

/** How long the processes of a local cluster wait before they are started again: twice as long each time that one ends before it was well, as a pod's back-off. */
export class Restarts {
  readonly #time: Time
  readonly #failures = new Map<string, { readonly count: number; readonly startsAtMs: number }>()

  constructor(time: Time) {
    this.#time = time
  }

  /** The process has ended: for how many milliseconds it waits, and how often it has failed in a row. */
  next(name: string): { readonly waitMs: number; readonly failures: number } {
    const now = this.#time.monotonic()
    const last = this.#failures.get(name)
    const failures = last && now - last.startsAtMs < WELL_AFTER_MS ? last.count + 1 : 1
    // A power that is no number any more is not needed to get to the longest wait.
    const waitMs = Math.min(RESTART_MS_MAX, RESTART_MS * 2 ** Math.min(failures - 1, 16))
    this.#failures.set(name, { count: failures, startsAtMs: now + waitMs })
    return { waitMs, failures }
  }
}

/** What is said of it, in one line. */
export const restartLine = (
  name: string,
  reason: string,
  { waitMs, failures }: { readonly waitMs: number; readonly failures: number },
): string =>
  `${name}: ${reason}; it is started again in ${waitMs / 1000} s${failures > 1 ? ` (it failed ${failures} times in a row, and waits ${waitMs >= RESTART_MS_MAX ? 'as long as it ever does' : 'longer each time'}; its log tells more)` : ''}`
