import type { Time } from '../../src/base/time.ts'
import { Sandbox, type SandboxOptions } from './sandbox.ts'

export interface ParserPoolOptions extends SandboxOptions {
  readonly time: Time
  /** Processes that are kept ready. 0: each starts when it is needed. */
  readonly warm: number
}

/** A successor is started when the one that was taken has had this time: what it is taken for goes first. */
const SUCCESSOR_DELAY_MS = 250
/** Before a process that ended by itself, unused, is replaced. */
const RESTART_MS = 2000

/** Keeps parser processes ready, so that a small document does not wait for half a second of loading. None is used twice. */
export class ParserPool {
  readonly #options: ParserPoolOptions
  readonly #idle: Sandbox[] = []
  readonly #stop = new AbortController()

  constructor(options: ParserPoolOptions) {
    this.#options = options
  }

  get idle(): number {
    return this.#idle.length
  }

  start(): void {
    this.#fill()
  }

  /** The caller owns it: parses with it once, or closes it. */
  take(): Sandbox {
    const sandbox = this.#idle.shift() ?? new Sandbox(this.#options)
    this.#later(SUCCESSOR_DELAY_MS)
    return sandbox
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    await Promise.all(this.#idle.splice(0).map(sandbox => sandbox.close()))
  }

  #fill(): void {
    if (this.#stop.signal.aborted) return
    while (this.#idle.length < this.#options.warm) {
      const sandbox = new Sandbox(this.#options)
      this.#idle.push(sandbox)
      void sandbox.exited.then(() => {
        const at = this.#idle.indexOf(sandbox)
        if (at < 0) return
        this.#idle.splice(at, 1)
        void sandbox.close()
        this.#later(RESTART_MS)
      })
    }
  }

  #later(ms: number): void {
    void this.#options.time.sleep(ms, { signal: this.#stop.signal, ref: false }).then(
      () => this.#fill(),
      () => {},
    )
  }
}
