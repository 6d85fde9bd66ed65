import { type ErrorCode, PercolateError } from '../base/errors.ts'
import type { Member } from '../replication/placement.ts'

/**
 * Sending a request on to the nodes that may answer it. Each protocol has its own way of asking one node; when the next may be asked is the same for all:
 *
 * | the node | what follows |
 * |---|---|
 * | cannot be reached, or took nothing of the request | the next is asked |
 * | says that it does not serve the tenant (`MISDIRECTED`): it has done nothing | the next is asked, when all of the request can be sent again |
 * | says that its copy has waited in vain for what a read's bookmark names (`MISDIRECTED`, {@link LACKS_BOOKMARK}) | the next is asked; `BOOKMARK_NOT_REACHED` when none has it |
 * | answers, whatever the answer | that is the answer |
 * | is lost in the middle of a read | the next is asked |
 * | is lost in the middle of a write | `NODE_UNAVAILABLE`: what it did is not known, and is not done twice |
 */

/** The node took nothing of the request: another one can be asked. */
export class Refused extends Error {}

/** What the extra `lacks` of a MISDIRECTED says: the node serves the tenant, and has not applied what the read's bookmark names. */
export const LACKS_BOOKMARK = 'bookmark'

/** The node lacks what the request's bookmark names. */
class Behind extends Refused {}

export const bookmarkNotReached = (): PercolateError =>
  new PercolateError(
    'BOOKMARK_NOT_REACHED',
    'No holder that could be asked has applied the bookmark yet; retry in a moment.',
  )

/** Nothing was done of the request, here or by any node that was asked: when the directory has been asked anew, another one may take it. The code is what the client is told when nobody does. */
export class NotTaken extends PercolateError {
  constructor(
    cause: unknown,
    code: ErrorCode = 'TENANT_UNAVAILABLE',
    message = 'No node that holds the tenant takes the request now; retry in a moment.',
  ) {
    super(code, message, { retryAfterS: 1, cause })
  }
}

/** The same error, for a request that was taken in part by now: no other node may be asked for it from its start. */
export const final = (error: unknown): unknown =>
  error instanceof NotTaken
    ? new PercolateError(error.code, error.message, { retryAfterS: error.retryAfterS ?? 1, cause: error.cause })
    : error

/**
 * Asks one node after the other, until one takes the request. `attempt` throws {@link Refused} when it took nothing of it; whatever else it throws is the answer. NotTaken when all refused;
 * BOOKMARK_NOT_REACHED when any of them did so for the bookmark: it has waited for that, and is not asked once more.
 */
export async function askEach<T>(targets: readonly Member[], attempt: (target: Member) => Promise<T>): Promise<T> {
  let last: unknown
  let isBehind = false
  for (const target of targets) {
    try {
      return await attempt(target)
    } catch (error) {
      last = error
      if (!(error instanceof Refused)) throw error
      isBehind ||= error instanceof Behind
    }
  }
  if (isBehind) throw bookmarkNotReached()
  throw new NotTaken(last)
}

/** The node says that it does not serve the tenant, or the request (`lacks`). `isSpent`: it had more of the request by then than can be sent a second time. */
export function misdirected(node: string, lacks: string | undefined, isSpent = false): Error {
  if (isSpent)
    return new PercolateError(
      'TENANT_UNAVAILABLE',
      `Node ${node} stopped serving the tenant while the request was sent to it, and did nothing; send it again.`,
    )
  return lacks === LACKS_BOOKMARK
    ? new Behind(`node ${node} has not applied the bookmark yet`)
    : new Refused(`node ${node} does not serve the tenant`)
}

/** The node did not answer. `mayHaveActed`: it may have done what must not be done twice, or has begun to answer. */
export const lost = (node: string, cause: unknown, mayHaveActed: boolean): Error =>
  mayHaveActed
    ? new PercolateError(
        'NODE_UNAVAILABLE',
        `Node ${node} went away in the middle of the request; what it did is not known.`,
        { cause },
      )
    : new Refused(String(cause), { cause })
