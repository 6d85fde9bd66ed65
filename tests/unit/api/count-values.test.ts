import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { BODY_DEPTH_MAX, ENTRIES_MAX, memberWithTooMuch } from '../../../src/api/http/count-values.ts'
import * as schemas from '../../../src/api/schemas.ts'
import { check } from '../../../src/api/validate.ts'
import { checkObject } from '../../../src/base/check-object.ts'
import { BODY_PARTS_MAX, METADATA_BYTES_MAX } from '../../../src/base/limits.ts'
import { parseFilter } from '../../../src/search/filter.ts'

/** Values of a document as a whole, counted when it is parsed: each list and object, and each thing in one. */
function valuesIn(value: unknown): number {
  if (value === null || typeof value !== 'object') return 0
  const items = Object.values(value)
  return 1 + Math.max(0, items.length - 1) + items.reduce((sum: number, item) => sum + valuesIn(item), 0)
}

describe('values of a JSON text', () => {
  it('are counted as it would be parsed, whatever its texts have in them', () => {
    const text = fc.oneof(fc.string(), fc.constantFrom('a,b', '"', '\\', '\\",[', '{"x":[1,2]}'))
    const { value } = fc.letrec(tie => ({
      value: fc.oneof({ depthSize: 'small' }, text, fc.integer(), tie('list'), tie('object')),
      list: fc.array(tie('value'), { maxLength: 5 }),
      object: fc.dictionary(text, tie('value'), { maxKeys: 5 }),
    }))
    fc.assert(
      fc.property(value, fc.boolean(), (given, isSpaced) => {
        const json = Buffer.from(JSON.stringify(given, null, isSpaced ? 2 : 0))
        const count = 1 + valuesIn(given)
        expect(memberWithTooMuch(json, count)).toBe(undefined)
        if (count > 1) expect(memberWithTooMuch(json, count - 1)).toMatchObject({ of: 'values' })
      }),
      { numRuns: 300 },
    )
  })

  it('are counted as far as the bound', () => {
    let looks = 0
    const json = new Proxy(Buffer.from(`[${'0,'.repeat(100_000)}0]`), {
      get: (bytes, name) => {
        looks++
        return bytes[name as unknown as number]
      },
    })
    expect(memberWithTooMuch(json, 1000)).toEqual({ of: 'values', member: 'body' })
    expect(looks).toBeLessThan(10_000)
  })
})

describe('the member with too many values', () => {
  it.each([
    [{ query: 'a"b', filter: { a: { in: Array(100).fill(1) } } }, 'filter'],
    [{ filter: 'x:1', embedding: Array(100).fill(1) }, 'embedding'],
    [{ 'f"\n': { or: Array(100).fill({}) }, filter: 1 }, 'f"\n'],
    [Object.fromEntries(Array.from({ length: 100 }, (_, n) => [`m${n}`, n])), 'body'],
    [Array(100).fill(1), 'body'],
    [{ filter: {}, query: Array(3).fill({}) }, undefined],
  ])('%j: %s', (value, member) => {
    expect(memberWithTooMuch(Buffer.from(JSON.stringify(value)), 50)?.member).toBe(member)
  })
})

describe('a JSON text that nests too deep', () => {
  const nested = (levels: number) =>
    Buffer.from(`{"metadata":{"a":${'['.repeat(levels - 2)}${']'.repeat(levels - 2)}}}`)

  it('is known by its member as soon as it does', () => {
    expect(memberWithTooMuch(nested(BODY_DEPTH_MAX), 1000)).toBe(undefined)
    expect(memberWithTooMuch(nested(BODY_DEPTH_MAX + 1), 1000)).toEqual({ of: 'levels', member: 'metadata' })
    const flat = Buffer.from(`[${Array(1000).fill('[[]]').join(',')}]`)
    expect(memberWithTooMuch(flat, 10_000)).toBe(undefined)
  })
})

