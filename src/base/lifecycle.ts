import { errorMessage } from './errors.ts'
import type { Logger } from './logger.ts'

/** Things that were started, stopped in reverse order; one that fails to stop is logged and does not keep the others from stopping. */
export class Lifecycle {
  readonly #stops: { name: string; stop: () => Promise<void> | void }[] = []
  readonly #logger: Logger
  #stopping: Promise<void> | undefined

  constructor(logger: Logger) {
    this.#logger = logger
  }

  add(name: string, stop: () => Promise<void> | void): void {
    this.#stops.push({ name, stop })
  }

  stop(): Promise<void> {
    this.#stopping ??= this.#run()
    return this.#stopping
  }

  async #run(): Promise<void> {
    for (const { name, stop } of this.#stops.reverse()) {
      try {
        await stop()
        this.#logger.debug({ part: name }, 'stopped')
      } catch (error) {
        this.#logger.error({ part: name, err: errorMessage(error) }, 'failed to stop')
      }
    }
  }
}
