import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Best } from '../../../src/search/best.ts'

describe('the best of many', () => {
  it('are those of a full sort, ties by the lower number, in whatever order they are offered', () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(fc.nat(500), { maxLength: 300 }),
        fc.array(fc.nat(12), { minLength: 1, maxLength: 20 }),
        fc.nat(320),
        (docNos, scores, count) => {
          const offered = docNos.map((docNo, n) => ({ docNo, score: scores[n % scores.length]! / 7 - 1 }))
          const best = new Best(count)
          for (const { docNo, score } of offered) best.offer(docNo, score)
          const sorted = offered.toSorted((a, b) => b.score - a.score || a.docNo - b.docNo)
          expect(best.ranked()).toEqual(sorted.slice(0, count))
        },
      ),
    )
  })
})
