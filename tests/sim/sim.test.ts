import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { PACKAGE_FOLDER } from '../../src/base/version.ts'
import { simulate } from './run.ts'
import { FAILED_ONCE } from './seeds.ts'

/** Lives in each of the two processes: always the same ones. The long run sets a time instead. */
const RUNS = Number(process.env.PERCOLATE_SIM_RUNS ?? 200)
const SECONDS = Number(process.env.PERCOLATE_SIM_SECONDS ?? 600)
/** The faults of a wide world too: what the long run looks at. */
const WIDE = process.env.PERCOLATE_SIM_WIDE === undefined ? [] : ['--wide']

interface Summary {
  runs: number
  operations: number
  acknowledged: number
  faults: number
  simulatedHours: number
  missing: string[]
  failures: { seed: number; violations: string[] }[]
}

async function series(seed: number): Promise<Summary> {
  const cli = join(PACKAGE_FOLDER, 'dist', 'tests', 'sim', 'cli.js')
  const args = [cli, '--seed', String(seed), '--runs', String(RUNS), '--seconds', String(SECONDS), '--json', ...WIDE]
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text
  })
  await new Promise(resolve => child.once('close', resolve))
  return JSON.parse(output) as Summary
}

describe('the simulated cluster', () => {
  it('gives the same run for the same seed', async () => {
    const [first, second] = [await simulate({ seed: 4711, trace: true }), await simulate({ seed: 4711, trace: true })]
    expect(second.trace).toEqual(first.trace)
    expect(second.simulatedMs).toBe(first.simulatedMs)
  })

  it.each(FAILED_ONCE.map(seed => [seed]))('seed %i, which failed once, passes', async seed => {
    expect((await simulate({ seed })).violations).toEqual([])
  })

  it('keeps its promises through thousands of faulty lives', { timeout: (SECONDS + 120) * 1000 }, async () => {
    const results = await Promise.all([series(1), series(1_000_001)])
    for (const { runs, operations, acknowledged, faults, simulatedHours } of results)
      console.log(
        `${runs} lives: ${operations} operations, ${acknowledged} acknowledged writes, ${faults} faults, ${simulatedHours.toFixed(1)} simulated hours`,
      )
    expect(results.flatMap(({ failures }) => failures)).toEqual([])
    const [first, second] = results
    expect(first!.missing.filter(name => second!.missing.includes(name))).toEqual([])
  })
})
