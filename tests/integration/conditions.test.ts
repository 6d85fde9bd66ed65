import { request as httpRequest } from 'node:http'
import { credentials, loadPackageDefinition, Metadata, type ServiceError } from '@grpc/grpc-js'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { loadRemProto } from '../../src/api/grpc/protos.ts'
import { remove, startTestNode, type TestNode } from '../support/running.ts'

/** A condition that a request carries is decided on, or the request is refused: it is never done as if the condition had not been there. */

// biome-ignore lint/suspicious/noExplicitAny: a client and answers of every shape.
type Any = any
let node: TestNode
let client: Any
beforeAll(async () => {
  node = await startTestNode()
  const { percolate } = loadPackageDefinition(loadRemProto()) as Any
  client = new percolate.v1.Rem(`127.0.0.1:${node.grpcPort}`, credentials.createInsecure())
})
afterAll(async () => {
  client.close()
  await node.stop()
  await remove(node.folder)
})

const made = async (id: string, properties: object = { n: 0 }) => {
  const { headers } = await node.request('PUT', `/api/v1/entities/${id}`, { body: { properties } })
  return headers.get('etag')!
}
const propertiesOf = async (id: string) => (await node.request('GET', `/api/v1/entities/${id}`)).body.properties
const clockOf = (wallMs: number, name = 'client') => `${wallMs.toString(16).padStart(12, '0')}-00000000-${name}`

describe('If-Match over HTTP', () => {
  it('decides between merges of one entity by POST, whatever form its body has', async () => {
    for (const [id, bodyOf] of [
      ['single', (n: number) => ({ id: 'single', properties: { n } })],
      ['listed', (n: number) => ({ entities: [{ id: 'listed', properties: { n } }] })],
    ] as const) {
      const etag = await made(id)
      const answers = await Promise.all(
        [1, 2].map(n => node.request('POST', '/api/v1/entities', { body: bodyOf(n), headers: { 'if-match': etag } })),
      )
      expect(answers.map(({ status }) => status).sort()).toEqual([201, 412])
    }
  })

  it('is refused where several entities are merged, and nothing is stored', async () => {
    const etag = await made('one-of-two')
    const { status, body } = await node.request('POST', '/api/v1/entities', {
      body: { entities: [{ id: 'one-of-two', properties: { n: 9 } }, { id: 'never-made' }] },
      headers: { 'if-match': etag },
    })
    expect([status, body.code, body.field]).toEqual([400, 'INVALID_ARGUMENT', 'If-Match'])
    expect(body.detail).toContain('one entity')
    expect(await propertiesOf('one-of-two')).toEqual({ n: 0 })
  })

  it('with a clock of the past is refused when the write would not be seen, and decided when it would', async () => {
    const past = { 'x-percolate-as-of': clockOf(Date.now() - 60_000) }
    const etag = await made('dated')
    for (const [method, path, body] of [
      ['PUT', '/api/v1/entities/dated', { properties: { n: 1 } }],
      ['POST', '/api/v1/entities', { id: 'dated', properties: { n: 1 } }],
      ['DELETE', '/api/v1/entities/dated', undefined],
    ] as const) {
      const answer = await node.request(method, path, { body, headers: { ...past, 'if-match': etag } })
      expect([method, answer.status, answer.body.code, answer.body.field]).toEqual([
        method,
        409,
        'CLOCK_NOT_LATER',
        'X-Percolate-As-Of',
      ])
    }
    expect(await propertiesOf('dated')).toEqual({ n: 0 })
    // An edge is no part of the ETag, and would be overtaken all the same.
    const old = clockOf(Date.now() - 120_000)
    await node.request('PUT', '/api/v1/entities/edged', { body: { name: 'E' }, headers: { 'x-percolate-as-of': old } })
    await node.request('PUT', '/api/v1/entities/edged', {
      body: { edges: [{ type: 'to', to: 'f', weight: 1 }] },
      headers: { 'x-percolate-as-of': clockOf(Date.now() - 100_000) },
    })
    const read = await node.request('GET', '/api/v1/entities/edged')
    const later = await node.request('PUT', '/api/v1/entities/edged', {
      body: { edges: [{ type: 'to', to: 'f', weight: 2 }] },
      headers: { ...past, 'if-match': read.headers.get('etag')! },
    })
    expect(later.status).toBe(200)
    const early = await node.request('PUT', '/api/v1/entities/edged', {
      body: { edges: [{ type: 'to', to: 'f', weight: 3 }] },
      headers: { 'x-percolate-as-of': clockOf(Date.now() - 90_000), 'if-match': later.headers.get('etag')! },
    })
    expect([early.status, early.body.code]).toEqual([409, 'CLOCK_NOT_LATER'])
  })

  it('is decided on a read, which is answered in short when the client has it already', async () => {
    const etag = await made('read')
    const path = '/api/v1/entities/read'
    const get = async (headers: Record<string, string>) => (await node.request('GET', path, { headers })).status
    expect(await get({ 'if-match': etag })).toBe(200)
    expect(await get({ 'if-match': '"other"' })).toBe(412)
    expect(await get({ 'if-none-match': etag })).toBe(304)
    expect(await get({ 'if-none-match': `"other", W/${etag}` })).toBe(304)
    expect(await get({ 'if-none-match': '*' })).toBe(304)
    expect(await get({ 'if-none-match': '"other"' })).toBe(200)
    expect(await get({ 'if-modified-since': new Date().toUTCString() })).toBe(200)
  })
})

