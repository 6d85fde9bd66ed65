import type { TenantId } from '../base/ids.ts'
import type { Clock } from '../clock/hlc.ts'
import type { VersionVector } from '../clock/vector.ts'
import type { GcFloor } from '../rem/floor.ts'
import type { ParkedPosition, ParkedSummary } from './parked.ts'

/**
 * A node's copy of a tenant. *absent*; *joining*: it is being made from another copy or a snapshot; *verifying*: it was here before the process started,
 * and is not trusted until it has caught up; *current*: it answers; *dropping*: it was ordered to go and checks that it may; *corrupt*: its database was found damaged, and it answers
 * nothing.
 *
 * absent → joining → current; verifying → current, or → joining when it has to be made anew; current → verifying when it is doubted, → dropping → absent; any → corrupt → joining, when another holder
 * has a healthy copy and the damaged one has been set aside. With no healthy copy elsewhere it stays corrupt; one that is alone and opens stays what it is, and answers what can be read.
 */
export type CopyState = 'absent' | 'joining' | 'verifying' | 'current' | 'dropping' | 'corrupt'

export interface CopyStatus {
  readonly node: string
  readonly state: CopyState
  readonly incarnation: string
  readonly origin: string
  readonly vector: VersionVector
  /** The vector, and what it has heard of beyond it: entries that wait in memory for one before them, records that came ahead of their entries. */
  readonly known: VersionVector
  readonly floor: GcFloor | undefined
  /** Whether garbage below the floor has been collected here. */
  readonly collected: boolean
  readonly outboxEntries: number
  readonly streamSequence: number | undefined
  /** Entries that were set aside because they came from below the floor. */
  readonly late: number
  /** Entries that its vector counts and that were given up for lost. */
  readonly skipped: number
  /** Entries that it keeps until their clocks are due; its vector says nothing about them. */
  readonly parked: ParkedSummary
  /** The streams that the copy has lived through, the last one last (`lived.ts`). */
  readonly streams: readonly string[]
  /** The stream of which it may have missed something, and nobody has made up for it; empty: not known which; undefined: there is none. */
  readonly lost: string | undefined
}

/** A record with what it needs beside it, as copies exchange it. */
export interface TransferRecord {
  /** Its key in the record space. */
  readonly key: Buffer
  readonly record: Buffer
  readonly vectors: readonly { readonly model: string; readonly vector: Buffer }[]
}

/** What a transfer begins with. */
export interface TransferHead {
  readonly tenant: string
  readonly incarnation: string
  /** Everything up to here is in the records that follow (or that came before, when it is resumed). */
  readonly vector: VersionVector
  readonly floor: GcFloor | undefined
  /** Entries that the vector counts and that were given up for lost: should one turn up, it has to be applied. */
  readonly skipped: readonly (readonly [origin: string, sequence: number])[]
  /** What the copy has learned past its vector; see `splitMark`. Undefined: nothing, or an older version does not say. */
  readonly came?: string | undefined
  readonly source: string
}

/** Records of a copy. */
export interface TransferRecords {
  readonly records: readonly TransferRecord[]
  /** They have nothing beyond it; they may have more than the head's vector, since writers go on. Older versions do not say. */
  readonly upTo?: VersionVector | undefined
}

/** What a transfer ends with. */
export interface TransferEnd {
  /** The number of records that came before. */
  readonly records: number
  /** The source's floor when the last record was read: deletes at or below it may have been forgotten while the copy was sent. Older versions, which read all records at one moment, do not say. */
  readonly floor?: GcFloor | undefined
  /** As the head's, when the last record was read. */
  readonly came?: string | undefined
}

export type TransferPart = { readonly head: TransferHead } | TransferRecords | { readonly end: TransferEnd }

export interface Digests {
  readonly vector: VersionVector
  readonly floor: GcFloor | undefined
  readonly collected: boolean
  /** A transfer into it was cut short: it has records that its vector does not know of. */
  readonly merging: boolean
  /** 8 bytes for each of the {@link BUCKETS} ranges of hashed keys. */
  readonly buckets: Buffer
}

/** By origin the first entry that may not be lacking, of those up to the one that a vector names; 0: none of them may. */
export type WholeFrom = ReadonlyMap<string, number>

/** What nodes ask of one another about a tenant. Every method throws NODE_UNAVAILABLE when the peer can't be reached in time. */
export interface PeerHandlers {
  /** Undefined: it has no copy. */
  status(tenant: TenantId): Promise<CopyStatus | undefined>
  /** Whether its copy has applied everything up to `vector`, now or within `timeoutMs`. What it gave up for lost counts as applied, but not what `whole` names: none of those entries may be lacking. A version before looks at all of these origins. */
  awaitVector(
    tenant: TenantId,
    incarnation: string,
    vector: VersionVector,
    timeoutMs: number,
    whole?: WholeFrom,
  ): Promise<boolean>
  /** Its records in the order of their keys, from behind `from` on. */
  transfer(tenant: TenantId, incarnation: string, from: Buffer | undefined): AsyncIterable<TransferPart>
  digests(tenant: TenantId, incarnation: string): Promise<Digests>
  /** Keys with digests of the records in one bucket. */
  bucket(tenant: TenantId, incarnation: string, bucket: number): Promise<{ key: Buffer; digest: Buffer }[]>
  records(tenant: TenantId, incarnation: string, keys: readonly Buffer[]): Promise<TransferRecords>
  /** Promises to write nothing at or below `clock`; its vector, with all that it wrote before. */
  promiseFloor(tenant: TenantId, incarnation: string, clock: Clock): Promise<VersionVector>
  /** Its vector, when its copy has applied all of the stream up to `sequence`, after reading on if it had not; else undefined. */
  hasRead(tenant: TenantId, stream: string, sequence: number): Promise<VersionVector | undefined>
  /** Asks the home to hand over to `successor`; false when it will not. */
  requestHome(tenant: TenantId, successor: string): Promise<boolean>
  /** The sender answered a request of the tenant, whose home this is to count it; false: it is not the home. */
  noteActive(tenant: TenantId): Promise<boolean>
  /** `from` has a copy with entries that were given up for lost here: they are taken over from it. */
  offer(tenant: TenantId, from: string): Promise<boolean>
  /** Entries that could not go through the stream; the vector after. */
  push(tenant: TenantId, entries: readonly Buffer[]): Promise<VersionVector>
  /** Entries that were set aside because they came from below the floor. */
  late(tenant: TenantId): Promise<Buffer[]>
  /** Sets entries aside that another copy had, which goes. */
  keepLate(tenant: TenantId, entries: readonly Buffer[]): Promise<void>
  /** Entries that it keeps until their clocks are due, a page of them behind `after`; none: there are no more. */
  parked(tenant: TenantId, after: ParkedPosition | undefined): Promise<Buffer[]>
  /** Takes such entries over from a copy that goes: when this resolves they are applied, parked, or, with no more room for them, set aside there. */
  keepParked(tenant: TenantId, entries: readonly Buffer[]): Promise<void>
  /** Forgets one: an operator has applied or discarded it. */
  dismissLate(tenant: TenantId, origin: string, sequence: number): Promise<void>
}

/** The way to the handlers of another node. */
export interface PeerPort {
  to(node: string): PeerHandlers
  /** Ends its connections. */
  close?(): void
}

/** Ranges of hashed keys that anti-entropy compares. */
export const BUCKETS = 256
