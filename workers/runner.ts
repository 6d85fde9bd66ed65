import type { Counter } from 'prom-client'
import { PercolateClientError } from '../client/errors.ts'
import { errorMessage, errorTable, isErrorCode, PercolateError } from '../src/base/errors.ts'
import type { TenantId } from '../src/base/ids.ts'
import type { Logger } from '../src/base/logger.ts'
import type { Metrics } from '../src/base/metrics.ts'
import type { Time } from '../src/base/time.ts'
import type { Embedder } from '../src/embedding/port.ts'
import type { Jobs } from '../src/jobs/jobs.ts'
import { decodeJobMessage, isFinished, isRetracting, type JobRecord, messageOf } from '../src/jobs/model.ts'
import type { ObjectStore } from '../src/objects/port.ts'
import type { Delivery } from '../src/stream/port.ts'
import { embedPending } from './embed.ts'
import { HeldJobs, type PulledJob } from './held-jobs.ts'
import { ingest, type ParseLimits } from './ingest.ts'
import type { ParserPool } from './parse/pool.ts'
import type { JobProgress } from './progress.ts'
import { JobPuller } from './puller.ts'
import { describeStanding, type IngestTrace, newTrace, takeBack } from './take-back.ts'

export interface RunnerOptions {
  readonly jobs: Jobs
  readonly objects: ObjectStore
  readonly time: Time
  readonly logger: Logger
  readonly nodeUrl: string
  readonly embedder: Embedder
  readonly attemptsMax: number
  /** Jobs that run at once; of these, jobs of one tenant. */
  readonly concurrency: number
  readonly perTenantMax: number
  readonly ackWaitMs: number
  readonly drainMs: number
  readonly parsers: ParserPool
  readonly parseLimits: ParseLimits
}

const RELEASE_MS_MAX = 30_000
/** How often it is looked, while the servers are away, whether a message that was given back is still there. */
const GONE_LOOKS_MAX = 120
const AWAY_MS = 1000
/** Jobs that are pulled ahead: enough to keep the slots busy, few enough to leave work for other workers. */
const HELD_MAX = 64
const HELD_PER_TENANT_MAX = 16
/** A job of a tenant that has its share here comes back after this, and later each time: so the jobs behind it come to the front. */
const SHARE_RELEASE_MS = 500
/** How long a job lets earlier uploads of its document go first before it looks again: shorter when there is only one. It grows with each look. */
const TURN_MS = 250
const TURN_MS_MAX = { one: 2000, several: 5000 } as const
const SUPERSEDED = {
  code: 'CONFLICT',
  detail:
    'A later upload of this document came before this one had its place in line, and replaces it. Retry the job if this version is to stand after all.',
}
/** A hint says at once that a job was cancelled; hints can be lost, so the record is looked at as well. */
const RECORD_CHECK_MS = 2000
/** Stages in which a document is written. */
const WRITING: ReadonlySet<string> = new Set(['embed', 'write'])

interface RunningJob {
  readonly pulled: PulledJob
  readonly stop: AbortController
  readonly done: Promise<void>
  /** The record as its work began; undefined: it has not. */
  started?: JobRecord
}

/**
 * Pulls jobs and runs them, shared between tenants: one never gets more than its part of the slots, and tenants that wait get the others in turn.
 * A message is counted before its work starts; one that was started too often (it takes its worker down, or hangs it) is dead-lettered before it
 * is started again. Uploads of one document are worked on one after the other, as they came. What fails because a service is away is given back and not held against it. A job that is cancelled stops at once.
 */
export class JobRunner {
  readonly #options: RunnerOptions
  readonly #stop = new AbortController()
  /** Ends running jobs when the drain has taken too long. */
  readonly #interrupt = new AbortController()
  readonly #puller: JobPuller
  readonly #held = new HeldJobs({ max: HELD_MAX, perTenantMax: HELD_PER_TENANT_MAX })
  readonly #running = new Map<Delivery, RunningJob>()
  #wake = () => {}
  #pulling: Promise<void> | undefined
  #tickers: Promise<void>[] = []
  #endListening = () => {}
  #finished: Counter<'outcome'> | undefined