describe('the ETag of an entity', () => {
  const put = (id: string, body: object, headers: Record<string, string> = {}) =>
    node.request('PUT', `/api/v1/entities/${id}`, { body, headers })
  const get = async (id: string, headers: Record<string, string> = {}) => {
    const answer = await node.request('GET', `/api/v1/entities/${id}`, { headers })
    return { status: answer.status, edges: answer.body?.edges?.length, etag: answer.headers.get('etag')! }
  }

  it('changes with the edges that are listed, also when another entity is deleted', async () => {
    await put('end', {})
    const written = await put('start', { edges: [{ type: 'to', to: 'end' }] })
    const etag = written.headers.get('etag')!
    expect(await get('start', { 'if-none-match': etag })).toEqual({ status: 304, edges: undefined, etag })
    await node.request('DELETE', '/api/v1/entities/end')
    const ended = await get('start', { 'if-none-match': etag })
    expect([ended.status, ended.edges]).toEqual([200, 0])
    expect(ended.etag).not.toBe(etag)
    // The end comes back, and the edge does not.
    await put('end', {})
    expect((await get('start', { 'if-none-match': ended.etag })).status).toBe(304)
    const again = (await put('start', { edges: [{ type: 'to', to: 'end' }] })).headers.get('etag')!
    expect((await get('start', { 'if-none-match': again })).status).toBe(304)
    expect((await get('start', { 'if-none-match': `${etag}, ${ended.etag}` })).edges).toBe(1)
  })

  it('changes with an edge that is written with an earlier clock than the entity', async () => {
    const etag = await made('edged-later')
    const past = { 'x-percolate-as-of': clockOf(Date.now() - 60_000) }
    await put('edged-later', { edges: [{ type: 'to', to: 'f', weight: 1 }] }, past)
    const edged = await get('edged-later', { 'if-none-match': etag })
    expect([edged.status, edged.edges]).toEqual([200, 1])
    const later = { 'x-percolate-as-of': clockOf(Date.now() - 50_000) }
    await put('edged-later', { edges: [{ type: 'to', to: 'f', weight: 2 }] }, later)
    expect((await get('edged-later', { 'if-none-match': edged.etag })).status).toBe(200)
  })

  it('counts in If-Match as that of the record: by the delete of what an edge leads to nothing is refused', async () => {
    await put('other', {})
    await put('record', { edges: [{ type: 'to', to: 'other' }] })
    const { etag } = await get('record')
    await node.request('DELETE', '/api/v1/entities/other')
    expect((await get('record', { 'if-match': etag })).status).toBe(200)
    expect((await put('record', { properties: { n: 1 } }, { 'if-match': `"other", ${etag}` })).status).toBe(200)
    const refused = await put('record', { properties: { n: 2 } }, { 'if-match': etag })
    expect([refused.status, refused.body.code]).toEqual([412, 'PRECONDITION_FAILED'])
    const [named] = /"[^"]+"/.exec(refused.body.detail)!
    expect((await put('record', { properties: { n: 3 } }, { 'if-match': named })).status).toBe(200)
    expect((await get('record', { 'if-match': etag })).status).toBe(412)
  })
})

