import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { fuzz } from './world.ts'

/** Fuzzes the ports of a process: `node dist/tests/fuzz/cli.js [--seed 1] [--seeds 1] [--connections 3000] [--first 0]`. Ends with 1 when something was wrong, with the seed that it was wrong with. */
const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    seeds: { type: 'string', default: '1' },
    connections: { type: 'string', default: '3000' },
    first: { type: 'string', default: '0' },
  },
})
const seed = Number(values.seed)
for (let n = 0; n < Number(values.seeds); n++) {
  const dataDir = await mkdtemp(join(tmpdir(), 'percolate-fuzz-'))
  const report = await fuzz({
    dataDir,
    seed: seed + n,
    connections: Number(values.connections),
    first: Number(values.first),
    say: line => console.log(line),
  })
  console.log(JSON.stringify({ seed: seed + n, ...report }, undefined, 1))
  if (report.violations.length > 0) process.exitCode = 1
  await rm(dataDir, { recursive: true, force: true })
}
