import { errorMessage } from '../base/errors.ts'
import type { Logger } from '../base/logger.ts'
import type { Time } from '../base/time.ts'
import type { Jobs } from './jobs.ts'

export interface JobStreamsKeeperOptions {
  /** One for each tier. */
  readonly jobs: readonly Jobs[]
  readonly time: Time
  readonly logger: Logger
  /** From the end of one look to the next, ms. */
  readonly checkMs: number
}

/** How soon it is tried again after a look that failed, when the next one is further away. */
const RETRY_MS = 1000
/** Of looks that fail one after the other, every so manieth is logged. */
const LOGGED_EVERY = 20

/**
 * The job stream and consumer of each tier are there before its first worker is, and again after the servers lost them: a scaler that looks at the consumer's lag takes one that is missing for an error,
 * or for as many workers as there may be, and with no worker running nobody else would make it.
 */
export class JobStreamsKeeper {
  readonly #options: JobStreamsKeeperOptions
  readonly #stop = new AbortController()
  #areThere = false
  #running: Promise<void> | undefined

  constructor(options: JobStreamsKeeperOptions) {
    this.#options = options
  }

  /** Whether the last look found or made all of them. */
  get areThere(): boolean {
    return this.#areThere
  }

  start(): void {
    this.#running ??= this.#run()
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#running
  }

  async #run(): Promise<void> {
    const { jobs, time, logger, checkMs } = this.#options
    const { signal } = this.#stop
    let failures = 0
    while (!signal.aborted) {
      try {
        for (const tier of jobs) await tier.ensure()
        this.#areThere = true
        failures = 0
      } catch (error) {
        this.#areThere = false
        if (failures++ % LOGGED_EVERY === 0)
          logger.warn({ reason: errorMessage(error) }, 'job streams are not there; trying on')
      }
      const waitMs = this.#areThere ? checkMs : Math.min(checkMs, RETRY_MS)
      await time.sleep(waitMs, { signal, ref: false }).catch(() => {})
    }
  }
}
