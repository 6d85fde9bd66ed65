import { PercolateError, toPercolateError } from '../base/errors.ts'
import {
  GROUP_COMMANDS_MAX,
  GROUP_OPS_MAX,
  GROUP_TEXT_BYTES_MAX,
  LARGE_BATCH_TEXT_BYTES,
  WRITER_QUEUE_MAX,
} from '../base/limits.ts'
import type { Time } from '../base/time.ts'
import { type Clock, compareClocks, type HybridLogicalClock, laterClock } from '../clock/hlc.ts'
import type { VersionVector } from '../clock/vector.ts'
import type { GcFloor } from '../rem/floor.ts'
import type { LwwRecord, Op, RecordRef } from '../rem/record.ts'
import type { Kv } from '../storage/kv.ts'
import { TooMuchAtOnce } from './staged-size.ts'
import { type StagedBatch, Staging } from './staging.ts'
import type { StagingRoom, Turn } from './staging-room.ts'
import type { EmbeddingSpec, TenantState } from './state.ts'
import { refusalOf, type WriteEnding } from './write-ending.ts'

/** What a command sees while it is planned: the tenant as the commands before it left it. */
export interface PlanContext {
  /** The clock that the command's ops carry. */
  readonly clock: Clock
  readonly embedding: EmbeddingSpec | undefined
  /** Memory of the batch above which the command is refused. */
  readonly stagedBytesMax: number
  read(ref: RecordRef): Promise<LwwRecord | undefined>
}

export interface Plan<T> {
  readonly ops: readonly Op[]
  readonly result: T
}

/** May run again after a failed batch, so it must not have effects of its own. */
export type Planner<T> = (context: PlanContext) => Promise<Plan<T>> | Plan<T>

export interface WriterState {
  readonly kv: Kv
  readonly tenant: string
  readonly incarnation: string
  readonly changesMax: number
  readonly stagedBytesMax: number
  readonly outboxEnabled: boolean
  /** Where large batches of all tenants take turns; undefined: nobody else's are near. */
  readonly room: StagingRoom | undefined
  readonly time: Time
  /** How long a client's command waits to be begun, milliseconds. */
  readonly waitMsMax: number
  origin: string
  clock: HybridLogicalClock
  vector: VersionVector
  floor: GcFloor | undefined
  /** What this copy has promised to write nothing at or below of. */
  promised: Clock | undefined
  state: TenantState
  embedding: EmbeddingSpec | undefined
}

/** The right to decide that a command rests on; it may end at any moment. */
export interface WriteGuard {
  /** Wall clock, milliseconds since the epoch, that the command's clock has to be above. */
  readonly aboveMs: number
  /**
   * Throws when the right is over. Asked at once before the batch goes to the store, with nothing waited for in between; the command then fails alone. `wallMs`: of the clock that is written with; 0
   * when nothing is, as of a command that is refused.
   */
  check(wallMs: number): void
}

export interface WriteOptions {
  /** The clock to write with, for retries of work that began earlier; default: now. */
  readonly asOf?: Clock | undefined
  /** What the client has seen of the tenant's clock: the command's own is later. */
  readonly above?: Pick<Clock, 'wall' | 'counter'> | undefined
  /** How many ops the command makes, about; decides how many commands share a batch. */
  readonly weight?: number
  /** Bytes of text that it has to be indexed, about; decides how many commands share a batch, and whether the batch waits for others. Default: 0. */
  readonly textBytes?: number
  /** Records that the command will read or change, as far as the caller knows: they are read together for the whole group. */
  readonly touches?: readonly RecordRef[]
  /** Whose right to decide the command rests on; undefined: it needs none. */
  readonly guard?: WriteGuard | undefined
  /** A client's command is given up, whole, before it is begun: when the client has gone, when it has waited too long (TOO_BUSY), when the node is stopping (SHUTTING_DOWN). A large one also while it is staged, but not for its wait. Undefined: a command of the node itself, which is made. */
  readonly ending?: WriteEnding | undefined
  /** Of a command that has its turn among the large batches already: its batch needs no other. The writer leaves it when the command cannot be begun at once. */
  readonly turn?: Turn | undefined
  /** Somebody waits until others have what it says: it gets an entry of its own also when it changes nothing here. What it found may have come from another holder, past the stream, and nobody here knows who else has it. */
  readonly needsEntry?: boolean
  /** Called when the batch is fsynced, before the answer: the position of what this command wrote, or of what it found already there; `first` is the sequence of its first entry, which is undefined when it has none. */
  readonly onCommitted?: (position: VersionVector, clock: Clock, origin: string, first?: number) => void
}

