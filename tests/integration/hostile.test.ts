import { request as httpRequest } from 'node:http'
import { Unpackr } from 'msgpackr'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { grpcClient } from '../support/grpc.ts'
import { remove, startTestNode, type TestNode } from '../support/running.ts'

/** Every route and method with values that nobody should send: an answer comes, it is no 5xx, and the node goes on. */

const SEED = Number(process.env.HOSTILE_SEED ?? 7)
let state = SEED
function random(below: number): number {
  state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff
  return Math.floor((state / 0x80000000) * below)
}
const pick = <T>(items: readonly T[]): T => items[random(items.length)]!

const deep = (levels: number): string => `${'{"a":'.repeat(levels)}1${'}'.repeat(levels)}`
const forged = (...parts: unknown[]) => Buffer.from(JSON.stringify(parts)).toString('base64url')
const TEXTS = [
  '',
  ' ',
  '.',
  '..',
  '%00',
  '\u0000',
  '\u0007bell',
  '\ud800',
  'a\ud800b',
  'é'.repeat(400),
  '漢'.repeat(338),
  'x'.repeat(3000),
  '__proto__',
  'constructor',
  "'; DROP TABLE",
  '../../etc/passwd',
  'NaN',
  '-1',
  '1e309',
  '9'.repeat(40),
  deep(50),
  deep(9000),
  '[[[[',
  '{"and":[]}',
  '{"a":{"in":[[[1]]]}}',
  '{"a":{"gte":{"b":1}}}',
  'earliest',
  'null',
]
const VALUES: unknown[] = [
  ...TEXTS,
  null,
  true,
  0,
  -1,
  1.5,
  2 ** 53,
  -(2 ** 63),
  1e308,
  [],
  {},
  [[]],
  [null],
  { a: { b: { c: {} } } },
  Array.from({ length: 2000 }, (_, n) => n),
]

interface Route {
  readonly method: string
  readonly path: string
  readonly query?: readonly string[]
  readonly fields?: readonly string[]
}
const ROUTES: readonly Route[] = [
  {
    method: 'POST',
    path: '/api/v1/resources',
    fields: ['content', 'uri', 'ordinal', 'name', 'category', 'metadata', 'embedding', 'embedding_model', 'resources'],
  },
  {
    method: 'GET',
    path: '/api/v1/resources',
    query: ['query', 'mode', 'limit', 'cursor', 'category', 'uri', 'filter', 'embedding'],
  },
  {
    method: 'POST',
    path: '/api/v1/resources/search',
    fields: ['query', 'embedding', 'mode', 'limit', 'cursor', 'category', 'uri', 'filter'],
  },
  { method: 'POST', path: '/api/v1/resources/embeddings', fields: ['embeddings'] },
  { method: 'GET', path: '/api/v1/resources/:id' },
  { method: 'DELETE', path: '/api/v1/resources/:id' },
  {
    method: 'POST',
    path: '/api/v1/entities',
    fields: ['id', 'type', 'name', 'aliases', 'remove_aliases', 'properties', 'edges', 'entities'],
  },
  { method: 'GET', path: '/api/v1/entities', query: ['name', 'type', 'limit', 'cursor'] },
  { method: 'PUT', path: '/api/v1/entities/:id', fields: ['type', 'name', 'aliases', 'properties', 'edges'] },
  { method: 'GET', path: '/api/v1/entities/:id' },
  { method: 'DELETE', path: '/api/v1/entities/:id' },
  { method: 'GET', path: '/api/v1/entities/:id/traverse', query: ['depth', 'direction', 'type', 'limit'] },
  {
    method: 'POST',
    path: '/api/v1/moments',
    fields: [
      'id',
      'time',
      'end_time',
      'type',
      'name',
      'content',
      'parent',
      'resources',
      'entities',
      'metadata',
      'moments',
    ],
  },
  {
    method: 'GET',
    path: '/api/v1/moments',
    query: ['from', 'to', 'type', 'parent', 'resource', 'entity', 'limit', 'cursor'],
  },
  { method: 'GET', path: '/api/v1/moments/:id' },
  { method: 'DELETE', path: '/api/v1/moments/:id' },
  { method: 'POST', path: '/api/v1/chat', fields: ['messages', 'stream', 'model', 'temperature', 'max_tokens'] },
  { method: 'POST', path: '/v1/chat/completions', fields: ['messages'] },
  { method: 'GET', path: '/api/v1/changes', query: ['cursor', 'heartbeat_ms'] },
  { method: 'GET', path: '/api/v1/replication', query: ['bookmark'] },
  { method: 'GET', path: '/api/v1/replication/check' },
  { method: 'GET', path: '/api/v1/replication/late' },
  { method: 'POST', path: '/api/v1/replication/late', fields: ['origin', 'sequence', 'action'] },
  { method: 'POST', path: '/api/v1/sync', fields: ['entries'] },
]
const HEADERS = [
  'x-percolate-as-of',
  'x-percolate-bookmark',
  'x-percolate-durability',
  'x-percolate-consistency',
  'if-match',
  'last-event-id',
  'x-request-id',
  'x-tenant-id',
  'content-type',
  'x-percolate-peer',
]

