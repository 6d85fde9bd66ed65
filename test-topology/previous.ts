import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { PercolateError } from '../src/base/errors.ts'
import { PACKAGE_FOLDER } from '../src/base/version.ts'

/** What the next version has to run beside: a commit, or a tag once there are releases. */
export const PREVIOUS = '1e70788'

/** The version before this one, built from the history of this clone into `.cache/previous`. */
export async function previousPackage(say: (text: string) => void): Promise<{ folder: string; name: string }> {
  const folder = join(PACKAGE_FOLDER, '.cache', 'previous', PREVIOUS)
  if (existsSync(join(folder, 'dist', '.built'))) return { folder, name: PREVIOUS }
  say(`building the version before, ${PREVIOUS}`)
  const fresh = `${folder}.${process.pid}`
  await rm(fresh, { recursive: true, force: true })
  await mkdir(fresh, { recursive: true })
  let archive: Buffer
  try {
    archive = execFileSync('git', ['-C', PACKAGE_FOLDER, 'archive', '--format=tar', PREVIOUS], {
      maxBuffer: 256 * 1024 * 1024,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
  } catch (cause) {
    throw new PercolateError(
      'INVALID_ARGUMENT',
      `The version before, ${PREVIOUS}, is not in this clone's history; "git fetch --unshallow" brings it.`,
      { cause },
    )
  }
  execFileSync('tar', ['-x', '-C', fresh], { input: archive, stdio: ['pipe', 'ignore', 'pipe'] })
  await symlink(join(PACKAGE_FOLDER, 'node_modules'), join(fresh, 'node_modules'))
  const node = (...args: string[]) => execFileSync(process.execPath, args, { cwd: fresh, stdio: 'pipe' })
  node('scripts/build-kernel.mjs')
  node('node_modules/typescript/bin/tsc')
  await writeFile(join(fresh, 'dist', '.built'), '')
  await rm(folder, { recursive: true, force: true })
  await rename(fresh, folder)
  return { folder, name: PREVIOUS }
}
