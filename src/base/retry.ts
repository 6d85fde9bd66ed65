import { PercolateError } from './errors.ts'
import type { Time } from './time.ts'

export interface RetryOptions {
  readonly time: Time
  readonly attemptsMax: number
  readonly delayMs: number
  readonly delayMsMax: number
  readonly signal?: AbortSignal
  /** Whether another attempt can help. Default: a PercolateError of retry class `later`. */
  readonly retryable?: (error: unknown) => boolean
}

export const isRetryable = (error: unknown): boolean => error instanceof PercolateError && error.spec.retry === 'later'

/** Exponential backoff with full jitter: https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/ */
export function backoffMs(attempt: number, options: Pick<RetryOptions, 'time' | 'delayMs' | 'delayMsMax'>): number {
  const ceiling = Math.min(options.delayMsMax, options.delayMs * 2 ** attempt)
  return Math.round((ceiling * (1 + options.time.random(1).readUInt8() / 255)) / 2)
}

export async function retry<T>(options: RetryOptions, attempt: (n: number) => Promise<T>): Promise<T> {
  for (let n = 0; ; n++) {
    try {
      return await attempt(n)
    } catch (error) {
      const again = (options.retryable ?? isRetryable)(error) && n + 1 < options.attemptsMax && !options.signal?.aborted
      if (!again) throw error
      const hinted = error instanceof PercolateError ? (error.retryAfterS ?? 0) * 1000 : 0
      const waitMs = Math.min(options.delayMsMax, Math.max(hinted > 1000 ? hinted : 0, backoffMs(n, options)))
      await options.time.sleep(waitMs, options.signal ? { signal: options.signal } : {})
    }
  }
}