let node: TestNode
beforeAll(async () => {
  node = await startTestNode({ env: { PERCOLATE_BODY_BYTES_MAX: '4194304' } })
  await node.request('POST', '/api/v1/resources', {
    body: { content: 'A pump has a warranty.', metadata: { page: 1 } },
  })
  await node.request('PUT', '/api/v1/entities/e', { body: { name: 'E', edges: [{ type: 'to', to: 'f' }] } })
  await node.request('POST', '/api/v1/moments', { body: { content: 'It happened.' } })
})
afterAll(async () => {
  await node.stop()
  await remove(node.folder)
})

/** The status; of an answer that goes on, the status too. */
function send(
  method: string,
  path: string,
  headers: Record<string, string>,
  body: string | undefined,
): Promise<number> {
  return new Promise((resolve, reject) => {
    const sent = httpRequest(node.url + path, { method, headers, timeout: 20_000 }, answer => {
      resolve(answer.statusCode!)
      answer.destroy()
    })
    sent.once('timeout', () => sent.destroy(new Error('it hangs')))
    sent.once('error', reject)
    sent.end(body)
  })
}

const urlSafe = (text: string) => encodeURIComponent(text.toWellFormed()).slice(0, 8000)
const headerSafe = (text: string) => text.replace(/[^\t\x20-\x7e]/g, '?').slice(0, 4000)

