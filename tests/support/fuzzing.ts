import { join } from 'node:path'
import { expect } from 'vitest'
import { type FuzzReport, fuzz } from '../fuzz/world.ts'
import { remove, tempFolder } from './running.ts'

/** Fuzzes a process with so many clients of a seed; says the seed, and what to repeat, when something is wrong. */
export async function expectFuzzed(seed: number, connections: number): Promise<FuzzReport> {
  const folder = await tempFolder()
  const report = await fuzz({ dataDir: join(folder, 'data'), seed, connections })
  console.log(JSON.stringify({ seed, ...report }))
  expect(report.violations).toEqual([])
  for (const taken of Object.values(report.connections)) expect(taken).toBeGreaterThan(connections / 10)
  expect(report.acknowledged).toBeGreaterThan(0)
  await remove(folder)
  return report
}
