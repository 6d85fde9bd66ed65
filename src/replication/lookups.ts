import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import { Semaphore } from '../base/semaphore.ts'
import type { Placement } from './placement.ts'

/** Tenants that the bucket is asked for at once. */
export const LOOKUPS_MAX = 32
/** Requests that may wait for such an answer; TOO_BUSY beyond. */
export const LOOKUPS_WAITING_MAX = 2000

/** When nobody waits for a request's answer any more. */
export interface Waiting {
  readonly signal: AbortSignal
  readonly hasEnded: boolean
}

/** A question that is still to be put, and the requests that wait for its answer. */
interface Round {
  readonly answer: Promise<Placement | undefined>
  readonly settle: (asking: Promise<Placement | undefined>) => void
  /** Fires when nobody waits any more. */
  readonly unwanted: AbortController
  waiters: number
}

export interface LookupCounts {
  /** Questions put to the bucket. */
  asked: number
  /** Requests that were refused since too many waited. */
  refused: number
}

/**
 * Questions to the directory's bucket about single tenants, which this node's cache does not know. Requests of one tenant share a question, but only one that is put after they came: "there is none" may not be given to who
 * came when the tenant had been made. So a tenant has at most one question under way and one that waits for its turn. Whoever names tenants that do not exist costs the others no more than their turn.
 */
export class Lookups {
  readonly counts: LookupCounts = { asked: 0, refused: 0 }
  readonly #fetch: (tenant: TenantId) => Promise<Placement | undefined>
  readonly #next = new Map<TenantId, Round>()
  /** The end of the question that is under way, however it ends. */
  readonly #underWay = new Map<TenantId, Promise<void>>()
  readonly #turns = new Semaphore({
    permits: LOOKUPS_MAX,
    waitersMax: LOOKUPS_WAITING_MAX,
    name: 'an answer of the cluster directory',
  })
  #waiting = 0

  constructor(fetch: (tenant: TenantId) => Promise<Placement | undefined>) {
    this.#fetch = fetch
  }

  /** Requests that wait for an answer. */
  get waiting(): number {
    return this.#waiting
  }

  /** The placement as the bucket has it now, or undefined. TOO_BUSY when too many wait, CANCELLED when the request ends first; else what the bucket's own answer fails with. */
  async look(tenant: TenantId, request?: Waiting): Promise<Placement | undefined> {
    if (request?.hasEnded) throw cancelled()
    if (this.#waiting >= LOOKUPS_WAITING_MAX) {
      this.counts.refused++
      throw new PercolateError(
        'TOO_BUSY',
        `${LOOKUPS_WAITING_MAX} requests wait to hear whether their tenants exist; retry in a moment.`,
      )
    }
    const round = this.#next.get(tenant) ?? this.#begin(tenant)
    round.waiters++
    this.#waiting++
    try {
      return await (request ? orEnded(round.answer, request.signal) : round.answer)
    } finally {
      this.#waiting--
      if (--round.waiters === 0) this.#leave(tenant, round)
    }
  }

  #begin(tenant: TenantId): Round {
    let settle: Round['settle'] = () => {}
    const answer = new Promise<Placement | undefined>(resolve => {
      settle = resolve
    })
    // Those who wait see it fail; there may be none left.
    answer.catch(() => {})
    const round: Round = { answer, settle, unwanted: new AbortController(), waiters: 0 }
    this.#next.set(tenant, round)
    this.#ask(tenant, round).catch(error => settle(Promise.reject(error)))
    return round
  }

  async #ask(tenant: TenantId, round: Round): Promise<void> {
    const { signal } = round.unwanted
    await this.#underWay.get(tenant)
    if (signal.aborted) return
    const release = await this.#turns.acquire(signal)
    try {
      if (signal.aborted) return
      // Who comes from here on needs another answer.
      this.#next.delete(tenant)
      this.counts.asked++
      const asking = this.#fetch(tenant)
      round.settle(asking)
      const end = asking.then(
        () => {},
        () => {},
      )
      this.#underWay.set(tenant, end)
      await end
      this.#underWay.delete(tenant)
    } finally {
      release()
    }
  }

  #leave(tenant: TenantId, round: Round): void {
    if (this.#next.get(tenant) !== round) return
    this.#next.delete(tenant)
    round.unwanted.abort()
  }
}

function orEnded<T>(answer: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const onEnd = () => reject(cancelled())
    signal.addEventListener('abort', onEnd, { once: true })
    answer.then(resolve, reject).finally(() => signal.removeEventListener('abort', onEnd))
    if (signal.aborted) onEnd()
  })
}

const cancelled = () => new PercolateError('CANCELLED', 'Nobody waits for the answer any more.')
