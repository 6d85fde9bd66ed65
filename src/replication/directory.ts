import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import type { Time } from '../base/time.ts'
import type { KvBucket, KvUpdate, StreamPort } from '../stream/port.ts'
import { subjects } from '../stream/subjects.ts'
import { type Complaint, DirectoryLife } from './directory-life.ts'
import {
  decodeMember,
  decodePlacement,
  encodeMember,
  encodePlacement,
  isOfGeneration,
  type Member,
  type Placement,
  PUT_BACK,
} from './placement.ts'

/** What a node keeps of the directory on its own disk, so that it knows its tenants while NATS is away. */
export interface DirectoryStore {
  load(): Promise<{ readonly placements: readonly Placement[]; readonly members: readonly Member[] }>
  savePlacement(placement: Placement): Promise<void>
  saveMember(member: Member): Promise<void>
}

export interface DirectoryOptions {
  readonly stream: StreamPort
  readonly time: Time
  readonly logger: Logger
  readonly replicas: number
  /** Of the cluster's bucket: set aside, so that no tenant's stream can take it. */
  readonly bytesMax: number
  readonly leaseMs: number
  readonly heartbeatMs: number
  readonly store: DirectoryStore
  /** Wanted at the first start of the cluster; after that the bucket says. */
  readonly syncStreams: string
  /** Neither makes the cluster's record nor puts anything back: a controller knows only what it reads. */
  readonly isObserver?: boolean
}

/** The cluster's own record: made once, made again when the bucket was lost. */
interface ClusterRecord {
  readonly id: string
  /** Grows when the directory is rebuilt; nodes then report their copies anew. */
  readonly generation: number
  readonly syncStreams: string
  readonly madeAtMs: number
}

/** A node's record as it surely was at a moment of our monotonic clock; revision 0: there was none. */
export interface Sighting {
  readonly revision: number
  readonly atMs: number
}

interface SeenMember {
  readonly member: Member
  /** By our monotonic clock, when the record last changed under our eyes. */
  readonly seenAtMs: number
}

/** A placement as the bucket had it. */
export interface StandingPlacement {
  readonly placement: Placement
  readonly revision: number
}

const UPDATE_ATTEMPTS_MAX = 10
/** Members of a cluster that are listed at once. */
const MEMBERS_MAX = 10_000
const LOOK_MS = 2000
const COMPLAINTS: Record<Complaint, string> = {
  gone: 'the cluster directory is gone; putting back what this node knows',
  another: 'the cluster directory was lost and made anew; it is judged from there',
  'went back': 'the cluster directory is an earlier one; it is judged from there',
  deaf: 'the watch of the cluster directory tells nothing of what is written; it is opened anew',
  'does not begin': 'the watch of the cluster directory does not begin; it is opened anew',
}

/**
 * Members and placements, as the cluster's bucket has them: watched, cached in memory and on disk. The bucket is soft: a node that finds it empty or older than
 * its cache puts back what it knows, and nothing is deleted on its word.
 */
export class Directory {
  readonly #options: DirectoryOptions
  readonly #members = new Map<string, SeenMember>()
  readonly #sightings = new Map<string, Sighting>()
  /** One for each tenant of the cluster, and the revision of each key: as many as the bucket has room for (`PERCOLATE_DIRECTORY_BYTES_MAX`). */
  readonly #placements = new Map<TenantId, Placement>()
  readonly #revisions = new Map<string, number>()
  readonly #listeners: ((placement: Placement) => void)[] = []
  readonly #memberListeners: (() => void)[] = []
  readonly #stop = new AbortController()
  #watch = new AbortController()
  #bucket: KvBucket | undefined
  #cluster: ClusterRecord | undefined
  #clusterSeenAtMs = Number.NEGATIVE_INFINITY
  #graceMs = 0
  #completeGeneration = 0
  #isWatching = false
  #hasTold = false
  /** All placements that this node knew when it began to follow the bucket are in it. */
  #hasPutBack = false
  /** When anything was heard from the bucket last, and when that came after a silence, by our monotonic clock. */
  #heardAtMs = Number.NEGATIVE_INFINITY
  #resumedAtMs = Number.NEGATIVE_INFINITY
  readonly #bucketLife: DirectoryLife
  /** When it was last seen that something can be said of leases, by our monotonic clock. */
  #settledAtMs: number
  /** Counts the lives of the bucket that this process has seen. */
  #life = 0
  /** The bucket was there long before this process came. */
  #isOld = false
  #running: Promise<unknown>[] = []
  /** Placements put back because the bucket had none, or an older one. */
  restored = 0
  /** Watches that were found deaf, or silent from their beginning. */
  deafWatches = 0
  /** Times that the bucket was found to be another than before, or an earlier one. */
  lost = 0

