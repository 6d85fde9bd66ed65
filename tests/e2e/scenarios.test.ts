import { describe, it } from 'vitest'
import { expectScenario } from '../support/scenarios.ts'

/** The rolling upgrade, and all of them with the windows of production, are in the long command. */
describe('scenarios of the test topology', () => {
  for (const name of ['affinity', 'scaling-up', 'scale-to-zero', 'workers', 'replication', 'end-to-end', 'zone-loss'])
    it(name, { timeout: 240_000 }, () => expectScenario(name, 60))
})
