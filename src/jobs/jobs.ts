import { randomUUID } from 'node:crypto'
import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import { LIST_LIMIT_MAX } from '../base/limits.ts'
import type { Time } from '../base/time.ts'
import { formatClock, parseClock } from '../clock/hlc.ts'
import type { Delivery, KvBucket, StreamPort } from '../stream/port.ts'
import { subjects } from '../stream/subjects.ts'
import { DocumentLines, type Entry, type Place } from './line.ts'
import {
  encodeJobMessage,
  hasPlace,
  isFinished,
  isOpen,
  isRetracting,
  type JobRecord,
  messageOf,
  type Turn,
} from './model.ts'

export interface JobsOptions {
  readonly stream: StreamPort
  readonly time: Time
  readonly tier: string
  readonly replicas: number
  readonly ackWaitMs: number
  readonly recordMaxAgeMs: number
  /** Of job messages, of records, and of dead letters, each. */
  readonly bytesMax: number
  readonly clockSkewMsMax: number
}

/** The settings that all who share the jobs of a tier must have alike. */
export interface JobSettings {
  readonly jobReplicas: number
  readonly jobAckWaitMs: number
  readonly jobRecordMaxAgeMs: number
  readonly jobBytesMax: number
  readonly clockSkewMsMax: number
}

/** How the origins of clocks begin that retries have. */
const RETRY_ORIGIN = 'retry-'
const DEAD_MESSAGES_MAX = 100_000
const ACK_PENDING_MAX = 10_000
const UPDATE_ATTEMPTS_MAX = 10
/** A job that others wait for, and whose record has not changed for this long, gets another message: its own may never have been sent. A parser may take an hour. */
const REMIND_MS = 600_000
const REMIND_RUNNING_MS = 12 * 3_600_000

/** What a message of a job is for now. */
export interface Look {
  /** The record that this is true of: while its clock is the same, nobody gets ahead of it again. */
  readonly job: JobRecord
  /** How many of the document's earlier uploads have not come to an end. `later`: it has no place in line, and one with a later clock has. */
  readonly ahead: 'nobody' | 'one' | 'several' | 'later'
  /** False: the job is worked on by another message. */
  readonly isIts: boolean
}

/** Job records (KV), job messages (work queue) and dead letters, for gateway, node and workers alike. */
export class Jobs {
  readonly #options: JobsOptions
  readonly #lines: DocumentLines
  #bucket: Promise<KvBucket> | undefined
  #prepared: Promise<void> | undefined
  /** Which job stream was there when it was looked at last; see `StreamInfo.incarnation`. */
  #incarnation: string | undefined
  /** From which a message came, about. */
  readonly #streamOf = new WeakMap<Delivery, string>()

