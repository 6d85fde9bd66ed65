// What a fresh clone needs before anything runs: npm packages, nats-server, compiled code. Does only what is missing, and says so.
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { compile } from './compile.mjs'
import { ensureHaproxy } from './haproxy.mjs'
import { ensureNats } from './nats.mjs'
import { ensurePrometheus } from './prometheus.mjs'
import { prepareRocksdb } from './rocksdb.mjs'
import { ensureShellcheck } from './shellcheck.mjs'

export const root = fileURLToPath(new URL('..', import.meta.url))
const say = text => console.log(`· ${text}`)

/** What has to be there: `running` for `npm start`, `checking` for tests that start nothing, `clusters` for everything. */
export async function setup(purpose = 'checking') {
  checkNode()
  installPackages({ onlyRunning: purpose === 'running' })
  prepareRocksdb(root, say)
  if (purpose !== 'checking') await ensureNats(say)
  if (purpose === 'clusters') {
    ensureHaproxy(say)
    ensurePrometheus(say)
    ensureShellcheck(say)
  }
  await build({ onlyRunning: purpose === 'running' })
}

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number)
  if (major > 20 || (major === 20 && minor >= 19)) return
  console.error(`percolate: Node ${process.versions.node} is too old; install Node 20.19 or newer.`)
  process.exit(1)
}

function installPackages({ onlyRunning }) {
  const marker = join(root, 'node_modules', '.package-lock.json')
  const lock = join(root, 'package-lock.json')
  const isThere = existsSync(marker) && existsSync(lock)
  if (isThere && samePackages(lock, marker, onlyRunning)) return
  say(onlyRunning ? 'installing the npm packages that running needs' : 'installing npm packages')
  // What runs meanwhile keeps its packages: those for development are added beside them.
  const command = isThere && samePackages(lock, marker, true) ? ['install', '--no-save'] : ['ci']
  // No install scripts: what they would make is shipped in the packages, or made by scripts/rocksdb.mjs. On Node 22 and later rocksdb's own would compile for ten minutes.
  const quiet = ['--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error', '--prefer-offline']
  execFileSync('npm', [...command, ...quiet, ...(onlyRunning ? ['--omit=dev'] : [])], {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
    env: { ...process.env, NODE_ENV: 'development' },
  })
}

/** Whether what is installed is what the lock file asks for; optional packages of other platforms may be missing. */
function samePackages(lock, marker, onlyRunning) {
  const wanted = JSON.parse(readFileSync(lock, 'utf8')).packages
  const installed = JSON.parse(readFileSync(marker, 'utf8')).packages
  return Object.entries(wanted).every(
    ([path, entry]) =>
      path === '' ||
      entry.optional ||
      (onlyRunning && (entry.dev || entry.devOptional)) ||
      installed[path]?.version === entry.version,
  )
}

export const build = options => compile(root, say, options)

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    await setup('clusters')
  } catch (error) {
    console.error(`percolate: ${error.message}`)
    process.exit(1)
  }
}
