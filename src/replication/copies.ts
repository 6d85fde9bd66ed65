import { setMaxListeners } from 'node:events'
import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import { Semaphore } from '../base/semaphore.ts'
import type { Time } from '../base/time.ts'
import { sameVector } from '../clock/vector.ts'
import { DatabaseDamaged } from '../storage/kv.ts'
import type { TenantPool } from '../tenant/pool.ts'
import { scanDatabase } from '../tenant/scan.ts'
import { setAsideUnknown } from './anti-entropy.ts'
import type { Applier } from './applier.ts'
import type { CopyStore } from './copy-store.ts'
import type { Directory } from './directory.ts'
import { dropCopy } from './drop.ts'
import { readSkipped } from './export.ts'
import type { Follower } from './follower.ts'
import { Holes } from './holes.ts'
import { countLate, forgetArrived, moveLate } from './late.ts'
import { Losses } from './losses.ts'
import { withoutHome, yieldPlace } from './other-incarnation.ts'
import { handOnParked, summarizeParked } from './parked.ts'
import type { CopyState, CopyStatus, PeerHandlers, PeerPort } from './peer.ts'
import { activeHolders, completeHolders, holderOf, type Placement, PUT_BACK } from './placement.ts'
import type { Reconciler } from './reconciler.ts'
import { setCorruptCopyAside } from './replace.ts'
import type { StoredCopy } from './snapshots.ts'
import { importTransfer, readProgress } from './transfer.ts'
import { sameCopy, withCopy } from './with-copy.ts'

export interface CopiesOptions {
  readonly node: string
  readonly time: Time
  readonly logger: Logger
  readonly pool: TenantPool
  readonly store: CopyStore
  readonly directory: Directory
  readonly follower: Follower
  readonly applier: Applier
  readonly peers: PeerPort
  readonly reconciler: Reconciler
  readonly replicas: number
  /** What is stored of the tenant outside of any node, or undefined when there is nothing. */
  readonly snapshot: (tenant: TenantId, incarnation: string) => Promise<StoredCopy | undefined>
  /** The copy is trusted from now on: its outbox may be published, its requests answered. */
  readonly onCurrent: (tenant: TenantId) => void
  readonly retryMs: number
  /** How long a copy that may have missed something waits for holders that can't be asked. */
  readonly unheardWaitMs: number
}

interface Copy {
  state: CopyState
  /** What is being done about it now. */
  task: Promise<void> | undefined
  /** That of its tenant, since it was current first. */
  incarnation: string | undefined
  /** Why it is not current, for who asks. */
  reason: string
  /** It is known to have been made whole once, and not to be wiped since. */
  isComplete: boolean
  /** Its database was found damaged, and it is the only one. */
  isDamaged: boolean
  /** Its database is of another incarnation than the directory tells of: it is kept, and not used. */
  isOther: boolean
  /** What does not decode is not taken for damage of the database before then, by our monotonic clock: it was read through. */
  trustedUntilMs: number
  /** Nobody could be asked what it missed, for as long as that is waited for: it answers with what it has. */
  isUnvouched: boolean
  /** Since when it waits for holders that could tell what it missed, by our monotonic clock. */
  unheardSinceMs: number | undefined
  /** Changes of its placement that were seen. */
  changes: number
  /** Ends its wait for the next attempt. */
  wake: (() => void) | undefined
}

/** Whether nobody else has, or ever had, a complete copy of the tenant, as far as its placement tells. */
const isNobodyElses = (placement: Placement, node: string): boolean =>
  placement.covered === undefined && activeHolders(placement).every(holder => holder.node === node)

/** Copies that are being made or checked at once, and those of them that have failed before. */
const TASKS_MAX = 4
const RETRIES_MAX = 2
/** How long a database that was read through and found sound is not read through again for the next thing that does not decode. */
const SCAN_REST_MS = 60_000
/** The longest wait between two attempts is 2^5 = 32 times the first. */
const RETRY_DOUBLINGS_MAX = 5

/**
 * This node's copies, and what becomes of them. A copy answers only while it is *current*; it gets there by *joining* (made from another copy or a snapshot)
 * or *verifying* (it was on disk: it reads the stream to its end and compares with the other holders). The directory's word is enough to make a copy, never to
 * delete one: that takes an order to drop it, an empty outbox, and other holders that have all it has.
 */
export class Copies {
  readonly counts = { corrupt: 0, joined: 0, wiped: 0, dropped: 0, attempts: 0, unvouched: 0 }
  readonly #options: CopiesOptions
  readonly #copies = new Map<TenantId, Copy>()
  readonly #tasks = new Semaphore({ permits: TASKS_MAX, waitersMax: 1_000_000, name: 'copies' })
  readonly #retries = new Semaphore({ permits: RETRIES_MAX, waitersMax: 1_000_000, name: 'copies' })
  /** Counts what {@link #wakeAll} was told of. */
  #changes = 0
  readonly #stop = new AbortController()
  readonly #reconciler: Reconciler
  readonly #holes: Holes
  readonly #losses: Losses
  readonly #creating = new Set<TenantId>()

