import { decodeCursor, encodeCursor } from '../src/api/cursor.ts'
import { FairSemaphore } from '../src/base/fair-semaphore.ts'
import type { TenantId } from '../src/base/ids.ts'
import { CURSOR_CHARS_MAX, LIST_LIMIT_MAX } from '../src/base/limits.ts'
import type { Jobs } from '../src/jobs/jobs.ts'
import { publicJob } from '../src/jobs/model.ts'

/** Jobs of a page, unless the client says how many. */
const LIMIT_DEFAULT = 100
/** Listings at once, of all tenants; a page asks JetStream for a few hundred records together. */
const LISTINGS_MAX = 4
/** Those that wait, a moment each, before more are refused; and those of one tenant. */
const WAITING_MAX = 256
const WAITING_PER_TENANT_MAX = 16

/** What a listing may be asked for, as the other listings are. */
export const listingQuery = {
  type: 'object',
  additionalProperties: false,
  properties: {
    limit: { type: 'integer', minimum: 1, maximum: LIST_LIMIT_MAX },
    cursor: { type: 'string', maxLength: CURSOR_CHARS_MAX },
  },
} as const

export interface ListingQuery {
  readonly limit?: number
  readonly cursor?: string
}

/** Lists jobs a page at a time, for one request of a tenant at once and a few of all: a short question has a thousand records read. */
export class JobListings {
  readonly #jobs: Pick<Jobs, 'list'>
  readonly #places = new FairSemaphore({
    permits: LISTINGS_MAX,
    perKeyMax: 1,
    waitersMax: WAITING_MAX,
    waitersPerKeyMax: WAITING_PER_TENANT_MAX,
    name: 'listing jobs',
  })

  constructor(jobs: Pick<Jobs, 'list'>) {
    this.#jobs = jobs
  }

  /** Newest first. `signal` ends the reading. Throws INVALID_CURSOR, and TOO_BUSY when too many wait. */
  async page(
    tenant: TenantId,
    { limit = LIMIT_DEFAULT, cursor }: ListingQuery,
    signal: AbortSignal,
  ): Promise<{ results: ReturnType<typeof publicJob>[]; cursor?: string }> {
    const scope = { tenant, listing: 'jobs', parameters: {} }
    const [before] = cursor === undefined ? [] : decodeCursor(scope, cursor, ['string'])
    const leave = await this.#places.acquire(tenant, signal)
    try {
      const { jobs, next } = await this.#jobs.list(tenant, { limit, before: before as string | undefined, signal })
      return {
        results: jobs.map(publicJob),
        ...(next === undefined ? {} : { cursor: encodeCursor(scope, [next]) }),
      }
    } finally {
      leave()
    }
  }
}
