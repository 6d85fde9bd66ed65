import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Time } from '../base/time.ts'
import { formatClock } from '../clock/hlc.ts'
import type { Delivery, KvBucket, StreamPort } from '../stream/port.ts'
import { subjects } from '../stream/subjects.ts'
import { DocumentLines, type Place } from './line.ts'
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
/** A job that others wait for, and whose record has not changed for this long, gets another message: its own may never have been sent. A parser may take an hour. */
const REMIND_MS = 600_000
const REMIND_RUNNING_MS = 7_200_000

/** How many of a document's earlier uploads have not come to an end. */
export type Ahead = 'nobody' | 'one' | 'several'

/** Job records (KV), job messages (work queue) and dead letters, for gateway, node and workers alike. */
export class Jobs {
  readonly #options: JobsOptions
  readonly #lines: DocumentLines
  #bucket: Promise<KvBucket> | undefined
  #prepared: Promise<void> | undefined

  constructor(options: JobsOptions) {
    this.#options = options
    this.#lines = new DocumentLines({
      time: options.time,
      records: () => this.#records(),
      get: (tenant, jobId) => this.get(tenant, jobId),
    })
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

  /**
   * Record first, then the place in the document's line, then the message; when the message can't be stored place and record go again, and the caller learns that there is no job. One that has
   * another behind it already stays as a cancelled one, by which that one finds who is further ahead.
   */
  async enqueue(job: JobRecord, messageId: string = job.job_id): Promise<void> {
    const prepared = this.#prepared
    try {
      await this.#enqueue(job, messageId)
    } catch (error) {
      // Now it is looked at anew whether stream and bucket are there. Both steps may be done twice.
      if (prepared === undefined || !isUnavailable(error)) throw error
      // One that could not be withdrawn still comes after those that it came after.
      const turn = (await this.get(job.tenant, job.job_id))?.turn
      await this.#enqueue(turn ? { ...job, turn } : job, messageId)
    }
  }

  async #enqueue(job: JobRecord, messageId: string): Promise<void> {
    await this.prepare()
    await this.#whileThere(async () => {
      const bucket = await this.#records()
      const key = subjects.jobKey(job.tenant, job.job_id)
      await bucket.put(key, encodeRecord(job))
      let place: Place | undefined
      try {
        place = await this.#place(job)
        await this.#send(place ? await this.#takePlace(job, place) : job, messageId)
      } catch (error) {
        await this.#withdraw(bucket, job, place).catch(() => {})
        throw error
      }
    })
  }

  async #withdraw(bucket: KvBucket, job: JobRecord, place: Place | undefined): Promise<void> {
    if (!place || (await place.undo())) await bucket.delete(subjects.jobKey(job.tenant, job.job_id))
    else
      await this.#update(job, now =>
        isFinished(now.status) ? undefined : { status: 'cancelled', clock: place.turn.clock, turn: place.turn },
      )
  }

  async #place(job: JobRecord): Promise<Place | undefined> {
    return job.kind === 'ingest' && job.uri !== undefined ? this.#lines.enter({ ...job, uri: job.uri }) : undefined
  }

  /** Notes the place in the job's record, unless it has ended or was given another one meanwhile. */
  async #takePlace(job: JobRecord, place: Place): Promise<JobRecord> {
    const { turn } = place
    const placed = await this.#update(job, now =>
      isFinished(now.status) || now.clock !== job.clock || hasPlace(now) ? undefined : { clock: turn.clock, turn },
    )
    if (placed.clock !== turn.clock) await place.undo()
    return placed
  }

  /**
   * Whether it is a job's turn among the uploads of its document. One without a place (its gateway is of a version before, or ended halfway) gets the last. `job` is the record that this is true of: while
   * its clock is the same, nobody gets ahead of it again.
   */
  async turn(fallback: JobRecord): Promise<{ job: JobRecord; ahead: Ahead }> {
    let job = (await this.get(fallback.tenant, fallback.job_id)) ?? fallback
    if (isFinished(job.status)) return { job, ahead: 'nobody' }
    if (!hasPlace(job)) {
      const place = await this.#place(job)
      if (!place) return { job, ahead: 'nobody' }
      job = await this.#whileThere(() => this.#takePlace(job, place))
      // Retried meanwhile: whoever does that gives it its place.
      if (!hasPlace(job) && !isFinished(job.status)) return { job, ahead: 'several' }
    }
    const { after, one } = await this.#lines.ahead(job)
    if (after.length === 0) return { job, ahead: 'nobody' }
    const isNext = one !== undefined && (one.status !== 'queued' || (await this.#lines.ahead(one)).after.length === 0)
    if (isNext) await this.#remind(one)
    const known = JSON.stringify(job.turn?.after)
    if (JSON.stringify(after) !== known)
      job = await this.update(job, now =>
        now.status === 'queued' && JSON.stringify(now.turn) === JSON.stringify(job.turn)
          ? { turn: { clock: job.clock, after } }
          : undefined,
      )
    return { job, ahead: isNext && after.length === 1 ? 'one' : 'several' }
  }

  /** A job that others wait for, and that waits for none itself, may have lost its message, or never have had one: then it would hold them up for as long as its record is kept. */
  async #remind(job: JobRecord): Promise<void> {
    const silentMs = this.#options.time.now() - Date.parse(job.updated_at)
    if (silentMs < (job.status === 'running' ? REMIND_RUNNING_MS : REMIND_MS)) return
    let isMine = false
    const reminded = await this.update(job, now => {
      // What stands in for a record that has gone is `job` itself.
      isMine = now !== job && now.updated_at === job.updated_at
      return isMine ? {} : undefined
    })
    if (isMine) await this.#send(reminded, `${job.job_id}-reminded-${job.updated_at}`)
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
    return this.#whileThere(async () => {
      const place = await this.#place(queued)
      const placed = place ? await this.#takePlace(queued, place) : queued
      await this.#send(placed, `${jobId}-${this.#options.time.now()}`)
      return placed
    })
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

const hasPlace = ({ clock, turn }: JobRecord): boolean => turn?.clock === clock

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