describe('hostile requests', () => {
  it('get an answer that is no failure of the node', async () => {
    const wrong: unknown[] = []
    for (let n = 0; n < 700; n++) {
      const route = pick(ROUTES)
      const path = route.path.replace(':id', urlSafe(pick(TEXTS)) || 'x')
      const query = (route.query ?? [])
        .filter(() => random(3) === 0)
        .map(name => `${name}=${urlSafe(pick(TEXTS))}`)
        .join('&')
      const fields = Object.fromEntries(
        (route.fields ?? []).filter(() => random(3) === 0).map(name => [name, pick(VALUES)]),
      )
      let body = route.fields ? JSON.stringify(fields) : undefined
      if (body && random(12) === 0) body = pick([deep(9000), '[', 'null', '"x"', `{"content":${deep(9000)}}`])
      const headers: Record<string, string> = {
        'x-tenant-id': 'acme',
        ...(body ? { 'content-type': 'application/json' } : {}),
      }
      if (random(4) === 0) headers[pick(HEADERS)] = headerSafe(pick(TEXTS))
      const status = await send(route.method, query ? `${path}?${query}` : path, headers, body).catch(error =>
        String(error),
      )
      if (typeof status !== 'number' || status >= 500)
        wrong.push([n, status, route.method, path.slice(0, 80), query.slice(0, 200), headers, body?.slice(0, 200)])
    }
    expect(wrong).toEqual([])
    expect((await node.request('GET', '/api/v1/entities/e')).status).toBe(200)
  })

  it('that forge a cursor are told so', async () => {
    const listed = async (path: string) => (await node.request('GET', path)).body.cursor as string
    for (let n = 0; n < 3; n++) await node.request('POST', '/api/v1/moments', { body: { content: `more ${n}` } })
    for (let n = 0; n < 3; n++) await node.request('POST', '/api/v1/resources', { body: { content: `more ${n}` } })
    for (const path of ['/api/v1/moments?limit=1', '/api/v1/resources?limit=1']) {
      const parts = JSON.parse(Buffer.from(await listed(path), 'base64url').toString()) as unknown[]
      for (const time of [2 ** 53 - 1, -(2 ** 53 - 1), 2 ** 47, 1.5, 'x', null]) {
        const { status, body } = await node.request(
          'GET',
          `${path}&cursor=${forged(...parts.slice(0, 2), time, parts[3])}`,
        )
        expect([path, time, status, body.code]).toEqual([path, time, 400, 'INVALID_CURSOR'])
      }
    }
  })

  it('that forge a position are told so, wherever it may be, before it is worked on', async () => {
    const general = vi.spyOn(Unpackr.prototype, 'unpack')
    const bytes = (hex: string) => Buffer.from(hex.replaceAll(' ', ''), 'hex')
    const positions = {
      pointers: bytes(`98 01 a169 80 a0 90 90 92 0000 92 d6 6900000000 90 9f ${'d6 7000000000'.repeat(15)} 00`),
      ids: bytes(`95 01 a169 80 a0 ${'d6 6900000000'.repeat(500)} 90`),
      tellers: bytes(`95 01 a169 80 a0 93 92 a16e d6 6900000000 81 a161 01 ${'92 a16e d6 7000000000'.repeat(2)}`),
      errors: bytes(`95 01 a169 80 a0 dc 03e8 ${'d4 6500 90'.repeat(1000)}`),
      'more behind it': bytes('93 01 a169 80 00'),
    }
    for (const [what, forgedBytes] of Object.entries(positions)) {
      const text = forgedBytes.toString('base64url')
      const header = { headers: { 'x-percolate-bookmark': text } }
      for (const [code, asked] of [
        ['INVALID_BOOKMARK', node.request('GET', '/api/v1/entities/e', header)],
        ['INVALID_CURSOR', node.request('GET', `/api/v1/changes?cursor=${text}`)],
        ['INVALID_CURSOR', node.request('GET', '/api/v1/changes', { headers: { 'last-event-id': text } })],
      ] as const) {
        const { status, body } = await asked
        expect([what, status, body.code]).toEqual([what, 400, code])
      }
      const seen = general.mock.calls.some(([given]) => Buffer.from(given as Uint8Array).equals(forgedBytes))
      expect([what, seen]).toEqual([what, false])
    }
    general.mockRestore()
  })

  it('that filter by too much are told so, at once', async () => {
    const filtered = (filter: unknown) =>
      node.request('POST', '/api/v1/resources/search', { body: { query: 'pump', filter } })
    for (const [filter, why] of [
      [{ page: { in: Array.from({ length: 300_000 }, (_, n) => n) } }, /more than 1000 values/],
      [{ uri: { in: Array.from({ length: 900 }, (_, n) => `${n}${'x'.repeat(2000)}`) } }, /characters of text/],
      [{ page: { in: [[1]] } }, /text, numbers, true, false or null/],
    ] as const) {
      const { status, body } = await filtered(filter)
      expect([status, body.code, body.field]).toEqual([400, 'INVALID_ARGUMENT', 'filter'])
      expect(body.detail).toMatch(why)
    }
    const nested = await node.request('POST', '/api/v1/resources/search', {
      body: `{"query":"pump","filter":{"not":${'{"not":'.repeat(9000)}{}${'}'.repeat(9001)}}`,
    })
    expect([nested.status, nested.body.field]).toEqual([400, 'filter'])
    expect((await filtered({ page: { in: Array.from({ length: 1000 }, (_, n) => n) } })).body.results).toHaveLength(1)
  })

  it("cannot move a tenant's clock to where its writes are refused", async () => {
    const clock = (aheadMs: number, counter = 'ffffffff') =>
      `${(Date.now() + aheadMs).toString(16).padStart(12, '0')}-${counter}-x`
    const write = (asOf?: string) =>
      node.request('PUT', '/api/v1/entities/clock', {
        tenant: 'clocks',
        body: { properties: { a: 1 } },
        ...(asOf ? { headers: { 'x-percolate-as-of': asOf } } : {}),
      })
    const refused = await write(clock(59_000))
    expect([refused.status, refused.body.code, refused.body.field]).toEqual([400, 'INVALID_CLOCK', 'X-Percolate-As-Of'])
    for (let n = 0; n < 20; n++) expect((await write(clock(9_000))).status).toBe(200)
    expect((await write()).status).toBe(200)
  })

  it('cannot grow an entity, or an answer, without end', async () => {
    const patch = (n: number, value: unknown) =>
      node.request('PUT', '/api/v1/entities/large', { tenant: 'large', body: { properties: { [`p${n}`]: value } } })
    let refused: Awaited<ReturnType<typeof patch>> | undefined
    for (let n = 0; n < 10 && !refused; n++) {
      const answer = await patch(n, 'x'.repeat(60_000))
      if (answer.status !== 200) refused = answer
    }
    expect([refused?.status, refused?.body.code, refused?.body.field]).toEqual([413, 'BODY_TOO_LARGE', 'properties'])
    expect(refused?.body.detail).toMatch(/Remove what it does not need/)
    // What makes it smaller is taken.
    expect((await patch(0, null)).status).toBe(200)
    // Each name is in as many index entries as it has characters, nearly.
    const named = (aliases: string[]) =>
      node.request('PUT', '/api/v1/entities/named', { tenant: 'large', body: { aliases } })
    const long = (n: number) => `${n} `.padEnd(1000, 'many words ')
    expect((await named([1, 2, 3, 4].map(long))).status).toBe(200)
    const many = await named([5, 6, 7, 8, 9].map(long))
    expect([many.status, many.body.code, many.body.field]).toEqual([413, 'BODY_TOO_LARGE', 'aliases'])
    expect(many.body.detail).toMatch(/9000 bytes together; at most 8192 .*remove_aliases/)
    for (let batch = 0; batch < 4; batch++)
      await node.request('PUT', '/api/v1/entities/hub', {
        tenant: 'large',
        body: {
          edges: Array.from({ length: 60 }, (_, n) => ({
            type: 'to',
            to: `spoke-${batch}-${n}`,
            properties: { text: 'y'.repeat(30_000) },
          })),
        },
      })
    const { body } = await node.request('GET', '/api/v1/entities/hub', { tenant: 'large' })
    expect(body.edges_truncated).toBe(true)
    expect(JSON.stringify(body).length).toBeLessThan(5_000_000)
    expect(body.edges.length).toBeGreaterThan(50)
  })

  it('cannot grow an edge without end, over HTTP or gRPC, in one request or in many', async () => {
    const link = (properties: object, to = 'b') =>
      node.request('PUT', '/api/v1/entities/a', {
        tenant: 'links',
        body: {
          edges: [
            { type: 'to', to: 'c' },
            { type: 'to', to, properties },
          ],
        },
      })
    const fill = (n: number) => ({ [`p${n}`]: 'x'.repeat(40_000) })
    const statuses: number[] = []
    for (let n = 0; n < 5; n++) statuses.push((await link(fill(n))).status)
    expect(statuses).toEqual([200, 200, 200, 413, 413])
    const refused = await link(fill(9))
    expect([refused.body.code, refused.body.field]).toEqual(['BODY_TOO_LARGE', 'edges[1].properties'])
    expect(refused.body.detail).toMatch(/make the edge \d+ bytes; at most 131072 .*remove the edge/)
    // What is as it was or becomes smaller is taken, and so is what only weighs it.
    expect((await link({ p0: null })).status).toBe(200)
    expect((await link(fill(0))).status).toBe(200)
    // An edge that is removed has room again.
    const remove = { edges: [{ type: 'to', to: 'b', remove: true }] }
    expect((await node.request('PUT', '/api/v1/entities/a', { tenant: 'links', body: remove })).status).toBe(200)
    expect((await link(fill(9))).status).toBe(200)
    // One request that names an edge several times.
    const { status, body } = await node.request('PUT', '/api/v1/entities/a', {
      tenant: 'links',
      body: { edges: [0, 1, 2, 3].map(n => ({ type: 'to', to: 'often', properties: fill(n) })) },
    })
    expect([status, body.field]).toEqual([413, 'edges[3].properties'])
    const { client, metadata } = grpcClient(`127.0.0.1:${node.grpcPort}`, 'links')
    const text = { fields: { q: { stringValue: 'x'.repeat(60_000) }, r: { stringValue: 'x'.repeat(4_000) } } }
    const entities = [{ id: 'z' }, { id: 'a', edges: [{ type: 'to', to: 'b', properties: text }] }]
    const put = (edges: object) =>
      new Promise<{ code: number; field: unknown }>(resolve =>
        client.PutEntities!(
          { entities: edges },
          metadata,
          (error: { code: number; metadata: typeof metadata } | null) =>
            resolve({ code: error?.code ?? 0, field: error?.metadata.get('percolate-field')[0] }),
        ),
      )
    expect(await put(entities)).toEqual({ code: 0, field: undefined })
    expect((await link({ p9: 'x'.repeat(60_000) })).status).toBe(200)
    const more = { fields: { s: { stringValue: 'x'.repeat(20_000) } } }
    expect(await put([{ id: 'z' }, { id: 'a', edges: [{ type: 'to', to: 'b', properties: more }] }])).toEqual({
      code: 8,
      field: 'entities[1].edges[0].properties',
    })
    client.close()
  })

  it('over gRPC get a status that is no failure of the node', async () => {
    const { client, metadata } = grpcClient(`127.0.0.1:${node.grpcPort}`, 'acme')
    type Field = { name: string; type: string; label: string; typeName: string }
    type Method = { requestStream: boolean; responseStream: boolean; requestType: { type: { field: Field[] } } }
    const { service } = client.constructor as unknown as { service: Record<string, Method> }
    const struct = (levels: number): object => ({
      fields: { a: levels === 0 ? { numberValue: Number.NaN } : { structValue: struct(levels - 1) } },
    })
    const hostile = ({ type, typeName }: Field): unknown => {
      if (type === 'TYPE_STRING') return pick(TEXTS)
      if (type === 'TYPE_BOOL') return true
      if (type === 'TYPE_MESSAGE') return typeName.endsWith('Struct') ? struct(pick([0, 3, 40])) : {}
      if (type === 'TYPE_BYTES') return Buffer.from(pick(TEXTS))
      return pick([0, -1, 1, 2 ** 31 - 1, Number.NaN, Number.POSITIVE_INFINITY])
    }
    const wrong: unknown[] = []
    for (const [name, method] of Object.entries(service))
      for (let n = 0; n < 12; n++) {
        const message = Object.fromEntries(
          method.requestType.type.field
            .filter(() => random(2) === 0)
            .map(field => {
              const value = hostile(field)
              return [field.name, field.label === 'LABEL_REPEATED' ? [value, value] : value]
            }),
        )
        const meta = metadata.clone()
        if (random(3) === 0) meta.set(pick(HEADERS.slice(0, 4)), headerSafe(pick(TEXTS)))
        const code = await new Promise<number>(resolve => {
          const done = (error: { code: number } | null) => resolve(error?.code ?? 0)
          const options = { deadline: Date.now() + 10_000 }
          if (method.requestStream) {
            const call = client[name]!(meta, options, done)
            call.write(message)
            call.end()
          } else if (method.responseStream) {
            const call = client[name]!(message, meta, options)
            call.on('data', () => {
              resolve(0)
              call.cancel()
            })
            call.on('end', () => resolve(0))
            call.on('error', done)
          } else client[name]!(message, meta, options, done)
        })
        // UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, DATA_LOSS.
        if ([2, 4, 13, 15].includes(code)) wrong.push([name, code, JSON.stringify(message).slice(0, 300)])
      }
    expect(wrong).toEqual([])
    client.close()
  })
})
