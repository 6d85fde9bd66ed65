import { PercolateError } from '../base/errors.ts'
import { derivedId, type TenantId } from '../base/ids.ts'
import type { Time } from '../base/time.ts'
import { compareClocks, formatClock, parseClock } from '../clock/hlc.ts'
import type { KvBucket } from '../stream/port.ts'
import { subjects } from '../stream/subjects.ts'
import { isOpen, type JobRecord, type Turn, type Upload } from './model.ts'

export interface DocumentLinesOptions {
  readonly time: Time
  readonly clockSkewMsMax: number
  readonly records: () => Promise<KvBucket>
  readonly get: (tenant: TenantId, jobId: string) => Promise<JobRecord | undefined>
}

/** The last upload of a document, in the bucket of the job records, and what that one came after. */
interface Tail extends Upload {
  readonly after: readonly Upload[]
  /** Uploads in line at most, itself included: some may have ended. Undefined: a version before wrote it. */
  readonly length?: number
}

/** A place that a job has been given. */
export interface Place {
  readonly turn: Turn
  /** Makes the upload before the last again. False: there is one behind it by now. */
  undo(): Promise<boolean>
}

export interface Entry {
  /** Notes in the job's record whom it is about to come after, before others may come behind it: they look there. False: it needs no place any more. */
  readonly note: (turn: Turn) => Promise<boolean>
  /** `wait`: behind all others, with a clock above theirs. `yield`: not behind one with a later clock. */
  readonly toLater: 'wait' | 'yield'
  /** TOO_BUSY when {@link UPLOADS_IN_LINE_MAX} are in line. */
  readonly isBounded: boolean
}

