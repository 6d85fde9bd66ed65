import type { Counter } from 'prom-client'
import { PercolateClientError } from '../client/errors.ts'
import { errorMessage, PercolateError } from '../src/base/errors.ts'
import type { Logger } from '../src/base/logger.ts'
import type { Metrics } from '../src/base/metrics.ts'
import type { Time } from '../src/base/time.ts'
import type { Embedder } from '../src/embedding/port.ts'
import type { Jobs } from '../src/jobs/jobs.ts'
import { decodeJobMessage, isFinished, type JobRecord } from '../src/jobs/model.ts'
import type { ObjectStore } from '../src/objects/port.ts'
import type { Delivery } from '../src/stream/port.ts'
import { embedPending } from './embed.ts'
import { ingest } from './ingest.ts'
import type { SandboxOptions } from './parse/sandbox.ts'
import type { JobProgress } from './progress.ts'

export interface RunnerOptions {
  readonly jobs: Jobs
  readonly objects: ObjectStore
  readonly time: Time
  readonly logger: Logger
  readonly nodeUrl: string
  readonly embedder: Embedder
  readonly attemptsMax: number
  readonly concurrency: number
  readonly ackWaitMs: number
  readonly drainMs: number
  readonly sandbox: SandboxOptions
}

const FETCH_WAIT_MS = 5000
const RELEASE_MS_MAX = 30_000
const AWAY_MS = 1000

/**
 * Pulls jobs and runs them. A message is counted before its work starts; one that was started too often (it takes its worker down, or
 * hangs it) is dead-lettered before it is started again. What fails because a service is away is given back and not held against it.
 */
export class JobRunner {
  readonly #options: RunnerOptions
  readonly #stop = new AbortController()
  /** Ends running jobs when the drain has taken too long. */
  readonly #interrupt = new AbortController()
  #loops: Promise<void>[] = []
  #running = 0
  #finished: Counter<'outcome'> | undefined

  constructor(options: RunnerOptions) {
    this.#options = options
  }

