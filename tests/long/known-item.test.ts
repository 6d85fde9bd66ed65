import { expect, it } from 'vitest'
import { knownItem, printKnownItem } from '../../bench/known-item/run.ts'

it('real documents ingest without a failure, and questions find theirs in the first three results', async () => {
  const report = await knownItem(console.log)
  printKnownItem(report, console.log)
  expect(report.failed).toBe(0)
  expect(report.modes.hybrid!.recallAt3).toBeGreaterThanOrEqual(0.9)
})