  constructor(options: JobsOptions) {
    this.#options = options
    this.#lines = new DocumentLines({
      time: options.time,
      clockSkewMsMax: options.clockSkewMsMax,
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
      clockSkewMsMax: settings.clockSkewMsMax,
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
   * another behind it already, or whose message may be there, stays as a cancelled one: by that others find who is further ahead, and workers that it was refused. TOO_BUSY: too many uploads of the document are in line.
   */
  async enqueue(job: JobRecord, messageId: string = job.job_id): Promise<void> {
    const prepared = this.#prepared
    try {
      await this.#enqueue(job, messageId)
    } catch (error) {
      // Now it is looked at anew whether stream and bucket are there.
      if (prepared === undefined || !isUnavailable(error)) throw error
      // One that could not be withdrawn still comes after those that it came after. Its first message may be there, and have been worked on.
      const known = await this.get(job.tenant, job.job_id)
      if (known && (messageOf(known) !== undefined || (known.status !== 'queued' && known.status !== 'cancelled')))
        return
      const turn = known?.turn
      await this.#enqueue(turn ? { ...job, turn } : job, `${messageId}-again`)
    }
  }

  async #enqueue({ message: _message, ...job }: JobRecord, messageId: string): Promise<void> {
    await this.prepare()
    await this.#whileThere(async () => {
      const bucket = await this.#records()
      const key = subjects.jobKey(job.tenant, job.job_id)
      let placed = job
      let place: Place | undefined
      try {
        if (isInLine(job)) {
          // Nobody knows of it as yet: it may say that it has its place before it has.
          const note = async (turn: Turn) => {
            placed = { ...job, clock: turn.clock, turn }
            await bucket.put(key, encodeRecord(placed))
            return true
          }
          place = (await this.#lines.enter(job, { note, toLater: 'wait', isBounded: true })) as Place
        } else await bucket.put(key, encodeRecord(job))
        await this.#send(placed, messageId)
      } catch (error) {
        const wasInLine = job.turn !== undefined
        if (!(await this.#withdraw(bucket, placed, place, { error, wasInLine }).catch(() => false))) throw error
      }
    })
  }

  /** True: the message is there all the same, and a worker has it. */
  async #withdraw(
    bucket: KvBucket,
    job: JobRecord,
    place: Place | undefined,
    { error, wasInLine }: { error: unknown; wasInLine: boolean },
  ): Promise<boolean> {
    let isTaken = false
    let isThere = true
    await this.#update(job, now => {
      isThere = now !== job
      isTaken = isThere && (now.status !== 'queued' || messageOf(now) !== undefined)
      return isThere && !isTaken ? { status: 'cancelled', error: REFUSED } : undefined
    })
    if (isTaken || !isThere) return isTaken
    const isOut = place
      ? await place.undo()
      : !isInLine(job) || (isBusy(error) && !wasInLine) || (await this.#lines.leave(job))
    // Its message may be there, and would be worked on if no record said that it was refused.
    if (isOut && !isUnavailable(error)) await bucket.delete(subjects.jobKey(job.tenant, job.job_id))
    return false
  }

  /** Gives a job that is known, and may be looked at by others meanwhile, its place. `later`: one with a later clock has one. Undefined: it has ended, or was retried. */
  async #place(
    job: JobRecord & { readonly uri: string },
    how: Pick<Entry, 'toLater' | 'isBounded'>,
  ): Promise<{ job: JobRecord; place: Place } | 'later' | undefined> {
    const isWanted = (now: JobRecord) => !isFinished(now.status) && now.clock === job.clock && !hasPlace(now)
    const note = async (turn: Turn) => {
      let isNoted = false
      await this.#update(job, now => {
        isNoted = isWanted(now)
        return isNoted ? { turn: { ...turn, isEntering: true } } : undefined
      })
      return isNoted
    }
    const place = await this.#lines.enter(job, { ...how, note })
    if (place === 'later' || !place) return place
    const { turn } = place
    const placed = await this.#update(job, now => (isWanted(now) ? { clock: turn.clock, turn } : undefined))
    if (placed.clock === turn.clock && hasPlace(placed)) return { job: placed, place }
    await place.undo()
    return undefined
  }

  /**
   * What a message of a job, by its sequence, is for: whether it is the job's turn among the uploads of its document. One without a place (its gateway is of a version before, or a retry ended halfway) gets
   * the last; but a version that a later one would have replaced yields to it.
   */
  async look(fallback: JobRecord, sequence?: number): Promise<Look> {
    const isIts = (now: JobRecord) => (messageOf(now) ?? sequence) === sequence || sequence === undefined
    let job = (await this.get(fallback.tenant, fallback.job_id)) ?? fallback
    if (!isIts(job)) return { job, ahead: 'nobody', isIts: false }
    if (isFinished(job.status) || !isInLine(job)) return { job, ahead: 'nobody', isIts: true }
    if (!hasPlace(job)) {
      const unplaced = job
      const toLater = job.replaces && !isRetried(job) ? 'yield' : 'wait'
      const placed = await this.#whileThere(() => this.#place(unplaced, { toLater, isBounded: false }))
      if (placed === 'later') return { job, ahead: 'later', isIts: true }
      // Ended or retried meanwhile: the next look shows it.
      if (!placed) return { job, ahead: 'several', isIts: true }
      job = placed.job
    }
    const { after, one } = await this.#lines.ahead(job)
    if (after.length === 0) return { job, ahead: 'nobody', isIts: true }
    if (one) await this.#remind(one)
    const isNext = one !== undefined && (one.status !== 'queued' || (await this.#lines.ahead(one)).after.length === 0)
    const known = JSON.stringify(job.turn)
    const message = messageOf(job) ?? sequence
    const { clock } = job
    const noted = {
      turn: { clock, after },
      ...(message === undefined ? {} : { message: { sequence: message, clock } }),
    }
    if (JSON.stringify(noted.turn) !== known || message !== messageOf(job))
      job = await this.update(job, now =>
        now.status === 'queued' && now.clock === clock && JSON.stringify(now.turn) === known && isIts(now)
          ? noted
          : undefined,
      )
    return { job, ahead: isNext && after.length === 1 ? 'one' : 'several', isIts: isIts(job) }
  }

  /**
   * A job that others wait for may have lost its message, or never have had one: then it would hold them up for as long as its record is kept. Whichever of its messages comes first now is the one that
   * it is worked on by. False: there is news of it.
   */
  async #remind(job: JobRecord): Promise<boolean> {
    const silentMs = this.#options.time.now() - Date.parse(job.updated_at)
    if (silentMs < (job.status === 'running' ? REMIND_RUNNING_MS : REMIND_MS)) return false
    let isSilent = false
    const reminded = await this.update(job, now => {
      // What stands in for a record that has gone is `job` itself.
      isSilent = now !== job && now.updated_at === job.updated_at
      return isSilent ? { message: undefined as never } : undefined
    })
    if (isSilent) await this.#send(reminded, `${job.job_id}-reminded-${reminded.updated_at}`)
    return isSilent
  }

  async get(tenant: TenantId, jobId: string): Promise<JobRecord | undefined> {
    const record = await this.#whileThere(async () => (await this.#records()).get(subjects.jobKey(tenant, jobId)))
    return record && decodeRecord(record.value)
  }

  /** A page of a tenant's jobs, newest first: ids of uploads begin with their time. `before`: the last id of the page before. `signal` ends the reading of it, by its reason. */
  async list(
    tenant: TenantId,
    {
      limit = LIST_LIMIT_MAX,
      before,
      signal,
    }: { limit?: number; before?: string | undefined; signal?: AbortSignal } = {},
  ): Promise<{ jobs: JobRecord[]; next: string | undefined }> {
    const records = await this.#whileThere(async () =>
      (await this.#records()).list(subjects.jobKeysOf(tenant), {
        // One more says that there is another page.
        max: limit + 1,
        before: before === undefined ? undefined : subjects.jobKey(tenant, before),
        signal,
      }),
    )
    const jobs = records.slice(0, limit).map(record => decodeRecord(record.value))
    return { jobs, next: records.length > limit ? jobs.at(-1)?.job_id : undefined }
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
    // From before: what an older stream had must not be taken for the newer one's.
    const incarnation = this.#incarnation
    const deliveries = await this.#whileThere(() => this.#options.stream.fetch(...from, { max, waitMs, signal }))
    if (incarnation !== undefined) for (const delivery of deliveries) this.#streamOf.set(delivery, incarnation)
    return deliveries
  }

  /** After a message was given back: one whose stream has gone with the stores of the servers does not come again, and then its job gets another, when it has a record (again). STREAM_UNAVAILABLE: that is not known. */
  async sendAgainIfGone(delivery: Delivery, job: JobRecord): Promise<void> {
    const before = this.#streamOf.get(delivery)
    const info = await this.#options.stream.streamInfo(subjects.jobsStream(this.#options.tier))
    if (before === undefined || info?.incarnation === before) return
    await this.ensure()
    let isWaiting = false
    const waiting = await this.update(job, now => {
      // What stands in for a record that has gone is `job` itself; another message may have it by now.
      isWaiting = now !== job && isOpen(now) && (messageOf(now) ?? delivery.sequence) === delivery.sequence
      return isWaiting ? { message: undefined as never } : undefined
    })
    if (isWaiting) await this.#send(waiting, `${job.job_id}-again-${this.#incarnation}`)
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

  /**
   * Starts a failed, dead or cancelled job over, as if it had been uploaded now: what it wrote was taken back, and an older clock would lose against that. One that is open, and of which there has been no
   * news for ten minutes (twelve hours while it runs), gets another message: its own may be lost.
   */
  async retry(tenant: TenantId, jobId: string): Promise<JobRecord> {
    const job = await this.#existing(tenant, jobId)
    if (isOpen(job) && (await this.#remind(job))) return job
    let before = job
    const attempt = randomUUID()
    const clock = formatClock({ wall: this.#options.time.now(), counter: 0, origin: `${RETRY_ORIGIN}${attempt}` })
    const queued = await this.update(job, now => {
      before = now
      if (!isFinished(now.status) || now.status === 'completed')
        throw new PercolateError(
          'JOB_STATE',
          `The job is ${now.status}; only failed, dead and cancelled jobs can be retried.`,
        )
      if (isRetracting(now))
        throw new PercolateError(
          'JOB_STATE',
          'What the job wrote is being taken back; retry it when its stage is "retracted" or "retained".',
        )
      return { ...FRESH, status: 'queued', stage: 'waiting', attempts: 0, done: 0, total: 0, clock }
    }).catch(error => {
      // It may have been done all the same.
      if (isUnavailable(error)) return this.#unretry(before, { ...before, clock }, undefined, error)
      throw error
    })
    if (queued.clock !== clock) return queued
    let place: Place | undefined
    try {
      await this.prepare()
      return await this.#whileThere(async () => {
        const placed = isInLine(queued) ? await this.#place(queued, { toLater: 'wait', isBounded: true }) : undefined
        place = placed === 'later' ? undefined : placed?.place
        const now = (placed !== 'later' && placed?.job) || ((await this.get(tenant, jobId)) ?? queued)
        await this.#send(now, `${jobId}-${attempt}`)
        return now
      })
    } catch (error) {
      return await this.#unretry(before, queued, place, error)
    }
  }

  /** A job whose retry got no message is again what it was, and the caller learns why; but one that a worker has all the same goes on. */
  async #unretry(before: JobRecord, queued: JobRecord, place: Place | undefined, error: unknown): Promise<JobRecord> {
    let isTaken = false
    let isBack = false
    const now = await this.#update(queued, current => {
      const isIts = originOf(current.clock) === originOf(queued.clock)
      isTaken = isIts && (current.status !== 'queued' || messageOf(current) !== undefined)
      isBack = isIts && !isTaken
      // Others may be behind it, who look there for those further ahead.
      return isBack ? { ...FRESH, ...before, ...(current.turn ? { turn: current.turn } : {}) } : undefined
    }).catch(() => undefined)
    if (now && isTaken) return now
    if (now && isBack && isInLine(queued) && !isBusy(error))
      await (place ? place.undo() : this.#lines.leave(queued)).catch(() => {})
    throw error
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
    this.#incarnation = (await stream.streamInfo(subjects.jobsStream(tier)))?.incarnation
    await this.#records()
  }

  #now(): string {
    return new Date(this.#options.time.now()).toISOString()
  }
}

