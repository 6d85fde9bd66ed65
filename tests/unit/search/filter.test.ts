import { describe, expect, it } from 'vitest'
import type { Resource } from '../../../src/rem/views.ts'
import { matches, parseFilter } from '../../../src/search/filter.ts'

const resource: Resource = {
  id: 'r',
  uri: 'file:///a/b.pdf',
  ordinal: 0,
  content: 'x',
  name: 'Name',
  category: 'report',
  metadata: { page: 3, lang: 'en', tags: ['a', 'b'], deep: { x: true }, 'dotted.key': 1, nothing: null },
  embeddings: [],
  updatedAtMs: 0,
}

describe('filters', () => {
  it.each([
    ['{"category":"report"}', true],
    ['{"category":"other"}', false],
    ['category:report', true],
    ['category:report,lang:en', true],
    ['category:report,lang:de', false],
    ['page:3', true],
    ['page=3', true],
    ['{"page":3}', true],
    ['{"page":"3"}', false],
    ['{"metadata.page":{"gte":3,"lt":4}}', true],
    ['{"metadata":{"page":{"gt":3}}}', false],
    ['{"tags":"b"}', true],
    ['{"tags":["x","a"]}', true],
    ['{"lang":{"in":["de","fr"]}}', false],
    ['{"lang":{"ne":"de"}}', true],
    ['{"deep.x":true}', true],
    ['{"dotted.key":1}', true],
    ['{"missing":null}', true],
    ['{"missing":{"exists":false}}', true],
    ['{"nothing":{"exists":true}}', false],
    ['{"uri":{"prefix":"file:///a/"}}', true],
    ['{"name":{"prefix":"Nam"}}', true],
    ['{"or":[{"page":9},{"lang":"en"}]}', true],
    ['{"and":[{"page":3},{"not":{"lang":"en"}}]}', false],
    ['{}', true],
  ])('%s → %s', (text, expected) => {
    expect(matches(parseFilter(text), resource)).toBe(expected)
  })

  it.each([
    '{',
    '[]',
    '"x"',
    'x',
    '{"a":{"like":1}}',
    '{"a":{"in":1}}',
    '{"or":[]}',
    '{"a":{"prefix":1}}',
    '{"a":{"gt":{}}}',
  ])('refuses %s and names the field', text => {
    expect(() => parseFilter(text)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT', field: 'filter' }))
  })

  it('takes the short form with spaces around its parts, which may hold signs', () => {
    expect(parseFilter('  category :  report , url=http://x/?a=b ')).toEqual({
      op: 'and',
      clauses: [
        { op: 'eq', field: 'category', value: 'report' },
        { op: 'eq', field: 'metadata.url', value: 'http://x/?a=b' },
      ],
    })
    for (const text of ['category:', ':report', 'a b:report', 'category', 'category:a\nb', 'category: , lang:en'])
      expect(() => parseFilter(text), text).toThrow(/filter must be a JSON object, or clauses/)
  })

  it.each([
    ['in front of a value', `a:${' '.repeat(4000)}b\nc`],
    ['within a value', `a:b${' '.repeat(4000)}c`],
    ['in front of a name', `${' '.repeat(4000)}a${' '.repeat(4000)}`],
  ])('reads many spaces %s as fast as letters', (_, text) => {
    const msOf = (given: string) => {
      const sinceMs = performance.now()
      for (let n = 0; n < 20; n++)
        try {
          parseFilter(given)
        } catch {}
      return performance.now() - sinceMs
    }
    const plain = `a:${'b'.repeat(text.length)}`
    msOf(plain)
    expect(msOf(text) / msOf(plain)).toBeLessThan(50)
  })

  it('bounds the number of clauses and the depth', () => {
    expect(() => parseFilter(JSON.stringify({ or: Array.from({ length: 100 }, (_, n) => ({ page: n })) }))).toThrow(
      /clauses/,
    )
    expect(() => parseFilter(`${'{"not":'.repeat(20)}{}${'}'.repeat(20)}`)).toThrow(/deeper/)
  })
})

describe('a list of many values in metadata', () => {
  it('is made flat once, however many clauses look at it', () => {
    let looks = 0
    const inner = () =>
      new Proxy([1], {
        get: (list, name) => {
          looks++
          return Reflect.get(list, name)
        },
      })
    const tags = Array.from({ length: 100 }, inner)
    const clauses = Array.from({ length: 60 }, (_, n) => ({ tags: { gt: n + 1 } }))
    expect(matches(parseFilter({ or: clauses.slice(0, 1) }), { ...resource, metadata: { tags } })).toBe(false)
    const once = looks
    expect(
      matches(parseFilter({ or: clauses }), { ...resource, metadata: { tags: Array.from({ length: 100 }, inner) } }),
    ).toBe(false)
    expect(looks).toBe(2 * once)
  })
})
