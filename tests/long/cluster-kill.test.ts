import { expect, it } from 'vitest'
import { runFaults } from '../../test-topology/fault-run.ts'
import { faultKinds } from '../../test-topology/faults/kinds.ts'
import { remove, tempFolder } from '../support/running.ts'

const ROUNDS = 4

it('every kind of fault, again and again, on a real cluster: nothing acknowledged is lost, no version is decided twice, no feed lies', async () => {
  const folder = await tempFolder()
  const report = await runFaults({
    dataDir: folder,
    faults: ROUNDS * faultKinds.length,
    seed: 7,
    onProgress: text => console.log(text),
  })
  console.log(JSON.stringify(report))
  expect(report.violations).toEqual([])
  const possible = faultKinds.filter(kind => !report.impossible.some(text => text.startsWith(`${kind}: `)))
  for (const kind of possible) expect([kind, report.faults[kind] ?? 0]).not.toEqual([kind, 0])
  for (const level of ['local', 'stream', 'replicated']) expect(report.acknowledged[level]).toBeGreaterThan(100)
  for (const protocol of ['HTTP', 'gRPC']) expect(report.protocols[protocol]).toBeGreaterThan(500)
  expect(report.conditional.acknowledged).toBeGreaterThan(500)
  expect(report.conditional.undecided).toBe(0)
  expect(report.feeds.events).toBeGreaterThan(1000)
  expect(report.resources).toBeGreaterThan(100)
  await remove(folder)
})
