import { expect, it } from 'vitest'
import * as schemas from '../../../src/api/schemas.ts'
import { check } from '../../../src/api/validate.ts'
import { PercolateError } from '../../../src/base/errors.ts'
import { parseBookmark, parseFeedCursor } from '../../../src/session/bookmark.ts'

function complaint(work: () => unknown): [code: string, field: string | undefined, text: string] {
  try {
    work()
  } catch (error) {
    if (error instanceof PercolateError) return [error.code, error.field, error.message]
  }
  return expect.unreachable()
}
const of = (schema: Parameters<typeof check>[0], value: unknown) => complaint(() => check(schema, value, 'body'))

it('what a schema refuses is said in words that name the remedy', () => {
  expect(of(schemas.ResourcesQuery, { embedding: 'missing' })).toEqual([
    'INVALID_ARGUMENT',
    'embedding',
    'embedding must be "pending", or left out.',
  ])
  expect(of(schemas.EntitiesInput, { entities: [] })[2]).toBe('entities must have at least 1 item.')
  expect(of(schemas.EntitiesInput, [])).toEqual([
    'INVALID_ARGUMENT',
    'body',
    'The body must be a JSON object, as /docs shows it.',
  ])
  const many = Array.from({ length: 1001 }, (_, n) => ({ id: `e${n}` }))
  expect(of(schemas.EntitiesInput, { entities: many })[2]).toMatch(
    /more than 1000 items; send them in several requests/,
  )
  expect(of(schemas.ChangesQuery, { cursor: 'x'.repeat(12_289) })[2]).toMatch(/more than 12288 characters; shorten it/)
})

it('a cursor of a feed is a cursor, and a bookmark a bookmark, in the code of their errors', () => {
  expect(complaint(() => parseFeedCursor('no cursor', 'Last-Event-ID')).slice(0, 2)).toEqual([
    'INVALID_CURSOR',
    'Last-Event-ID',
  ])
  expect(complaint(() => parseBookmark('no bookmark', 'X-Percolate-Bookmark')).slice(0, 2)).toEqual([
    'INVALID_BOOKMARK',
    'X-Percolate-Bookmark',
  ])
})
