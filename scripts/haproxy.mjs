// Finds HAProxy, the router of local clusters, or fetches it with its libraries into .cache/haproxy, or says in one line what to do.
import { execFileSync } from 'node:child_process'
import { chmodSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { unpackPackages } from './packages.mjs'

const cache = fileURLToPath(new URL('../.cache/haproxy/', import.meta.url))

export function ensureHaproxy(say) {
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin', cache]
  if (folders.some(folder => existsSync(join(folder, 'haproxy')))) return
  const work = mkdtempSync(join(tmpdir(), 'percolate-haproxy-'))
  try {
    say('haproxy is not installed; fetching the package from the system’s repositories (no root needed)')
    const unpacked = unpackPackages(work, ['haproxy'], depends => {
      const direct = depends('haproxy')
      return [...new Set([...direct, ...direct.filter(name => name.startsWith('libopentracing')).flatMap(depends)])]
    })
    const libraries = join(cache, 'lib')
    mkdirSync(libraries, { recursive: true })
    for (const path of files(unpacked))
      if (/\.so(\.|$)/.test(path)) copyFileSync(path, join(libraries, path.split('/').pop()))
    const target = join(cache, 'haproxy')
    copyFileSync(join(unpacked, 'usr/sbin/haproxy'), target)
    chmodSync(target, 0o755)
    execFileSync(target, ['-v'], { stdio: 'pipe', env: { ...process.env, LD_LIBRARY_PATH: libraries } })
  } catch {
    rmSync(cache, { recursive: true, force: true })
    const hint = process.platform === 'darwin' ? 'brew install haproxy' : 'sudo apt-get install haproxy'
    console.error(
      `percolate: haproxy, which local clusters need, is missing and could not be fetched. Install it, then run this again: ${hint}`,
    )
    process.exit(1)
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}

function files(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap(entry => {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) return files(path)
    return statSync(path, { throwIfNoEntry: false })?.isFile() ? [path] : []
  })
}
