import { randomBytes } from 'node:crypto'
import type { ServiceError } from '@grpc/grpc-js'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { PercolateClient } from '../../client/client.ts'
import type { PercolateClientError } from '../../client/errors.ts'
import { BOOKMARK_CHARS_MAX } from '../../src/base/limits.ts'
import { encodeBookmark, parseBookmark } from '../../src/session/bookmark.ts'
import { grpcClient } from '../support/grpc.ts'
import { remove, startTestNode, type TestNode } from '../support/running.ts'

/** What a feed that does not reach back far enough tells its client to do, must be all that is needed for missing nothing on any holder. */

let node: TestNode
let first: string
let latest: string
/** The same position, of a copy that lacks nothing of it. */
let whole: string
beforeAll(async () => {
  node = await startTestNode({ env: { PERCOLATE_CHANGES_MAX: '3' } })
  const write = async (n: number) =>
    (await node.request('PUT', `/api/v1/entities/e${n}`, { body: { properties: { n } } })).headers.get(
      'x-percolate-bookmark',
    )!
  first = await write(0)
  for (let n = 1; n < 6; n++) latest = await write(n)
  whole = encodeBookmark({ ...parseBookmark(latest, 'latest'), lost: '' })
})
afterAll(async () => {
  await node.stop()
  await remove(node.folder)
})

it('over HTTP: the answer has the bookmark to read with, in the body and as the header that a read takes', async () => {
  const gone = await node.request('GET', `/api/v1/changes?cursor=${first}`)
  expect([gone.status, gone.body.code]).toEqual([410, 'CHANGES_EXPIRED'])
  expect([gone.body.cursor, gone.body.bookmark]).toEqual([whole, whole])
  expect(gone.headers.get('x-percolate-bookmark')).toBe(whole)
  expect(gone.body.detail).toMatch(/X-Percolate-Bookmark/)
  const read = await node.request('GET', '/api/v1/entities', {
    headers: { 'x-percolate-bookmark': gone.body.bookmark },
  })
  expect(read.body.results).toHaveLength(6)
  // As a client that reads only headers would take it, and one that has nothing but the cursor.
  for (const bookmark of [gone.headers.get('x-percolate-bookmark')!, gone.body.cursor])
    expect(
      (await node.request('GET', '/api/v1/entities/e5', { headers: { 'x-percolate-bookmark': bookmark } })).status,
    ).toBe(200)
})

it('to the client: as members of its error, and the bookmark as an option of its reads', async () => {
  const client = new PercolateClient({ url: node.url, tenant: 'acme' })
  const error: PercolateClientError = await client.request('GET', '/api/v1/changes', { query: { cursor: first } }).then(
    () => expect.unreachable(),
    error => error,
  )
  expect([error.code, error.cursor, error.bookmark]).toEqual(['CHANGES_EXPIRED', whole, whole])
  expect((await client.findEntities({}, { bookmark: error.bookmark! })).results).toHaveLength(6)
  await expect(client.getEntity('e1', { bookmark: 'none' })).rejects.toMatchObject({ code: 'INVALID_BOOKMARK' })
})

it('over gRPC: the same in the trailing metadata', async () => {
  const { client, metadata } = grpcClient(`127.0.0.1:${node.grpcPort}`, 'acme')
  const error = await new Promise<ServiceError>(resolve =>
    client.FollowChanges!({ cursor: first }, metadata)
      .on('data', () => {})
      .on('error', resolve),
  )
  client.close()
  expect([error.code, error.metadata.get('percolate-code')]).toEqual([11, ['CHANGES_EXPIRED']])
  expect(error.metadata.get('percolate-bookmark')).toEqual([whole])
  expect(error.metadata.get('x-percolate-bookmark')).toEqual([whole])
  expect(error.metadata.get('percolate-cursor')).toEqual([whole])
})

it('a cursor as long as they get is read wherever it may be: query, headers, gRPC', async () => {
  const vector = new Map<string, number>()
  let cursor = ''
  for (
    let next = '';
    next.length <= BOOKMARK_CHARS_MAX;
    next = encodeBookmark({ incarnation: '000000000001-0000000000000000', vector })
  ) {
    cursor = next
    for (let n = 0; n < 4; n++) vector.set(`n1.${randomBytes(4).toString('hex')}.${randomBytes(4).toString('hex')}`, 1)
  }
  expect(cursor.length).toBeGreaterThan(BOOKMARK_CHARS_MAX - 128)
  // It is understood: it is of a tenant that was erased.
  const asked = [
    node.request('GET', `/api/v1/changes?cursor=${cursor}`),
    node.request('GET', '/api/v1/changes', { headers: { 'last-event-id': cursor } }),
  ]
  for (const { status, body } of await Promise.all(asked)) expect([status, body.code]).toEqual([410, 'CHANGES_EXPIRED'])
  const read = await node.request('GET', '/api/v1/entities/e1', { headers: { 'x-percolate-bookmark': cursor } })
  expect(read.status).toBe(200)
  const { client, metadata } = grpcClient(`127.0.0.1:${node.grpcPort}`, 'acme')
  const error = await new Promise<ServiceError>(resolve =>
    client.FollowChanges!({ cursor }, metadata)
      .on('data', () => {})
      .on('error', resolve),
  )
  client.close()
  expect(error.metadata.get('percolate-code')).toEqual(['CHANGES_EXPIRED'])
})
