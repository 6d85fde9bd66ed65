// npm test: sets up what is missing, checks the code (types, lint, boundaries, generated docs), runs the tests. --long: the long tests.
import { spawnSync } from 'node:child_process'
import { root, setup } from './setup.mjs'

try {
  await setup()
} catch (error) {
  console.error(`percolate: ${error.message}`)
  process.exit(1)
}
const args = process.argv.slice(2)
const long = args.includes('--long')
const rest = args.filter(arg => arg !== '--long')
if (!long && rest.length === 0) run('scripts/verify.mjs')
const projects = long ? ['--project', 'long'] : ['--project', 'unit', '--project', 'integration']
run('node_modules/vitest/vitest.mjs', 'run', ...projects, ...rest)

function run(...command) {
  const { status } = spawnSync(process.execPath, command, { cwd: root, stdio: 'inherit' })
  if (status !== 0) process.exit(status ?? 1)
}