/** Of an upload whose message may have been stored, for all that its client knows: it is not worked on. */
const REFUSED = {
  code: 'STREAM_UNAVAILABLE',
  detail: 'The upload was refused: nobody knew whether its job had been queued.',
}

/** What a job that is done over has no longer. */
const FRESH = {
  error: undefined as never,
  written: undefined as never,
  settled: undefined as never,
  message: undefined as never,
  waits: undefined as never,
} satisfies Partial<JobRecord>

const originOf = (clock: string): string | undefined => parseClock(clock)?.origin
const isRetried = ({ clock }: JobRecord): boolean => originOf(clock)?.startsWith(RETRY_ORIGIN) === true

/** Whether it is one of the uploads of a document. */
const isInLine = (job: JobRecord): job is JobRecord & { readonly uri: string } =>
  job.kind === 'ingest' && job.uri !== undefined

const isUnavailable = (error: unknown): boolean =>
  error instanceof PercolateError && error.code === 'STREAM_UNAVAILABLE'

const isBusy = (error: unknown): boolean => error instanceof PercolateError && error.code === 'TOO_BUSY'

const encodeRecord = (job: JobRecord): Buffer => Buffer.from(JSON.stringify(job))

function decodeRecord(bytes: Buffer): JobRecord {
  try {
    return JSON.parse(bytes.toString()) as JobRecord
  } catch (cause) {
    throw new PercolateError('DATA_CORRUPT', 'A job record does not decode.', { cause })
  }
}
