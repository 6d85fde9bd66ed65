import type { ErrorCode } from '../base/errors.ts'
import { NotYet } from './room.ts'

/**
 * What a node answers, before anything is done, because it or the nodes beside it have only just woken: its copy is not there yet, who holds the tenant is not known, the home is away. It passes with time, so the
 * request is held on. Everything else is the client's to hear: a queue that is full, a stream or a store that is away is no better for being asked again by those who wait, a node has waited for a
 * bookmark by itself, and what a node did that was lost (NODE_UNAVAILABLE), or went (SHUTTING_DOWN), is not known.
 */
const OF_WAKING: ReadonlySet<string> = new Set<ErrorCode>([
  'TENANT_UNAVAILABLE',
  'PLACEMENT_UNKNOWN',
  'HOME_UNAVAILABLE',
  'MISDIRECTED',
])

/** Whether an error with this code is a reason to ask again. */
export const isOfWaking = (code: unknown): boolean => typeof code === 'string' && OF_WAKING.has(code)

/** To be asked again, and not before `retryAfter`, in seconds as `Retry-After` has it, when that is a number. */
export function notYet(retryAfter: unknown): NotYet {
  const seconds = Number(retryAfter ?? 0)
  return new NotYet(Number.isFinite(seconds) && seconds > 0 ? seconds * 1000 : 0)
}
