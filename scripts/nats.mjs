// Finds nats-server, or fetches it into .cache/nats-server: from Debian's or Ubuntu's packages (no root, nothing is started), else
// from the project's releases with its published checksums, else says in one line what to do.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { has, unpackPackages } from './packages.mjs'

const RELEASE = '2.10.27'
export const natsCache = fileURLToPath(new URL('../.cache/nats-server/', import.meta.url))

export function findNats() {
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin', natsCache]
  return folders.map(folder => join(folder, 'nats-server')).find(path => existsSync(path))
}

export async function ensureNats(say) {
  if (process.env.PERCOLATE_NATS_SERVER || findNats()) return
  mkdirSync(natsCache, { recursive: true })
  const work = mkdtempSync(join(tmpdir(), 'percolate-nats-'))
  try {
    if (fromPackages(work, say) || (await fromRelease(work, say))) return
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
  const hint = process.platform === 'darwin' ? 'brew install nats-server' : 'sudo apt-get install nats-server'
  console.error(`percolate: nats-server is missing and could not be fetched. Install it, then run this again: ${hint}`)
  process.exit(1)
}

function fromPackages(work, say) {
  if (!has('apt-get') || !has('dpkg')) return false
  say('nats-server is not installed; fetching the package from the system’s repositories (no root needed)')
  try {
    install(join(unpackPackages(work, ['nats-server']), 'usr/sbin/nats-server'))
    return true
  } catch {
    return false
  }
}

async function fromRelease(work, say) {
  const os = { linux: 'linux', darwin: 'darwin' }[process.platform]
  const arch = { x64: 'amd64', arm64: 'arm64' }[process.arch]
  if (!os || !arch) return false
  const name = `nats-server-v${RELEASE}-${os}-${arch}`
  const base = `https://github.com/nats-io/nats-server/releases/download/v${RELEASE}/`
  say(`fetching the release ${name}`)
  try {
    const get = async file => {
      const response = await fetch(base + file, { signal: AbortSignal.timeout(120_000) })
      if (!response.ok) throw new Error(`${file}: ${response.status}`)
      return Buffer.from(await response.arrayBuffer())
    }
    const archive = await get(`${name}.tar.gz`)
    const sums = (await get('SHA256SUMS')).toString()
    const sum = createHash('sha256').update(archive).digest('hex')
    if (!sums.split('\n').some(line => line.startsWith(sum) && line.trim().endsWith(`${name}.tar.gz`)))
      throw new Error('checksum differs')
    writeFileSync(join(work, 'release.tar.gz'), archive)
    execFileSync('tar', ['-xzf', 'release.tar.gz'], { cwd: work, stdio: 'pipe' })
    install(join(work, name, 'nats-server'))
    return true
  } catch {
    return false
  }
}

function install(program) {
  const target = join(natsCache, 'nats-server')
  copyFileSync(program, target)
  chmodSync(target, 0o755)
  execFileSync(target, ['--version'], { stdio: 'pipe' })
}
