import { statfs } from 'node:fs/promises'
import { PercolateError } from '../base/errors.ts'
import type { Ballast } from './ballast.ts'

const CHECK_MS = 1000

/**
 * Watches the free space of the data directory and refuses writes before it is gone: RocksDB on a full disk does not fail, it stalls, and so would
 * every request behind it. Reads go on; writes resume by themselves.
 */
export class DiskGuard {
  readonly #path: string
  readonly #reserveBytes: number
  readonly #ballast: Ballast | undefined
  #freeBytes = Number.POSITIVE_INFINITY
  #timer: NodeJS.Timeout | undefined

  /** `ballast`: kept while there is room. */
  constructor(path: string, reserveBytes: number, ballast?: Ballast) {
    this.#path = path
    this.#reserveBytes = reserveBytes
    this.#ballast = ballast
  }

  get freeBytes(): number {
    return this.#freeBytes
  }

  async start(): Promise<void> {
    await this.#look()
    this.#timer = setInterval(
      () => void this.#look().then(() => this.#ballast?.keep(this.#freeBytes, this.#reserveBytes)),
      CHECK_MS,
    ).unref()
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  /** Throws DISK_FULL while less than the reserve is free. */
  admit(): void {
    if (this.#freeBytes >= this.#reserveBytes) return
    throw new PercolateError(
      'DISK_FULL',
      'The disk of the data directory is full up to its reserve (PERCOLATE_DISK_RESERVE_BYTES): writes are refused until there is space, reads go on.',
      { retryAfterS: 30 },
    )
  }

  /** Throws DISK_FULL while less than half of the reserve is free: what other copies have waits with them, so that nothing here stalls. */
  admitCopy(): void {
    if (this.#freeBytes >= this.#reserveBytes / 2) return
    throw new PercolateError(
      'DISK_FULL',
      'The disk of the data directory is full: entries of other nodes are taken when there is space.',
      { retryAfterS: 30 },
    )
  }

  /** A look that fails leaves the last answer standing. */
  async #look(): Promise<void> {
    const stats = await statfs(this.#path).catch(() => undefined)
    if (stats) this.#freeBytes = stats.bavail * stats.bsize
  }
}
