import { PercolateError } from '../base/errors.ts'
import { type Clock, laterClock } from '../clock/hlc.ts'
import { joinVectors, type VersionVector } from '../clock/vector.ts'
import { type Durability, durabilities } from '../replication/replica.ts'
import type { Tenant } from '../tenant/tenant.ts'
import type { Plan, Planner, WriteOptions } from '../tenant/writer.ts'
import { encodeBookmark, joinBookmarks } from './bookmark.ts'
import { askNewHome, assertAnswers, assertNothingStands, type SessionContext } from './context.ts'
import { NotTaken } from './forward.ts'
import type { Session } from './session.ts'

/** What a session tells the writer beside its plan; `asOf` instead of its own. */
export type Commit = Omit<WriteOptions, 'onCommitted' | 'guard' | 'above' | 'ending' | 'turn' | 'needsEntry'>

/**
 * Plans and commits one command, and answers when the session's durability is reached. A tenant comes to be with its first write, when all that can be refused of it has been looked at: what is refused
 * leaves nothing, on no disk and not in the directory. DURABILITY_NOT_REACHED: not in time, and the write stands; HOME_UNAVAILABLE: this node was not the home from before the condition was looked at
 * until the answer. NotTaken: it stopped being the home before anything was written.
 */
export async function write<T>(
  context: SessionContext,
  session: Session,
  plan: Planner<T>,
  options: Commit = {},
): Promise<T> {
  session.throwIfEnded()
  const commit = { asOf: session.asOf, ...options }
  const writing = new Writing(context, session)
  const work = (tenant: Tenant) => writing.commit(tenant, plan, commit)
  const { pool } = context
  const standing = await pool.use(session.tenant, async tenant => ({ value: await work(tenant) }))
  if (standing) return writing.finish(standing.value)
  assertNothingStands(context, session)
  const turn = await context.takeTurn?.(commit.textBytes ?? 0, session)
  try {
    // Another first write may have made it meanwhile.
    if (turn) assertNothingStands(context, session)
    // One that was entered and never written has a home, whose decision a condition is.
    if (!context.replica?.copies.isCurrent(session.tenant)) {
      const { ops, result } = await rehearse(context, plan, commit)
      if (ops.length === 0) return result
      session.throwIfEnded()
      await enter(context, session)
    }
    writing.first = { turn }
    const result = await pool.use(session.tenant, work, { create: true })
    turn?.leave()
    return await writing.finish(result)
  } finally {
    turn?.leave()
  }
}

/** As {@link write}; in a tenant that was never written it finds nothing, and makes nothing. */
export async function writeExisting<T>(
  context: SessionContext,
  session: Session,
  missing: PercolateError,
  plan: Planner<T>,
  options: Commit = {},
): Promise<T> {
  session.throwIfEnded()
  const commit = { asOf: session.asOf, ...options }
  const writing = new Writing(context, session)
  const result = await context.pool.use(session.tenant, async tenant => ({
    value: await writing.commit(tenant, plan, commit),
  }))
  if (result) return writing.finish(result.value)
  assertNothingStands(context, session)
  throw missing
}

/** What the command would do in a tenant that has nothing; throws what it is refused for. */
async function rehearse<T>(
  { time, stagedBytesMax = Number.POSITIVE_INFINITY }: SessionContext,
  plan: Planner<T>,
  { asOf }: Commit,
): Promise<Plan<T>> {
  const clock: Clock = asOf ?? { wall: time.now(), counter: 0, origin: 'none' }
  return plan({ clock, embedding: undefined, stagedBytesMax, read: async () => undefined })
}

/** Makes the tenant known to the cluster, with a new copy here. */
async function enter({ replica, admitTenant, onTenant }: SessionContext, { tenant }: Session): Promise<void> {
  admitTenant()
  if (replica && !(await replica.router.enter(tenant)))
    throw new NotTaken('the tenant was made on another node at the same moment')
  onTenant(tenant)
}

/** One write of a session: where it got to, whether its condition was decided by the home, how durable it is. */
class Writing {
  readonly #context: SessionContext
  readonly #session: Session
  #epoch: number | undefined
  #position: VersionVector | undefined
  /** By origin the first entry of what was written; 0: what was found may be in any of them. */
  readonly #origins = new Map<string, number>()
  #incarnation = ''
  /** The first write of a tenant has its turn before the tenant is made for it, and is made then in any case: else there would be a tenant with nothing. */
  first: Pick<WriteOptions, 'turn'> | undefined
  #clock: Clock | undefined

  constructor(context: SessionContext, session: Session) {
    this.#context = context
    this.#session = session
  }

  get #wanted(): Durability {
    return this.#session.consistency.durability ?? this.#context.durability
  }

  async commit<T>(tenant: Tenant, plan: Planner<T>, commit: Commit): Promise<T> {
    try {
      return await tenant.write(plan, this.#begin(tenant, commit))
    } catch (error) {
      throw this.#position ? error : askNewHome(error, this.#session)
    }
  }

  #begin(tenant: Tenant, commit: Commit): WriteOptions {
    const { tenant: id, consistency } = this.#session
    assertAnswers(this.#context, this.#session)
    const homes = this.#context.replica?.homes
    if (consistency.needsHome) this.#epoch ??= homes?.assertHome(id)
    const guard = this.#epoch === undefined ? undefined : homes?.guard(id, this.#epoch)
    this.#incarnation = tenant.identity.incarnation
    const { bookmark } = consistency
    const above = bookmark?.incarnation === this.#incarnation ? bookmark.clock : undefined
    const onCommitted = (position: VersionVector, clock: Clock, origin: string, first = 0) => {
      this.#origins.set(origin, Math.min(first, this.#origins.get(origin) ?? first))
      this.#clock = laterClock(this.#clock, clock)
      this.#position = this.#position ? joinVectors(this.#position, position) : position
    }
    const needsEntry = this.#context.replica !== undefined && this.#wanted !== 'local'
    return { ...commit, guard, above, needsEntry, ...(this.first ?? { ending: this.#session }), onCommitted }
  }

  async finish<T>(result: T): Promise<T> {
    if (!this.#position || !this.#clock) return result
    const { replica, durabilityTimeoutMs } = this.#context
    const { tenant, consistency } = this.#session
    const wanted = this.#wanted
    const position = this.#position
    const reached = replica
      ? await replica.reach(tenant, this.#origins, position, wanted, durabilityTimeoutMs)
      : 'local'
    const bookmark = joinBookmarks(consistency.bookmark, {
      incarnation: this.#incarnation,
      vector: position,
      clock: this.#clock,
    })
    this.#session.outcome = { reached, bookmark, clock: this.#clock }
    // The same lease, from before the condition was looked at until now: nobody else decided meanwhile.
    if (this.#epoch !== undefined && replica?.homes.assertHome(tenant) !== this.#epoch)
      throw new PercolateError(
        'HOME_UNAVAILABLE',
        'The home of the tenant changed while the condition was decided; read, and decide anew.',
      )
    if (durabilities.indexOf(reached) >= durabilities.indexOf(wanted)) return result
    throw new PercolateError(
      'DURABILITY_NOT_REACHED',
      `The write stands and is durable at level "${reached}"; "${wanted}" was not reached in time. Repeating it is harmless.`,
      { extra: { durability: reached, bookmark: encodeBookmark(bookmark) } },
    )
  }
}
