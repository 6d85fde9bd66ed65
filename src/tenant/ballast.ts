import { randomFill } from 'node:crypto'
import { open, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { PercolateError } from '../base/errors.ts'
import { BALLAST_BYTES } from '../base/limits.ts'

const PIECE_BYTES = 1024 * 1024
const fill = promisify<Buffer, Buffer>(randomFill)

/**
 * A file that a node keeps on its disk, to give up when the disk is so full that no database opens: RocksDB writes some kilobytes as it opens one, and what its log holds, also when it is only to be read.
 * Present, or given up until there is room again.
 */
export class Ballast {
  readonly #path: string
  readonly #bytes: number
  #isMaking = false

  constructor(folder: string, bytes = BALLAST_BYTES) {
    this.#path = join(folder, 'ballast')
    this.#bytes = bytes
  }

  /** Opens something that may find the disk full (DISK_FULL): then the ballast goes, and it is tried once more. */
  async lend<T>(open: () => Promise<T>): Promise<T> {
    try {
      return await open()
    } catch (error) {
      if (!(error instanceof PercolateError) || error.code !== 'DISK_FULL') throw error
      await rm(this.#path, { force: true })
      // Also when it was gone already: another may have given it up just now.
      return open()
    }
  }

  /** Makes the ballast where it is missing, unless that would take from the reserve. A failure leaves none, and is tried again at the next call. */
  async keep(freeBytes: number, reserveBytes: number): Promise<void> {
    if (this.#isMaking || freeBytes < reserveBytes + 2 * this.#bytes) return
    this.#isMaking = true
    try {
      const found = await stat(this.#path).catch(() => undefined)
      if (found?.size !== this.#bytes) await this.#make()
    } catch {
      await rm(this.#path, { force: true }).catch(() => undefined)
    } finally {
      this.#isMaking = false
    }
  }

  /** Of random bytes: a file system that compresses would keep no room for others. */
  async #make(): Promise<void> {
    const file = await open(this.#path, 'w', 0o600)
    try {
      for (let left = this.#bytes; left > 0; left -= PIECE_BYTES)
        await file.writeFile(await fill(Buffer.alloc(Math.min(left, PIECE_BYTES))))
    } finally {
      await file.close()
    }
  }
}