  constructor(options: DirectoryOptions) {
    this.#options = options
    this.#bucketLife = new DirectoryLife(options.time)
    this.#settledAtMs = options.time.monotonic()
  }

  /** Loads what the disk has, then follows the bucket in the background. */
  async start(): Promise<void> {
    const { placements, members } = await this.#options.store.load()
    for (const placement of placements) this.#placements.set(placement.tenant, placement)
    for (const member of members) this.#members.set(member.node, { member, seenAtMs: Number.NEGATIVE_INFINITY })
    this.#running = [this.#follow(), this.#lookOut()]
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    this.#watch.abort()
    await Promise.allSettled(this.#running)
  }

  onPlacement(listener: (placement: Placement) => void): void {
    this.#listeners.push(listener)
  }

  /** Told when a member comes, goes, or is in another state, and when the bucket is followed again. */
  onMembers(listener: () => void): void {
    this.#memberListeners.push(listener)
  }

  get cluster(): ClusterRecord | undefined {
    return this.#cluster
  }

  /**
   * The generation of the directory in which all placements are that this node knows; 0 while that is not certain, as when it puts them back after a loss. Those that it learns of later it has from the bucket, or has written there.
   */
  get filledGeneration(): number {
    return this.#hasPutBack ? (this.#cluster?.generation ?? 0) : 0
  }

  /** Whether the cache follows the bucket now. */
  get isWatching(): boolean {
    return this.#isWatching
  }

  /**
   * Whether a tenant that is not found here does not exist: the cache follows the bucket, and after a rebuild every live node has reported.
   */
  get isComplete(): boolean {
    if (!this.#isWatching || !this.#cluster) return false
    const { generation } = this.#cluster
    if (this.#completeGeneration === generation) return true
    const isComplete =
      this.#options.time.monotonic() >= this.#clusterSeenAtMs + this.#graceMs && this.unreported.length === 0
    // Who joins later reports too, but what is known by then is not forgotten for that.
    if (isComplete) this.#completeGeneration = generation
    return isComplete
  }

  /**
   * As {@link isComplete}, also while no watch follows the bucket, as when a deaf one is opened anew: the bucket itself says then whether it is the one that was followed. To be asked after the bucket was found to lack
   * a tenant. STREAM_UNAVAILABLE when it can't be asked.
   */
  async confirmComplete(): Promise<boolean> {
    if (this.isComplete) return true
    const isKnownWhole = () => this.#cluster !== undefined && this.#completeGeneration === this.#cluster.generation
    if (!isKnownWhole()) return false
    const life = this.#life
    const { known } = this.#bucketLife
    const isStill = this.#bucketLife.isStill(await (await this.#open()).state(), known)
    return isStill && (await this.#readCluster()) !== undefined && life === this.#life && isKnownWhole()
  }

  /** Whether the watch has told of something that was written after it had read what was there: until then it may be deaf. */
  get isTelling(): boolean {
    return this.#isWatching && this.#bucketLife.isTelling
  }

  /** Whether a watch has done so since this process began. */
  get hasTold(): boolean {
    return this.#hasTold
  }

  /** Live nodes that may still know of tenants which this directory, rebuilt after a loss, has not been told of. */
  get unreported(): string[] {
    const generation = this.#cluster?.generation ?? 1
    // Nobody has anything to report to a directory that was never lost.
    if (generation === 1) return []
    return this.members().flatMap(({ member, isLive }) => (isLive && member.reported < generation ? [member.node] : []))
  }

  members(): { readonly member: Member; readonly isLive: boolean }[] {
    return [...this.#members.values()].map(({ member }) => ({ member, isLive: this.isLive(member.node) }))
  }

  member(node: string): Member | undefined {
    return this.#members.get(node)?.member
  }

  /** Its record changed within the lease. Who can't see the bucket can't tell, and takes those it knew for alive. */
  isLive(node: string): boolean {
    const seen = this.#members.get(node)
    if (!seen) return false
    if (!this.#isWatching) return true
    return this.silentMs(node) < this.#options.leaseMs
  }

  /** Of some nodes those to turn to: who lives or, when nothing is heard of any, all. That is no evidence against a node that can be asked. */
  liveOrSilent(nodes: readonly string[]): string[] {
    const live = nodes.filter(node => this.isLive(node))
    return live.length > 0 ? live : [...nodes]
  }

  /**
   * As {@link isLive}, for routing: a bucket from which nothing comes at all, as while its servers elect a leader, says nothing about any member, and those that lived are taken for alive
   * until it speaks again. Something must write to it all the time; controllers do.
   */
  isPresumedLive(node: string): boolean {
    const seen = this.#members.get(node)
    return seen !== undefined && this.#heardAtMs - Math.max(seen.seenAtMs, this.#resumedAtMs) < this.#options.leaseMs
  }

  /**
   * Names the life of the bucket, when it is the one that this node follows, and was there a lease ago; asks the bucket itself. Undefined: leases from before the bucket was lost or put back may still
   * be running, and nothing may be concluded from what it says about them.
   */
  async settledLife(): Promise<number | undefined> {
    return (await this.#readCluster()) && this.#isSettled ? this.#life : undefined
  }

  get #isSettled(): boolean {
    const { time, leaseMs } = this.#options
    return this.#isOld || time.monotonic() - this.#clusterSeenAtMs >= leaseMs
  }

  /**
   * For how long nothing can be said of leases, milliseconds, and so no home be claimed: the bucket can't be looked at, is not the one that is followed, its watch tells nothing, or it was made anew less than a lease ago. Up to some seconds
   * when all is well, since that is how often it is looked at.
   */
  get unsettledMs(): number {
    return this.#options.time.monotonic() - this.#settledAtMs
  }

  /** The state of a node's record that the watch told of last, and when; a hint. */
  sighting(node: string): Sighting | undefined {
    return this.#sightings.get(node)
  }

  #hear(): void {
    const now = this.#options.time.monotonic()
    if (now - this.#heardAtMs > this.#options.leaseMs / 2) this.#resumedAtMs = now
    this.#heardAtMs = now
  }

  /** How long a member has not been heard of, milliseconds; its own lease is over when this exceeds the lease. */
  silentMs(node: string): number {
    const seen = this.#members.get(node)
    return seen ? this.#options.time.monotonic() - seen.seenAtMs : Number.POSITIVE_INFINITY
  }

  placements(): Placement[] {
    return [...this.#placements.values()]
  }

  placement(tenant: TenantId): Placement | undefined {
    return this.#placements.get(tenant)
  }

  /** Reads the placement from the bucket itself. STREAM_UNAVAILABLE when it can't be. */
  async fetch(tenant: TenantId): Promise<Placement | undefined> {
    const record = await (await this.#open()).get(subjects.tenantKey(tenant))
    if (!record) return undefined
    const placement = decodePlacement(record.value)
    this.#take(placement)
    return placement
  }

  /**
   * Whether the bucket itself says that the tenant was entered into it as a new one, so that whatever was lost with an earlier bucket was not the tenant's. False when that is not certain; STREAM_UNAVAILABLE when
   * the bucket can't be asked.
   */
  async hasKnownFromTheStart(tenant: TenantId): Promise<boolean> {
    const placement = await this.fetch(tenant)
    const record = placement && (await this.#readCluster())
    return record !== undefined && isOfGeneration(placement!, record.generation)
  }

  /** The cluster record as the bucket has it, if it is the one that this node follows. */
  async #readCluster(): Promise<ClusterRecord | undefined> {
    const found = await (await this.#open()).get(subjects.clusterKey)
    const record = found && (JSON.parse(found.value.toString()) as ClusterRecord)
    return record?.id === this.#cluster?.id && record?.generation === this.#cluster?.generation ? record : undefined
  }

  /** As {@link fetch}, with what {@link replace} needs. */
  async read(tenant: TenantId): Promise<StandingPlacement | undefined> {
    const record = await (await this.#open()).get(subjects.tenantKey(tenant))
    if (!record) return undefined
    const placement = decodePlacement(record.value)
    this.#take(placement)
    return { placement, revision: record.revision }
  }

  /** Writes `wanted` if the placement still stands as it was read; undefined when it does not. */
  async replace({ placement, revision }: StandingPlacement, wanted: Placement): Promise<Placement | undefined> {
    const next = { ...wanted, version: placement.version + 1, changedAtMs: this.#options.time.now() }
    const written = await (await this.#open()).update(
      subjects.tenantKey(placement.tenant),
      encodePlacement(next),
      revision,
    )
    if (written === undefined) return undefined
    this.#take(next)
    return next
  }

  /** Makes the placement unless there is one; returns the one that stands. */
  async create(placement: Placement): Promise<Placement> {
    const bucket = await this.#open()
    for (let attempt = 0; attempt < UPDATE_ATTEMPTS_MAX; attempt++) {
      const made = await bucket.update(subjects.tenantKey(placement.tenant), encodePlacement(placement), 0)
      if (made !== undefined) {
        this.#take(placement)
        return placement
      }
      const standing = await this.fetch(placement.tenant)
      if (standing) return standing
    }
    throw conflict(placement.tenant)
  }

  /** Compare and set: `change` sees the record as the bucket has it, and returns undefined to leave it. Returns what stands. */
  async update(
    tenant: TenantId,
    change: (placement: Placement) => Placement | undefined,
  ): Promise<Placement | undefined> {
    const bucket = await this.#open()
    const key = subjects.tenantKey(tenant)
    for (let attempt = 0; attempt < UPDATE_ATTEMPTS_MAX; attempt++) {
      const record = await bucket.get(key)
      if (!record) return undefined
      const before = decodePlacement(record.value)
      const wanted = change(before)
      if (!wanted) {
        this.#take(before)
        return before
      }
      const next = { ...wanted, version: before.version + 1, changedAtMs: this.#options.time.now() }
      if ((await bucket.update(key, encodePlacement(next), record.revision)) !== undefined) {
        this.#take(next)
        return next
      }
    }
    throw conflict(tenant)
  }

  /** Writes this node's record if it is still the one written before (`revision`; 0: none). Undefined when somebody else wrote it. */
  async writeMember(member: Member, revision: number): Promise<number | undefined> {
    const bucket = await this.#open()
    const written = await bucket.update(subjects.memberKey(member.node), encodeMember(member), revision)
    if (written !== undefined) this.wrote(written)
    return written
  }

  /** Our own write to the bucket, of which the watch will tell unless it is deaf. */
  wrote(revision: number): void {
    if (this.#bucketLife.wrote(revision)) this.#openAnew('went back')
  }

  async readMember(node: string): Promise<{ member: Member; revision: number; writtenAtMs: number } | undefined> {
    const record = await (await this.#open()).get(subjects.memberKey(node))
    return record && { member: decodeMember(record.value), revision: record.revision, writtenAtMs: record.writtenAtMs }
  }

  /** The members that the bucket itself has now, those that have signed off left out; undefined: there are more than can be listed. */
  async readMembers(): Promise<{ node: string; revision: number }[] | undefined> {
    const records = await (await this.#open()).list(subjects.memberKey('*'), { max: MEMBERS_MAX })
    if (records.length >= MEMBERS_MAX) return undefined
    return records.flatMap(({ value, revision }) => {
      const { node, ended } = decodeMember(value)
      return ended ? [] : [{ node, revision }]
    })
  }

  async bucket(): Promise<KvBucket> {
    return this.#open()
  }

  async #open(): Promise<KvBucket> {
    this.#bucket ??= await this.#options.stream.bucket(subjects.clusterBucket, {
      maxAgeMs: 0,
      replicas: this.#options.replicas,
      bytesMax: this.#options.bytesMax,
    })
    return this.#bucket
  }

  async #follow(): Promise<void> {
    const { time, logger } = this.#options
    const { signal } = this.#stop
    while (!signal.aborted) {
      try {
        this.#bucket = undefined
        this.#watch = new AbortController()
        const bucket = await this.#open()
        const { known } = this.#bucketLife
        const [state] = await Promise.all([bucket.state(), this.#ensureCluster(bucket)])
        if (!state) throw new Error('the bucket was lost while it was opened')
        if (this.#bucketLife.open(state, known)) this.#beginLife()
        const seen = new Set<string>()
        let isInitial = true
        for await (const update of bucket.watch(this.#watch.signal)) {
          if (update === undefined) {
            isInitial = false
            this.#bucketLife.begun()
            this.#isWatching = true
            this.#tellOfMembers()
            await this.#putBack(bucket, seen)
            // What was written into a bucket that was lost meanwhile is in no other.
            this.#hasPutBack = !this.#watch.signal.aborted
          } else {
            this.#hear()
            this.#bucketLife.heard(update.revision)
            if (this.isTelling) this.#hasTold = true
            if (isInitial) seen.add(update.key)
            await this.#apply(bucket, update)
          }
        }
      } catch (error) {
        if (!signal.aborted) logger.debug({ err: String(error) }, 'the cluster directory cannot be followed; trying on')
      }
      this.#isWatching = false
      this.#bucketLife.close()
      if (!signal.aborted) await time.sleep(500, { signal, ref: false }).catch(() => {})
    }
  }

  /** The bucket is not the one of before, whatever its cluster record says: what was seen of the other proves nothing here. */
  #beginLife(): void {
    this.lost++
    this.#life++
    this.#hasPutBack = false
    this.#completeGeneration = 0
    this.#isOld = false
    this.#clusterSeenAtMs = this.#options.time.monotonic()
    this.#sightings.clear()
    this.#revisions.clear()
  }

  #openAnew(complaint: Complaint): void {
    if (complaint === 'deaf' || complaint === 'does not begin') this.deafWatches++
    // What is followed next is another bucket, whatever that one says of itself.
    else this.#completeGeneration = 0
    this.#options.logger.warn(COMPLAINTS[complaint])
    this.#watch.abort()
  }

  /** A watch does not tell that its bucket was lost or put back, nor that it is deaf: this looks. */
  async #lookOut(): Promise<void> {
    const { time, logger } = this.#options
    const { signal } = this.#stop
    while (!signal.aborted) {
      await time.sleep(LOOK_MS, { signal, ref: false }).catch(() => {})
      if (signal.aborted || this.#watch.signal.aborted) continue
      const watch = this.#watch
      try {
        const complaint = this.#bucketLife.complaint ?? (await this.#look())
        // Another watch may have been opened while the bucket was asked.
        if (watch !== this.#watch || signal.aborted) continue
        if (complaint) this.#openAnew(complaint)
        else if (this.#isWatching && this.#isSettled) this.#settledAtMs = time.monotonic()
      } catch (error) {
        logger.debug({ err: String(error) }, 'the cluster directory cannot be looked at')
      }
    }
  }

  async #look(): Promise<Complaint | undefined> {
    if (!this.#isWatching) return undefined
    const bucket = await this.#open()
    const { known } = this.#bucketLife
    const complaint = this.#bucketLife.look(await bucket.state(), known)
    if (complaint) return complaint
    const found = await bucket.get(subjects.clusterKey)
    if (!found) return 'gone'
    const record = JSON.parse(found.value.toString()) as ClusterRecord
    const { id, generation } = this.#cluster ?? {}
    // A later generation is no good either: the watch should have told of it, and nobody may claim a home until it is known here.
    return record.id === id && record.generation === generation ? undefined : 'another'
  }

  async #ensureCluster(bucket: KvBucket): Promise<void> {
    const { time, syncStreams } = this.#options
    const found = await bucket.get(subjects.clusterKey)
    if (found) return this.#correctCluster(bucket, JSON.parse(found.value.toString()) as ClusterRecord, found.revision)
    if (this.#options.isObserver) return
    const known = this.#cluster
    // A fresh disk can't tell a new cluster from one that lost its directory; streams of before can.
    const isRebuild =
      known !== undefined ||
      this.#placements.size > 0 ||
      (await this.#options.stream.streamNames(subjects.syncStreamPrefix)).length > 0
    const record: ClusterRecord = {
      id: known?.id ?? time.random(8).toString('hex'),
      generation: isRebuild ? (known?.generation ?? 1) + 1 : 1,
      syncStreams: known?.syncStreams ?? syncStreams,
      madeAtMs: time.now(),
    }
    await bucket.update(subjects.clusterKey, Buffer.from(JSON.stringify(record)), 0)
    const standing = await bucket.get(subjects.clusterKey)
    if (standing) this.#takeCluster(JSON.parse(standing.value.toString()) as ClusterRecord)
  }

  /** A node that knew another cluster record finds a new one: somebody with a fresh disk was first after a loss. It is made a rebuild, so that all report. */
  async #correctCluster(bucket: KvBucket, record: ClusterRecord, revision: number): Promise<void> {
    const known = this.#cluster
    if (!known || known.id === record.id || record.generation > known.generation) return this.#takeCluster(record)
    const corrected: ClusterRecord = {
      ...record,
      id: known.id,
      generation: known.generation + 1,
      syncStreams: known.syncStreams,
    }
    if ((await bucket.update(subjects.clusterKey, Buffer.from(JSON.stringify(corrected)), revision)) === undefined)
      return
    this.#takeCluster(corrected)
  }

  #takeCluster(record: ClusterRecord): void {
    if (this.#cluster && this.#cluster.generation === record.generation && this.#cluster.id === record.id) return
    const isFirst = this.#cluster === undefined
    this.#cluster = record
    this.#life++
    // One that is followed got another name; one that is about to be may be another bucket.
    if (!this.#isWatching) this.#hasPutBack = false
    this.#sightings.clear()
    const { time, leaseMs, heartbeatMs } = this.#options
    this.#clusterSeenAtMs = time.monotonic()
    // A cluster that is new may be one that lost its directory: whoever knows better says so within two heartbeats.
    const isOld = record.generation === 1 && time.now() - record.madeAtMs > 2 * leaseMs
    this.#isOld = isFirst && time.now() - record.madeAtMs > 2 * leaseMs
    this.#graceMs = isOld ? 0 : record.generation === 1 ? 2 * heartbeatMs : leaseMs
  }

  /** Placements that this node knows and the bucket does not: the bucket was lost. */
  async #putBack(bucket: KvBucket, seen: ReadonlySet<string>): Promise<void> {
    if (this.#options.isObserver) return
    for (const placement of this.#placements.values()) {
      const key = subjects.tenantKey(placement.tenant)
      if (seen.has(key)) continue
      // The home of before must claim it anew, and is named, so that whoever takes its place waits until its lease is over.
      const restored: Placement = {
        ...placement,
        epoch: placement.epoch + 1,
        generation: PUT_BACK,
        version: placement.version + 1,
      }
      if ((await bucket.update(key, encodePlacement(restored), 0)) === undefined) continue
      this.restored++
      this.#take(restored)
    }
  }

  #tellOfMembers(): void {
    for (const listener of this.#memberListeners) listener()
  }

  async #apply(bucket: KvBucket, { key, value, revision }: KvUpdate): Promise<void> {
    // A watch that starts over repeats what is known.
    if ((this.#revisions.get(key) ?? 0) === revision) return
    this.#revisions.set(key, revision)
    if (key.startsWith('node.')) {
      const node = key.slice('node.'.length)
      this.#sightings.set(node, { revision: value ? revision : 0, atMs: this.#options.time.monotonic() })
      const member = value && decodeMember(value)
      if (!member || member.ended) {
        this.#members.delete(node)
        this.#tellOfMembers()
      } else {
        const known = this.#members.get(member.node)?.member
        this.#members.set(member.node, { member, seenAtMs: this.#options.time.monotonic() })
        if (known?.session !== member.session || known.state !== member.state) {
          this.#tellOfMembers()
          await this.#options.store.saveMember(member)
        }
      }
    } else if (key === subjects.clusterKey && value) {
      await this.#correctCluster(bucket, JSON.parse(value.toString()) as ClusterRecord, revision)
    } else if (key.startsWith('tenant.') && value) {
      const placement = decodePlacement(value)
      const known = this.#placements.get(placement.tenant)
      if (known && !isSuccessor(placement, known)) await this.#rollForward(bucket, key, revision, known, placement)
      else this.#take(placement)
    }
  }

  /** The bucket has an older record than this node saw, or another of the same version: it was lost, or put back from a backup. Nobody is dropped on its word, and the home has to claim anew. */
  async #rollForward(
    bucket: KvBucket,
    key: string,
    revision: number,
    known: Placement,
    older: Placement,
  ): Promise<void> {
    if (known.incarnation < older.incarnation) return this.#take(older)
    // An update of our own, still under way when the watch told of the one before it.
    const standing = await bucket.get(key)
    const now = standing ? decodePlacement(standing.value) : older
    if (standing && isSuccessor(now, known)) return this.#take(now)
    // Who has a copy of another incarnation holds nothing of this one.
    const before = now.incarnation === known.incarnation ? now.holders : []
    const holders = new Map([...before, ...known.holders].map(holder => [holder.node, holder]))
    const merged: Placement = {
      ...known,
      holders: [...holders.values()],
      epoch: Math.max(known.epoch, now.epoch) + 1,
      generation: PUT_BACK,
      version: known.version + 1,
    }
    if ((await bucket.update(key, encodePlacement(merged), standing?.revision ?? revision)) === undefined) return
    this.restored++
    this.#take(merged)
  }

  #take(placement: Placement): void {
    const known = this.#placements.get(placement.tenant)
    if (known && known.version >= placement.version && known.incarnation >= placement.incarnation) return
    this.#placements.set(placement.tenant, placement)
    void this.#options.store.savePlacement(placement).catch(error => {
      this.#options.logger.warn({ err: String(error) }, 'a placement could not be kept on disk')
    })
    for (const listener of this.#listeners) listener(placement)
  }
}

/** Whether a placement that the bucket has is the known one, or comes after it. Versions begin again with the bucket, so that two of them may be of one version: none of the two is later then. */
const isSuccessor = (found: Placement, known: Placement): boolean =>
  found.version > known.version ||
  (found.version === known.version && encodePlacement(found).equals(encodePlacement(known)))

const conflict = (tenant: TenantId) =>
  new PercolateError('CONFLICT', `The placement of ${tenant} changes faster than it can be updated; retry in a moment.`)

/** The directory as a controller has it: it keeps nothing on disk and puts nothing back. */
export const observingDirectory = (options: Omit<DirectoryOptions, 'store' | 'isObserver'>): Directory =>
  new Directory({
    ...options,
    store: {
      load: async () => ({ placements: [], members: [] }),
      savePlacement: async () => {},
      saveMember: async () => {},
    },
    isObserver: true,
  })
