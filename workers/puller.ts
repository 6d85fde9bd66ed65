import type { Counter } from 'prom-client'
import { PercolateError } from '../src/base/errors.ts'
import type { Metrics } from '../src/base/metrics.ts'
import type { Time } from '../src/base/time.ts'
import type { Jobs } from '../src/jobs/jobs.ts'
import type { Delivery } from '../src/stream/port.ts'

const FETCH_WAIT_MS = 5000
/** What asking for jobs may take in all, with the look whether stream, consumer and bucket are there: then it is begun anew. */
const PULL_MS_MAX = 60_000

/** Asks the queue for jobs, and knows for how long it has not answered. */
export class JobPuller {
  readonly #jobs: Jobs
  readonly #time: Time
  #failed: Counter | undefined
  /** Since when what is asked of the queue has no answer; undefined: nothing is asked. */
  #askedAt: number | undefined

  constructor(jobs: Jobs, time: Time) {
    this.#jobs = jobs
    this.#time = time
  }

  addMetrics(metrics: Metrics): void {
    metrics.gauge(
      'percolate_jobs_unanswered_seconds',
      'For how long the queue has not answered while this worker asks it for jobs; an empty queue answers every 5 s',
      () => (this.#askedAt === undefined ? 0 : (this.#time.monotonic() - this.#askedAt) / 1000),
    )
    this.#failed = metrics.counter(
      'percolate_job_pulls_failed_total',
      'Requests for jobs that the queue did not answer in time, or refused',
    )
  }

  /** Nothing is asked for now: there is enough to do. */
  rest(): void {
    this.#askedAt = undefined
  }

  /**
   * Up to `max` jobs; an empty queue gives none after a few seconds. Waits no longer than {@link PULL_MS_MAX}, and not at all once the signal has fired; what comes after that is given
   * back. STREAM_UNAVAILABLE: the queue does not answer.
   */
  async pull(max: number, signal: AbortSignal): Promise<Delivery[]> {
    this.#askedAt ??= this.#time.monotonic()
    const ended = new AbortController()
    const end = () => ended.abort()
    signal.addEventListener('abort', end, { once: true })
    if (signal.aborted) end()
    const fetching = this.#jobs.fetch(max, FETCH_WAIT_MS, ended.signal)
    try {
      const late = this.#time.sleep(PULL_MS_MAX, { signal: ended.signal, ref: false }).catch(() => {})
      const fetched = await Promise.race([fetching, late])
      if (!fetched) {
        void fetching.then(giveBack, () => {})
        throw new PercolateError('STREAM_UNAVAILABLE', 'The queue of jobs does not answer.')
      }
      this.#askedAt = undefined
      return fetched
    } catch (error) {
      if (!signal.aborted) this.#failed?.inc()
      throw error
    } finally {
      signal.removeEventListener('abort', end)
      end()
    }
  }
}

function giveBack(deliveries: Delivery[]): void {
  for (const delivery of deliveries) delivery.release(0)
}