describe('If-None-Match: *', () => {
  it('makes an entity that is not there, once', async () => {
    const headers = { 'if-none-match': '*' }
    const answers = await Promise.all(
      [1, 2, 3].map(n =>
        n === 3
          ? node.request('POST', '/api/v1/entities', { body: { id: 'fresh', properties: { n } }, headers })
          : node.request('PUT', '/api/v1/entities/fresh', { body: { properties: { n } }, headers }),
      ),
    )
    const statuses = answers.map(({ status }) => status)
    expect(statuses.filter(status => status < 300).length).toBe(1)
    expect(statuses.filter(status => status === 412).length).toBe(2)
    expect(answers.find(({ status }) => status === 412)!.body).toMatchObject({ field: 'If-None-Match' })
    await node.request('DELETE', '/api/v1/entities/fresh')
    expect((await node.request('PUT', '/api/v1/entities/fresh', { body: {}, headers })).status).toBe(200)
  })

  it('is decided in a tenant that nobody has written, too', async () => {
    const put = () =>
      node.request('PUT', '/api/v1/entities/e', { tenant: 'unwritten', body: {}, headers: { 'if-none-match': '*' } })
    expect((await Promise.all([put(), put(), put()])).map(({ status }) => status).sort()).toEqual([200, 412, 412])
  })
})

describe('a condition that cannot be decided', () => {
  const DATE = new Date(0).toUTCString()
  const WRITES = [
    ['POST', '/api/v1/resources', { content: 'conditional marker' }],
    ['POST', '/api/v1/resources/embeddings', { embeddings: [] }],
    ['POST', '/api/v1/resources/search', { query: 'marker' }],
    ['POST', '/api/v1/moments', { content: 'conditional marker' }],
    ['POST', '/api/v1/retractions', { resources: [] }],
    ['POST', '/api/v1/chat', { messages: [{ role: 'user', content: 'x' }] }],
    ['POST', '/v1/chat/completions', { messages: [{ role: 'user', content: 'x' }] }],
    ['POST', '/api/v1/sync', { entries: [] }],
    ['POST', '/api/v1/replication/late', { origin: 'x', sequence: 1, action: 'discard' }],
    ['GET', '/api/v1/resources', undefined],
    ['GET', '/api/v1/entities', undefined],
    ['GET', '/api/v1/entities/e/traverse', undefined],
    ['GET', '/api/v1/changes', undefined],
  ] as const

  it.each(WRITES)('is refused by %s %s', async (method, path, body) => {
    for (const name of method === 'GET' ? ['If-Match'] : ['If-Match', 'If-None-Match']) {
      const answer = await node.request(method, path, { body, headers: { [name]: '*' } })
      expect([answer.status, answer.body.code, answer.body.field]).toEqual([400, 'INVALID_ARGUMENT', name])
      expect(answer.headers.get('x-percolate-node')).toBe(node.node)
    }
  })

  it('is refused whatever the route, when it rests on dates, ranges or tags that are not there', async () => {
    const etag = await made('target')
    for (const [name, value] of [
      ['If-Unmodified-Since', DATE],
      ['If-Modified-Since', DATE],
      ['If-Range', etag],
      ['If-None-Match', '"other"'],
      ['If-None-Match', ''],
    ] as const)
      for (const [method, path, body] of [
        ['PUT', '/api/v1/entities/target', { properties: { n: 5 } }],
        ['POST', '/api/v1/entities', { id: 'target', properties: { n: 5 } }],
        ['DELETE', '/api/v1/entities/target', undefined],
      ] as const) {
        const answer = await node.request(method, path, { body, headers: { [name]: value } })
        expect([method, name, answer.status, answer.body.code, answer.body.field]).toEqual([
          method,
          name,
          400,
          'INVALID_ARGUMENT',
          name,
        ])
      }
    expect(await propertiesOf('target')).toEqual({ n: 0 })
    const dated = await node.request('GET', '/api/v1/entities/target', { headers: { 'if-unmodified-since': DATE } })
    expect([dated.status, dated.body.field]).toEqual([400, 'If-Unmodified-Since'])
  })

  it('names only routes that the API has', async () => {
    for (const [method, path, body] of WRITES) {
      const answer = await node.request(method, path.replace('/changes', '/changes?cursor=x'), { body })
      expect(String(answer.body.detail)).not.toContain(`There is no ${method}`)
    }
  })
})

describe('a header that Connection names', () => {
  const send = (connection: string, headers: Record<string, string>, path = '/api/v1/entities/connected') =>
    new Promise<{ status: number; body: Any }>((resolve, reject) => {
      const body = JSON.stringify({ properties: { n: 1 } })
      const sent = httpRequest(
        node.url + path,
        {
          method: 'PUT',
          headers: { 'content-type': 'application/json', 'x-tenant-id': 'acme', ...headers, connection },
        },
        answer => {
          let text = ''
          answer.on('data', piece => {
            text += piece
          })
          answer.once('end', () => resolve({ status: answer.statusCode!, body: JSON.parse(text) }))
        },
      )
      sent.once('error', reject)
      sent.end(body)
    })

  it('is one of the connection, or the request is refused: a node that forwards would leave it out', async () => {
    await made('connected')
    for (const connection of ['keep-alive, if-match', 'If-Match', 'close,\tX-Percolate-Durability', 'x-tenant-id']) {
      const { status, body } = await send(connection, { 'if-match': '"stale"' })
      expect([connection, status, body.code, body.field]).toEqual([connection, 400, 'INVALID_ARGUMENT', 'Connection'])
    }
    expect(await propertiesOf('connected')).toEqual({ n: 0 })
    expect((await send('keep-alive, x-of-a-proxy', { 'x-of-a-proxy': '1' })).status).toBe(200)
  })
})