  addMetrics(metrics: Metrics): void {
    metrics.gauge('percolate_jobs_running', 'Jobs that this worker runs now', () => this.#running)
    metrics.asyncGauge(
      'percolate_jobs_waiting',
      "Messages in this tier's job stream, those that are being worked on included",
      () => this.#options.jobs.depth(),
    )
    this.#finished = metrics.counter('percolate_jobs_finished_total', 'Jobs that this worker ended, by outcome', [
      'outcome',
    ])
  }

  start(): void {
    this.#loops = Array.from({ length: this.#options.concurrency }, () => this.#loop())
  }

  /** Takes no more jobs, waits for the running ones, then gives back those that take too long. */
  async stop(): Promise<void> {
    this.#stop.abort()
    const timer = setTimeout(
      () => this.#interrupt.abort(new PercolateError('CANCELLED', 'The worker is stopping.')),
      this.#options.drainMs,
    ).unref()
    await Promise.all(this.#loops)
    clearTimeout(timer)
  }

  async #loop(): Promise<void> {
    const { jobs, time, logger } = this.#options
    for (let failures = 0; !this.#stop.signal.aborted; ) {
      try {
        const deliveries = await jobs.fetch(1, FETCH_WAIT_MS, this.#stop.signal)
        failures = 0
        for (const delivery of deliveries) await this.#take(delivery)
      } catch (error) {
        if (this.#stop.signal.aborted) return
        if (failures++ % 30 === 0) logger.warn({ reason: errorMessage(error) }, 'cannot pull jobs; trying on')
        await time.sleep(AWAY_MS, { signal: this.#stop.signal }).catch(() => {})
      }
    }
  }

  async #take(delivery: Delivery): Promise<void> {
    let job: JobRecord
    try {
      job = decodeJobMessage(delivery.data)
    } catch (error) {
      await this.#bury(
        delivery,
        { code: 'INVALID_ARGUMENT', detail: errorMessage(error) },
        `message-${delivery.sequence}`,
      )
      return
    }
    this.#running++
    const heartbeat = setInterval(() => delivery.working(), Math.max(200, this.#options.ackWaitMs / 3))
    try {
      await this.#run(delivery, job)
    } catch (error) {
      // The record or the stream can't be reached: the message comes again.
      this.#options.logger.warn({ job: job.job_id, reason: errorMessage(error) }, 'job given back')
      delivery.release(AWAY_MS)
    } finally {
      clearInterval(heartbeat)
      this.#running--
    }
  }

  async #run(delivery: Delivery, message: JobRecord): Promise<void> {
    const { jobs, logger, attemptsMax } = this.#options
    let poisoned = false
    const started = await jobs.update(message, job => {
      poisoned = !isFinished(job.status) && job.attempts >= attemptsMax
      if (isFinished(job.status)) return undefined
      if (poisoned) {
        const detail = `Started ${job.attempts} times and never finished${job.error ? `; the last reason: ${job.error.detail}` : ': it takes its worker down or hangs'}.`
        return { status: 'dead', stage: 'done', error: { code: job.error?.code ?? 'JOB_POISONOUS', detail } }
      }
      return { status: 'running', attempts: job.attempts + 1 }
    })
    if (poisoned) {
      await this.#bury(delivery, started.error!, started.job_id)
      return
    }
    if (isFinished(started.status)) {
      await delivery.ack()
      return
    }
    logger.info(
      { job: started.job_id, tenant: started.tenant, kind: started.kind, attempt: started.attempts },
      'job started',
    )
    try {
      const counts =
        started.kind === 'ingest'
          ? await ingest(this.#options, started, this.#progress(started))
          : await embedPending(this.#options, started, this.#progress(started))
      await jobs.update(started, job =>
        isFinished(job.status)
          ? undefined
          : { status: 'completed', stage: 'done', ...counts, error: undefined as never },
      )
      await delivery.ack()
      this.#finished?.inc({ outcome: 'completed' })
      logger.info({ job: started.job_id, ...counts }, 'job completed')
    } catch (error) {
      await this.#failed(delivery, started, error)
    }
  }

  async #failed(delivery: Delivery, job: JobRecord, error: unknown): Promise<void> {
    const { jobs, logger, attemptsMax } = this.#options
    const { code, retry } = classify(error)
    const reason = { code, detail: errorMessage(error) }
    if (code === 'CANCELLED') {
      const current = await jobs.update(job, now =>
        now.status === 'running'
          ? { status: 'queued', stage: 'waiting', attempts: Math.max(0, now.attempts - 1) }
          : undefined,
      )
      if (isFinished(current.status)) await delivery.ack()
      else delivery.release(0)
      return
    }
    if (retry === 'later') {
      // Not the job's fault: it does not count as an attempt.
      await jobs.update(job, now =>
        isFinished(now.status)
          ? undefined
          : { status: 'queued', stage: 'waiting', attempts: Math.max(0, now.attempts - 1), error: reason },
      )
      delivery.release(Math.min(RELEASE_MS_MAX, AWAY_MS * 2 ** Math.min(delivery.deliveries, 6)))
      logger.warn({ job: job.job_id, ...reason }, 'a service is away; the job waits')
      return
    }
    if (retry === 'never' || job.attempts >= attemptsMax) {
      const status = retry === 'never' ? 'failed' : 'dead'
      await jobs.update(job, now => (isFinished(now.status) ? undefined : { status, stage: 'done', error: reason }))
      await this.#bury(delivery, reason, job.job_id, status)
      return
    }
    logger.error({ job: job.job_id, attempt: job.attempts, err: error }, 'job failed; it will be tried again')
    await jobs.update(job, now =>
      isFinished(now.status) ? undefined : { status: 'queued', stage: 'waiting', error: reason },
    )
    delivery.release(Math.min(RELEASE_MS_MAX, 250 * 2 ** job.attempts))
  }

  /** Dead letter first, acknowledgement after: a crash between the two repeats the letter under its id, and loses nothing. */
  async #bury(
    delivery: Delivery,
    reason: { code: string; detail: string },
    id: string,
    outcome = 'dead',
  ): Promise<void> {
    await this.#options.jobs.deadLetter(delivery.data, reason, id)
    await delivery.ack()
    this.#finished?.inc({ outcome })
    this.#options.logger.warn(
      { job: id, ...reason },
      outcome === 'failed' ? 'document cannot be processed' : 'job dead-lettered',
    )
  }

  #progress(job: JobRecord): JobProgress {
    const { jobs } = this.#options
    return {
      signal: this.#interrupt.signal,
      report: async (stage, done, total) => {
        if (this.#interrupt.signal.aborted) throw this.#interrupt.signal.reason
        const current = await jobs.update(job, now => (isFinished(now.status) ? undefined : { stage, done, total }))
        if (current.status === 'cancelled') throw new PercolateError('CANCELLED', 'The job was cancelled.')
      },
    }
  }
}

/** `never`: the document is at fault; `later`: a service is away; `again`: anything else, counted. */
function classify(error: unknown): { code: string; retry: 'never' | 'later' | 'again' } {
  if (error instanceof PercolateClientError) {
    if (error.retryable) return { code: error.code, retry: 'later' }
    return { code: error.code, retry: error.status !== undefined && error.status < 500 ? 'never' : 'again' }
  }
  if (error instanceof PercolateError) {
    if (error.spec.retry === 'later') return { code: error.code, retry: 'later' }
    if (error.code.startsWith('DOCUMENT_') || error.code === 'NOT_FOUND') return { code: error.code, retry: 'never' }
    return { code: error.code, retry: 'again' }
  }
  return { code: 'INTERNAL', retry: 'again' }
}
