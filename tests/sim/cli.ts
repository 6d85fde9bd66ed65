import { crashPoints } from './cluster.ts'
import { type FaultKind, focusFaults, plainFaults, wideFaults } from './faults.ts'
import { checkerOf } from './objections.ts'
import { simulate } from './run.ts'

/**
 * Runs the simulator: `node dist/tests/sim/cli.js --seed 1 --runs 100 [--seconds 60] [--wide] [--copies 3] [--focus "FAULT,FAULT"] [--shake 1 [--shakes 20]] [--trace] [--json]`. Prints what happened and how often, and every failing seed with what
 * failed. With `--shake` each seed has that other schedule in place of its own, or that and the following ones, as many as `--shakes` says. Ends with 1 when one did, or when a kind of fault never occurred in a long enough series.
 */
const flag = (name: string): string | undefined => {
  const at = process.argv.indexOf(`--${name}`)
  return at < 0 ? undefined : (process.argv[at + 1] ?? '')
}
const firstSeed = Number(flag('seed') ?? 1)
const runs = Number(flag('runs') ?? 100)
const shake = Number(flag('shake') ?? 0)
const shakes = Number(flag('shakes') ?? 1)
const untilMs = performance.now() + Number(flag('seconds') ?? 1e9) * 1000
const wide = process.argv.includes('--wide')
const copies = flag('copies') === undefined ? undefined : Number(flag('copies'))
const isJson = process.argv.includes('--json')
const stopAtFirst = process.argv.includes('--first')
/** With `--first`: only an objection of one of these checkers ends the series. */
const by = flag('by')?.split(',')
const focus = flag('focus')?.split(',') as FaultKind[] | undefined
const unknown = focus?.filter(kind => ![...plainFaults, ...wideFaults, ...focusFaults].includes(kind as never)) ?? []
if (unknown.length > 0) throw new Error(`--focus: there are no such faults: ${unknown.join(', ')}`)
const totals = new Map<string, number>()
const failures: { seed: number; shake?: number; violations: string[] }[] = []
let done = 0
let operations = 0
let acknowledged = 0
let faults = 0
let simulatedMs = 0
for (let n = 0; n < runs * shakes && performance.now() < untilMs; n++) {
  const seed = firstSeed + Math.floor(n / shakes)
  const shaken = shake > 0 ? { shake: shake + (n % shakes) } : {}
  const result = await simulate({ seed, ...shaken, wide, copies, focus, trace: process.argv.includes('--trace') })
  done++
  operations += result.operations
  acknowledged += result.acknowledged
  faults += result.faults
  simulatedMs += result.simulatedMs
  for (const [name, count] of result.counts) totals.set(name, (totals.get(name) ?? 0) + count)
  if (result.trace.length > 0) console.log(result.trace.join('\n'))
  if (result.violations.length === 0) continue
  failures.push({ seed, ...shaken, violations: result.violations })
  if (!isJson)
    console.error(
      `seed ${seed}${shake > 0 ? ` shake ${shaken.shake}` : ''} failed:\n  ${result.violations.slice(0, 8).join('\n  ')}`,
    )
  if (stopAtFirst && (by?.some(name => result.violations.some(said => checkerOf(said) === name)) ?? true)) break
}
const expected = [
  ...[...plainFaults, ...(wide ? wideFaults : [])].map(kind => `fault: ${kind}`),
  ...crashPoints.map(point => `crash ${point}`),
]
const missing = done >= 150 && !focus ? expected.filter(name => !totals.has(name)) : []
const counts = Object.fromEntries([...totals].sort(([a], [b]) => (a < b ? -1 : 1)))
const summary = {
  runs: done,
  operations,
  acknowledged,
  faults,
  simulatedHours: simulatedMs / 3.6e6,
  counts,
  missing,
  failures,
}
if (isJson) console.log(JSON.stringify(summary))
else {
  console.log(
    `${done} runs from seed ${firstSeed}: ${operations} operations, ${acknowledged} acknowledged writes, ${faults} faults, ${summary.simulatedHours.toFixed(1)} simulated hours, ${failures.length} failures`,
  )
  for (const [name, count] of Object.entries(counts)) console.log(`  ${name}: ${count}`)
  if (missing.length > 0) console.error(`never happened: ${missing.join(', ')}`)
}
process.exit(failures.length > 0 || missing.length > 0 ? 1 : 0)
