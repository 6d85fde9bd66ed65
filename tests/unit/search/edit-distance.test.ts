import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { editDistance } from '../../../src/search/entities.ts'

/** Optimal string alignment by its whole table. */
function byTable(a: string, b: string): number {
  const table = Array.from({ length: a.length + 1 }, (_, i) =>
    Array.from({ length: b.length + 1 }, (_, j) => (i === 0 ? j : j === 0 ? i : 0)),
  )
  for (let i = 1; i <= a.length; i++)
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1
      let value = Math.min(table[i - 1]![j]! + 1, table[i]![j - 1]! + 1, table[i - 1]![j - 1]! + cost)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        value = Math.min(value, table[i - 2]![j - 2]! + 1)
      table[i]![j] = value
    }
  return table[a.length]![b.length]!
}

describe('edit distance', () => {
  it('is that of the whole table, as far as the bound', () => {
    const text = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 9 })
    fc.assert(
      fc.property(text, text, fc.integer({ min: 1, max: 4 }), (a, b, max) => {
        expect(editDistance(a, b, max)).toBe(Math.min(byTable(a, b), max + 1))
      }),
      { numRuns: 2000 },
    )
  })
})
