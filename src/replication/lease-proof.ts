import type { Time } from '../base/time.ts'
import { subjects } from '../stream/subjects.ts'
import type { Directory, Sighting } from './directory.ts'
import { decodeMember, encodeMember, type Member } from './placement.ts'

export interface LeaseProofOptions {
  readonly time: Time
  readonly directory: Directory
  readonly leaseMs: number
}

/** What is known of a lease that is over. */
export interface LeaseOver {
  /** No decision under that lease carries a wall clock above this, milliseconds since the epoch; 0: it may have made none. */
  readonly decidedBelowMs: number
}

/**
 * Proves that the lease of another node is over, by writing. Whoever doubts a node knows that its record was at a certain revision at a certain moment of his own monotonic clock, and has waited for a
 * whole lease since. He then *fences* the record: he marks it as ended, if it still is at that revision. Only when this write succeeds is the lease over: the holder renews it by a compare-and-set on the
 * same record, so it has not done so since, and what it renews from now on begins a new term. Silence of a watch proves nothing, and neither does a read, which may be answered from the past
 * (docs/decisions, "Leases end by a write").
 */
export class LeaseProof {
  readonly #options: LeaseProofOptions
  /** Of nodes that were doubted; forgotten with the directory that they were seen in. */
  readonly #sightings = new Map<string, Sighting>()
  #life = 0
  /** Leases that this process has ended. */
  fenced = 0

  constructor(options: LeaseProofOptions) {
    this.#options = options
  }

  /**
   * Undefined: not proven now; ask again later. `silenceMs`: how long the node must have written nothing, at least, when that is to be more than its lease. Whoever acts on the answer does it by a
   * compare-and-set on what he read *before* he asked. Throws STREAM_UNAVAILABLE.
   */
  async isOver(node: string, silenceMs = 0): Promise<LeaseOver | undefined> {
    const { directory, time, leaseMs } = this.#options
    const life = await directory.settledLife()
    // A directory that was lost or put back a moment ago says nothing about leases from before.
    if (life === undefined) return undefined
    if (life !== this.#life) {
      this.#sightings.clear()
      this.#life = life
    }
    const bucket = await directory.bucket()
    const key = subjects.memberKey(node)
    const record = await bucket.get(key)
    const now = time.monotonic()
    const revision = record?.revision ?? 0
    const seen = this.#see(node, revision, now)
    const member = record && decodeMember(record.value)
    // The record may have gone with its bucket.
    const decidedBelowMs = Math.max(member?.decidesBelowMs ?? 0, directory.member(node)?.decidesBelowMs ?? 0)
    if (now - seen.atMs < silenceMs) return undefined
    if (member?.ended) return { decidedBelowMs }
    if (now - seen.atMs < leaseMs) return undefined
    const ended: Member = { ...(member ?? nobody(node)), ended: true }
    const fence = await bucket.update(key, encodeMember(ended), revision)
    if (fence === undefined) {
      this.#sightings.delete(node)
      return undefined
    }
    this.fenced++
    // The fence is our own word: the node has been silent since before it.
    this.#sightings.set(node, { revision: fence, atMs: seen.atMs })
    return { decidedBelowMs }
  }

  /** The earliest moment since when the record is known to be as it is now. */
  #see(node: string, revision: number, now: number): Sighting {
    const seen = this.#sightings.get(node)
    const watched = this.#options.directory.sighting(node)
    const earliest = Math.min(
      now,
      seen?.revision === revision ? seen.atMs : now,
      watched?.revision === revision ? watched.atMs : now,
    )
    const sighting = { revision, atMs: earliest }
    this.#sightings.set(node, sighting)
    return sighting
  }
}

/** The record of a node that has none: it keeps whoever comes back to a new term. */
const nobody = (node: string): Member => ({
  node,
  disk: '',
  session: '',
  zone: '',
  tier: '',
  http: '',
  grpc: '',
  state: 'draining',
  unpublished: false,
  tenants: 0,
  reported: 0,
  beat: 0,
  version: '',
})
