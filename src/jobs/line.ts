import { PercolateError } from '../base/errors.ts'
import { derivedId, type TenantId } from '../base/ids.ts'
import type { Time } from '../base/time.ts'
import { compareClocks, formatClock, parseClock } from '../clock/hlc.ts'
import type { KvBucket } from '../stream/port.ts'
import { subjects } from '../stream/subjects.ts'
import { isOpen, type JobRecord, type Turn, type Upload } from './model.ts'

export interface DocumentLinesOptions {
  readonly time: Time
  readonly records: () => Promise<KvBucket>
  readonly get: (tenant: TenantId, jobId: string) => Promise<JobRecord | undefined>
}

/** The last upload of a document, in the bucket of the job records, and what that one came after. */
type Tail = Upload & { readonly after: readonly Upload[] }

/** A place that a job has been given. */
export interface Place {
  readonly turn: Turn
  /** Makes the upload before the last again. False: there is one behind it by now. */
  undo(): Promise<boolean>
}

const ENTER_ATTEMPTS_MAX = 20
const ENTER_PAUSE_MS = 20
/** Records that one look at who is ahead reads at most. */
const LOOKS_MAX = 64
/** A clock that is further ahead than nodes allow by default (PERCOLATE_CLOCK_SKEW_MS_MAX) wrote nothing; an upload above it would be refused like it. */
const AHEAD_MS_MAX = 10_000

/**
 * The uploads of one document (a uri of a tenant) stand in line: each knows the one that was the last when it came, and has a later clock. So a
 * job can wait for those before it, and what one job takes back with its own clock hides nothing that one with an earlier clock writes after it.
 */
export class DocumentLines {
  readonly #options: DocumentLinesOptions
  /** By key, the last that entered here: those of one process wait for one another, and do not race. */
  readonly #entering = new Map<string, Promise<unknown>>()

  constructor(options: DocumentLinesOptions) {
    this.#options = options
  }

  /** Puts a job, whose record is there, at the end of its document's line. */
  async enter(job: JobRecord & { readonly uri: string }): Promise<Place> {
    const key = subjects.documentKey(job.tenant, derivedId(job.uri))
    const before = this.#entering.get(key)
    const entering = (before ?? Promise.resolve()).then(() => this.#enter(key, job))
    const settled = entering.catch(() => {})
    this.#entering.set(key, settled)
    try {
      return await entering
    } finally {
      if (this.#entering.get(key) === settled) this.#entering.delete(key)
    }
  }

  async #enter(key: string, job: JobRecord): Promise<Place> {
    const { time, records } = this.#options
    const bucket = await records()
    for (let attempt = 0; attempt < ENTER_ATTEMPTS_MAX; attempt++) {
      const record = await bucket.get(key)
      const tail = record && (JSON.parse(record.value.toString()) as Tail | null)
      const last = tail ? (tail.job_id === job.job_id ? tail.after : [{ job_id: tail.job_id, clock: tail.clock }]) : []
      const turn: Turn = {
        clock: tail ? clockAbove(job.clock, tail.clock, time.now()) : job.clock,
        // One that is retried before its turn had come still comes after those that it came after.
        after: [
          ...(job.turn?.after ?? []).filter(({ job_id }) => !last.some(other => other.job_id === job_id)),
          ...last,
        ],
      }
      const mine: Tail = { job_id: job.job_id, ...turn }
      const revision = await bucket.update(key, encode(mine), record?.revision ?? 0)
      if (revision !== undefined)
        return {
          turn,
          undo: async () => (await bucket.update(key, encode(tail ?? null), revision)) !== undefined,
        }
      await time.sleep(ENTER_PAUSE_MS * (1 + (attempt % 5)) * Math.random())
    }
    throw new PercolateError('STREAM_UNAVAILABLE', 'Too many upload the same document at once.')
  }

  /**
   * The uploads ahead of a job that have not come to their end, as far as one look shows, and the record of one of them. Only what a record says holds up: one that has ended, or is not there, does not, but
   * those that it would have waited for do. What has ended stays so: a retry gets a later clock.
   */
  async ahead({ tenant, clock, turn }: JobRecord): Promise<{ after: Upload[]; one: JobRecord | undefined }> {
    const open = [...(turn?.after ?? [])].filter(upload => upload.clock < clock)
    const seen = new Set<string>()
    const after: Upload[] = []
    let one: JobRecord | undefined
    for (let upload = open.shift(); upload; upload = open.shift()) {
      if (seen.has(upload.clock)) continue
      if (seen.size >= LOOKS_MAX) {
        after.push(upload)
        continue
      }
      seen.add(upload.clock)
      const record = await this.#options.get(tenant, upload.job_id)
      if (!record) continue
      if (isOpen(record) && record.clock <= upload.clock) {
        after.push(upload)
        one ??= record
      } else open.push(...(record.turn?.after ?? []).filter(earlier => earlier.clock < upload.clock))
    }
    return { after, one }
  }
}

const encode = (tail: Tail | null): Buffer => Buffer.from(JSON.stringify(tail))

function clockAbove(own: string, last: string, now: number): string {
  const mine = parseClock(own)
  const theirs = parseClock(last)
  if (!mine || !theirs || compareClocks(mine, theirs) > 0 || theirs.wall > now + AHEAD_MS_MAX) return own
  return formatClock({ wall: theirs.wall, counter: theirs.counter + 1, origin: mine.origin })
}
