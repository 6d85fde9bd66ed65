import { describe, expect, it } from 'vitest'
import { analyze, fold, normalizeName, tokenize, trigrams } from '../../../src/text/analyze.ts'

const terms = (text: string) => tokenize(text).map(({ term }) => term)

describe('text analysis', () => {
  it('folds, stems and drops stop words', () => {
    expect(terms('The RUNNING runners ran')).toEqual(['run', 'runner', 'ran'])
    expect(terms('Café CAFÉ cafe\u0301')).toEqual(['cafe', 'cafe', 'cafe'])
    expect(terms("the customer's policies")).toEqual(terms('customer policy'))
    expect(fold('ＦＵＬＬ ﬁ Straße')).toBe('full fi straße')
  })

  it('cuts scripts without spaces into pairs', () => {
    expect(terms('東京都')).toEqual(['東京', '京都'])
    expect(terms('東')).toEqual(['東'])
  })

  it('knows where tokens stand', () => {
    const text = 'naïve Bäume — 𝒳 trees'
    for (const { start, end, term } of tokenize(text)) expect(terms(text.slice(start, end))).toEqual([term])
  })

  it('counts terms and length', () => {
    const { frequencies, length } = analyze('cat dog cat')
    expect(Object.fromEntries(frequencies)).toEqual({ cat: 2, dog: 1 })
    expect(length).toBe(3)
  })

  it('compares names without case, accents and punctuation', () => {
    expect(normalizeName('  Ada   LOVELACE, Countess')).toBe('ada lovelace countess')
    expect(normalizeName('!!!')).toBe('!!!')
    expect(trigrams('ab')).toEqual([' ab', 'ab '])
  })
})
