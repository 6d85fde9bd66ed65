import { PercolateError } from '../base/errors.ts'
import { parseTenantId, type TenantId } from '../base/ids.ts'

/**
 * A job's states: *queued* → *running* → *completed*; back to *queued* when its worker was interrupted or a service it needs is away.
 * *failed*: the document itself cannot be processed, trying again would not help. *dead*: it was started too often. *cancelled*: on request. Failed
 * and dead jobs have a dead letter with the reason, and can be retried by hand.
 */
export type JobStatus = 'queued' | 'running' | 'completed' | 'failed' | 'dead' | 'cancelled'
/** Whether what a cancelled job wrote is being taken back. */
export const isRetracting = ({ status, stage }: Pick<JobRecord, 'status' | 'stage'>): boolean =>
  status === 'cancelled' && stage === 'retract'
export const isFinished = (status: JobStatus): boolean => status !== 'queued' && status !== 'running'
/** Whether it may still write, or take back what it wrote. */
export const isOpen = (job: Pick<JobRecord, 'status' | 'stage'>): boolean =>
  !isFinished(job.status) || isRetracting(job)

/** An upload of a document, or a retry of it by hand, which has a clock of its own. */
export interface Upload {
  readonly job_id: string
  readonly clock: string
}

/** Which message a job is worked on by: the first one that a worker looked at. */
interface JobMessageNote {
  /** In the stream of jobs. */
  readonly sequence: number
  /** Of the job. With another clock it has been queued anew since, also by one who does not know of this note. */
  readonly clock: string
}

/** The message in the stream, by its sequence, by which a job is worked on: others of the same job come to nothing. Undefined: no worker has looked at it since it was queued. */
export const messageOf = ({ clock, message }: Pick<JobRecord, 'clock' | 'message'>): number | undefined =>
  message?.clock === clock ? message.sequence : undefined

/** Whether it stands in its document's line. */
export const hasPlace = ({ clock, turn }: Pick<JobRecord, 'clock' | 'turn'>): boolean =>
  turn?.clock === clock && !turn.isEntering

/** The place of an upload among those of the same document. */
export interface Turn {
  /** Of another clock than its job: the job has been retried since, and has no place as yet. */
  readonly clock: string
  /** Those that it waits for, and what they waited for. */
  readonly after: readonly Upload[]
  /** It is on its way into the line, and has no place there as yet. */
  readonly isEntering?: true
}

export interface UploadedFile {
  /** As the client named it; never a path here. */
  readonly name: string
  readonly objectKey: string
  readonly bytes: number
  readonly contentType: string | null
  readonly sha256: string
}

/** The record of a job, in the KV bucket under `<tenant>.<job id>`; JSON. */
export interface JobRecord {
  readonly job_id: string
  readonly tenant: TenantId
  readonly tier: string
  readonly kind: 'ingest' | 'embed'
  readonly status: JobStatus
  /**
   * What is being done: `waiting`, `download`, `parse`, `embed`, `write`, `replace`, `done`. Of a job that was cancelled after it had begun to write: `retract` while that is being taken back,
   * `retracted` when nothing of it is there any more, `retained` when it was too old to be taken back: `error` says what is left.
   */
  readonly stage: string
  /** It may have written something: set before it does. */
  readonly written?: boolean
  /** What it wrote stands; what is left to do is to remove the version before. */
  readonly settled?: boolean
  readonly done: number
  readonly total: number
  readonly error?: { readonly code: string; readonly detail: string }
  /** How often a worker started on it and did not get to give it back. */
  readonly attempts: number
  /** How often it waited for a service that was away. */
  readonly waits?: number
  /** The message by which it is worked on, see {@link messageOf}. */
  readonly message?: JobMessageNote
  readonly created_at: string
  readonly updated_at: string
  /** The clock that everything written for this job carries. */
  readonly clock: string
  readonly file?: UploadedFile
  readonly uri?: string
  /** Undefined: nobody has given it a place as yet. */
  readonly turn?: Turn
  /** The uri came from the client: this version of the document replaces the one before. */
  readonly replaces?: boolean
  readonly category?: string
  readonly metadata?: { readonly [key: string]: unknown }
}

/** The message on `percolate.jobs.<tier>`: all that a worker needs to make the record anew if it has expired. */
export interface JobMessage {
  readonly version: 1
  readonly job: JobRecord
}

export const encodeJobMessage = ({ message: _message, ...job }: JobRecord): Buffer =>
  Buffer.from(JSON.stringify({ version: 1, job } satisfies JobMessage))

/** Throws INVALID_ARGUMENT for what is not a job message; such a message is dead-lettered, never run. */
export function decodeJobMessage(data: Buffer): JobRecord {
  const bad = (why: string) => new PercolateError('INVALID_ARGUMENT', `The job message ${why}.`)
  let message: Partial<JobMessage> | null
  try {
    message = JSON.parse(data.toString()) as Partial<JobMessage> | null
  } catch {
    throw bad('is not JSON')
  }
  if (message === null || typeof message !== 'object' || message.version !== 1) throw bad('has an unknown version')
  const job = message.job
  if (!job || typeof job.job_id !== 'string' || !isJobId(job.job_id)) throw bad('has no job id')
  parseTenantId(job.tenant)
  if (job.kind !== 'ingest' && job.kind !== 'embed') throw bad('has an unknown kind')
  if (job.kind === 'ingest' && typeof job.file?.objectKey !== 'string') throw bad('names no file')
  return job
}

export const isJobId = (text: string): boolean => /^[a-z0-9][a-z0-9-]{0,79}$/.test(text)

/** What `GET /jobs/{id}` answers. */
export function publicJob(job: JobRecord) {
  return {
    job_id: job.job_id,
    kind: job.kind,
    status: job.status,
    stage: job.stage,
    done: job.done,
    total: job.total,
    ...(job.error ? { error: job.error } : {}),
    attempts: job.attempts,
    created_at: job.created_at,
    updated_at: job.updated_at,
    ...(job.file ? { file: { name: job.file.name, bytes: job.file.bytes, content_type: job.file.contentType } } : {}),
    ...(job.uri ? { uri: job.uri } : {}),
  }
}
