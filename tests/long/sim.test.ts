import { describe, expect, it } from 'vitest'
import { show, tryMutations } from '../sim/mutate.ts'

/** How long a planted bug may stay unseen. */
const SECONDS = 180

describe('the simulator', () => {
  it('catches every planted bug', async () => {
    const verdicts = await tryMutations(SECONDS, verdict => console.log(show(verdict)))
    expect(verdicts.length).toBeGreaterThanOrEqual(12)
    expect(verdicts.filter(({ caught, runs }) => !caught || runs === 0)).toEqual([])
  })
})
