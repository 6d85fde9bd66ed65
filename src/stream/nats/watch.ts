import { errorMessage } from '../../base/errors.ts'
import type { Metrics } from '../../base/metrics.ts'
import type { Time } from '../../base/time.ts'
import type { StreamDisk } from './disk.ts'
import type { JetStreamHealth } from './health.ts'

export interface JetStreamWatchOptions {
  readonly disk: StreamDisk
  readonly health: JetStreamHealth
  /** Shared by the watches over the servers of one cluster. */
  readonly turns?: RestartTurns
  readonly time: Time
  /** Ends the server and starts it again. Rejects when it does not start: it is tried again. */
  readonly restart: () => Promise<void>
  /** One line: what was found, or done. */
  readonly say: (text: string) => void
  readonly onRestart?: () => void
}

/** How often a write without room had ended JetStream of the nats-server that this process keeps. */
export const addNatsMetrics = (metrics: Metrics) =>
  metrics.counter(
    'percolate_nats_restarts_total',
    'How often the embedded nats-server was restarted because a full disk had ended its JetStream',
  )

const LOOK_MS = 1000
/** Without a reason to ask, the server is asked at each so many looks. */
const LOOKS_PER_QUESTION = 5
/** So often in a row the server has to say it, or not to answer for its streams, before it is restarted. */
const FINDINGS_MIN = 3
/** How many of those still count when another server of the cluster was restarted in between: that may have mended this one. */
const FINDINGS_KEPT = 1
/** So often in a row the server has to be well until a full disk, and restarts, are forgotten. */
const WELL_MIN = 5
/** How long the next server of a cluster waits for one that was restarted to take clients. */
const UP_MS_MAX = 30_000
const AGAIN_MS = 10_000
const AGAIN_MS_MAX = 300_000

/** Of the servers of a cluster one is restarted at a time. */
export class RestartTurns {
  #isTaken = false
  #restarts = 0

  /** How many there were. */
  get restarts(): number {
    return this.#restarts
  }

  /** Whether it is the caller's turn now; who got it gives it back. */
  tryTake(): boolean {
    if (this.#isTaken) return false
    this.#isTaken = true
    return true
  }

  giveBack(): void {
    this.#isTaken = false
    this.#restarts++
  }
}

/**
 * Restarts a nats-server whose JetStream a write without room has ended, once there is room. It never comes back by itself, and how it ends depends on the version (docs/decisions/0033): old ones wait for ever for a lock
 * that the failed write holds, with `/healthz` well and no word in the log; current ones close the stream that could not be written, which `/healthz` tells.
 *
 * A disk can be full for less time than lies between two looks, so that it was full proves nothing and is not needed: what counts is what the server shows now, several times in a row, on a disk that takes writes now.
 * That a disk was seen full only makes the questions more frequent. Modes: calm (a question now and then) → suspicious (at every look) → restarting (until it succeeded, ever more seldom) → calm.
 */
export class JetStreamWatch {
  readonly #options: JetStreamWatchOptions
  readonly #turns: RestartTurns
  readonly #stop = new AbortController()
  #ended: Promise<void> = Promise.resolve()
  #wasFull = false
  /** A restart ended it, and it did not start. */
  #isDown = false
  #findings = 0
  #othersRestarted = 0
  #well = 0
  #looks = 0
  #restarts = 0
  #notBeforeMs = 0

  constructor(options: JetStreamWatchOptions) {
    this.#options = options
    this.#turns = options.turns ?? new RestartTurns()
  }

  start(): void {
    this.#ended = this.#run()
  }

  /** Resolves when nothing of it is under way. */
  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#ended
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop
    while (!signal.aborted) {
      await this.#look()
      await this.#pause()
    }
  }

  #pause(): Promise<void> {
    return this.#options.time.sleep(LOOK_MS, { signal: this.#stop.signal, ref: false }).catch(() => {})
  }

  async #look(): Promise<void> {
    const state = await this.#options.disk.state()
    // A look that fails says nothing.
    if (state === 'unknown') return
    if (state === 'full') {
      if (!this.#wasFull) this.#options.say('the disk of the nats-server is full up to the reserve')
      this.#wasFull = true
      this.#findings = 0
      this.#well = 0
      return
    }
    // Whoever starts what has ended may have done so meanwhile.
    if (this.#isDown && (await this.#options.health.answers(this.#stop.signal))) this.#isDown = false
    const reason = this.#isDown ? 'it did not start' : await this.#judge()
    if (reason !== undefined) await this.#restart(reason)
  }

  /** Why it is to be restarted now, if it is. */
  async #judge(): Promise<string | undefined> {
    if (!this.#wasFull && this.#findings === 0 && this.#looks++ % LOOKS_PER_QUESTION > 0) return undefined
    const { disk, health } = this.#options
    const found = await health.ask(this.#stop.signal)
    if (found.kind !== 'off' && found.kind !== 'silent') {
      this.#findings = 0
      if (found.kind === 'well' && ++this.#well >= WELL_MIN) {
        this.#wasFull = false
        this.#restarts = 0
      }
      return undefined
    }
    this.#well = 0
    if (!(await disk.takesWrite())) {
      this.#findings = 0
      return undefined
    }
    if (this.#othersRestarted !== this.#turns.restarts) {
      this.#othersRestarted = this.#turns.restarts
      this.#findings = Math.min(this.#findings, FINDINGS_KEPT)
    }
    return ++this.#findings >= FINDINGS_MIN ? found.reason : undefined
  }

  async #restart(reason: string): Promise<void> {
    const { time, restart, health, say, onRestart } = this.#options
    const { signal } = this.#stop
    if (signal.aborted) return
    if (time.monotonic() < this.#notBeforeMs || !this.#turns.tryTake()) {
      // It has to be found again when its time has come.
      this.#findings = Math.min(this.#findings, FINDINGS_KEPT)
      return
    }
    this.#notBeforeMs = time.monotonic() + Math.min(AGAIN_MS_MAX, AGAIN_MS * 2 ** Math.min(this.#restarts++, 16))
    this.#findings = 0
    this.#well = 0
    say(`a write without room has ended JetStream of the nats-server, and there is room: it is restarted (${reason})`)
    try {
      await restart()
      this.#isDown = false
      onRestart?.()
      const until = time.monotonic() + UP_MS_MAX
      while (!signal.aborted && time.monotonic() < until && !(await health.answers(signal))) await this.#pause()
      say('the nats-server runs again')
    } catch (error) {
      this.#isDown = true
      say(`the nats-server did not start again, it is tried later: ${errorMessage(error)}`)
    } finally {
      this.#turns.giveBack()
    }
  }
}
