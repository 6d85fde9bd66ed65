// What a fresh clone needs before anything runs: npm packages, nats-server, compiled code. Does only what is missing, and says so.
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ensureHaproxy } from './haproxy.mjs'
import { ensureNats } from './nats.mjs'
import { ensurePrometheus } from './prometheus.mjs'
import { prepareRocksdb } from './rocksdb.mjs'

export const root = fileURLToPath(new URL('..', import.meta.url))
const say = text => console.log(`· ${text}`)

/** `forClusters`: also what a local cluster, and so the tests, need. */
export async function setup({ forClusters = false } = {}) {
  checkNode()
  installPackages()
  prepareRocksdb(root, say)
  await ensureNats(say)
  if (forClusters) {
    ensureHaproxy(say)
    ensurePrometheus(say)
  }
  build()
}

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number)
  if (major > 20 || (major === 20 && minor >= 19)) return
  console.error(`percolate: Node ${process.versions.node} is too old; install Node 20.19 or newer.`)
  process.exit(1)
}

function installPackages() {
  const marker = join(root, 'node_modules', '.package-lock.json')
  const lock = join(root, 'package-lock.json')
  if (existsSync(marker) && existsSync(lock) && samePackages(lock, marker)) return
  say('installing npm packages')
  // No install scripts: what they would make is shipped in the packages, or made by scripts/rocksdb.mjs. On Node 22 and later rocksdb's own would compile for ten minutes.
  execFileSync('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'], {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
    env: { ...process.env, NODE_ENV: 'development' },
  })
}

/** Whether what is installed is what the lock file asks for; optional packages of other platforms may be missing. */
function samePackages(lock, marker) {
  const wanted = JSON.parse(readFileSync(lock, 'utf8')).packages
  const installed = JSON.parse(readFileSync(marker, 'utf8')).packages
  return Object.entries(wanted).every(
    ([path, entry]) => path === '' || entry.optional || installed[path]?.version === entry.version,
  )
}

export function build() {
  const output = join(root, 'dist', '.built')
  const kernel = join(root, 'src', 'search', 'kernel.gen.ts')
  const sources = ['src', 'client', 'workers', 'gateway', 'bench', 'test-topology', 'tests'].map(folder =>
    newest(join(root, folder)),
  )
  const latest = Math.max(...sources, newest(join(root, 'tsconfig.json')), newest(join(root, 'package-lock.json')))
  if (existsSync(output) && existsSync(kernel) && statSync(output).mtimeMs > latest) return
  say('compiling')
  const node = (...args) => execFileSync(process.execPath, args, { cwd: root, stdio: 'inherit' })
  if (!existsSync(kernel) || statSync(kernel).mtimeMs < statSync(join(root, 'src', 'search', 'kernel.wat')).mtimeMs)
    node('scripts/build-kernel.mjs')
  node('node_modules/typescript/bin/tsc')
  execFileSync(process.execPath, ['-e', `require('fs').writeFileSync(${JSON.stringify(output)}, '')`])
}

function newest(path) {
  if (!existsSync(path)) return 0
  const info = statSync(path)
  if (!info.isDirectory()) return info.mtimeMs
  return Math.max(
    0,
    ...readdirSync(path)
      .filter(name => !name.endsWith('.gen.ts'))
      .map(name => newest(join(path, name))),
  )
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    await setup({ forClusters: true })
  } catch (error) {
    console.error(`percolate: ${error.message}`)
    process.exit(1)
  }
}
