import { describe, it } from 'vitest'
import { scenarios } from '../../test-topology/scenarios/all.ts'
import { expectScenario } from '../support/scenarios.ts'

/** With the windows of production: idle nodes go after ten minutes. */
describe('scenarios of the test topology, unscaled', () => {
  for (const { name } of scenarios) it(name, () => expectScenario(name, 1))
})