describe('a JSON text with too many members', () => {
  const look = (value: unknown) => memberWithTooMuch(Buffer.from(JSON.stringify(value)), Number.POSITIVE_INFINITY)
  const wide = (members: number) => Object.fromEntries(Array.from({ length: members }, (_, n) => [n.toString(36), 1]))

  it('in one object, or items in one list, is known by it, and what metadata may be is not', () => {
    expect(look({ name: 'a:b', metadata: wide(ENTRIES_MAX) })).toBe(undefined)
    expect(look({ name: 'x', metadata: wide(ENTRIES_MAX + 1) })).toEqual({ of: 'entries', member: 'metadata' })
    expect(look({ list: [wide(ENTRIES_MAX), wide(ENTRIES_MAX)] })).toBe(undefined)
    expect(look({ embedding: Array(ENTRIES_MAX).fill(1) })).toBe(undefined)
    expect(look({ embedding: Array(ENTRIES_MAX + 1).fill(1) })).toEqual({ of: 'entries', member: 'embedding' })
    const most = wide(8400)
    expect(JSON.stringify(most).length).toBeGreaterThan(METADATA_BYTES_MAX)
    expect(look({ entities: Array(3).fill({ properties: most }) })).toBe(undefined)
  })

  it('objects or lists is, too; an embedding of numbers has one', () => {
    expect(
      look({ resources: Array(1000).fill({ content: 'x', metadata: wide(100), embedding: Array(300).fill(0.5) }) }),
    ).toBe(undefined)
    const many = (one: unknown) => Array(BODY_PARTS_MAX / 10_000).fill(Array(10_000).fill(one))
    for (const one of [wide(3), [], {}])
      expect(look({ resources: many(one) })).toEqual({ of: 'parts', member: 'resources' })
    expect(look(many([]))).toEqual({ of: 'parts', member: 'body' })
  })
})

describe('metadata that is far too large', () => {
  it('is not looked at to its end', () => {
    let looks = 0
    const wide = new Proxy(Object.fromEntries(Array.from({ length: 300_000 }, (_, n) => [`k${n}`, n])), {
      get: (object, name) => {
        looks++
        return object[name as string]
      },
    })
    expect(() => checkObject(wide, 'metadata')).toThrow(/^metadata has more than 65536 bytes as JSON/)
    expect(looks).toBeLessThan(65_536)
    expect(() => checkObject({ a: 'é'.repeat(40_000) }, 'metadata')).toThrow(/^metadata has 80008 bytes as JSON/)
    expect(checkObject({ a: 'x'.repeat(65_528) }, 'metadata')).toEqual({ a: expect.any(String) })
  })
})

describe('a filter with too much in it', () => {
  const refused = (filter: Record<string, unknown>) => expect(() => parseFilter(filter)).toThrow(/more than 64 clauses/)
  /** A clause that may not be looked at. */
  const untouchable = () => ({
    get category(): string {
      throw new Error('looked at')
    },
  })

  it('is refused before its clauses are looked at', () => {
    refused({ or: Array.from({ length: 65 }, untouchable) })
    refused({ not: { and: Array.from({ length: 60_000 }, untouchable) } })
  })

  it('is refused at the first member too many', () => {
    const members = (count: number) =>
      Object.fromEntries(Array.from({ length: count }, (_, n) => [`field${String(n).padStart(3, '0')}`, n]))
    const wide: Record<string, unknown> = { ...members(64), last: 1 }
    Object.defineProperty(wide, 'unseen', {
      enumerable: true,
      get: () => {
        throw new Error('looked at')
      },
    })
    refused(wide)
    refused({ metadata: wide })
  })
})

describe('a list with too many items', () => {
  const untouchable = (count: number) =>
    Array.from(
      { length: count },
      () =>
        new Proxy(
          {},
          {
            get: () => {
              throw new Error('looked at')
            },
          },
        ),
    )
  it.each([
    [schemas.ResourcesInput, { resources: untouchable(1001) }, 'resources'],
    [schemas.EntitiesInput, { entities: untouchable(1001) }, 'entities'],
    [schemas.MomentsInput, { moments: untouchable(1001) }, 'moments'],
    [schemas.EmbeddingsInput, { embeddings: untouchable(1001) }, 'embeddings'],
    [schemas.EntityPatch, { edges: untouchable(1001) }, 'edges'],
    [schemas.SearchInput, { query: 'x', embedding: untouchable(4097) }, 'embedding'],
    [schemas.ChatInput, { messages: untouchable(101) }, 'messages'],
  ])('is refused before they are looked at: %#', (schema, body, field) => {
    expect(() => check(schema, body, 'body')).toThrow(new RegExp(`^${field} has more than \\d+ items`))
  })
})
