import { PercolateError } from '../base/errors.ts'
import { LARGE_BATCH_TEXT_BYTES } from '../base/limits.ts'
import type { Time } from '../base/time.ts'
import type { StagingRoom } from './staging-room.ts'

/** Who waits for a command's answer. */
export interface WriteEnding {
  /** Whether nobody does any more. */
  readonly hasEnded: boolean
  /** Throws what the command ends with then. */
  throwIfEnded(): void
}

const RETRY_AFTER_S = 5

/**
 * Why a command of which nothing is written is given up; undefined: it is made. `waitingSinceMs`: of one that would have to wait on, when it began to (monotonic clock).
 * Who has no `ending` is the node itself: what it writes is refused only when it is large and the node is stopping.
 */
export function refusalOf(
  { room, time, waitMsMax }: { room: StagingRoom | undefined; time: Time; waitMsMax: number },
  { ending, textBytes = 0 }: { ending?: WriteEnding | undefined; textBytes?: number },
  waitingSinceMs?: number,
): unknown {
  if (room?.isClosed && (ending || textBytes > LARGE_BATCH_TEXT_BYTES))
    return new PercolateError(
      'SHUTTING_DOWN',
      'This node is stopping, and nothing of the write was made; retry on another.',
    )
  if (!ending) return undefined
  if (waitingSinceMs !== undefined && time.monotonic() - waitingSinceMs >= waitMsMax) {
    room?.countTooLate()
    return new PercolateError(
      'TOO_BUSY',
      `The write waited for ${waitMsMax} ms (PERCOLATE_WRITE_WAIT_MS) for those before it, and nothing of it was made; retry later, or send less at once.`,
      { retryAfterS: RETRY_AFTER_S },
    )
  }
  if (!ending.hasEnded) return undefined
  try {
    ending.throwIfEnded()
  } catch (error) {
    return error
  }
  return undefined
}
