import { PercolateError } from '../base/errors.ts'
import { type Clock, laterClock } from '../clock/hlc.ts'
import { joinVectors, type VersionVector } from '../clock/vector.ts'
import { durabilities } from '../replication/replica.ts'
import type { Tenant } from '../tenant/tenant.ts'
import type { WriteOptions } from '../tenant/writer.ts'
import { encodeBookmark, joinBookmarks } from './bookmark.ts'
import type { SessionContext } from './context.ts'
import type { Session } from './session.ts'

/** What the writer of a session's commands is told beside them. */
export type Commit = (options?: Omit<WriteOptions, 'asOf' | 'onCommitted'>) => WriteOptions

/**
 * Writes, and answers when the session's durability is reached. DURABILITY_NOT_REACHED: not in time, and the write stands; HOME_UNAVAILABLE: this node was not the home from before the condition was
 * looked at until the answer.
 */
export async function write<T>(
  context: SessionContext,
  session: Session,
  work: (tenant: Tenant, commit: Commit) => Promise<T>,
): Promise<T> {
  session.throwIfEnded()
  const writing = new Writing(context, session)
  return writing.finish(
    await context.pool.use(session.tenant, tenant => work(tenant, writing.begin(tenant)), { create: true }),
  )
}

/** As {@link write}; in a tenant that was never written it finds nothing, and makes nothing. */
export async function writeExisting<T>(
  context: SessionContext,
  session: Session,
  missing: PercolateError,
  work: (tenant: Tenant, commit: Commit) => Promise<T>,
): Promise<T> {
  session.throwIfEnded()
  const writing = new Writing(context, session)
  const result = await context.pool.use(session.tenant, async tenant => ({
    value: await work(tenant, writing.begin(tenant)),
  }))
  if (result === undefined) throw missing
  return writing.finish(result.value)
}

/** One write of a session: where it got to, whether its condition was decided by the home, how durable it is. */
class Writing {
  readonly #context: SessionContext
  readonly #session: Session
  #epoch: number | undefined
  #position: VersionVector | undefined
  readonly #origins = new Set<string>()
  #incarnation = ''
  #clock: Clock | undefined

  constructor(context: SessionContext, session: Session) {
    this.#context = context
    this.#session = session
  }

  begin(tenant: Tenant): Commit {
    const { tenant: id, consistency, asOf } = this.#session
    if (consistency.needsHome) this.#epoch ??= this.#context.replica?.homes.assertHome(id)
    this.#incarnation = tenant.identity.incarnation
    const onCommitted = (position: VersionVector, clock: Clock, origin: string) => {
      this.#origins.add(origin)
      this.#clock = laterClock(this.#clock, clock)
      this.#position = this.#position ? joinVectors(this.#position, position) : position
    }
    return (options = {}) => ({ ...options, asOf, onCommitted })
  }

  async finish<T>(result: T): Promise<T> {
    if (!this.#position || !this.#clock) return result
    const { replica, durability: standard, durabilityTimeoutMs } = this.#context
    const { tenant, consistency } = this.#session
    const wanted = consistency.durability ?? standard
    const position = this.#position
    const reached = replica
      ? await replica.reach(tenant, this.#origins, position, wanted, durabilityTimeoutMs)
      : 'local'
    const bookmark = joinBookmarks(consistency.bookmark, { incarnation: this.#incarnation, vector: position })
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
