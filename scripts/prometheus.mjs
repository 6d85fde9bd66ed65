// Finds Prometheus, by which the test topology scales, or fetches it into .cache/prometheus, or says in one line what to do.
import { execFileSync } from 'node:child_process'
import { chmodSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { unpackPackages } from './packages.mjs'

const cache = fileURLToPath(new URL('../.cache/prometheus/', import.meta.url))

export function ensurePrometheus(say) {
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin', cache]
  if (folders.some(folder => existsSync(join(folder, 'prometheus')))) return
  const work = mkdtempSync(join(tmpdir(), 'percolate-prometheus-'))
  try {
    say('prometheus is not installed; fetching the package from the system’s repositories (no root needed)')
    const unpacked = unpackPackages(work, ['prometheus'])
    mkdirSync(cache, { recursive: true })
    // promtool first: with the other one in place, nothing is missing.
    for (const program of ['promtool', 'prometheus']) {
      copyFileSync(join(unpacked, 'usr/bin', program), join(cache, program))
      chmodSync(join(cache, program), 0o755)
      execFileSync(join(cache, program), ['--version'], { stdio: 'pipe' })
    }
  } catch {
    rmSync(cache, { recursive: true, force: true })
    const hint = process.platform === 'darwin' ? 'brew install prometheus' : 'sudo apt-get install prometheus'
    console.error(
      `percolate: prometheus, which the test topology needs, is missing and could not be fetched. Install it, then run this again: ${hint}`,
    )
    process.exit(1)
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}
