import { type ErrorCode, errorTable, type PercolateError } from './errors.ts'
import type { Logger } from './logger.ts'
import type { Metrics } from './metrics.ts'
import { systemTime, type Time } from './time.ts'

export interface RefusalsOptions {
  readonly logger: Logger
  readonly metrics: Metrics
  readonly time?: Pick<Time, 'sleep'> | undefined
}

/** Over so long the lines of a code are counted, ms. */
export const REFUSALS_WINDOW_MS = 10_000
/** Lines of one code in a window. Who floods a server with what it refuses must not fill a disk with what it says of that. */
export const REFUSAL_LINES_MAX = 50

interface Lines {
  written: number
  leftOut: number
}

/**
 * Where the errors of requests end, over every protocol of a process: each is counted (`percolate_errors_total`), and told in the log at the level of its code, up to {@link REFUSAL_LINES_MAX} of a code
 * in a window. When the window ends, a line for each code says how many more there were, at the level of the code, too.
 */
export class Refusals {
  readonly #logger: Logger
  readonly #metrics: Metrics
  readonly #time: Pick<Time, 'sleep'>
  readonly #lines = new Map<ErrorCode, Lines>()
  /** Ends the window that is open. */
  #window: AbortController | undefined

  constructor({ logger, metrics, time = systemTime }: RefusalsOptions) {
    this.#logger = logger
    this.#metrics = metrics
    this.#time = time
  }

  /** `details`: which request it was. */
  tell(error: PercolateError, details: Readonly<Record<string, unknown>> = {}): void {
    const { code, cause, message } = error
    const { http, log } = errorTable[code]
    this.#metrics.countError(code)
    if (!this.#logger.isLevelEnabled(log) || !this.#hasRoomFor(code)) return
    // Where it was thrown says nothing when it is what the process means to say, such as that it is busy.
    const err = http >= 500 && (cause !== undefined || log === 'error') ? { err: cause ?? error } : {}
    this.#logger[log]({ ...details, code, ...err }, message)
  }

  /** Says now what was left out: for a server that stops. */
  flush(): void {
    this.#window?.abort()
    this.#window = undefined
    for (const [code, { leftOut }] of this.#lines)
      if (leftOut > 0)
        this.#logger[errorTable[code].log](
          { code, leftOut },
          `${leftOut} more of ${code} in the last ${REFUSALS_WINDOW_MS / 1000} s`,
        )
    this.#lines.clear()
  }

  #hasRoomFor(code: ErrorCode): boolean {
    if (!this.#window) void this.#openWindow()
    let lines = this.#lines.get(code)
    if (!lines) {
      lines = { written: 0, leftOut: 0 }
      this.#lines.set(code, lines)
    }
    if (lines.written >= REFUSAL_LINES_MAX) {
      lines.leftOut++
      return false
    }
    lines.written++
    return true
  }

  async #openWindow(): Promise<void> {
    const window = new AbortController()
    this.#window = window
    await this.#time.sleep(REFUSALS_WINDOW_MS, { signal: window.signal, ref: false }).catch(() => {})
    // One that a flush has ended may have another after it.
    if (this.#window === window) this.flush()
  }
}