/** Uploads of one document that may wait for one another. */
export const UPLOADS_IN_LINE_MAX = 100
const ENTER_ATTEMPTS_MAX = 20
const ENTER_PAUSE_MS = 20
/** Records that one look at who is ahead reads at most. */
const LOOKS_MAX = 64
/** Records that are read to count who is in line; those behind many that were cancelled are not counted. */
const COUNT_LOOKS_MAX = 4 * UPLOADS_IN_LINE_MAX

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

  /** Puts a job at the end of its document's line. Undefined: it needs no place any more; `later`: one with a later clock is there. */
  async enter(job: JobRecord & { readonly uri: string }, entry: Entry): Promise<Place | 'later' | undefined> {
    const key = keyOf(job)
    const before = this.#entering.get(key)
    const entering = (before ?? Promise.resolve()).then(() => this.#enter(key, job, entry))
    const settled = entering.catch(() => {})
    this.#entering.set(key, settled)
    try {
      return await entering
    } finally {
      if (this.#entering.get(key) === settled) this.#entering.delete(key)
    }
  }

  async #enter(key: string, job: JobRecord, { note, toLater, isBounded }: Entry): Promise<Place | 'later' | undefined> {
    const { time, records, clockSkewMsMax } = this.#options
    const bucket = await records()
    for (let attempt = 0; attempt < ENTER_ATTEMPTS_MAX; attempt++) {
      const record = await bucket.get(key)
      const tail = record && decodeTail(record.value)
      const isOwn = tail?.job_id === job.job_id
      if (tail && toLater === 'yield' && !isOwn && (await this.#hasLater(job, tail))) return 'later'
      const last = tail ? (isOwn ? tail.after : [{ job_id: tail.job_id, clock: tail.clock }]) : []
      const turn: Turn = {
        clock: tail ? clockAbove(job.clock, tail.clock, time.now() + clockSkewMsMax) : job.clock,
        // One that is retried before its turn had come still comes after those that it came after.
        after: [
          ...(job.turn?.after ?? []).filter(({ job_id }) => !last.some(other => other.job_id === job_id)),
          ...last,
        ],
      }
      const length = 1 + (tail ? await this.#inLine(job.tenant, tail) : 0)
      if (isBounded && length > UPLOADS_IN_LINE_MAX)
        throw new PercolateError(
          'TOO_BUSY',
          `${UPLOADS_IN_LINE_MAX} uploads of this document wait for one another; cancel those that are not needed, or retry when some have ended.`,
          { field: 'uri' },
        )
      if (!(await note(turn))) return undefined
      const mine: Tail = { job_id: job.job_id, ...turn, length }
      const revision = await bucket.update(key, encodeTail(mine), record?.revision ?? 0)
      if (revision !== undefined)
        return { turn, undo: async () => (await bucket.update(key, encodeTail(tail), revision)) !== undefined }
      await time.sleep(ENTER_PAUSE_MS * (1 + (attempt % 5)) * Math.random())
    }
    throw new PercolateError('STREAM_UNAVAILABLE', 'Too many upload the same document at once.')
  }

  /**
   * Takes a job out of its line of which it is not known whether it came to stand there. False: others may be behind it, who look at its record
   * for those further ahead.
   */
  async leave(job: JobRecord & { readonly uri: string }): Promise<boolean> {
    const bucket = await this.#options.records()
    const key = keyOf(job)
    const record = await bucket.get(key)
    if (!record) return true
    const tail = decodeTail(record.value)
    if (tail?.job_id !== job.job_id) return false
    // Its own place is as good as the one before when that is not known any more: nobody waits for what has ended.
    const before = tail.after.at(-1)
    const back: Tail | undefined = before && { ...before, after: tail.after.slice(0, -1) }
    return (await bucket.update(key, encodeTail(back), record.revision)) !== undefined
  }

  /** Whether one with a later clock is in, or may come to be, as far as one look shows. */
  async #hasLater({ tenant, clock }: JobRecord, tail: Tail): Promise<boolean> {
    const open: Upload[] = [tail, ...tail.after]
    const seen = new Set<string>()
    for (let upload = open.shift(); upload && seen.size < LOOKS_MAX; upload = open.shift()) {
      if (upload.clock <= clock || seen.has(upload.clock)) continue
      seen.add(upload.clock)
      const record = await this.#options.get(tenant, upload.job_id)
      if (record && (record.status === 'completed' || isOpen(record))) return true
      open.push(...(record?.turn?.after ?? []))
    }
    return false
  }

  /** How many uploads are in line up to the last one, which has not to be counted while it says that there are few. */
  async #inLine(tenant: TenantId, tail: Tail): Promise<number> {
    if (tail.length !== undefined && tail.length < UPLOADS_IN_LINE_MAX) return tail.length
    let count = 0
    const seen = new Set<string>()
    for (let open: Upload[] = [tail]; open.length > 0; ) {
      const upload = open.shift()!
      if (seen.has(upload.clock)) continue
      if (seen.size >= COUNT_LOOKS_MAX) return count
      seen.add(upload.clock)
      const record = await this.#options.get(tenant, upload.job_id)
      if (!record) continue
      if (isOpen(record) && record.clock <= upload.clock) count++
      if (count >= UPLOADS_IN_LINE_MAX) return count
      // It started when all before it had ended.
      if (record.status !== 'completed' && record.status !== 'running') open = [...open, ...(record.turn?.after ?? [])]
    }
    return count
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

const keyOf = ({ tenant, uri }: JobRecord & { readonly uri: string }): string =>
  subjects.documentKey(tenant, derivedId(uri))

const encodeTail = (tail: Tail | undefined): Buffer => Buffer.from(JSON.stringify(tail ?? null))
const decodeTail = (bytes: Buffer): Tail | undefined => (JSON.parse(bytes.toString()) as Tail | null) ?? undefined

/** A clock that is further ahead than nodes allow wrote nothing; an upload above it would be refused like it. */
function clockAbove(own: string, last: string, latestMs: number): string {
  const mine = parseClock(own)
  const theirs = parseClock(last)
  if (!mine || !theirs || compareClocks(mine, theirs) > 0 || theirs.wall > latestMs) return own
  return formatClock({ wall: theirs.wall, counter: theirs.counter + 1, origin: mine.origin })
}
