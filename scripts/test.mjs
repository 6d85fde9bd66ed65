// npm test: sets up what is missing, checks the code (types, lint, boundaries, generated docs), runs the tests. --long: the long tests.
import { spawnSync } from 'node:child_process'
import { root, setup } from './setup.mjs'

try {
  await setup({ forClusters: true })
} catch (error) {
  console.error(`percolate: ${error.message}`)
  process.exit(1)
}
const args = process.argv.slice(2)
const long = args.includes('--long')
const rest = args.filter(arg => arg !== '--long')
const vitest = 'node_modules/vitest/vitest.mjs'
if (!long && rest.length === 0) run({}, 'scripts/verify.mjs')
if (long) {
  run({ PERCOLATE_SIM_SECONDS: '900', PERCOLATE_SIM_RUNS: '1000000' }, vitest, 'run', '--project', 'sim', ...rest)
  run({}, vitest, 'run', '--project', 'long', ...rest)
} else {
  run({}, vitest, 'run', '--project', 'unit', '--project', 'integration', ...rest)
  // Alone: it takes every core for a fixed time, and does as many runs as fit.
  if (rest.length === 0) run({}, vitest, 'run', '--project', 'sim')
}

function run(env, ...command) {
  const { status } = spawnSync(process.execPath, command, {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, ...env },
  })
  if (status !== 0) process.exit(status ?? 1)
}
