// npm run verify: types, format and lint, import boundaries, generated docs. Says what it checks; stops at the first that fails.
import { spawnSync } from 'node:child_process'
import { root, setup } from './setup.mjs'

await setup()
const checks = {
  // The set-up has compiled, or found that nothing changed since: this looks only at what is new.
  types: ['node_modules/typescript/bin/tsc'],
  'format and lint': ['node_modules/@biomejs/biome/bin/biome', 'check', '--error-on-warnings', '.'],
  boundaries: [
    'node_modules/dependency-cruiser/bin/dependency-cruise.mjs',
    '--config',
    '.dependency-cruiser.cjs',
    'src',
    'client',
    'workers',
    'gateway',
    'bench',
    'test-topology',
  ],
  'generated docs': ['scripts/docs.mjs', '--check'],
}
for (const [name, command] of Object.entries(checks)) {
  const { status } = spawnSync(process.execPath, command, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] })
  console.log(`${status === 0 ? '✓' : '✗'} ${name}`)
  if (status !== 0) process.exit(1)
}
