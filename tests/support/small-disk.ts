import { execFile } from 'node:child_process'
import { open, statfs } from 'node:fs/promises'
import { promisify } from 'node:util'
import { afterAll } from 'vitest'
import { remove, tempFolder } from './running.ts'

const run = promisify(execFile)

/** A disk of its own, in memory, for the tests of a file, called outside of them: it goes after the last; undefined, with a word on standard error, where this process may not mount one. */
export async function smallDisk(mebibytes: number): Promise<string | undefined> {
  const folder = await tempFolder()
  try {
    await run('mount', ['-t', 'tmpfs', '-o', `size=${mebibytes}m`, 'tmpfs', folder])
  } catch {
    process.stderr.write('NOT TESTED: what happens on a full disk; this process may not mount one (run as root).\n')
    await remove(folder)
    return undefined
  }
  afterAll(async () => {
    await run('umount', ['-l', folder])
    await remove(folder)
  })
  return folder
}

/** Takes what is free, to the last byte, or all but `leftBytes`. */
export async function fillDisk(path: string, leftBytes = 0): Promise<void> {
  const file = await open(path, 'a')
  try {
    for (let bytes = 1024 * 1024; bytes >= 1; ) {
      const { bavail, bsize } = await statfs(path)
      if (leftBytes > 0 && bavail * bsize - bytes < leftBytes) {
        bytes = bytes >> 3
        continue
      }
      try {
        await file.appendFile(Buffer.alloc(bytes))
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
        bytes = bytes >> 3
      }
    }
  } finally {
    await file.close()
  }
}
