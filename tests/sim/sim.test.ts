import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { PACKAGE_FOLDER } from '../../src/base/version.ts'
import { simulate } from './run.ts'
import { FAILED_ONCE, FAILED_SHAKEN } from './seeds.ts'

/** Lives of each of the two series: always the same ones. The long run sets a time instead, and looks at wide worlds alone. */
const SECONDS = Number(process.env.PERCOLATE_SIM_SECONDS ?? 600)
const isLong = process.env.PERCOLATE_SIM_RUNS !== undefined
const LIVES = { plain: 150, wide: 45 }

interface Summary {
  runs: number
  operations: number
  acknowledged: number
  faults: number
  simulatedHours: number
  missing: string[]
  failures: { seed: number; violations: string[] }[]
}

async function series(seed: number, world: keyof typeof LIVES): Promise<Summary> {
  const cli = join(PACKAGE_FOLDER, 'dist', 'tests', 'sim', 'cli.js')
  const runs = process.env.PERCOLATE_SIM_RUNS ?? String(LIVES[world])
  const wide = world === 'wide' ? ['--wide'] : []
  const args = [cli, '--seed', String(seed), '--runs', runs, '--seconds', String(SECONDS), '--json', ...wide]
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

  it.each([1, 2, 3, 4])(
    'loses nothing, and no home for good, when all servers lose their stores (seed %i)',
    async seed => {
      const focus = ['all stores lost', 'crash', 'directory put back', 'process paused'] as const
      expect((await simulate({ seed, wide: true, focus })).violations).toEqual([])
    },
  )

  it.each([1, 2, 3, 4])('decides nothing twice when one of three holders is left behind (seed %i)', async seed => {
    const focus = ['holder left behind'] as const
    expect((await simulate({ seed, wide: true, copies: 3, focus })).violations).toEqual([])
  })

  it.each([1, 2, 3, 4])('decides nothing twice when clocks are apart (seed %i)', async seed => {
    const focus = ['clocks apart'] as const
    expect((await simulate({ seed, wide: true, focus })).violations).toEqual([])
  })

  it.each(FAILED_ONCE.map(seed => [seed]))('seed %i, which failed once, passes', async seed => {
    expect((await simulate({ seed })).violations).toEqual([])
  })

  it('gives another run for another schedule of the seed, and the same for the same', async () => {
    const [own, first, second] = [
      await simulate({ seed: 4711, trace: true }),
      await simulate({ seed: 4711, shake: 1, trace: true }),
      await simulate({ seed: 4711, shake: 1, trace: true }),
    ]
    expect(second.trace).toEqual(first.trace)
    expect(first.trace).not.toEqual(own.trace)
  })

  it.each(FAILED_SHAKEN)('seed %i in schedule %i, which failed once, passes', async (seed, shake) => {
    expect((await simulate({ seed, shake, wide: true, copies: 2 })).violations).toEqual([])
  })

  it('keeps its promises through thousands of faulty lives', { timeout: (SECONDS + 120) * 1000 }, async () => {
    const results = await Promise.all([series(1, isLong ? 'wide' : 'plain'), series(1_000_001, 'wide')])
    for (const { runs, operations, acknowledged, faults, simulatedHours } of results)
      console.log(
        `${runs} lives: ${operations} operations, ${acknowledged} acknowledged writes, ${faults} faults, ${simulatedHours.toFixed(1)} simulated hours`,
      )
    expect(results.flatMap(({ failures }) => failures)).toEqual([])
    // What a wide world has too, and so few lives need not have met.
    const [first, second] = results
    expect(isLong ? first!.missing.filter(name => second!.missing.includes(name)) : first!.missing).toEqual([])
  })
})
