import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { PACKAGE_FOLDER } from '../../src/base/version.ts'
import { check, type FinalCopy, type History, newHistory } from './history.ts'
import { simulate } from './run.ts'
import { FAILED_ONCE } from './seeds.ts'

/** Wall-clock seconds for the series in its two processes, and how many runs each does at most; the long run sets both. */
const SECONDS = Number(process.env.PERCOLATE_SIM_SECONDS ?? 180)
const RUNS = Number(process.env.PERCOLATE_SIM_RUNS ?? 10_000)

interface Summary {
  runs: number
  operations: number
  acknowledged: number
  faults: number
  simulatedHours: number
  missing: string[]
  failures: { seed: number; violations: string[] }[]
}

async function series(seed: number, seconds: number): Promise<Summary> {
  const cli = join(PACKAGE_FOLDER, 'dist', 'tests', 'sim', 'cli.js')
  const args = [cli, '--seed', String(seed), '--runs', String(RUNS), '--seconds', String(seconds), '--json']
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
    const results = await Promise.all([series(1, SECONDS), series(1_000_001, SECONDS)])
    for (const { runs, operations, acknowledged, faults, simulatedHours } of results)
      console.log(
        `${runs} runs in ${SECONDS} s: ${operations} operations, ${acknowledged} acknowledged writes, ${faults} faults, ${simulatedHours.toFixed(1)} simulated hours`,
      )
    expect(results.flatMap(({ failures }) => failures)).toEqual([])
    expect(results.flatMap(({ missing }) => missing)).toEqual([])
  })
})

describe('the checkers, on doctored histories', () => {
  const clock = (wall: number) => ({ wall, counter: 0, origin: 'n1.d1' })
  const record = (put: number, del?: number) => ({
    put: clock(put),
    del: del === undefined ? undefined : clock(del),
    fields: new Map([['property:p', { clock: clock(put), value: 'tenant:a; 1' }]]),
  })
  const copy = (node: string, put?: number, rest: Partial<FinalCopy> = {}): FinalCopy => ({
    node,
    tenant: 'a',
    records: new Map(put === undefined ? [] : [['entity e', record(put)]]),
    bytes: new Map(put === undefined ? [] : [['entity e', String(put)]]),
    vector: new Map([['n1.d1', 1]]),
    outboxEntries: 0,
    problems: [],
    setAside: new Map(),
    ...rest,
  })
  const acked = (wall: number, rest: Partial<History['acked'][number]> = {}): History => ({
    ...newHistory(),
    acked: [
      {
        tenant: 'a',
        record: 'entity e',
        field: 'property:p',
        action: 'put',
        clock: clock(wall),
        reached: 'stream',
        disk: 'd1n1',
        atMs: 0,
        position: new Map(),
        ifVersion: undefined,
        ...rest,
      },
    ],
  })

  it('accept one in which everything is there', () => {
    expect(check(acked(5), [copy('n1', 5), copy('n2', 5)])).toEqual([])
    expect(check(acked(5), [copy('n1', 7), copy('n2', 7)])).toEqual([])
  })
  it('find a lost write', () => {
    expect(check(acked(5), [copy('n1', 3), copy('n2', 3)]).join()).toMatch(/is lost/)
    expect(check(acked(5), [copy('n1'), copy('n2')]).join()).toMatch(/is lost/)
    expect(check(acked(5), []).join()).toMatch(/no copy left/)
  })
  it('find a local write lost from a disk that was not', () => {
    expect(check(acked(5, { reached: 'local' }), [copy('n1', 3)]).join()).toMatch(/is lost/)
    const lost = { ...acked(5, { reached: 'local' }), lostDisks: new Map([['d1n1', Number.NEGATIVE_INFINITY]]) }
    expect(check(lost, [copy('n1', 3)])).toEqual([])
  })
  it('find copies that differ, in records or vectors', () => {
    expect(check(acked(5), [copy('n1', 5), copy('n2', 6)]).join()).toMatch(/differs between n1 and n2/)
    expect(check(acked(5), [copy('n1', 5), copy('n2', 5, { vector: new Map() })]).join()).toMatch(
      /vectors of n1 and n2/,
    )
  })
  it('find what was deleted and is back', () => {
    const deleted = acked(9, { action: 'del', field: undefined })
    expect(check(deleted, [copy('n1', 5)]).join()).toMatch(/is back/)
    expect(check(deleted, [copy('n1', 10)])).toEqual([])
    expect(check(deleted, [copy('n1')])).toEqual([])
  })
  it('find entries that never left, other tenants, damaged indexes, lost updates', () => {
    expect(check(acked(5), [copy('n1', 5, { outboxEntries: 1 })]).join()).toMatch(/to publish/)
    expect(check(acked(5), [copy('n1', 5, { problems: ['index entry is missing'] })]).join()).toMatch(/index entry/)
    const foreign = {
      ...copy('n1', 5),
      records: new Map([
        ['entity e', { ...record(5), fields: new Map([['property:p', { clock: clock(5), value: 'tenant:b; 1' }]]) }],
      ]),
    }
    expect(check(acked(5), [foreign]).join()).toMatch(/another tenant/)
    const twice = acked(5, { ifVersion: 'v' })
    twice.acked.push({ ...twice.acked[0]!, clock: clock(6) })
    expect(check(twice, [copy('n1', 6)]).join()).toMatch(/two conditional writes/)
  })
})
