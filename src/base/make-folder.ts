import { mkdir, stat } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { PercolateError } from './errors.ts'

/**
 * Makes a folder and those above it, one by one. Node's recursive `mkdir` tries for ever where the parent is there and the folder can't be made (`/proc`), without a word.
 * Throws DISK_FULL, or CONFIG_INVALID, which names the folder and `setting`, with which an operator names another.
 */
export async function makeFolder(path: string, { setting, mode = 0o700 }: { setting: string; mode?: number }) {
  const missing: string[] = []
  try {
    for (let at = resolve(path); !(await isFolder(at)); at = dirname(at)) missing.push(at)
    for (const folder of missing.reverse()) await mkdir(folder, { mode }).catch(ignoreExisting)
  } catch (cause) {
    const code = (cause as { code?: string }).code ?? 'unknown error'
    if (code === 'ENOSPC' || code === 'EDQUOT')
      throw new PercolateError(
        'DISK_FULL',
        `The folder ${path} can't be made: its disk is full. Free space there, or set ${setting} to a folder on another disk.`,
        { cause },
      )
    throw new PercolateError(
      'CONFIG_INVALID',
      `The folder ${path} can't be made (${code}); set ${setting} to one that can.`,
      {
        cause,
      },
    )
  }
}

/** False when nothing is there. */
async function isFolder(path: string): Promise<boolean> {
  try {
    if ((await stat(path)).isDirectory()) return true
  } catch (error) {
    if ((error as { code?: string }).code === 'ENOENT') return false
    throw error
  }
  throw Object.assign(new Error(`${path} is not a folder.`), { code: 'ENOTDIR' })
}

function ignoreExisting(error: { code?: string }): void {
  if (error.code !== 'EEXIST') throw error
}