/** Thrown where nothing is written yet: a command lost its right to decide. */
const REFUSED = Symbol('refused')
/** Thrown while a batch is staged, of which nothing is written: most of it is wanted by nobody any more. */
const GIVEN_UP = Symbol('given up')
/** How often those are looked at that wait behind a large batch. */
const LOOK_MS = 100

/** What came from another copy, staged into a batch by itself or with others; it must leave the staging as it was when it throws. */
export type Work<T> = (staging: Staging) => Promise<T>

const NO_CLOCK: Clock = { wall: 0, counter: 0, origin: 'none' }

interface Pending {
  readonly plan?: Planner<unknown>
  readonly work?: Work<unknown>
  /** Looks only: nothing is written. */
  readonly look?: () => Promise<unknown>
  readonly options: WriteOptions
  /** Monotonic clock, milliseconds. */
  readonly sinceMs: number
  readonly resolve: (result: unknown) => void
  readonly reject: (error: unknown) => void
}

/**
 * The only writer of a tenant. Commands queue up; those that wait while a batch is being fsynced form the next one and share
 * its fsync (group commit). Each command is all or nothing, each batch is one atomic write.
 */
export class TenantWriter {
  readonly #tenant: WriterState
  readonly #onCommit: (batch: StagedBatch) => void
  readonly #onFailure: (error: PercolateError) => void
  readonly #queue: Pending[] = []
  /** Commands that were refused while they were planned, or given up. */
  readonly #settled = new WeakSet<Pending>()
  readonly #onStaged: () => void
  #draining: Promise<void> | undefined
  #staging: Staging | undefined
  #lookedAtMs = 0
  #isInLine = false

  constructor(
    tenant: WriterState,
    hooks: {
      /** All commands of a batch are staged; {@link stagedBytes} says what it takes. */
      onStaged: () => void
      onCommit: (batch: StagedBatch) => void
      onFailure: (error: PercolateError) => void
    },
  ) {
    this.#tenant = tenant
    this.#onStaged = hooks.onStaged
    this.#onCommit = hooks.onCommit
    this.#onFailure = hooks.onFailure
  }

  get queued(): number {
    return this.#queue.length
  }

  /** Memory of the batch that is being made, about. */
  get stagedBytes(): number {
    return this.#staging?.bytes ?? 0
  }

  /** Resolves when the command is fsynced together with its indexes and outbox entry. */
  submit<T>(plan: Planner<T>, options: WriteOptions = {}): Promise<T> {
    return this.#enqueue({ plan, options })
  }

  /** Stages `work` in its turn and resolves when the batch is fsynced. */
  run<T>(work: Work<T>, options: { weight?: number; textBytes?: number; onCommitted?: () => void } = {}): Promise<T> {
    return this.#enqueue({ work, options })
  }

  /** Runs `look` between two batches: what it sees on disk and in memory belongs together. It must not wait for anybody but the store. */
  between<T>(look: () => Promise<T>): Promise<T> {
    return this.#enqueue({ look, options: {} })
  }

  #enqueue<T>(job: Pick<Pending, 'plan' | 'work' | 'look' | 'options'>): Promise<T> {
    if (this.#queue.length >= WRITER_QUEUE_MAX) {
      return Promise.reject(
        new PercolateError('TOO_BUSY', `${WRITER_QUEUE_MAX} writes of this tenant are waiting; retry in a moment.`),
      )
    }
    if (this.#isInLine) job.options.turn?.leave()
    const sinceMs = this.#tenant.time.monotonic()
    return new Promise<T>((resolve, reject) => {
      this.#queue.push({ ...job, sinceMs, resolve: resolve as (result: unknown) => void, reject })
      this.#draining ??= this.#drain()
    })
  }

  /** Resolves when nothing is queued or being written. */
  async idle(): Promise<void> {
    await this.#draining
  }

