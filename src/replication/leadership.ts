import { PercolateError } from '../base/errors.ts'
import type { Logger } from '../base/logger.ts'
import type { Time } from '../base/time.ts'
import { subjects } from '../stream/subjects.ts'
import type { Directory } from './directory.ts'
import { LEASE_MARGIN } from './membership.ts'

export interface LeadershipOptions {
  /** Names this process among the controllers. */
  readonly name: string
  readonly time: Time
  readonly logger: Logger
  readonly directory: Directory
  readonly leaseMs: number
}

/** The record in the cluster's bucket. */
interface Lease {
  /** Empty: the last one has released it, and nobody need wait. */
  readonly holder: string
  /** Grows with every change of holder: a controller that was stopped and goes on finds its decisions refused. */
  readonly token: number
  readonly beat: number
}

/**
 * Who of several controllers leads: a lease in the cluster's bucket, by the same rules as a node's. The holder renews it by a compare-and-set and counts it from before it asked; another takes it by a
 * compare-and-set on a record that it has seen unchanged for a whole lease, which also proves that it was not renewed. A holder that stops releases it.
 */
export class Leadership {
  readonly #options: LeadershipOptions
  #lease: (Lease & { readonly revision: number }) | undefined
  #untilMs = Number.NEGATIVE_INFINITY
  #seen: { readonly revision: number; readonly atMs: number } | undefined
  #beat = 0
  #sinceMs = Number.POSITIVE_INFINITY
  #outbid = 0

  constructor(options: LeadershipOptions) {
    this.#options = options
  }

  get isLeading(): boolean {
    return this.#options.time.monotonic() < this.#untilMs
  }

  /** Asked after everything that was waited for, at once before an order goes out. Throws CONFLICT. */
  assertLeading(): void {
    if (!this.isLeading) throw new PercolateError('CONFLICT', 'This controller does not lead any more.')
  }

  /** Fences the orders of this holder; 0: it never led. */
  get token(): number {
    return this.#lease?.token ?? 0
  }

  /** When it began to lead, by our monotonic clock. */
  get sinceMs(): number {
    return this.#sinceMs
  }

  /** Orders under a later token than ours stand, though we lead: the record of the lease was lost. The next renewal goes above it. */
  outbid(token: number): void {
    this.#outbid = Math.max(this.#outbid, token)
  }

  /** Renews the lease, or takes it when its holder has released it or has not renewed it for as long as it lasts. */
  async lead(): Promise<void> {
    const { directory, time, leaseMs, logger, name } = this.#options
    const bucket = await directory.bucket()
    const askedAtMs = time.monotonic()
    const record = await bucket.get(subjects.controllerKey)
    const standing = record && (JSON.parse(record.value.toString()) as Lease)
    const isMine = standing?.holder === name
    if (record && !isMine && standing!.holder !== '') {
      this.#untilMs = Number.NEGATIVE_INFINITY
      // Not from when we asked: it may have been renewed since.
      const now = time.monotonic()
      if (this.#seen?.revision !== record.revision) this.#seen = { revision: record.revision, atMs: now }
      if (now - this.#seen.atMs < leaseMs) return
    }
    const before = standing?.token ?? 0
    const token = isMine && before > this.#outbid ? before : Math.max(before, this.#outbid) + 1
    const lease: Lease = { holder: name, token, beat: ++this.#beat }
    const revision = await bucket.update(
      subjects.controllerKey,
      Buffer.from(JSON.stringify(lease)),
      record?.revision ?? 0,
    )
    if (revision === undefined) return
    directory.wrote(revision)
    // A lease that lapsed may have been another's in between, as a record that was lost may have.
    if (!isMine || askedAtMs >= this.#untilMs) {
      this.#sinceMs = askedAtMs
      if (!isMine) logger.info({ token }, 'this controller leads')
    }
    this.#lease = { ...lease, revision }
    this.#untilMs = askedAtMs + leaseMs * (1 - LEASE_MARGIN)
  }

  /** Stops leading, and lets a successor lead at once. */
  async release(): Promise<void> {
    const { directory } = this.#options
    const lease = this.#lease
    const wasLeading = this.isLeading
    this.#untilMs = Number.NEGATIVE_INFINITY
    if (!lease || !wasLeading) return
    const { token, beat } = lease
    const released: Lease = { holder: '', token, beat }
    await (await directory.bucket()).update(
      subjects.controllerKey,
      Buffer.from(JSON.stringify(released)),
      lease.revision,
    )
  }
}