  constructor(options: CopiesOptions) {
    this.#options = options
    // Every copy that is worked on waits with it.
    setMaxListeners(0, this.#stop.signal)
    this.#reconciler = options.reconciler
    this.#losses = new Losses({
      ...options,
      reconciler: this.#reconciler,
      isCurrent: tenant => this.isCurrent(tenant),
      takeFrom: (tenant, status) => this.#takeFrom(tenant, status),
    })
    this.#holes = new Holes({
      ...options,
      signal: this.#stop.signal,
      state: tenant => this.state(tenant),
      takeFrom: (tenant, status) => this.#takeFrom(tenant, status),
    })
  }

  /** Reads what this disk holds. Nothing may be asked for before: what is here would look like nothing. */
  async load(): Promise<void> {
    for (const tenant of await this.#options.store.tenants())
      this.#set(tenant, 'verifying', 'it was on disk when the node started')
  }

  /** Sees to it in the background. */
  start(): void {
    const { directory } = this.#options
    directory.onPlacement(placement => this.#onPlacement(placement))
    directory.onMembers(() => this.#wakeAll())
    for (const tenant of this.#copies.keys()) this.#work(tenant)
    for (const placement of directory.placements()) this.#onPlacement(placement)
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    await Promise.allSettled([...this.#copies.values()].map(({ task }) => task))
  }

  state(tenant: TenantId): CopyState {
    return this.#copies.get(tenant)?.state ?? 'absent'
  }

  reason(tenant: TenantId): string {
    return this.#copies.get(tenant)?.reason ?? 'this node has no copy'
  }

  isCurrent(tenant: TenantId): boolean {
    return this.state(tenant) === 'current'
  }

  /**
   * Whether there is a copy that entries of others go into. Not before it is complete: what a transfer brings jumps over entries, also over deletes that its source has forgotten, and must
   * find nothing in the copy that came another way.
   */
  takesEntries(tenant: TenantId): boolean {
    const copy = this.#copies.get(tenant)
    return copy?.isComplete === true && copy.state !== 'dropping' && copy.state !== 'corrupt'
  }

  /**
   * Throws unless the copy is current. Asked under the lease, at the last moment before a write is planned, because the gate was passed earlier: a copy that is to go, or to be made anew, then
   * only has to wait for its uses to end, and nothing is acknowledged by it after that.
   */
  assertCurrent(tenant: TenantId): void {
    if (this.isCurrent(tenant)) return
    throw new PercolateError(
      'TENANT_UNAVAILABLE',
      `This node's copy of the tenant does not answer now (${this.reason(tenant).replace(/\.$/, '')}).`,
      { retryAfterS: 1 },
    )
  }

  tenants(): TenantId[] {
    return [...this.#copies.keys()]
  }

  count(state: CopyState): number {
    let count = 0
    for (const copy of this.#copies.values()) if (copy.state === state) count++
    return count
  }

  /** Databases here that are of another incarnation of their tenant than the directory tells of: kept, and not used. */
  get others(): number {
    let count = 0
    for (const copy of this.#copies.values()) if (copy.isOther) count++
    return count
  }

  /** Entries are missing that the stream may not have; looks after a moment, and brings the copy up to date from other holders. */
  onHole(tenant: TenantId): void {
    this.#holes.note(tenant)
  }

  /** Entries that were given up for lost. */
  get givenUp(): number {
    return this.#holes.givenUp
  }

  /**
   * Copies on this disk of whose tenants the directory has no record, as far as this node knows: each is entered when it is looked at, and until then its tenant must not be taken for one that does not exist.
   * What becomes of the others, which may be checked for long, or never be of use, is nobody else's matter.
   */
  get unreported(): number {
    let count = 0
    for (const tenant of this.#copies.keys()) if (!this.#options.directory.placement(tenant)) count++
    return count
  }

  /** This node is about to enter the tenant into the directory: the record, when it is seen, is no order to make a copy. */
  async creating(wanted: Placement, work: () => Promise<Placement>): Promise<Placement> {
    const { tenant, incarnation } = wanted
    const { store } = this.#options
    this.#creating.add(tenant)
    try {
      await store.making(tenant, incarnation)
      const standing = await work()
      if (standing.incarnation !== incarnation) await store.made(tenant)
      return standing
    } finally {
      this.#creating.delete(tenant)
      const placement = this.#options.directory.placement(tenant)
      if (placement) queueMicrotask(() => this.#onPlacement(placement))
    }
  }

  /** A tenant that this node has just entered into the directory: its copy is new, empty and complete. Not when there is one already, which has to be looked at first. */
  created({ tenant, incarnation }: Placement): void {
    if (this.state(tenant) !== 'absent') return
    this.#set(tenant, 'current', '')
    Object.assign(this.#copies.get(tenant)!, { isComplete: true, incarnation })
    this.#options.onCurrent(tenant)
  }

  /** Waits for a copy that is being made or checked, at most `timeoutMs`; whether it answers then. */
  async whenCurrent(tenant: TenantId, timeoutMs: number): Promise<boolean> {
    const { time } = this.#options
    const until = time.monotonic() + timeoutMs
    while (!this.isCurrent(tenant) && this.state(tenant) !== 'absent' && time.monotonic() < until)
      await time.sleep(10, { ref: false })
    return this.isCurrent(tenant)
  }

  /**
   * A use of the copy's database, or its opening, ended with DATA_CORRUPT. What the database itself says ({@link DatabaseDamaged}), or an opening, is certain. Anything else may be a value that came from
   * elsewhere: then the database is read through, and that decides.
   */
  onCorrupt(tenant: TenantId, error: PercolateError, when: 'open' | 'use'): void {
    if (when === 'open' || error instanceof DatabaseDamaged) this.#markCorrupt(tenant, error, when)
    else void this.#suspect(tenant)
  }

  async #suspect(tenant: TenantId): Promise<void> {
    const { pool, time, logger } = this.#options
    const copy = this.#copies.get(tenant)
    if (!copy || time.monotonic() < copy.trustedUntilMs) return
    // Also while it is being read.
    copy.trustedUntilMs = time.monotonic() + SCAN_REST_MS
    try {
      await pool.use(tenant, scanDatabase)
      logger.warn({ tenant }, 'something did not decode, but all of the database does')
    } catch (error) {
      if (error instanceof PercolateError && error.code === 'DATA_CORRUPT') this.#markCorrupt(tenant, error, 'use')
      else logger.warn({ tenant, reason: String(error) }, 'a database that may be damaged could not be read through')
    }
  }

  #markCorrupt(tenant: TenantId, error: PercolateError, when: 'open' | 'use'): void {
    const { directory, node, logger } = this.#options
    const copy = this.#copies.get(tenant)
    if (!copy || copy.state === 'corrupt') return
    const placement = directory.placement(tenant)
    const isAlone = placement !== undefined && !activeHolders(placement).some(holder => holder.node !== node)
    if (isAlone && when === 'use') {
      // There is nothing to make it anew from: what can be read is worth more than nothing.
      if (!copy.isDamaged) this.counts.corrupt++
      copy.isDamaged = true
      logger.error(
        { tenant, err: error },
        'the database of this copy is damaged, and no other node holds the tenant: it goes on answering what can be read',
      )
      return
    }
    this.counts.corrupt++
    logger.error(
      { tenant, err: error },
      'the database of this copy is damaged: it answers nothing until it is made anew',
    )
    copy.isComplete = false
    Object.assign(copy, { state: 'corrupt', reason: 'the database of this copy is damaged' })
    this.#work(tenant)
  }

  async #replace(tenant: TenantId, copy: Copy): Promise<boolean> {
    const { directory, node } = this.#options
    await setCorruptCopyAside(tenant, this.#options)
    const mine = holderOf(directory.placement(tenant), node)
    if (!mine || mine.state === 'dropping') {
      this.#gone(tenant)
      return true
    }
    copy.isDamaged = false
    Object.assign(copy, { state: 'joining', reason: 'the damaged copy is being made anew' })
    return false
  }

  /** A copy whose database was found damaged stays that until it is replaced, whatever was being done about it. */
  #set(tenant: TenantId, state: CopyState, reason: string): void {
    const copy = this.#copies.get(tenant)
    if (copy?.state === 'corrupt' && state !== 'absent') return
    if (state === 'absent') this.#copies.delete(tenant)
    else if (copy) Object.assign(copy, { state, reason })
    else
      this.#copies.set(tenant, {
        state,
        task: undefined,
        incarnation: undefined,
        reason,
        isComplete: false,
        isDamaged: false,
        isOther: false,
        trustedUntilMs: Number.NEGATIVE_INFINITY,
        isUnvouched: false,
        unheardSinceMs: undefined,
        changes: 0,
        wake: undefined,
      })
  }

  #onPlacement(placement: Placement): void {
    const { tenant } = placement
    const copy = this.#copies.get(tenant)
    if (copy) {
      copy.changes++
      copy.wake?.()
    }
    if (this.#creating.has(tenant)) return
    this.#sweepNote(placement)
    const mine = holderOf(placement, this.#options.node)
    const state = this.state(tenant)
    if (mine && mine.state !== 'dropping' && state === 'absent') {
      this.#set(tenant, 'joining', 'the copy is being made')
      this.#work(tenant)
    } else if (state === 'current' && copy!.incarnation !== placement.incarnation) {
      // The directory was lost or put back, and the tenant made a second time: this is a copy of something else.
      this.#set(tenant, 'verifying', 'the directory tells of another incarnation of the tenant')
      this.#work(tenant)
    } else if (mine?.state === 'dropping' && state === 'current') {
      this.#set(tenant, 'dropping', 'the copy was ordered to go')
      this.#work(tenant)
    } else if (mine && mine.state !== 'dropping' && state === 'dropping') {
      this.#set(tenant, 'verifying', 'the order to go was taken back')
      this.#work(tenant)
    } else if (!mine && state === 'current') {
      // The record forgot this copy (a restored directory): it says so, and is not deleted.
      this.#set(tenant, 'verifying', 'the directory does not list this copy')
      this.#work(tenant)
    } else if (mine?.state === 'joining' && state === 'current') {
      // It was complete all along; the record has to say so.
      this.#set(tenant, 'verifying', 'the directory takes the copy for a new one')
      this.#work(tenant)
    } else if (!mine && state === 'joining') {
      this.#work(tenant)
    } else if (mine?.state === 'dropping' && state === 'absent') {
      // The record is older than the drop (a restored directory): it is done.
      void this.#unlist(tenant)
    }
  }

  /** The note of an attempt to make the tenant whose outcome did not become known is of no use once another incarnation stands, or somebody else has a whole copy. */
  #sweepNote(placement: Placement): void {
    const { node, store, logger } = this.#options
    const { tenant, incarnation } = placement
    const noted = store.makingOf(tenant)
    if (noted === undefined || (noted === incarnation && isNobodyElses(placement, node))) return
    store
      .made(tenant)
      .catch(error => logger.debug({ tenant, reason: String(error) }, 'the note of its making is still on disk'))
  }

  async #unlist(tenant: TenantId): Promise<void> {
    const { node, directory, logger } = this.#options
    await directory
      .update(tenant, current =>
        holderOf(current, node)?.state === 'dropping' && this.state(tenant) === 'absent'
          ? { ...current, holders: current.holders.filter(holder => holder.node !== node) }
          : undefined,
      )
      .catch(error => logger.debug({ tenant, reason: String(error) }, 'a dropped copy is still listed'))
  }

  /** The copy is gone; the directory may want one again by now. */
  #gone(tenant: TenantId): void {
    this.#copies.delete(tenant)
    this.#options.follower.forget(tenant)
    this.#options.applier.forget(tenant)
    const placement = this.#options.directory.placement(tenant)
    if (placement) queueMicrotask(() => this.#onPlacement(placement))
  }

  #work(tenant: TenantId): void {
    const copy = this.#copies.get(tenant)
    if (!copy || copy.task) return
    copy.task = this.#workOn(tenant, copy).finally(() => {
      copy.task = undefined
      if (this.#stop.signal.aborted || this.#copies.get(tenant) !== copy || copy.state === 'current') return
      // The state changed while the last attempt was ending.
      this.#work(tenant)
    })
  }

  /**
   * Tries until it is done. What goes on failing is tried ever more seldom, and at once when anything changes that it may have waited for: its placement, a member, the watch. Those that failed
   * least go first, and never have to wait for all places to be free of those that failed before.
   */
  async #workOn(tenant: TenantId, copy: Copy): Promise<void> {
    const { time, logger, retryMs } = this.#options
    const { signal } = this.#stop
    for (let failures = 0; !signal.aborted && this.#copies.get(tenant) === copy; ) {
      const { state } = copy
      let isDone = false
      let isFailure = false
      const changes = this.#changes
      const seen = copy.changes
      try {
        isDone = await this.#inTurn(failures, () => {
          this.counts.attempts++
          return this.#step(tenant, copy)
        })
      } catch (error) {
        isFailure = true
        copy.reason = error instanceof PercolateError ? error.message : 'an internal error, see the log'
        if (failures % 20 === 0)
          logger.info({ tenant, state: copy.state, reason: String(error) }, 'a copy is not current yet')
      }
      if (isDone) return
      failures = isFailure && copy.state === state ? failures + 1 : 0
      const delayMs = retryMs * 2 ** Math.min(Math.max(0, failures - 1), RETRY_DOUBLINGS_MAX)
      const hasNews = () => this.#changes !== changes || copy.changes !== seen
      // However much changes, it is not tried more often than in the beginning.
      await time.sleep(retryMs, { signal, ref: false }).catch(() => {})
      if (delayMs > retryMs && !hasNews()) await this.#pause(copy, delayMs - retryMs)
      if (hasNews()) failures = 0
    }
  }

  async #inTurn<T>(failures: number, work: () => Promise<T>): Promise<T> {
    const { signal } = this.#stop
    const releaseRetry = failures > 0 ? await this.#retries.acquire(signal, failures) : undefined
    try {
      const release = await this.#tasks.acquire(signal, failures)
      try {
        return await work()
      } finally {
        release()
      }
    } finally {
      releaseRetry?.()
    }
  }

  /** Waits, at most `ms`, for something to change that the copy may be waiting for. */
  async #pause(copy: Copy, ms: number): Promise<void> {
    const ended = new AbortController()
    const wake = () => ended.abort()
    copy.wake = wake
    this.#stop.signal.addEventListener('abort', wake, { once: true })
    await this.#options.time.sleep(ms, { signal: ended.signal, ref: false }).catch(() => {})
    this.#stop.signal.removeEventListener('abort', wake)
    copy.wake = undefined
  }

  /** Something that any copy may be waiting for has changed. */
  #wakeAll(): void {
    this.#changes++
    for (const copy of this.#copies.values()) copy.wake?.()
  }

  /** One attempt; true when there is nothing left to do. */
  async #step(tenant: TenantId, copy: Copy): Promise<boolean> {
    switch (copy.state) {
      case 'joining':
        return this.#join(tenant, copy)
      case 'verifying':
        return this.#verify(tenant, copy)
      case 'dropping':
        return this.#drop(tenant, copy)
      case 'corrupt':
        return this.#replace(tenant, copy)
      default:
        return true
    }
  }

  async #join(tenant: TenantId, copy: Copy): Promise<boolean> {
    const { node, pool, directory, follower, applier, peers, logger } = this.#options
    const placement = directory.placement(tenant)
    if (!placement || !holderOf(placement, node)) {
      // Not wanted any more. One that has become whole by now may be the only one: it goes by an order, like any other.
      if ((await pool.use(tenant, async open => open.isJoining)) !== false) return this.#forget(tenant)
      this.#set(tenant, 'verifying', 'the directory does not list this copy')
      return false
    }
    if (holderOf(placement, node)?.state === 'active') {
      // The record still speaks of a disk that is gone: others must not wait for what was on it. What the process that had it decided may be on its way to the stream, and must not win over what comes now.
      const decidedBelowMs = (await directory.readMember(node))?.member.decidesBelowMs ?? 0
      await directory.update(tenant, current =>
        holderOf(current, node)?.state === 'active'
          ? withHolder(withoutHome(current, node, decidedBelowMs), node, 'joining')
          : undefined,
      )
    }
    const local = await pool.use(tenant, async open => open.identity.incarnation)
    if (local !== undefined && local !== placement.incarnation) {
      // It was begun before the directory came to tell of another one.
      this.#set(tenant, 'verifying', 'what was made of the copy is of another incarnation')
      return false
    }
    const { store } = this.#options
    // Others may have written, and be gone by the next attempt.
    if (!isNobodyElses(placement, node)) await store.made(tenant)
    const sources = this.#reconciler.sources(placement)
    const source = await this.#reconciler.firstCurrent(tenant, placement, sources)
    const outside = source ? undefined : await this.#options.snapshot(tenant, placement.incarnation)
    // Asked once: the note goes when the copy is whole.
    const isUnwritten = store.makingOf(tenant) === placement.incarnation
    const isAllThere = async () => isUnwritten || this.#isAllInStream(tenant)
    if (!source && !outside && !(isNobodyElses(placement, node) && (await isAllThere())))
      throw new PercolateError('TENANT_UNAVAILABLE', 'No other copy can be reached to make this one from.')
    // Made when there is none.
    await pool.use(tenant, async () => {}, { create: true })
    const use = sameCopy(work => withCopy(pool, tenant, placement.incarnation, work, { mayBeJoining: true }))
    const { isJoining, progress } = await use(async open => ({
      isJoining: open.isJoining,
      progress: await readProgress(open),
    }))
    // Else it became whole in an attempt before.
    if (isJoining) {
      if (source || outside) {
        // Before the copy is whole, so that it has them whenever it is taken for whole.
        if (outside) await this.#reconciler.takeStoredEntries(use, outside)
        const parts = source
          ? peers.to(source).transfer(tenant, placement.incarnation, progress?.after)
          : outside!.parts
        const { records } = await importTransfer(use, parts, { resumable: true })
        logger.info({ tenant, records, from: source ?? 'a stored snapshot' }, 'made a copy')
      }
      // There never was more than what the stream has: it is read below.
      else await use(open => open.finishJoin(async () => {}))
      await pool.use(tenant, open => applier.settle(open))
    }
    const isSound = await pool.use(tenant, async open => !open.floor || open.covers(open.floor.vector))
    if (isSound === false) {
      // Parts from before and after a floor do not make one copy.
      await this.#wipe(tenant, copy, [])
      return false
    }
    copy.isComplete = true
    const isWhole = await follower.catchUp(tenant)
    const loss = follower.lossOf(tenant)?.number ?? 0
    // What was parked in the snapshot and is due by now.
    if (outside) await pool.use(tenant, open => applier.applyDue(open))
    if (
      outside &&
      placement.covered &&
      !(await this.#reconciler.covers(tenant, new Map(Object.entries(placement.covered))))
    )
      throw new PercolateError(
        'TENANT_UNAVAILABLE',
        'The stored snapshot is older than streams that are gone, and no other copy can be reached.',
      )
    if (!source && !outside && !(await isAllThere())) {
      // The stream was lost while it was read.
      await this.#wipe(tenant, copy, [])
      return false
    }
    if (!source && !outside && !isWhole)
      throw new PercolateError(
        'TENANT_UNAVAILABLE',
        'The stream has entries missing, and no other copy can be reached.',
      )
    let lost: string | undefined
    if (source) {
      // What was on its way while the copy was made, and in no stream that was read.
      const answer = await peers.to(source).status(tenant)
      // It may have a copy of another incarnation by now, which says nothing of what was sent.
      const status = answer?.incarnation === placement.incarnation ? answer : undefined
      if (status && (await this.#reconciler.isBelowFloor(tenant, [status]))) {
        // It was made over several attempts, and is too old already.
        await this.#wipe(tenant, copy, [])
        return false
      }
      if (status && !(await this.#reconciler.covers(tenant, status.vector)))
        await this.#reconciler.reconcile(tenant, source)
      // In no stream any more, perhaps, and in no vector yet.
      if (status) await this.#reconciler.takeParked(tenant, status)
      lost = await this.#losses.inherit(tenant, placement, status)
    }
    // One that is listed without need, or does not decode, keeps no copy from being whole.
    const arrived = await pool.use(tenant, forgetArrived).catch(error => {
      logger.warn({ tenant, err: error }, 'what was set aside in this copy could not be looked through')
      return 0
    })
    if (arrived) logger.info({ tenant, arrived }, 'writes that this copy had set aside are in what it was made of')
    await store.made(tenant)
    const { incarnation } = placement
    const standing = await directory.update(tenant, current => listedAsWhole(current, node, incarnation, 'joining'))
    if (!standing || !holderOf(standing, node)) return false
    if (holderOf(standing, node)!.state === 'dropping') {
      this.#set(tenant, 'dropping', 'the copy was ordered to go')
      return false
    }
    if (!this.#becomeCurrent(tenant, copy, incarnation, loss)) return false
    if (lost !== undefined) follower.inheritLoss(tenant, lost)
    this.counts.joined++
    // What came in while it was being made passed it by.
    this.onHole(tenant)
    return true
  }

  /** As {@link Losses.isVouchedFor}; a copy that has waited for the others for long enough answers for itself. */
  async isVouchedFor(tenant: TenantId, placement: Placement): Promise<boolean> {
    return this.#copies.get(tenant)?.isUnvouched === true || this.#losses.isVouchedFor(tenant, placement)
  }

  /** As {@link Losses.settle}. */
  settleLoss(tenant: TenantId): Promise<boolean> {
    return this.#losses.settle(tenant)
  }

  async #verify(tenant: TenantId, copy: Copy): Promise<boolean> {
    const { node, pool, directory, follower, logger } = this.#options
    const local = await pool.use(tenant, async open => ({
      incarnation: open.identity.incarnation,
      isJoining: open.isJoining,
    }))
    if (!local) {
      // A folder without a database: its making was cut short. The directory may want a copy.
      this.#gone(tenant)
      return true
    }
    let placement = directory.placement(tenant)
    if (!placement) {
      if (!directory.isWatching) throw new PercolateError('PLACEMENT_UNKNOWN', 'The cluster directory is away.')
      if (local.isJoining) return this.#forget(tenant)
      placement = await directory.create({
        tenant,
        incarnation: local.incarnation,
        tier: directory.member(node)?.tier ?? '',
        holders: [{ node, state: 'active' }],
        home: undefined,
        epoch: 1,
        generation: PUT_BACK,
        version: 1,
        changedAtMs: this.#options.time.now(),
      })
    }
    copy.isOther = placement.incarnation !== local.incarnation
    if (copy.isOther) {
      copy.isComplete = false
      if (!(await yieldPlace(tenant, local.incarnation, this.#options)))
        throw new PercolateError(
          'TENANT_UNAVAILABLE',
          `The copy is of the incarnation ${local.incarnation}, the cluster's is ${placement.incarnation}; it is kept, and not used.`,
        )
      copy.isOther = false
      this.#set(tenant, 'joining', 'the copy is being made')
      return false
    }
    if (local.isJoining) {
      if (!holderOf(placement, node)) return this.#forget(tenant)
      this.#set(tenant, 'joining', 'the copy is being made')
      return false
    }
    copy.isComplete = true
    copy.isUnvouched = false
    const peers = this.#reconciler.sources(placement)
    const before = await this.#reconciler.statuses(tenant, peers, placement)
    if (await this.#reconciler.isBelowFloor(tenant, before)) {
      logger.warn(
        { tenant },
        'this copy was away for longer than deletes are remembered: it is made anew, and what it never published is set aside',
      )
      const others = before
        .toSorted((a, b) => Number(b.state === 'current') - Number(a.state === 'current'))
        .map(status => this.#options.peers.to(status.node))
      await this.#wipe(tenant, copy, others)
      return false
    }
    await this.#reconciler.checkRollback(tenant, before)
    let hasRead = true
    let mayHaveMissed = true
    try {
      mayHaveMissed = await this.#losses.mayHaveMissed(tenant, placement)
      if (!(await follower.readToEnd(tenant)))
        throw new PercolateError('TENANT_UNAVAILABLE', 'The stream has not been read to its end yet.')
    } catch (error) {
      hasRead = false
      const others = activeHolders(placement).filter(holder => holder.node !== node)
      const answered = new Set(before.map(status => status.node))
      // Without the stream, the other holders must vouch for this copy; a copy that is alone vouches for itself.
      if (!others.every(holder => answered.has(holder.node))) throw error
    }
    // The reader may have noted a loss since it was asked. One that comes from here on is not among what the others are asked for now.
    const loss = follower.lossOf(tenant)?.number ?? 0
    mayHaveMissed ||= loss > 0
    const missed = await this.#losses.streamOf(tenant)
    const after = await this.#reconciler.statuses(tenant, peers, placement)
    for (const status of after) {
      await this.#takeFrom(tenant, status)
      await this.#reconciler.takeParked(tenant, status)
    }
    for (const status of after) await this.#evenOutLosses(tenant, status)
    await this.#reconciler.checkRollback(tenant, after)
    const isKnown = new Set(after.map(status => status.node))
    const unheard = completeHolders(placement)
      .map(holder => holder.node)
      .filter(holder => holder !== node && !isKnown.has(holder))
    // Somebody who may know of more could not say whether this disk went back in time, or has it from a copy that is being made: it writes under a new origin, which costs little. Nor does a directory that cannot be read say who they all are.
    const isUnsure =
      !directory.isWatching || placement.holders.some(holder => holder.node !== node && !isKnown.has(holder.node))
    if (isUnsure) await pool.use(tenant, open => open.changeOrigin())
    // Nor what it missed while it was away, of which its stream has nothing left.
    if (mayHaveMissed && (unheard.length > 0 || after.length === 0))
      await this.#takeMissed(
        tenant,
        copy,
        placement.incarnation,
        unheard,
        await this.#losses.isHeard(tenant, missed, unheard.length, after),
      )
    if (mayHaveMissed) await this.#losses.settled(tenant, loss)
    if (placement.covered && !(await this.#reconciler.covers(tenant, new Map(Object.entries(placement.covered)))))
      throw new PercolateError(
        'TENANT_UNAVAILABLE',
        'Writes from streams that are gone are missing, and no other holder can be reached for them.',
      )
    if ((await pool.use(tenant, async open => !open.floor || open.covers(open.floor.vector))) === false)
      throw new PercolateError(
        'TENANT_UNAVAILABLE',
        'Writes from before the garbage collection floor are missing, and no other holder can be reached for them.',
      )
    if (hasRead && this.#options.applier.hasHole(tenant) && !(await this.#holes.giveUp(tenant, placement)))
      throw new PercolateError(
        'TENANT_UNAVAILABLE',
        'Entries are missing, and no other holder can be reached for them.',
      )
    if (!holderOf(placement, node)) {
      const listed = await directory.update(tenant, current =>
        listedAsWhole(current, node, local.incarnation, undefined),
      )
      if (!listed) return false
    }
    if (holderOf(directory.placement(tenant), node)?.state === 'joining')
      await directory.update(tenant, current => listedAsWhole(current, node, local.incarnation, 'joining'))
    if (holderOf(directory.placement(tenant), node)?.state === 'dropping') {
      this.#set(tenant, 'dropping', 'the copy was ordered to go')
      this.#options.onCurrent(tenant)
      return false
    }
    return this.#becomeCurrent(tenant, copy, local.incarnation, loss)
  }

  /**
   * What another holder gave up for lost may be here, and the other way round. It was so before this copy was checked, too, and is looked at again whenever the two are compared: a holder that is too busy for it now, or
   * of a version that does not know of it, holds up nobody.
   */
  async #evenOutLosses(tenant: TenantId, { node: other, skipped }: CopyStatus): Promise<void> {
    const { node, pool, peers, logger } = this.#options
    try {
      if (skipped > 0) await peers.to(other).offer(tenant, node)
      const isLosing = ((await pool.use(tenant, readSkipped)) ?? []).length > 0
      if (isLosing) await this.#reconciler.takeSkipped(tenant, other)
    } catch (error) {
      logger.warn(
        { tenant, with: other, reason: String(error) },
        'what was given up for lost could not be evened out yet',
      )
    }
  }

  /**
   * What other holders wrote may have come and gone in the stream while this copy was away, and `unheard` of them can't be asked. What one of them stored when it went has it; so have those who answered, and this copy, of
   * every write that is *replicated*, if they are all holders but one: it was on two of them. Else the others are waited for, but not for ever: then it answers with what it has, and says so, and gets the rest when they come
   * (docs/decisions/0027-copies-that-slept.md).
   */
  async #takeMissed(
    tenant: TenantId,
    copy: Copy,
    incarnation: string,
    unheard: readonly string[],
    isHeard: boolean,
  ): Promise<void> {
    const { time, logger, snapshot, unheardWaitMs } = this.#options
    let isStored = false
    try {
      const stored = await snapshot(tenant, incarnation)
      if (stored && (await this.#reconciler.takeStored(tenant, stored)))
        logger.info({ tenant }, 'took from a stored snapshot what this copy had missed')
      isStored = stored !== undefined
    } catch (error) {
      if (error instanceof PercolateError && error.code === 'TENANT_UNAVAILABLE') throw error
      logger.warn({ tenant, reason: String(error) }, 'a stored snapshot could not be asked for what this copy missed')
    }
    if (isStored || isHeard) return
    copy.unheardSinceMs ??= time.monotonic()
    if (time.monotonic() - copy.unheardSinceMs < unheardWaitMs)
      throw new PercolateError(
        'TENANT_UNAVAILABLE',
        `This copy was away for longer than its stream keeps what others wrote, there is no snapshot, and ${unheard.join(' and ')} can't be asked.`,
      )
    this.counts.unvouched++
    copy.isUnvouched = true
    logger.error(
      { tenant, holders: unheard },
      'this copy may lack writes that others acknowledged: it was away for longer than its stream keeps them, and nobody could be asked; it answers with what it has until one of these holders comes back',
    )
  }

  /**
   * Of a tenant of which nobody else ever had a complete copy: no stream of it has lost its beginning, or was lost. This is one whose maker lost its
   * disk before there was a second copy. What was published is all there is. A stream that is not there, or begins with its first entry, is no evidence by itself: it looks the same after all servers lost
   * their stores. Then the directory was lost with it, which is asked after the stream.
   */
  async #isAllInStream(tenant: TenantId): Promise<boolean> {
    const { follower, directory } = this.#options
    return (await follower.isUncut(tenant)) && directory.hasKnownFromTheStart(tenant)
  }

  /** `loss`: up to which its stream's losses were made up for. False: it is not of the incarnation that the directory tells of by now. */
  #becomeCurrent(tenant: TenantId, copy: Copy, incarnation: string, loss: number): boolean {
    if (this.#copies.get(tenant) !== copy || copy.state === 'corrupt') return true
    if (this.#options.directory.placement(tenant)?.incarnation !== incarnation) return false
    copy.incarnation = incarnation
    this.#set(tenant, 'current', '')
    copy.unheardSinceMs = undefined
    this.#options.follower.hadMissed(tenant, loss)
    this.#options.onCurrent(tenant)
    this.#options.follower.follow(tenant)
    // What came in while the state was another.
    const isLossOpen = (this.#options.follower.lossOf(tenant)?.number ?? 0) > loss
    if (isLossOpen || this.#options.applier.hasHole(tenant)) this.#holes.note(tenant)
    const placement = this.#options.directory.placement(tenant)
    if (placement) queueMicrotask(() => this.#onPlacement(placement))
    return true
  }

  /** A copy that is not complete has nothing of its own but what was set aside in it or waits there for its clock, which goes to a copy that is. */
  async #forget(tenant: TenantId): Promise<boolean> {
    const { directory, follower, peers, pool, store } = this.#options
    const placement = directory.placement(tenant)
    const keeper = async () => {
      const sources = placement ? this.#reconciler.sources(placement) : []
      const found = placement && (await this.#reconciler.firstCurrent(tenant, placement, sources))
      if (!found)
        throw new PercolateError('TENANT_UNAVAILABLE', 'No other copy can be reached to keep what was set aside here.')
      return peers.to(found)
    }
    await moveLate(pool, tenant, async entries => (await keeper()).keepLate(tenant, entries))
    const parked = await handOnParked(pool, tenant, async entries => (await keeper()).keepParked(tenant, entries))
    await follower.unfollow(tenant)
    const isGone = await pool.exclusive(
      tenant,
      async () => {
        if (await store.has(tenant)) await store.remove(tenant)
      },
      async open =>
        open.isJoining && (await countLate(open)) === 0 && (await summarizeParked(open)).mark === parked.mark,
    )
    if (!isGone) return false
    this.#gone(tenant)
    return true
  }

  /**
   * Empties the copy, to be made anew. It is not current any more, so nothing new is written; from here on nothing is taken in either. What was admitted before is waited for; then what `others`
   * can't get is set aside, and the copy goes only if it is still what was looked at.
   */
  async #wipe(tenant: TenantId, copy: Copy, others: readonly PeerHandlers[]): Promise<void> {
    const { pool, store, follower, applier, directory, node, logger } = this.#options
    copy.isComplete = false
    await follower.unfollow(tenant)
    applier.forget(tenant)
    const before = await pool.alone(tenant, async open => new Map(open.vector))
    const unknown = await setAsideUnknown(pool, tenant, others)
    if (unknown > 0)
      logger.error(
        { tenant, records: unknown },
        'this copy has writes from streams that are gone, and no other copy has them: they are set aside',
      )
    const isWiped = await pool.exclusive(
      tenant,
      async () => {
        await store.wipe(tenant)
        follower.restart(tenant)
      },
      async open => before !== undefined && sameVector(before, open.vector),
    )
    if (copy.state === 'corrupt' || !isWiped)
      throw new PercolateError('TENANT_UNAVAILABLE', 'The copy changed while it was being set aside.')
    this.counts.wiped++
    Object.assign(copy, { state: 'joining', reason: 'the copy is being made anew' })
    await directory.update(tenant, current => withHolder(current, node, 'joining'))
  }

  async #takeFrom(tenant: TenantId, status: CopyStatus): Promise<void> {
    if (this.state(tenant) === 'current' && (await this.#reconciler.isBelowFloor(tenant, [status])))
      return this.demote(tenant)
    await this.#reconciler.takeFrom(tenant, status)
  }

  /** Another holder has forgotten deletes that this copy never saw: it is checked anew, and then made anew. */
  demote(tenant: TenantId): void {
    if (this.state(tenant) !== 'current') return
    this.#set(tenant, 'verifying', 'another holder is ahead by more than can be merged')
    this.#work(tenant)
  }

  async #drop(tenant: TenantId, copy: Copy): Promise<boolean> {
    const isDropping = () => this.#copies.get(tenant) === copy && copy.state === 'dropping'
    if (!(await dropCopy(tenant, { ...this.#options, isDropping }))) {
      this.#set(tenant, 'verifying', 'the order to go was taken back, or the copy changed while it was looked at')
      return false
    }
    if (this.#copies.get(tenant) === copy) this.#gone(tenant)
    this.counts.dropped++
    return true
  }
}

/** The placement with this node's copy, which is whole, as active, when it stands there as `before`; undefined when not, or when the placement is of another incarnation than the copy. */
const listedAsWhole = (
  placement: Placement,
  node: string,
  incarnation: string,
  before: 'joining' | undefined,
): Placement | undefined =>
  placement.incarnation === incarnation && holderOf(placement, node)?.state === before
    ? withHolder(placement, node, 'active')
    : undefined

/** The placement with this node in that state. */
export const withHolder = (
  placement: Placement,
  node: string,
  state: 'joining' | 'active' | 'dropping',
): Placement => ({
  ...placement,
  holders: [...placement.holders.filter(holder => holder.node !== node), { node, state }],
})