  async #drain(): Promise<void> {
    await Promise.resolve()
    while (this.#queue.length > 0) {
      if (this.#queue[0]!.look) {
        const { look, resolve, reject } = this.#queue.shift()!
        await look!().then(resolve, reject)
        continue
      }
      const group = this.#takeGroup()
      const leave = group.some(({ options }) => options.turn?.isHeld) ? undefined : await this.#takeTurn(group)
      try {
        await this.#commit(this.#unsettled(group))
      } finally {
        leave?.()
      }
    }
    this.#draining = undefined
  }

  /** Nobody waits here for a turn that somebody holds who waits behind. */
  async #takeTurn(group: readonly Pending[]): Promise<(() => void) | undefined> {
    const { room } = this.#tenant
    if (!room) return undefined
    for (const { options } of this.#queue) options.turn?.leave()
    this.#isInLine = true
    try {
      return await room.enter(textBytesOf(group), () => this.#isAwaited(group))
    } finally {
      this.#isInLine = false
    }
  }

  /** The next commands, without those that are given up; they may be none. */
  #takeGroup(): Pending[] {
    let weight = 0
    let textBytes = 0
    let taken = 0
    const group: Pending[] = []
    for (const pending of this.#queue) {
      if (pending.look) break
      if (!this.#giveUp(pending)) {
        weight += pending.options.weight ?? 1
        textBytes += pending.options.textBytes ?? 0
        const isFull = group.length >= GROUP_COMMANDS_MAX || weight > GROUP_OPS_MAX || textBytes > GROUP_TEXT_BYTES_MAX
        if (group.length > 0 && isFull) break
        group.push(pending)
      }
      taken++
    }
    this.#queue.splice(0, taken)
    return group
  }

  /** Asked now and then while the group waits for its turn: whether anybody waits for it. Nothing of it is begun, nor of those behind it. */
  #isAwaited(group: readonly Pending[]): boolean {
    this.#lookAtQueue()
    return this.#unsettled(group).filter(pending => !this.#giveUp(pending, true)).length > 0
  }

  #lookAtQueue(): void {
    const kept = this.#queue.filter(pending => !this.#giveUp(pending, true))
    if (kept.length < this.#queue.length) this.#queue.splice(0, this.#queue.length, ...kept)
  }

  #unsettled(group: readonly Pending[]): readonly Pending[] {
    return group.filter(pending => !this.#settled.has(pending))
  }

  /**
   * Asked between the slices of a large batch, of which nothing is written. What is staged of one command can't be taken out of it: the batch is given up when most of its text is of clients that
   * have gone, and made anew of the rest, so that no command's text is worked through more than about twice.
   */
  #onSlice(group: readonly Pending[]): void {
    const nowMs = this.#tenant.time.monotonic()
    if (nowMs - this.#lookedAtMs >= LOOK_MS) {
      this.#lookedAtMs = nowMs
      this.#lookAtQueue()
    }
    const rest = this.#unsettled(group)
    const gone = rest.filter(pending => this.#refusalOf(pending) !== undefined)
    if (2 * textBytesOf(gone) <= textBytesOf(rest)) return
    for (const pending of gone) this.#giveUp(pending)
    throw GIVEN_UP
  }

  /** Answers a command that is not to be made any more; false: it is. */
  #giveUp(pending: Pending, mustWait = false): boolean {
    const refusal = this.#refusalOf(pending, mustWait)
    if (refusal === undefined) return false
    this.#settled.add(pending)
    pending.reject(refusal)
    return true
  }

  #refusalOf({ options, sinceMs }: Pending, mustWait = false): unknown {
    return refusalOf(this.#tenant, options, mustWait ? sinceMs : undefined)
  }

  async #commit(group: readonly Pending[]): Promise<void> {
    const planned: { pending: Pending; result: unknown; position?: VersionVector; clock?: Clock; first?: number }[] = []
    try {
      const isLarge = textBytesOf(group) > LARGE_BATCH_TEXT_BYTES
      const onSlice = isLarge ? () => this.#onSlice(group) : undefined
      const staging = new Staging({ ...this.#tenant, outbox: this.#tenant.outboxEnabled, onSlice })
      this.#staging = staging
      const open = group.filter(pending => !this.#isTooLate(pending))
      await staging.prefetch(open.flatMap(({ options }) => options.touches ?? []))
      for (const pending of open) {
        if (this.#giveUp(pending)) continue
        if (pending.work) {
          planned.push({ pending, result: await pending.work(staging) })
          continue
        }
        const plan = await this.#plan(staging, pending)
        if (plan === undefined) continue
        const before = staging.vector
        const ownBefore = before.get(this.#tenant.origin) ?? 0
        await staging.apply(plan.ops, plan.clock, { needsEntry: pending.options.needsEntry ?? false })
        const own = staging.vector.get(this.#tenant.origin) ?? 0
        // A vector that counts what was given up names what is not here.
        const isWhole = staging.vector === before && staging.state.lost.count === 0
        const position = isWhole ? staging.vector : new Map(own > 0 ? [[this.#tenant.origin, own]] : [])
        const first = own > ownBefore ? { first: ownBefore + 1 } : {}
        planned.push({ pending, result: plan.result, position, clock: plan.clock, ...first })
      }
      if (planned.length === 0) return
      this.#onStaged()
      const batch = await staging.finish()
      const before = () => {
        const refused = planned.filter(({ pending, clock }) => this.#isRefused(pending, clock))
        if (refused.length > 0) throw REFUSED
      }
      await this.#tenant.kv.write(batch.operations, { sync: true, before })
      this.#staging = undefined
      const { origin } = this.#tenant
      this.#tenant.state = batch.state
      this.#tenant.embedding = batch.embedding
      this.#tenant.vector = batch.vector
      this.#tenant.floor = batch.floor
      if (batch.observed) this.#tenant.clock.observe(batch.observed)
      this.#announce(batch)
      for (const { pending, result, position, clock, first } of planned) {
        pending.options.onCommitted?.(
          position ?? batch.vector,
          pending.options.asOf ?? clock ?? NO_CLOCK,
          origin,
          first,
        )
        pending.resolve(result)
      }
    } catch (error) {
      const rest = this.#unsettled(group)
      if (error === REFUSED || error === GIVEN_UP) await this.#commit(rest)
      else await this.#failed(error, rest)
    } finally {
      this.#staging = undefined
    }
  }

  /** Asks the guard of a command that is about to be decided; one that is refused is answered here. */
  #isRefused(pending: Pending, clock: Clock | undefined): boolean {
    try {
      pending.options.guard?.check(clock?.wall ?? 0)
      return false
    } catch (error) {
      this.#settled.add(pending)
      pending.reject(error)
      return true
    }
  }

  /** The batch is written, whatever the listeners do: one that fails must not make the commands fail, or be done again. */
  #announce(batch: StagedBatch): void {
    try {
      this.#onCommit(batch)
    } catch (error) {
      this.#onFailure(
        new PercolateError('STORAGE_FAILED', 'A cache could not follow a commit; the tenant is opened again.', {
          cause: error,
        }),
      )
    }
  }

  /** Answers a command whose clock is one that nothing may be written with any more; false: it is not. */
  #isTooLate(pending: Pending): boolean {
    const { asOf } = pending.options
    const settled = laterClock(this.#tenant.floor?.clock, this.#tenant.promised)
    if (!asOf || !settled || compareClocks(asOf, settled) > 0) return false
    this.#settled.add(pending)
    pending.reject(
      new PercolateError(
        'CLOCK_SETTLED',
        'X-Percolate-As-Of lies so far back that deletes from that time are forgotten; write it as of now if it should stand.',
        { field: 'X-Percolate-As-Of' },
      ),
    )
    return true
  }

  /** A command that is refused while it is planned fails alone; nothing of it is staged. */
  async #plan(
    staging: Staging,
    pending: Pending,
  ): Promise<{ ops: readonly Op[]; result: unknown; clock: Clock } | undefined> {
    const { asOf, above, guard } = pending.options
    // What was promised or settled while others were staged counts, too.
    if (this.#isTooLate(pending)) return undefined
    // What comes after must be later, also than a client's clock that runs ahead of ours. A command that is refused moves no clock: nobody else ticks until this is planned.
    const seen = [asOf, above, guard && guard.aboveMs > 0 ? { wall: guard.aboveMs + 1, counter: 0 } : undefined]
    const next = this.#tenant.clock.next(...seen.filter(reading => reading !== undefined))
    const clock = asOf ?? next
    try {
      const { stagedBytesMax } = this.#tenant
      const read = (ref: RecordRef) => staging.read(ref)
      const plan = await pending.plan!({ clock, embedding: staging.embedding, stagedBytesMax, read })
      this.#tenant.clock.observe(next)
      return { ...plan, clock: next }
    } catch (error) {
      if (error instanceof TooMuchAtOnce) this.#tenant.room?.countRefused()
      // A refusal is a decision too, but nothing is written with its clock, which no home after this one has to follow.
      if (!this.#isRefused(pending, undefined)) {
        this.#settled.add(pending)
        pending.reject(error)
      }
      return undefined
    }
  }

  /** A batch that could not be staged or written: each command is tried alone, so that one poisoned record fails only those that touch it. */
  async #failed(error: unknown, group: readonly Pending[]): Promise<void> {
    const failure = toPercolateError(error)
    if (isStorageFailure(failure) || group.length <= 1) {
      // Planning is behind it: it was too much for the batch.
      if (failure.code === 'BODY_TOO_LARGE') this.#tenant.room?.countRefused()
      for (const pending of group) pending.reject(failure)
      this.#onFailure(failure)
      return
    }
    for (const pending of group) await this.#commit([pending])
  }
}

/** The database did not take a batch, whatever is in it, or it is not known whether it did: trying its commands one by one is no use, and the database is opened anew. */
export const isStorageFailure = ({ code }: PercolateError): boolean => code === 'STORAGE_FAILED' || code === 'DISK_FULL'

const textBytesOf = (group: readonly Pending[]): number =>
  group.reduce((bytes, { options }) => bytes + (options.textBytes ?? 0), 0)
