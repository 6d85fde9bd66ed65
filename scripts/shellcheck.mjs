// Finds shellcheck, which looks over the scripts of k8s/, or fetches it into .cache/shellcheck. Without it one check is left out; the tests say so.
import { execFileSync } from 'node:child_process'
import { chmodSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { has, unpackPackages } from './packages.mjs'

const cache = fileURLToPath(new URL('../.cache/shellcheck/', import.meta.url))
const target = join(cache, 'shellcheck')

export function ensureShellcheck(say) {
  if (has('shellcheck') || existsSync(target)) return
  const work = mkdtempSync(join(tmpdir(), 'percolate-shellcheck-'))
  try {
    say('shellcheck is not installed; fetching the package from the system’s repositories (no root needed)')
    const unpacked = unpackPackages(work, ['shellcheck'])
    mkdirSync(cache, { recursive: true })
    copyFileSync(join(unpacked, 'usr/bin/shellcheck'), target)
    chmodSync(target, 0o755)
    execFileSync(target, ['--version'], { stdio: 'pipe' })
  } catch {
    rmSync(cache, { recursive: true, force: true })
    say('shellcheck could not be fetched: the scripts of k8s/ will not be checked')
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}
