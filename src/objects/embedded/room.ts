import { statfs } from 'node:fs/promises'
import { S3Error } from './errors.ts'

/** Bytes between two looks at the disk while an object is written. */
const LOOK_BYTES = 1024 * 1024

/** What the system says of a disk, or a quota, that takes no more. */
export const isDiskFull = (error: unknown): boolean =>
  ['ENOSPC', 'EDQUOT', 'DISK_FULL'].includes(String((error as { code?: unknown } | undefined)?.code))

export const storageFull = (): S3Error => new S3Error('InsufficientStorage', 'The disk of the object store is full.')

/** The room that one object was let in for. */
export interface Place {
  /** Bytes have been written. Rejects as {@link Room.enter} when others have taken the room meanwhile. */
  wrote(bytes: number): Promise<void>
  leave(): void
}

/** Keeps objects from taking the last of a disk, before they are received and while they are: below the reserve nothing is let in. */
export class Room {
  readonly #folder: string
  readonly #reserveBytes: number
  /** What was let in and is not written as yet. */
  #promisedBytes = 0

  constructor(folder: string, reserveBytes: number) {
    this.#folder = folder
    this.#reserveBytes = reserveBytes
  }

  /** Lets in an object of `bytes` (0 when nobody says how many), or rejects with InsufficientStorage. */
  async enter(bytes: number): Promise<Place> {
    // Counted before the look, so that two who look at once see each other.
    this.#promisedBytes += bytes
    let left = bytes
    const take = (count: number) => {
      const taken = Math.min(left, count)
      left -= taken
      this.#promisedBytes -= taken
    }
    try {
      await this.#look(this.#promisedBytes)
    } catch (error) {
      take(left)
      throw error
    }
    let unseen = 0
    return {
      wrote: async written => {
        take(written)
        unseen += written
        if (unseen < LOOK_BYTES) return
        unseen = 0
        await this.#look(0)
      },
      leave: () => take(left),
    }
  }

  /** A look that fails refuses nothing: the write itself will say. */
  async #look(bytes: number): Promise<void> {
    const stats = await statfs(this.#folder).catch(() => undefined)
    if (stats && stats.bavail * stats.bsize - bytes < this.#reserveBytes) throw storageFull()
  }
}