  constructor(options: RunnerOptions) {
    this.#options = options
    this.#puller = new JobPuller(options.jobs, options.time)
  }

  addMetrics(metrics: Metrics): void {
    metrics.gauge('percolate_jobs_running', 'Jobs that this worker runs now', () => this.#running.size)
    metrics.gauge('percolate_jobs_held', 'Jobs that this worker has pulled and not started yet', () => this.#held.size)
    this.#puller.addMetrics(metrics)
    metrics.gauge(
      'percolate_parsers_idle',
      'Parser processes that wait for a document',
      () => this.#options.parsers.idle,
    )
    this.#finished = metrics.counter('percolate_jobs_finished_total', 'Jobs that this worker ended, by outcome', [
      'outcome',
    ])
  }

  start(): void {
    const { jobs, ackWaitMs } = this.#options
    this.#endListening = jobs.onChange(changed => {
      for (const running of this.#running.values()) {
        const { job } = running.pulled
        if (job.tenant === changed.tenant && job.job_id === changed.jobId) void this.#check(running)
      }
    })
    this.#tickers = [
      this.#every(Math.max(200, ackWaitMs / 3), () => {
        for (const { delivery } of this.#held) delivery.working()
        for (const delivery of this.#running.keys()) delivery.working()
      }),
      this.#every(RECORD_CHECK_MS, () => {
        for (const running of this.#running.values()) void this.#check(running)
      }),
    ]
    this.#pulling = this.#pull()
  }

  /** Takes no more jobs, waits for the running ones, then gives back those that take too long. */
  async stop(): Promise<void> {
    this.#stop.abort()
    this.#wake()
    const timer = setTimeout(
      () => this.#interrupt.abort(new PercolateError('CANCELLED', 'The worker is stopping.')),
      this.#options.drainMs,
    ).unref()
    await this.#pulling
    for (const { delivery } of this.#held.clear()) delivery.release(0)
    await Promise.all([...this.#running.values()].map(({ done }) => done))
    clearTimeout(timer)
    this.#endListening()
    this.#interrupt.abort(new PercolateError('CANCELLED', 'The worker is stopping.'))
    await Promise.all(this.#tickers)
  }

  async #every(ms: number, act: () => void): Promise<void> {
    const { signal } = this.#interrupt
    while (!signal.aborted) {
      await this.#options.time.sleep(ms, { signal, ref: false }).catch(() => {})
      if (!signal.aborted) act()
    }
  }

  async #pull(): Promise<void> {
    const { time, logger, concurrency } = this.#options
    for (let failures = 0; !this.#stop.signal.aborted; ) {
      this.#startHeld()
      if (this.#running.size >= concurrency || this.#held.room <= 0) {
        this.#puller.rest()
        await new Promise<void>(resolve => {
          this.#wake = resolve
        })
        continue
      }
      try {
        const deliveries = await this.#puller.pull(this.#held.room, this.#stop.signal)
        if (failures > 0) logger.info({ failures }, 'jobs are pulled again')
        failures = 0
        for (const delivery of deliveries) await this.#take(delivery).catch(error => this.#giveBack(delivery, error))
      } catch (error) {
        if (this.#stop.signal.aborted) return
        if (failures++ % 30 === 0) logger.warn({ reason: errorMessage(error) }, 'cannot pull jobs; trying on')
        await time.sleep(AWAY_MS, { signal: this.#stop.signal }).catch(() => {})
      }
    }
  }

  /** A pulled job is held, or given back when its tenant has its share here. */
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
    if (!this.#held.add({ delivery, job }))
      delivery.release(Math.min(RELEASE_MS_MAX, SHARE_RELEASE_MS * delivery.deliveries))
    else this.#startHeld()
  }

  #startHeld(): void {
    const { concurrency, perTenantMax } = this.#options
    while (this.#running.size < concurrency && !this.#stop.signal.aborted) {
      const next = this.#held.take(tenant => this.#runningOf(tenant) < perTenantMax)
      if (!next) return
      this.#start(next)
    }
  }

  #runningOf(tenant: TenantId): number {
    let count = 0
    for (const { pulled } of this.#running.values()) if (pulled.job.tenant === tenant) count++
    return count
  }

  #start(pulled: PulledJob): void {
    const { delivery, job } = pulled
    const { logger } = this.#options
    const stop = new AbortController()
    const done = this.#run(delivery, job, AbortSignal.any([stop.signal, this.#interrupt.signal]))
      .catch(error => {
        logger.warn({ job: job.job_id, reason: errorMessage(error) }, 'job given back')
        return this.#release(delivery, AWAY_MS, job)
      })
      .finally(() => {
        this.#running.delete(delivery)
        this.#startHeld()
        this.#wake()
      })
    this.#running.set(delivery, { pulled, stop, done })
  }

  /** The stream can't be reached: the message comes again. */
  #giveBack(delivery: Delivery, error: unknown): void {
    this.#options.logger.warn({ job: `message-${delivery.sequence}`, reason: errorMessage(error) }, 'job given back')
    delivery.release(AWAY_MS)
  }

  /** Gives the message of a job back that is to be tried again; undefined: it is not worked on by this message any more. */
  #release(delivery: Delivery, delayMs: number, job: JobRecord | undefined): void {
    delivery.release(delayMs)
    if (job) void this.#sendAgainIfGone(delivery, job)
  }

  /** Servers that have lost their stores are away for a moment first. */
  async #sendAgainIfGone(delivery: Delivery, job: JobRecord): Promise<void> {
    const { jobs, time, logger } = this.#options
    for (let looks = 0; looks < GONE_LOOKS_MAX && !this.#stop.signal.aborted; looks++) {
      try {
        return await jobs.sendAgainIfGone(delivery, job)
      } catch (error) {
        if (looks === 0)
          logger.warn(
            { job: job.job_id, reason: errorMessage(error) },
            'whether the message of a job comes again is not known yet',
          )
        await time.sleep(AWAY_MS, { signal: this.#stop.signal, ref: false }).catch(() => {})
      }
    }
  }

  /** Stops a running job whose record says that it was cancelled, or has been queued anew since. */
  async #check({ pulled: { delivery, job }, stop, started }: RunningJob): Promise<void> {
    const current = await this.#options.jobs.get(job.tenant, job.job_id).catch(() => undefined)
    if (current && started && (current.status === 'cancelled' || !isOf(delivery, current, started)))
      stop.abort(new PercolateError('CANCELLED', 'The job was cancelled.'))
  }

  /**
   * Changes the record of a job that is worked on by this message, unless it has ended. Undefined: it is not any more (it was cancelled and retried, say), and nothing was changed.
   */
  async #change(
    delivery: Delivery,
    job: JobRecord,
    change: (now: JobRecord) => Partial<JobRecord> | undefined,
  ): Promise<JobRecord | undefined> {
    let isIts = false
    const changed = await this.#options.jobs.update(job, now => {
      isIts = isOf(delivery, now, job)
      return isIts && !isFinished(now.status) ? change(now) : undefined
    })
    return isIts ? changed : undefined
  }

  async #run(delivery: Delivery, message: JobRecord, signal: AbortSignal): Promise<void> {
    const { jobs, logger, attemptsMax } = this.#options
    const { job: next, ahead, isIts } = await jobs.look(message, delivery.sequence)
    if (!isIts) {
      await delivery.ack()
      return
    }
    if (ahead === 'later') {
      await this.#end(delivery, next, 'failed', SUPERSEDED, newTrace())
      return
    }
    if (ahead !== 'nobody') {
      // It is not an attempt: it holds nothing here while it waits.
      this.#release(delivery, Math.min(TURN_MS_MAX[ahead], TURN_MS * 2 ** Math.min(delivery.deliveries, 6)), next)
      return
    }
    let poisoned = false
    let isChanged = false
    const started = await jobs.update(next, job => {
      isChanged = !isOf(delivery, job, next)
      poisoned = !isFinished(job.status) && job.attempts >= attemptsMax
      if (isFinished(job.status) || poisoned || isChanged) return undefined
      return {
        status: 'running',
        attempts: job.attempts + 1,
        message: { sequence: delivery.sequence, clock: job.clock },
        ...(job.turn ? { turn: { clock: job.clock, after: [] } } : {}),
      }
    })
    // Retried meanwhile, or begun by another message: the next look shows which.
    if (isChanged) return delivery.release(TURN_MS)
    const trace = newTrace()
    if (poisoned) {
      const detail = `Started ${started.attempts} times and never finished${started.error ? `; the last reason: ${started.error.detail.replace(/\.+$/, '')}` : ': it takes its worker down or hangs'}.`
      await this.#end(delivery, started, 'dead', { code: started.error?.code ?? 'JOB_POISONOUS', detail }, trace)
      return
    }
    if (isFinished(started.status)) {
      await this.#settle(delivery, started, trace)
      return
    }
    const running = this.#running.get(delivery)
    if (running) running.started = started
    logger.info(
      { job: started.job_id, tenant: started.tenant, kind: started.kind, attempt: started.attempts },
      'job started',
    )
    try {
      const counts =
        started.kind === 'ingest'
          ? await ingest(this.#options, started, this.#progress(delivery, started, signal), trace)
          : await embedPending(this.#options, started, this.#progress(delivery, started, signal))
      const ended = await this.#change(delivery, started, () => ({
        status: 'completed',
        stage: 'done',
        ...counts,
        error: undefined as never,
      }))
      if (!ended) return delivery.release(TURN_MS)
      await this.#settle(delivery, ended, trace)
      if (ended.status !== 'completed') return
      this.#finished?.inc({ outcome: 'completed' })
      logger.info({ job: started.job_id, ...counts }, 'job completed')
    } catch (error) {
      await this.#failed(delivery, started, signal.aborted ? signal.reason : error, trace)
    }
  }

  async #failed(delivery: Delivery, job: JobRecord, error: unknown, trace: IngestTrace): Promise<void> {
    const { logger, attemptsMax } = this.#options
    const { code, retry } = classify(error)
    const reason = { code, detail: errorMessage(error) }
    if (code === 'CANCELLED') {
      const current = await this.#change(delivery, job, now =>
        now.status === 'running'
          ? { status: 'queued', stage: 'waiting', attempts: Math.max(0, now.attempts - 1) }
          : undefined,
      )
      if (current && isFinished(current.status)) await this.#settle(delivery, current, trace)
      else this.#release(delivery, 0, current)
      return
    }
    if (retry === 'later') {
      // Not the job's fault: it does not count as an attempt.
      const given = await this.#change(delivery, job, now => ({
        status: 'queued',
        stage: 'waiting',
        attempts: Math.max(0, now.attempts - 1),
        waits: (now.waits ?? 0) + 1,
        error: reason,
      }))
      this.#release(delivery, Math.min(RELEASE_MS_MAX, AWAY_MS * 2 ** Math.min(given?.waits ?? 0, 6)), given)
      logger.warn({ job: job.job_id, ...reason }, 'a service is away; the job waits')
      return
    }
    if (retry === 'never' || job.attempts >= attemptsMax) {
      await this.#end(delivery, job, retry === 'never' ? 'failed' : 'dead', reason, trace)
      return
    }
    logger.error({ job: job.job_id, attempt: job.attempts, err: error }, 'job failed; it will be tried again')
    const again = await this.#change(delivery, job, () => ({ status: 'queued', stage: 'waiting', error: reason }))
    this.#release(delivery, Math.min(RELEASE_MS_MAX, 250 * 2 ** job.attempts), again)
  }

  /** Ends a job that cannot be done. What it wrote is taken back first: once the record says that it failed, nothing of it is there, or the record says what is. */
  async #end(
    delivery: Delivery,
    job: JobRecord,
    status: 'failed' | 'dead',
    reason: { code: string; detail: string },
    trace: IngestTrace,
  ): Promise<void> {
    const { jobs } = this.#options
    const now = (await jobs.get(job.tenant, job.job_id)) ?? job
    if (!isOf(delivery, now, job)) return delivery.release(TURN_MS)
    // One that was replacing an earlier version stands; that one is gone in part.
    const standing = now.written && !now.settled ? await this.#takeBack(job, trace) : undefined
    const whole = standing ? { ...reason, detail: `${reason.detail} ${standing}` } : reason
    const ended = await this.#change(delivery, job, () => ({ status, error: whole }))
    if (!ended) return delivery.release(TURN_MS)
    if (ended.status === status) await this.#bury(delivery, whole, job.job_id, status)
    else await this.#settle(delivery, ended, trace)
  }

  /** Acknowledges the message of a job that has ended, when what is to be taken back of it is. The message comes again until then, to whichever worker there is. */
  async #settle(delivery: Delivery, job: JobRecord, trace: IngestTrace): Promise<void> {
    if (isRetracting(job)) {
      const standing = await this.#takeBack(job, trace)
      const ended: Partial<JobRecord> = standing
        ? { stage: 'retained', error: { code: 'CLOCK_SETTLED', detail: standing } }
        : { stage: 'retracted' }
      await this.#options.jobs.update(job, now => (isRetracting(now) && now.clock === job.clock ? ended : undefined))
    }
    await delivery.ack()
  }

  /** What of the job stays all the same: it is so old that deletes of its time are forgotten, and no attempt will do better. Undefined: nothing. */
  async #takeBack(job: JobRecord, trace: IngestTrace): Promise<string | undefined> {
    try {
      await takeBack(this.#options, job, trace)
      return undefined
    } catch (error) {
      if (!(error instanceof PercolateClientError) || error.code !== 'CLOCK_SETTLED') throw error
      const standing = await describeStanding(this.#options, job)
      if (standing) this.#options.logger.error({ job: job.job_id, standing }, 'what a job wrote cannot be taken back')
      return standing
    }
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

  #progress(delivery: Delivery, job: JobRecord, signal: AbortSignal): JobProgress {
    const note = async (change: Partial<JobRecord>) => {
      if (signal.aborted) throw signal.reason
      const current = await this.#change(delivery, job, () => change)
      if (!current || isFinished(current.status)) throw new PercolateError('CANCELLED', 'The job was cancelled.')
    }
    return {
      signal,
      report: (stage, done, total) =>
        note({ stage, done, total, ...(job.kind === 'ingest' && WRITING.has(stage) ? { written: true } : {}) }),
      settle: () => note({ stage: 'replace', settled: true }),
    }
  }
}

