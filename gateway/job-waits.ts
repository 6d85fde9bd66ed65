import { PercolateError } from '../src/base/errors.ts'
import type { TenantId } from '../src/base/ids.ts'
import type { Time } from '../src/base/time.ts'
import type { Jobs } from '../src/jobs/jobs.ts'
import { isFinished, isRetracting, type JobRecord } from '../src/jobs/model.ts'

/** The longest that a request may wait for a job. */
const WAIT_MS_MAX = 60_000
/** Requests that wait at once; further ones are answered with the job as it is. */
const WAITS_MAX = 10_000
/** A hint wakes who waits; hints can be lost, so the record is looked at as well. */
const RECORD_CHECK_MS = 1000

/** `30s`, `500ms`, `1m`, or a number of seconds, as milliseconds. Throws INVALID_ARGUMENT. */
export function parseWait(text: unknown): number {
  if (text === undefined) return 0
  const match = typeof text === 'string' ? /^(\d{1,9})(ms|s|m)?$/.exec(text) : null
  const waitMs = match ? Number(match[1]) * { ms: 1, s: 1000, m: 60_000 }[match[2] ?? 's']! : Number.NaN
  if (!(waitMs <= WAIT_MS_MAX))
    throw new PercolateError('INVALID_ARGUMENT', `wait must be a time such as 30s, at most ${WAIT_MS_MAX / 1000}s.`, {
      field: 'wait',
    })
  return waitMs
}

/** Requests that wait until a job has ended. They hold a connection and nothing else. */
export class JobWaits {
  readonly #jobs: Jobs
  readonly #time: Time
  readonly #wakes = new Map<string, Set<() => void>>()
  readonly #stop = new AbortController()
  readonly #endListening: () => void
  #count = 0

  constructor(jobs: Jobs, time: Time) {
    this.#jobs = jobs
    this.#time = time
    this.#endListening = jobs.onChange(({ tenant, jobId }) => {
      for (const wake of this.#wakes.get(`${tenant} ${jobId}`) ?? []) wake()
    })
  }

  get count(): number {
    return this.#count
  }

  /** The job when it has ended (and what a cancelled one wrote is taken back), or as it is when the time is over (or the gateway stops). Undefined: there is none. */
  async wait(tenant: TenantId, jobId: string, waitMs: number, signal: AbortSignal): Promise<JobRecord | undefined> {
    const until = this.#time.monotonic() + (this.#count < WAITS_MAX ? waitMs : 0)
    const key = `${tenant} ${jobId}`
    let woken = new AbortController()
    const wake = () => woken.abort()
    const wakes = this.#wakes.get(key) ?? new Set()
    this.#wakes.set(key, wakes.add(wake))
    this.#count++
    try {
      for (;;) {
        // Before the look, so that what changes after it is not missed.
        woken = new AbortController()
        const job = await this.#jobs.get(tenant, jobId)
        const leftMs = until - this.#time.monotonic()
        const hasEnded = !job || (isFinished(job.status) && !isRetracting(job))
        if (hasEnded || leftMs <= 0 || signal.aborted || this.#stop.signal.aborted) return job
        await this.#time
          .sleep(Math.min(leftMs, RECORD_CHECK_MS), {
            signal: AbortSignal.any([signal, woken.signal, this.#stop.signal]),
            ref: false,
          })
          .catch(() => {})
      }
    } finally {
      this.#count--
      wakes.delete(wake)
      if (wakes.size === 0) this.#wakes.delete(key)
    }
  }

  /** Everybody is answered with the job as it is. */
  stop(): void {
    this.#stop.abort()
    this.#endListening()
  }
}