describe('conditions in gRPC metadata', () => {
  const call = (method: string, request: object, more: Record<string, string> = {}) =>
    new Promise<{ code: string; details?: string }>(resolve => {
      const metadata = new Metadata()
      metadata.set('x-tenant-id', 'acme')
      for (const [name, value] of Object.entries(more)) metadata.set(name, value)
      const done = (error: ServiceError | null) =>
        resolve(
          error
            ? { code: String(error.metadata.get('percolate-code')[0] ?? error.code), details: error.details }
            : { code: 'OK' },
        )
      if (method === 'WriteResources') client[method](metadata, done).end()
      else if (/^(List|Search|Find|Follow|Chat)/.test(method))
        client[method](request, metadata)
          .on('data', () => {})
          .on('error', done)
          .on('end', () => done(null))
      else client[method](request, metadata, done)
    })

  it('are decided where the message has the field', async () => {
    const etag = await made('meta')
    const put = (more: Record<string, string>, field: object = {}) =>
      call('PutEntities', { entities: [{ id: 'meta', aliases: [`a${Math.random()}`] }], ...field }, more)
    expect((await put({ 'if-match': '"stale"' })).code).toBe('PRECONDITION_FAILED')
    expect((await put({ 'if-match': etag }, { if_match: '"stale"' })).code).toBe('INVALID_ARGUMENT')
    expect((await put({ 'if-none-match': '*' })).code).toBe('PRECONDITION_FAILED')
    expect((await put({}, { if_none_match: '*' })).code).toBe('PRECONDITION_FAILED')
    expect((await put({}, { if_none_match: etag })).code).toBe('INVALID_ARGUMENT')
    expect((await put({ 'if-match': etag }, { if_match: etag })).code).toBe('OK')
    expect((await put({ 'if-match': etag })).code).toBe('PRECONDITION_FAILED')
    expect((await call('DeleteEntity', { id: 'meta' }, { 'if-match': etag })).code).toBe('PRECONDITION_FAILED')
    expect((await call('DeleteEntity', { id: 'meta' }, { 'if-match': '*' })).code).toBe('OK')
    expect((await call('PutEntities', { entities: [{ id: 'a' }, { id: 'b' }] }, { 'if-none-match': '*' })).code).toBe(
      'INVALID_ARGUMENT',
    )
    expect((await call('PutEntities', { entities: [{ id: 'meta' }] }, { 'if-none-match': '*' })).code).toBe('OK')
  })

  it('have a bound as in HTTP', async () => {
    const tags = (count: number) => '"a",'.repeat(count)
    for (const [method, request] of [
      ['PutEntities', { entities: [{ id: 'bound' }] }],
      ['DeleteEntity', { id: 'bound' }],
      ['DeleteResource', { id: 'bound' }],
      ['DeleteMoment', { id: 'bound' }],
    ] as const) {
      const { code, details } = await call(method, { ...request, if_match: tags(1_000_000) })
      expect([method, code]).toEqual([method, 'INVALID_ARGUMENT'])
      expect(details).toMatch(/^if_match has 4000000 characters; at most 16384 /)
    }
    await made('bound')
    expect((await call('PutEntities', { entities: [{ id: 'bound' }], if_match: tags(4096) })).code).toBe(
      'PRECONDITION_FAILED',
    )
  })

  it.each([
    'PutResources',
    'WriteResources',
    'GetResource',
    'ListResources',
    'SearchResources',
    'GetEntity',
    'FindEntities',
    'TraverseEntities',
    'AppendMoments',
    'GetMoment',
    'ListMoments',
    'Chat',
    'FollowChanges',
    'GetReplication',
  ])('are refused by %s', async method => {
    for (const name of ['if-match', 'if-none-match', 'if-unmodified-since']) {
      const { code, details } = await call(method, {}, { [name]: '*' })
      expect([name, code]).toEqual([name, 'INVALID_ARGUMENT'])
      expect(details).toContain(name)
    }
  })
})
