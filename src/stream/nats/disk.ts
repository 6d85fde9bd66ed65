import { open, rm, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import type { Time } from '../../base/time.ts'

/** The disk that a nats-server keeps its streams on. Neither rejects. */
export interface StreamDisk {
  /** `unknown`: it could not be looked at. */
  state(): Promise<'room' | 'full' | 'unknown'>
  /** Whether it takes a write now, and at once. */
  takesWrite(): Promise<boolean>
}

/** Without a reserve, a disk with less than this is full. */
const FULL_BYTES = 8 * 1024 * 1024
const WRITE_BYTES = 64 * 1024
/** A disk that takes longer than this for a small write is why a server is silent. */
const WRITE_MS_MAX = 1000

/** `folder` is on the disk; `reserveBytes`: with less free it counts as full. */
export function streamDisk(folder: string, reserveBytes: number, time: Time): StreamDisk {
  let writing: Promise<boolean> | undefined
  return {
    state: async () => {
      const stats = await statfs(folder).catch(() => undefined)
      if (!stats) return 'unknown'
      return stats.bavail * stats.bsize < Math.max(reserveBytes, FULL_BYTES) ? 'full' : 'room'
    },
    takesWrite: async () => {
      // One that hangs is not joined by another.
      if (writing) return false
      const done = written(join(folder, '.room'))
      writing = done
      void done.finally(() => {
        writing = undefined
      })
      return Promise.race([done, time.sleep(WRITE_MS_MAX, { ref: false }).then(() => false)])
    },
  }
}

async function written(path: string): Promise<boolean> {
  try {
    const file = await open(path, 'w', 0o600)
    try {
      await file.writeFile(Buffer.alloc(WRITE_BYTES, 1))
      await file.sync()
    } finally {
      await file.close()
    }
    return true
  } catch {
    return false
  } finally {
    await rm(path, { force: true }).catch(() => {})
  }
}
