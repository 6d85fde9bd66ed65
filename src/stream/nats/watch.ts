import { statfs } from 'node:fs/promises'
import { errorMessage } from '../../base/errors.ts'
import type { Metrics } from '../../base/metrics.ts'
import type { Time } from '../../base/time.ts'

export interface JetStreamWatchOptions {
  /** On the disk that the server keeps its streams on. */
  readonly folder: string
  /** Of the server's monitoring endpoint, asked for at each look. */
  readonly monitorUrl: () => string
  /** Free bytes below which the disk counts as full. */
  readonly reserveBytes: number
  readonly time: Time
  /** Ends the server and starts it again. Rejects when it does not start: it is tried again. */
  readonly restart: () => Promise<void>
  /** One line: what was found, or done. */
  readonly say: (text: string) => void
  readonly onRestart?: () => void
  readonly lookMs?: number
  readonly answerMsMax?: number
}

/** How often a full disk had ended JetStream of the nats-server that this process keeps. */
export const addNatsMetrics = (metrics: Metrics) =>
  metrics.counter(
    'percolate_nats_restarts_total',
    'How often the embedded nats-server was restarted because a full disk had ended its JetStream',
  )

const LOOK_MS = 1000
/** Without a reason to ask, the server is asked at each so many looks. */
const LOOKS_PER_QUESTION = 10
const ANSWER_MS_MAX = 3000
/** So often in a row the server has to say it, or not to answer for its streams, before it is restarted. */
const FINDINGS_MIN = 2
/** So often in a row the server has to be well, with room on its disk, until a full disk is forgotten. */
const WELL_MIN = 5
/** Without a reserve, a disk with less than this is full. */
const FULL_BYTES = 8 * 1024 * 1024
const AGAIN_MS = 10_000
const AGAIN_MS_MAX = 300_000
/** What the server says of itself when a disk without room has ended its streams, or JetStream. */
const OFF = /no space left|quota exceeded|write error|not enabled|disabled/i

/** What a look at the server found. `silent`: it answers, but not for its streams. `unknown`: it does not answer at all, or says something else. */
type Finding = { readonly kind: 'well' | 'unknown' } | { readonly kind: 'off' | 'silent'; readonly reason: string }

/**
 * Restarts a nats-server whose JetStream a full disk has ended, once there is room. It never comes back by itself, and how it ends depends on the version (docs/decisions/0033): old ones wait for ever for a lock that the
 * failed write holds, with `/healthz` well and no word in the log; later ones switch JetStream off; current ones close the stream that could not be written, which `/healthz` tells.
 *
 * Modes: calm (a question now and then) → suspicious (the disk was below the reserve since the server started: asked at every look) → restarting (until it succeeded, ever more seldom) → calm. What the server says
 * of itself is enough; that it does not answer for its streams counts only while it answers for itself, and only on a disk that was full. Nothing is done while there is no room.
 */
export class JetStreamWatch {
  readonly #options: JetStreamWatchOptions
  readonly #stop = new AbortController()
  #ended: Promise<void> = Promise.resolve()
  #wasFull = false
  #mustRestart: string | undefined
  #findings = 0
  #well = 0
  #looks = 0
  #restarts = 0
  #notBeforeMs = 0

  constructor(options: JetStreamWatchOptions) {
    this.#options = options
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
    const { time, lookMs = LOOK_MS } = this.#options
    const { signal } = this.#stop
    while (!signal.aborted) {
      await this.#look()
      await time.sleep(lookMs, { signal, ref: false }).catch(() => {})
    }
  }

  async #look(): Promise<void> {
    const { folder, reserveBytes, say } = this.#options
    const stats = await statfs(folder).catch(() => undefined)
    // A look that fails says nothing.
    if (!stats) return
    const isFull = stats.bavail * stats.bsize < Math.max(reserveBytes, FULL_BYTES)
    if (isFull) {
      if (!this.#wasFull) say(`the disk of the nats-server is full up to the reserve (${folder})`)
      this.#wasFull = true
      this.#findings = 0
      this.#well = 0
      return
    }
    if (this.#mustRestart === undefined) await this.#judge()
    if (this.#mustRestart !== undefined) await this.#restart(this.#mustRestart)
  }

  async #judge(): Promise<void> {
    if (!this.#wasFull && this.#findings === 0 && this.#looks++ % LOOKS_PER_QUESTION > 0) return
    const found = await this.#ask()
    if (found.kind === 'off' || (found.kind === 'silent' && this.#wasFull)) {
      this.#well = 0
      if (++this.#findings >= FINDINGS_MIN) this.#mustRestart = found.reason
      return
    }
    this.#findings = 0
    if (found.kind !== 'well') return
    if (++this.#well < WELL_MIN) return
    this.#wasFull = false
    this.#restarts = 0
  }

  async #ask(): Promise<Finding> {
    for (const path of ['/healthz?js-enabled-only=true', '/healthz']) {
      const health = await this.#get(path)
      // Of its streams a server in a cluster is silent here already.
      if (!health) return path === '/healthz' ? this.#silent() : { kind: 'unknown' }
      if (health.status !== 200)
        return OFF.test(health.text) ? { kind: 'off', reason: health.text.slice(0, 300) } : { kind: 'unknown' }
    }
    return !this.#wasFull || (await this.#get('/jsz')) ? { kind: 'well' } : this.#silent()
  }

  /** It did not answer for its streams: whether it still does for itself. */
  async #silent(): Promise<Finding> {
    if (!(await this.#get('/healthz?js-enabled-only=true'))) return { kind: 'unknown' }
    return { kind: 'silent', reason: 'it answers for itself, and not for its streams, since its disk was full' }
  }

  async #get(path: string): Promise<{ status: number; text: string } | undefined> {
    const { monitorUrl, answerMsMax = ANSWER_MS_MAX } = this.#options
    try {
      const signal = AbortSignal.any([this.#stop.signal, AbortSignal.timeout(answerMsMax)])
      const answer = await fetch(`${monitorUrl()}${path}`, { signal })
      return { status: answer.status, text: await answer.text() }
    } catch {
      return undefined
    }
  }

  async #restart(reason: string): Promise<void> {
    const { time, restart, say, onRestart } = this.#options
    if (this.#stop.signal.aborted || time.monotonic() < this.#notBeforeMs) return
    this.#notBeforeMs = time.monotonic() + Math.min(AGAIN_MS_MAX, AGAIN_MS * 2 ** Math.min(this.#restarts++, 16))
    say(`a full disk has ended JetStream of the nats-server, and there is room again: it is restarted (${reason})`)
    try {
      await restart()
    } catch (error) {
      say(`the nats-server did not start again, it is tried later: ${errorMessage(error)}`)
      return
    }
    onRestart?.()
    this.#mustRestart = undefined
    this.#findings = 0
    this.#well = 0
    say('the nats-server runs again')
  }
}
