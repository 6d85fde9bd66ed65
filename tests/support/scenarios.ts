import { expect } from 'vitest'
import { runCli } from '../../test-topology/launch.ts'
import type { Verdict } from '../../test-topology/scenarios/scenario.ts'
import { remove, tempFolder } from './running.ts'

/** A scenario of the test topology by its documented command; its verdict must be good. Figures are printed. */
export async function expectScenario(name: string, speed: number): Promise<void> {
  const folder = await tempFolder()
  const flags = ['--speed', String(speed), '--data-dir', folder, '--json']
  const { code, stdout, stderr } = await runCli(['test-topology', 'scenario', name, ...flags])
  const [verdict] = JSON.parse(stdout || '[]') as Verdict[]
  expect(verdict, stderr).toBeDefined()
  console.log(JSON.stringify({ scenario: name, speed, seconds: verdict!.seconds, ...verdict!.figures }))
  const missed = verdict!.checks.filter(({ passed, isAim }) => isAim && !passed)
  if (missed.length > 0) console.log(`aims missed on this machine: ${missed.map(({ text }) => text).join('; ')}`)
  expect(verdict!.checks.filter(({ passed, isAim }) => !passed && !isAim)).toEqual([])
  expect([verdict!.passed, code]).toEqual([true, 0])
  await remove(folder)
}
