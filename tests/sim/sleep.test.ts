import { describe, expect, it } from 'vitest'
import { sleepAndWake } from './sleep.ts'

describe('a tier of ten nodes that goes to sleep under load, and of which three wake', () => {
  it.each([
    [false, 1],
    [true, 2],
  ])(
    'can be read again soon, with all that was acknowledged (asleep for longer than streams keep: %s)',
    async (isLong, seed) => {
      const { violations, acknowledged, elsewhere } = await sleepAndWake({ seed, isLong })
      expect(violations).toEqual([])
      // The life has what it is about.
      expect(elsewhere).toBeGreaterThan(0)
      expect([...acknowledged.values()].every(count => count > 0) && acknowledged.size === 3).toBe(true)
    },
  )
})
