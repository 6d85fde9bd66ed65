// npm run verify: types, format and lint, import boundaries, generated docs. Says what it checks, and which of it failed.
import { spawn } from 'node:child_process'
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
const run = ([name, command]) =>
  new Promise(resolve => {
    const child = spawn(process.execPath, command, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', text => (output += text))
    child.once('close', status => resolve({ name, output, hasPassed: status === 0 }))
  })

// Side by side; said in their order, whichever is done first.
const runs = Object.entries(checks).map(run)
for (const running of runs) {
  const { name, output, hasPassed } = await running
  process.stdout.write(output)
  console.log(`${hasPassed ? '✓' : '✗'} ${name}`)
  if (!hasPassed) process.exitCode = 1
}
