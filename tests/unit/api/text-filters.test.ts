import { describe, expect, it } from 'vitest'
import { EntitiesQuery, MomentsQuery, ResourcesQuery, SearchInput, TraverseQuery } from '../../../src/api/schemas.ts'
import { check } from '../../../src/api/validate.ts'
import { CATEGORY_BYTES_MAX, ID_BYTES_MAX, URI_BYTES_MAX } from '../../../src/base/limits.ts'

const schemas = { EntitiesQuery, MomentsQuery, ResourcesQuery, SearchInput, TraverseQuery }

/** Over HTTP a query has the bound of a request's head; the body of a search and a gRPC message have none of their own. */
describe('what listings and searches go by', () => {
  it.each([
    ['ResourcesQuery', 'category', CATEGORY_BYTES_MAX],
    ['ResourcesQuery', 'uri', URI_BYTES_MAX],
    ['SearchInput', 'category', CATEGORY_BYTES_MAX],
    ['SearchInput', 'uri', URI_BYTES_MAX],
    ['EntitiesQuery', 'type', CATEGORY_BYTES_MAX],
    ['TraverseQuery', 'type', CATEGORY_BYTES_MAX],
    ['MomentsQuery', 'type', CATEGORY_BYTES_MAX],
    ['MomentsQuery', 'parent', ID_BYTES_MAX],
    ['MomentsQuery', 'resource', ID_BYTES_MAX],
    ['MomentsQuery', 'entity', ID_BYTES_MAX],
    ['MomentsQuery', 'from', 64],
    ['MomentsQuery', 'to', 64],
  ] as const)('%s.%s has at most as many characters as what is written has bytes', (name, field, charsMax) => {
    const query = (chars: number) => check(schemas[name], { [field]: 'x'.repeat(chars) }, 'request')
    expect(query(charsMax)).toBeDefined()
    expect(() => query(charsMax + 1)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', field, message: expect.stringContaining('shorten it') }),
    )
  })
})
