import { describe, it } from 'vitest'
import { scenarios } from '../../test-topology/scenarios/all.ts'
import { expectScenario } from '../support/scenarios.ts'

/** With the windows of production: idle nodes go after ten minutes. Going from ten nodes to none takes forty, one by one: faster, and still with ten. */
describe('scenarios of the test topology, unscaled', () => {
  for (const { name } of scenarios) it(name, () => expectScenario(name, name.startsWith('shrinking') ? 9 : 1))
})
