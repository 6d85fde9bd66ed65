/** An error that the server answered with, or that kept it from answering. */
export class PercolateClientError extends Error {
  override readonly name = 'PercolateClientError'
  /**
   * Stable code of the server's error table; or `UNREACHABLE`: no server answered (nobody, or a router that has no answer), and what a write did is not known; or `UNKNOWN`: an answer of something
   * that is no part of Percolate.
   */
  readonly code: string
  readonly status: number | undefined
  readonly field: string | undefined
  /** Of a feed that ended: where to follow on, after reading with {@link bookmark} when there is one. */
  readonly cursor: string | undefined
  /** What to read with (`CallOptions.bookmark`). */
  readonly bookmark: string | undefined
  /** Whether the same request may succeed later. */
  readonly retryable: boolean

  constructor(
    message: string,
    options: {
      code: string
      status?: number | undefined
      field?: string | undefined
      cursor?: string | undefined
      bookmark?: string | undefined
      retryable: boolean
      cause?: unknown
    },
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = options.code
    this.status = options.status
    this.field = options.field
    this.cursor = options.cursor
    this.bookmark = options.bookmark
    this.retryable = options.retryable
  }
}
