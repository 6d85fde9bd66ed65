import { expect, it } from 'vitest'
import { runFaults } from '../../test-topology/fault-run.ts'
import { remove, tempFolder } from '../support/running.ts'

/** Among them a hundred kills -9: each restart with another clock takes two. */
const FAULTS = 150

it('150 faults on a real cluster, a hundred kills -9 among them, lose no acknowledged write', async () => {
  const folder = await tempFolder()
  const report = await runFaults({
    dataDir: folder,
    faults: FAULTS,
    kinds: [
      'kill node',
      'kill nats-server',
      'kill node',
      'stop node',
      'kill node',
      'partition node from NATS',
      'cut off node from its peers',
      'kill nats-server',
      'fill disk',
      'stop nats-server',
      'cut off nodes from one another',
      'restart node with a clock 3 s off',
      'restart node with a clock 5 min off',
    ],
    seed: 7,
  })
  console.log(JSON.stringify(report))
  expect(report.violations).toEqual([])
  await remove(folder)
})