/** Whether a record is still that of the job which a message began, and worked on by that message. */
const isOf = ({ sequence }: Delivery, now: JobRecord, job: JobRecord): boolean =>
  now.clock === job.clock && (messageOf(now) ?? sequence) === sequence

/** `never`: the document is at fault; `later`: a service is away; `again`: anything else, counted. */
function classify(error: unknown): { code: string; retry: 'never' | 'later' | 'again' } {
  if (error instanceof PercolateClientError) {
    // What the table of errors says of a code counts, also where its status is not one of those that clients retry (DISK_FULL). A failure of the server itself is counted: the document may be what brings it about.
    const isAway = error.status !== 500 && isErrorCode(error.code) && errorTable[error.code].retry === 'later'
    if (error.retryable || isAway) return { code: error.code, retry: 'later' }
    return { code: error.code, retry: error.status !== undefined && error.status < 500 ? 'never' : 'again' }
  }
  if (error instanceof PercolateError) {
    if (error.spec.retry === 'later') return { code: error.code, retry: 'later' }
    if (error.code.startsWith('DOCUMENT_') || error.code === 'NOT_FOUND') return { code: error.code, retry: 'never' }
    return { code: error.code, retry: 'again' }
  }
  return { code: 'INTERNAL', retry: 'again' }
}
