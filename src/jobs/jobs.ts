import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Time } from '../base/time.ts'
import { formatClock } from '../clock/hlc.ts'
import type { Delivery, KvBucket, StreamPort } from '../stream/port.ts'
import { subjects } from '../stream/subjects.ts'
import { encodeJobMessage, isFinished, isRetracting, type JobRecord } from './model.ts'

export interface JobsOptions {
  readonly stream: StreamPort
  readonly time: Time
  readonly tier: string
  readonly replicas: number
  readonly ackWaitMs: number
  readonly recordMaxAgeMs: number
  /** Of job messages, of records, and of dead letters, each. */
  readonly bytesMax: number
}

/** The settings that all who share the jobs of a tier must have alike. */
export interface JobSettings {
  readonly jobReplicas: number
  readonly jobAckWaitMs: number
  readonly jobRecordMaxAgeMs: number
  readonly jobBytesMax: number
}

/** Jobs of a tenant that one listing reads at most. */
const LISTED_MAX = 5000
const DEAD_MESSAGES_MAX = 100_000
const ACK_PENDING_MAX = 10_000
const UPDATE_ATTEMPTS_MAX = 10

/** Job records (KV), job messages (work queue) and dead letters, for gateway, node and workers alike. */
export class Jobs {
  readonly #options: JobsOptions
  #bucket: Promise<KvBucket> | undefined
  #prepared: Promise<void> | undefined

  constructor(options: JobsOptions) {
    this.#options = options
  }

  static of(settings: JobSettings, parts: Pick<JobsOptions, 'stream' | 'time' | 'tier'>): Jobs {
    return new Jobs({
      ...parts,
      replicas: settings.jobReplicas,
      ackWaitMs: settings.jobAckWaitMs,
      recordMaxAgeMs: settings.jobRecordMaxAgeMs,
      bytesMax: settings.jobBytesMax,
    })
  }

