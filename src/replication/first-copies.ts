import type { TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import type { Time } from '../base/time.ts'
import type { CopyState } from './peer.ts'

export interface FirstCopiesOptions {
  readonly time: Time
  readonly logger: Logger
  readonly copies: { tenants(): TenantId[]; state(tenant: TenantId): CopyState }
  /** After that long no copy is waited for any more. */
  readonly waitMsMax: number
}

/**
 * The copies that a node had when it joined, by its disk or by the directory, until each has answered once: whoever takes nodes away one after another waits for the last one's. Copies that are
 * ordered later do not count, so that a node which is through stays so.
 */
export class FirstCopies {
  readonly #options: FirstCopiesOptions
  readonly #left = new Set<TenantId>()
  #sinceMs: number | undefined

  constructor(options: FirstCopiesOptions) {
    this.#options = options
  }

  /** The node has joined, and knows what it should hold. */
  joined(): void {
    const { time, copies } = this.#options
    this.#sinceMs = time.monotonic()
    for (const tenant of copies.tenants()) this.#left.add(tenant)
  }

  /** How many cannot be used yet; undefined before the node has joined. */
  left(): number | undefined {
    const { time, logger, copies, waitMsMax } = this.#options
    if (this.#sinceMs === undefined) return undefined
    for (const tenant of this.#left) {
      const state = copies.state(tenant)
      if (state === 'current' || state === 'dropping' || state === 'absent') this.#left.delete(tenant)
    }
    if (this.#left.size > 0 && time.monotonic() - this.#sinceMs >= waitMsMax) {
      logger.warn(
        { copies: this.#left.size, tenant: [...this.#left][0] },
        'copies that this node started with cannot be used yet; rolling updates wait for them no longer',
      )
      this.#left.clear()
    }
    return this.#left.size
  }
}
