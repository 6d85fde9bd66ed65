import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Slicer } from '../../../src/base/slice.ts'
import { termsOf, tokenize, tokenizePieces } from '../../../src/text/analyze.ts'
import { PIECE_CHARS, piecesOf } from '../../../src/text/pieces.ts'
import { Snippets } from '../../../src/text/snippet.ts'
import { turnsDuring } from '../../support/turns.ts'

const snippet = async (text: string, terms: readonly string[]) => new Snippets(new Set(terms), new Slicer()).of(text)

describe('pieces of a text', () => {
  const unspaced = Array.from({ length: 9000 }, (_, n) => String.fromCodePoint(0x4e00 + ((n * 7919) % 20_000))).join('')
  const spaced = Array.from({ length: 3000 }, (_, n) => `word${n}`).join(' ')

  it('are short, and are the whole text', () => {
    const character = fc.constantFrom('a', ' ', '\n', '中', '𝒳', 'é')
    fc.assert(
      fc.property(fc.array(character, { minLength: 0, maxLength: 9000 }), characters => {
        const text = characters.join('')
        let to = 0
        for (const { start, end } of piecesOf(text)) {
          expect(start).toBeLessThanOrEqual(to)
          expect(end - start).toBeLessThanOrEqual(PIECE_CHARS)
          expect(text.slice(start, end).isWellFormed?.() ?? true).toBe(true)
          to = end
        }
        expect(to).toBe(text.length)
      }),
      { numRuns: 50 },
    )
  })

  it('have the terms of the whole', async () => {
    for (const text of [unspaced, spaced]) {
      const whole = new Set(tokenize(text).map(({ term }) => term))
      expect(await termsOf(text, new Slicer())).toEqual(whole)
      const placed = [...tokenizePieces(text)].flatMap(({ tokens }) => tokens)
      for (const { start, end, term } of placed.slice(0, 200))
        expect(tokenize(text.slice(start, end))[0]!.term).toBe(term)
    }
  })
})

describe('snippets', () => {
  it('mark the words of the query and escape the rest', async () => {
    expect((await snippet('<b>Dogs</b> & cats', ['dog'])).html).toBe('&lt;b&gt;<mark>Dogs</mark>&lt;/b&gt; &amp; cats')
  })

  it('show the stretch with the most different words of a long text', async () => {
    const { html } = await snippet(
      `${'filler word here. '.repeat(60)}The warranty lasts two years. ${'more filler text. '.repeat(60)}`,
      ['warranti', 'last', 'year'],
    )
    expect(html).toContain('<mark>warranty</mark> <mark>lasts</mark> two <mark>years</mark>')
    expect(html.length).toBeLessThan(600)
    expect(html.startsWith('…') && html.endsWith('…')).toBe(true)
  })

  it('find a word at the end of a long text, in slices', async () => {
    const text = `${'filler word here. '.repeat(6000)}The warranty lasts.`
    const turns = await turnsDuring(async () =>
      expect((await snippet(text, ['warranti'])).html).toContain('<mark>warranty</mark>'),
    )
    expect(turns).toBeGreaterThan(text.length / PIECE_CHARS - 1)
  })

  it('of one answer are bounded work: of further texts the beginning is looked at', async () => {
    const text = `warranty ${'filler word here. '.repeat(1000)}`
    const snippets = new Snippets(new Set(['warranti', 'absent']), new Slicer(), 40_000)
    for (let n = 0; n < 10; n++) expect((await snippets.of(text)).html).toContain('<mark>warranty</mark>')
    expect(snippets.charsLeft).toBeGreaterThan(-10 * PIECE_CHARS)
  })
})