  /** Makes streams, consumer and bucket where they are missing. Called by everyone: who comes first makes them, so that KEDA finds the consumer. */
  prepare(): Promise<void> {
    this.#prepared ??= this.#prepare().catch(error => {
      this.#prepared = undefined
      throw error
    })
    return this.#prepared
  }

  /** As {@link prepare}, but looks also for what was there before: it may have gone with the stores of the servers. */
  ensure(): Promise<void> {
    this.#prepared = undefined
    this.#bucket = undefined
    return this.prepare()
  }

  /** Record first, then message; when the message can't be stored the record goes again, and the caller learns that there is no job. */
  async enqueue(job: JobRecord, messageId: string = job.job_id): Promise<void> {
    const prepared = this.#prepared
    try {
      await this.#enqueue(job, messageId)
    } catch (error) {
      // Now it is looked at anew whether stream and bucket are there. Both steps may be done twice.
      if (prepared === undefined || !isUnavailable(error)) throw error
      await this.#enqueue(job, messageId)
    }
  }

  async #enqueue(job: JobRecord, messageId: string): Promise<void> {
    await this.prepare()
    await this.#whileThere(async () => {
      const bucket = await this.#records()
      const key = subjects.jobKey(job.tenant, job.job_id)
      await bucket.put(key, encodeRecord(job))
      try {
        await this.#send(job, messageId)
      } catch (error) {
        await bucket.delete(key).catch(() => {})
        throw error
      }
    })
  }

  async get(tenant: TenantId, jobId: string): Promise<JobRecord | undefined> {
    const record = await this.#whileThere(async () => (await this.#records()).get(subjects.jobKey(tenant, jobId)))
    return record && decodeRecord(record.value)
  }

  /** A tenant's jobs, newest first. */
  async list(tenant: TenantId): Promise<JobRecord[]> {
    const records = await this.#whileThere(async () =>
      (await this.#records()).list(subjects.jobKeysOf(tenant), LISTED_MAX),
    )
    return records.map(record => decodeRecord(record.value)).sort((a, b) => (a.created_at < b.created_at ? 1 : -1))
  }

  /**
   * Changes a record by compare-and-set; `change` may return undefined to leave it as it is. When the record has expired, `fallback` stands
   * in for it. Returns the record as it is afterwards.
   */
  update(fallback: JobRecord, change: (job: JobRecord) => Partial<JobRecord> | undefined): Promise<JobRecord> {
    return this.#whileThere(() => this.#update(fallback, change))
  }

  async #update(fallback: JobRecord, change: (job: JobRecord) => Partial<JobRecord> | undefined): Promise<JobRecord> {
    const bucket = await this.#records()
    const key = subjects.jobKey(fallback.tenant, fallback.job_id)
    for (let attempt = 0; attempt < UPDATE_ATTEMPTS_MAX; attempt++) {
      const record = await bucket.get(key)
      const job = record ? decodeRecord(record.value) : fallback
      const changed = change(job)
      if (changed === undefined) return job
      const next: JobRecord = { ...job, ...changed, updated_at: this.#now() }
      if ((await bucket.update(key, encodeRecord(next), record?.revision ?? 0)) === undefined) continue
      if (next.status !== job.status || isRetracting(job)) this.#announce(next)
      return next
    }
    throw new PercolateError('STREAM_UNAVAILABLE', 'The job record is changed by too many at once.')
  }

  /** Calls `handle` when a job's status has changed, on whichever process. A hint: it may be lost, and the record decides. */
  onChange(handle: (job: { tenant: string; jobId: string }) => void): () => void {
    return this.#options.stream.listen(subjects.jobHint, data => {
      const [tenant, jobId, ...rest] = data.toString().split(' ')
      if (tenant && jobId && rest.length === 0) handle({ tenant, jobId })
    })
  }

  async fetch(max: number, waitMs: number, signal: AbortSignal): Promise<Delivery[]> {
    await this.prepare()
    const { tier } = this.#options
    const from = [subjects.jobsStream(tier), subjects.workersConsumer(tier)] as const
    return this.#whileThere(() => this.#options.stream.fetch(...from, { max, waitMs, signal }))
  }

  /** Keeps what could not be done, with the reason. */
  async deadLetter(data: Buffer, reason: { code: string; detail: string }, messageId: string): Promise<void> {
    const letter = { reason, at: this.#now(), message: data.toString('utf8').slice(0, 256 * 1024) }
    const { stream, tier } = this.#options
    await this.prepare()
    await this.#whileThere(() =>
      stream.publish(subjects.deadJobs(tier), Buffer.from(JSON.stringify(letter)), `dead-${messageId}`),
    )
  }

  /** Starts a failed, dead or cancelled job over, as if it had been uploaded now: what it wrote was taken back, and an older clock would lose against that. */
  async retry(tenant: TenantId, jobId: string): Promise<JobRecord> {
    const job = await this.#existing(tenant, jobId)
    if (job.status !== 'failed' && job.status !== 'dead' && job.status !== 'cancelled') {
      throw new PercolateError(
        'JOB_STATE',
        `The job is ${job.status}; only failed, dead and cancelled jobs can be retried.`,
      )
    }
    const queued = await this.update(job, ({ error: _error, ...rest }) => {
      if (isRetracting(rest))
        throw new PercolateError(
          'JOB_STATE',
          'What the job wrote is being taken back; retry it when its stage is "retracted" or "retained".',
        )
      return {
        ...rest,
        error: undefined as never,
        status: 'queued',
        stage: 'waiting',
        attempts: 0,
        done: 0,
        total: 0,
        written: undefined as never,
        settled: undefined as never,
        clock: formatClock({ wall: this.#options.time.now(), counter: 0, origin: `retry-${jobId}` }),
      }
    })
    await this.prepare()
    await this.#whileThere(() => this.#send(queued, `${jobId}-${this.#options.time.now()}`))
    return queued
  }

  /** A queued job will not be started; a running one stops at once. What it wrote is taken back by a worker: its stage says so. JOB_STATE: it has ended, or stands already. */
  async cancel(tenant: TenantId, jobId: string): Promise<JobRecord> {
    const job = await this.#existing(tenant, jobId)
    if (isFinished(job.status)) throw new PercolateError('JOB_STATE', `The job is ${job.status} already.`)
    return this.update(job, current => {
      if (isFinished(current.status)) return undefined
      if (current.settled)
        throw new PercolateError(
          'JOB_STATE',
          'The document is in, and what it replaces is being removed; delete it when the job is completed.',
        )
      return { status: 'cancelled', ...(current.written ? { stage: 'retract' } : {}) }
    })
  }

  /** Messages that no worker has finished. */
  depth(): Promise<number> {
    return this.#whileThere(() => this.#options.stream.depth(subjects.jobsStream(this.#options.tier)))
  }

  newRecord(fields: Pick<JobRecord, 'job_id' | 'tenant' | 'kind' | 'clock'> & Partial<JobRecord>): JobRecord {
    const now = this.#now()
    return {
      tier: this.#options.tier,
      status: 'queued',
      stage: 'waiting',
      done: 0,
      total: 0,
      attempts: 0,
      created_at: now,
      updated_at: now,
      ...fields,
    }
  }

  async #existing(tenant: TenantId, jobId: string): Promise<JobRecord> {
    const job = await this.get(tenant, jobId)
    if (!job) throw new PercolateError('NOT_FOUND', 'This tenant has no such job, or its record has expired.')
    return job
  }

  async #send(job: JobRecord, messageId: string): Promise<void> {
    await this.#options.stream.publish(subjects.jobs(job.tier), encodeJobMessage(job), messageId)
  }

  #announce({ tenant, job_id }: JobRecord): void {
    this.#options.stream.announce(subjects.jobHint, Buffer.from(`${tenant} ${job_id}`))
  }

  /** What was made once may be gone with the stores of the servers: after a failure it is made anew where it is missing. */
  async #whileThere<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      if (isUnavailable(error)) {
        this.#prepared = undefined
        this.#bucket = undefined
      }
      throw error
    }
  }

  #records(): Promise<KvBucket> {
    const { recordMaxAgeMs: maxAgeMs, replicas, bytesMax } = this.#options
    this.#bucket ??= this.#options.stream.bucket(subjects.jobsBucket, { maxAgeMs, replicas, bytesMax }).catch(error => {
      this.#bucket = undefined
      throw error
    })
    return this.#bucket
  }

  async #prepare(): Promise<void> {
    const { stream, tier, replicas, ackWaitMs, recordMaxAgeMs, bytesMax } = this.#options
    await stream.ensureStream({
      name: subjects.jobsStream(tier),
      subjects: [subjects.jobs(tier)],
      retention: 'work-queue',
      maxAgeMs: 0,
      replicas,
      bytesMax,
    })
    await stream.ensureStream({
      name: subjects.deadJobsStream,
      subjects: [subjects.deadJobsAll],
      retention: 'limits',
      maxAgeMs: recordMaxAgeMs,
      replicas,
      messagesMax: DEAD_MESSAGES_MAX,
      bytesMax,
      discard: 'old',
    })
    await stream.ensureConsumer({
      stream: subjects.jobsStream(tier),
      name: subjects.workersConsumer(tier),
      subject: subjects.jobs(tier),
      ackWaitMs,
      ackPendingMax: ACK_PENDING_MAX,
    })
    await this.#records()
  }

  #now(): string {
    return new Date(this.#options.time.now()).toISOString()
  }
}

const isUnavailable = (error: unknown): boolean =>
  error instanceof PercolateError && error.code === 'STREAM_UNAVAILABLE'

const encodeRecord = (job: JobRecord): Buffer => Buffer.from(JSON.stringify(job))

function decodeRecord(bytes: Buffer): JobRecord {
  try {
    return JSON.parse(bytes.toString()) as JobRecord
  } catch (cause) {
    throw new PercolateError('DATA_CORRUPT', 'A job record does not decode.', { cause })
  }
}
