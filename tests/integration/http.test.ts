import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { startFileNode } from '../support/running.ts'

const node = await startFileNode()

const put = async (resource: object, tenant = 'acme') =>
  (await node.request('POST', '/api/v1/resources', { tenant, body: resource })).body.ids[0] as string
const search = async (query: string, tenant = 'acme') =>
  (await node.request('GET', `/api/v1/resources?${query}`, { tenant })).body

describe('resources', () => {
  it('are stored, read, and the same thing twice is one', async () => {
    const resource = {
      uri: 'file:///a',
      ordinal: 1,
      content: 'Percolating water finds its way.',
      name: 'A',
      category: 'c',
      metadata: { page: 3, deep: { x: [1, 'y'] } },
    }
    const first = await node.request('POST', '/api/v1/resources', { body: resource })
    expect(first.status).toBe(201)
    expect(await put(resource)).toBe(first.body.ids[0])
    const read = await node.request('GET', `/api/v1/resources/${first.body.ids[0]}`)
    expect(read.body).toMatchObject({ ...resource, embedding: 'stored', embedding_model: 'percolate-hash-v1' })
    expect(read.headers.get('x-percolate-node')).toBe(node.node)
    expect(read.headers.get('x-percolate-entry-node')).toBe(node.node)
    expect(read.headers.get('etag')).toMatch(/^"[0-9a-f]+"$/)
  })

  it('come in lists, all or none', async () => {
    const bad = await node.request('POST', '/api/v1/resources', {
      tenant: 'batch',
      body: { resources: [{ content: 'good' }, { content: 5 }] },
    })
    expect(bad.status).toBe(400)
    expect(bad.body).toMatchObject({ code: 'INVALID_ARGUMENT', field: 'resources[1].content' })
    expect((await search('', 'batch')).results).toEqual([])
    const good = await node.request('POST', '/api/v1/resources', {
      tenant: 'batch',
      body: { resources: [{ content: 'one' }, { content: 'two' }, { content: 'one' }] },
    })
    expect(good.body.ids.length).toBe(3)
    expect(good.body.ids[0]).toBe(good.body.ids[2])
    expect((await search('', 'batch')).results.length).toBe(2)
  })

  it('are deleted under If-Match, and can be added again', async () => {
    const resource = { uri: 'x:del', content: 'short lived zebra', category: 'old' }
    const id = await put(resource)
    const { headers } = await node.request('GET', `/api/v1/resources/${id}`)
    expect((await node.request('DELETE', `/api/v1/resources/${id}`, { headers: { 'if-match': '"no"' } })).status).toBe(
      412,
    )
    expect(
      (await node.request('DELETE', `/api/v1/resources/${id}`, { headers: { 'if-match': headers.get('etag')! } }))
        .status,
    ).toBe(204)
    expect((await node.request('GET', `/api/v1/resources/${id}`)).body).toMatchObject({
      status: 404,
      code: 'NOT_FOUND',
    })
    expect((await node.request('DELETE', `/api/v1/resources/${id}`)).status).toBe(404)
    expect((await search('query=zebra')).results).toEqual([])
    expect(await put({ uri: 'x:del', content: 'short lived zebra' })).toBe(id)
    expect((await node.request('GET', `/api/v1/resources/${id}`)).body.category).toBeNull()
    expect((await search('query=zebra')).results.length).toBe(1)
  })

  it('cannot be brought back by a write that carries an older clock', async () => {
    const asOf = `${Date.now().toString(16).padStart(12, '0')}-00000000-upload-1`
    const body = { uri: 'x:asof', content: 'written as of then' }
    const write = () => node.request('POST', '/api/v1/resources', { body, headers: { 'x-percolate-as-of': asOf } })
    const id = (await write()).body.ids[0]
    await node.request('DELETE', `/api/v1/resources/${id}`)
    expect((await write()).status).toBe(201)
    expect((await node.request('GET', `/api/v1/resources/${id}`)).status).toBe(404)
    const ahead = `${(Date.now() + 5_000).toString(16).padStart(12, '0')}-00000000-x`
    const early = (
      await node.request('POST', '/api/v1/resources', {
        body: { content: 'from a clock that runs ahead' },
        headers: { 'x-percolate-as-of': ahead },
      })
    ).body.ids[0]
    expect((await node.request('DELETE', `/api/v1/resources/${early}`)).status).toBe(204)
    expect((await node.request('GET', `/api/v1/resources/${early}`)).status).toBe(404)
    const future = `${(Date.now() + 59_000).toString(16).padStart(12, '0')}-00000000-x`
    expect(
      (await node.request('POST', '/api/v1/resources', { body, headers: { 'x-percolate-as-of': future } })).body.code,
    ).toBe('INVALID_CLOCK')
  })

  it('list newest first, page by page, each once', async () => {
    for (let n = 0; n < 25; n++) await put({ content: `page item ${n}`, category: n % 2 ? 'odd' : 'even' }, 'pages')
    const seen: string[] = []
    let cursor: string | undefined
    do {
      const page = await search(`limit=7${cursor ? `&cursor=${cursor}` : ''}`, 'pages')
      seen.push(...page.results.map(({ content }: { content: string }) => content))
      cursor = page.cursor
    } while (cursor)
    expect(seen).toEqual(Array.from({ length: 25 }, (_, n) => `page item ${24 - n}`))
    const odd = await search('category=odd&limit=100', 'pages')
    expect(odd.results.length).toBe(12)
  })
})

describe('search', () => {
  const tenant = 'searching'
  beforeAll(async () => {
    await node.request('POST', '/api/v1/resources', {
      tenant,
      body: {
        resources: [
          {
            content: 'The warranty of the pump lasts two years from the day of purchase.',
            category: 'manual',
            uri: 'doc://pump/1',
            metadata: { lang: 'en', page: 4 },
          },
          {
            content: 'Clean the filter of the coffee machine once a week with warm water.',
            category: 'manual',
            uri: 'doc://coffee/1',
            metadata: { lang: 'en', page: 9 },
          },
          {
            content: 'Quarterly revenue grew by seven percent, driven by pumps.',
            category: 'report',
            uri: 'doc://report/1',
            metadata: { lang: 'en', page: 1 },
          },
          {
            content: 'Die Garantie der Pumpe beträgt zwei Jahre.',
            category: 'manual',
            uri: 'doc://pumpe/1',
            metadata: { lang: 'de', page: 4 },
          },
        ],
      },
    })
  })

  it.each(['hybrid', 'text', 'vector'])('finds the passage in mode %s', async mode => {
    const { results } = await search(`query=how+long+is+the+warranty+of+a+pump&mode=${mode}`, tenant)
    expect(results[0].uri).toBe('doc://pump/1')
    expect(results[0].score).toBeGreaterThan(0)
    expect(results[0].snippet).toContain('<mark>warranty</mark>')
  })

  it('narrows by category, metadata and uri', async () => {
    expect((await search('query=pump&category=report', tenant)).results.map(({ uri }: { uri: string }) => uri)).toEqual(
      ['doc://report/1'],
    )
    expect((await search(`query=pump&filter=${encodeURIComponent('{"page":{"lt":2}}')}`, tenant)).results.length).toBe(
      1,
    )
    expect((await search('query=pumpe&filter=lang:de', tenant)).results.length).toBe(1)
    expect(
      (await search(`query=pump&filter=${encodeURIComponent('{"uri":{"prefix":"doc://pump/"}}')}`, tenant)).results
        .length,
    ).toBe(1)
    expect((await search('query=pump&filter=lang:fr', tenant)).results).toEqual([])
  })

  it('pages by cursor without repeating', async () => {
    const first = await search('query=pump+warranty+filter&limit=2', tenant)
    const second = await search(`query=pump+warranty+filter&limit=2&cursor=${first.cursor}`, tenant)
    const ids = [...first.results, ...second.results].map(({ id }: { id: string }) => id)
    expect(new Set(ids).size).toBe(ids.length)
    expect((await search(`query=other&cursor=${first.cursor}`, tenant)).code).toBe('INVALID_CURSOR')
    expect((await search(`query=pump+warranty+filter&cursor=${first.cursor}`, 'acme')).code).toBe('INVALID_CURSOR')
  })

  it('takes a query embedding in a body', async () => {
    const embedding = Array.from({ length: 384 }, (_, n) => (n === 0 ? 1 : 0))
    expect(
      (await node.request('POST', '/api/v1/resources/search', { tenant, body: { embedding, limit: 2 } })).status,
    ).toBe(200)
    expect(
      (await node.request('POST', '/api/v1/resources/search', { tenant, body: { embedding: [1, 2] } })).body,
    ).toMatchObject({ code: 'EMBEDDING_INVALID', field: 'embedding' })
  })
})

describe('embeddings', () => {
  it('of one model and one length a tenant', async () => {
    const post = (body: object, tenant = 'vectors') => node.request('POST', '/api/v1/resources', { tenant, body })
    expect((await post({ content: 'apple', embedding: [1, 2, 3], embedding_model: 'mine' })).status).toBe(201)
    expect((await post({ content: 'b', embedding: [1, 2], embedding_model: 'mine' })).body).toMatchObject({
      code: 'EMBEDDING_INVALID',
      field: 'embedding',
    })
    expect((await post({ content: 'b', embedding: [1, 2, 3], embedding_model: 'other' })).body.code).toBe(
      'EMBEDDING_MODEL_MISMATCH',
    )
    expect((await post({ content: 'b' })).body.code).toBe('EMBEDDING_MODEL_MISMATCH')
    expect(
      (
        await post(
          {
            resources: [
              { content: 'x', embedding: [1, 2, 3], embedding_model: 'm' },
              { content: 'y', embedding: [1], embedding_model: 'm' },
            ],
          },
          'vectors2',
        )
      ).body.field,
    ).toBe('resources[1].embedding')
    expect((await search('', 'vectors2')).results).toEqual([])
    const answer = await search('query=apple', 'vectors')
    expect(answer.results.length).toBe(1)
    expect(answer.warnings[0]).toMatch(/words only/)
    expect((await search('query=apple&mode=vector', 'vectors')).code).toBe('EMBEDDING_MODEL_MISMATCH')
  })

  it.each(['[1e999]', '[null]', '["1"]', '[]', '[NaN]', '"x"', '[1e300]'])('refuses %s', async embedding => {
    const { status, body } = await node.request('POST', '/api/v1/resources', {
      body: `{"content":"x","embedding":${embedding}}`,
    })
    expect(status).toBe(400)
    expect(['INVALID_JSON', 'INVALID_ARGUMENT', 'EMBEDDING_INVALID']).toContain(body.code)
  })
})

describe('entities', () => {
  const entity = (id: string) => `/api/v1/entities/${encodeURIComponent(id)}`

  it('merge property by property, and can be emptied', async () => {
    await node.request('PUT', entity('e1'), {
      body: { type: 'person', name: 'Ada Lovelace', aliases: ['Countess'], properties: { born: 1815, note: 'x' } },
    })
    const merged = await node.request('PUT', entity('e1'), {
      body: { aliases: ['AAL'], properties: { note: null, field: 'math' } },
    })
    expect(merged.body).toMatchObject({
      id: 'e1',
      type: 'person',
      name: 'Ada Lovelace',
      aliases: ['AAL', 'Countess'],
      properties: { born: 1815, field: 'math' },
    })
    expect(merged.body.properties.note).toBeUndefined()
    const removed = await node.request('PUT', entity('e1'), {
      body: { remove_aliases: ['AAL'] },
      headers: { 'if-match': merged.headers.get('etag')! },
    })
    expect(removed.body.aliases).toEqual(['Countess'])
    expect(
      (await node.request('PUT', entity('e1'), { body: {}, headers: { 'if-match': merged.headers.get('etag')! } }))
        .status,
    ).toBe(412)
    for (const tag of [merged.headers.get('etag')!, '*']) {
      const none = await node.request('PUT', entity('nobody'), { body: {}, headers: { 'if-match': tag } })
      expect([none.status, none.body.code, none.body.field]).toEqual([412, 'PRECONDITION_FAILED', 'If-Match'])
    }
    expect((await node.request('GET', entity('nobody'))).status).toBe(404)
  })

  it.each(['a/b', 'a.b..c', '..a', 'mit Leerzeichen', '😀', 'ключ', 'a%2Fb', '?x=1#y', '"quoted"', "o'clock"])(
    'take the id %j',
    async id => {
      expect((await node.request('PUT', entity(id), { tenant: 'ids', body: { name: id } })).body.id).toBe(id)
      expect((await node.request('GET', entity(id), { tenant: 'ids' })).body.name).toBe(id)
      expect((await node.request('DELETE', entity(id), { tenant: 'ids' })).status).toBe(204)
    },
  )

  it.each(['a\u0000b', '\n', '\u007f', 'x'.repeat(600)])('refuse the id %j with a reason', async id => {
    const { status, body } = await node.request('POST', '/api/v1/entities', { tenant: 'ids', body: { id } })
    expect(status).toBe(400)
    expect(body).toMatchObject({ code: 'INVALID_ARGUMENT', field: 'id' })
  })

  it('are found by name, alias, prefix and misspelling', async () => {
    const tenant = 'names'
    await node.request('POST', '/api/v1/entities', {
      tenant,
      body: {
        entities: [
          { id: 'p1', type: 'person', name: 'Katherine Johnson', aliases: ['K. J.'] },
          { id: 'p2', type: 'person', name: 'Dorothy Vaughan' },
          { id: 'o1', type: 'organization', name: 'Katherine Foundation' },
        ],
      },
    })
    const find = async (query: string) =>
      (await node.request('GET', `/api/v1/entities?${query}`, { tenant })).body.results
    expect((await find('name=katherine+johnson'))[0]).toMatchObject({ id: 'p1', match: 'exact' })
    expect((await find('name=k+j'))[0]).toMatchObject({ id: 'p1' })
    expect((await find('name=kath')).map(({ id }: { id: string }) => id).sort()).toEqual(['o1', 'p1'])
    expect((await find('name=kath&type=organization')).map(({ id }: { id: string }) => id)).toEqual(['o1'])
    expect((await find('name=Dorothy+Vaugan'))[0]).toMatchObject({ id: 'p2', match: 'fuzzy' })
    expect((await find('name=Vauhgan'))[0]).toMatchObject({ id: 'p2' })
    expect(await find('name=zzzz')).toEqual([])
    expect((await find('type=person')).length).toBe(2)
    expect((await find('')).length).toBe(3)
  })

  it('are walked both ways, once each, along types, without dangling ends', async () => {
    const tenant = 'graph'
    const edges = (to: string[], type = 'knows') => to.map(id => ({ type, to: id }))
    await node.request('POST', '/api/v1/entities', {
      tenant,
      body: {
        entities: [
          { id: 'a', edges: [...edges(['b', 'ghost']), ...edges(['c'], 'likes')] },
          { id: 'b', edges: edges(['c', 'a']) },
          { id: 'c', edges: edges(['a', 'd']) },
          { id: 'd' },
        ],
      },
    })
    const walk = async (query: string) =>
      (await node.request('GET', `/api/v1/entities/a/traverse?${query}`, { tenant })).body
    expect((await walk('')).results.map(({ id }: { id: string }) => id).sort()).toEqual(['b', 'c'])
    expect((await walk('depth=10')).results.map(({ id }: { id: string }) => id).sort()).toEqual(['b', 'c', 'd'])
    expect((await walk('type=likes')).results.map(({ id }: { id: string }) => id)).toEqual(['c'])
    expect((await walk('direction=in')).results.map(({ id }: { id: string }) => id).sort()).toEqual(['b', 'c'])
    expect((await walk('depth=3&type=knows')).results.find(({ id }: { id: string }) => id === 'd').path).toEqual([
      'a',
      'b',
      'c',
      'd',
    ])
    const ends = async (id: string) =>
      (await node.request('GET', entity(id), { tenant })).body.edges.map(({ to }: { to: string }) => to)
    expect(await ends('a')).toEqual(['b', 'ghost', 'c'])
    await node.request('DELETE', entity('c'), { tenant })
    expect((await walk('depth=10')).results.map(({ id }: { id: string }) => id)).toEqual(['b'])
    expect(await ends('a')).toEqual(['b', 'ghost'])
    await node.request('PUT', entity('c'), { tenant, body: { name: 'c again' } })
    expect((await walk('depth=10')).results.map(({ id }: { id: string }) => id)).toEqual(['b'])
    expect([await ends('a'), await ends('c')]).toEqual([['b', 'ghost'], []])
    expect((await node.request('GET', '/api/v1/entities/a/traverse?depth=11', { tenant })).body.field).toBe('depth')
    await node.request('PUT', entity('a'), { tenant, body: { edges: [{ type: 'knows', to: 'b', remove: true }] } })
    expect((await walk('')).results).toEqual([])
  })
})

describe('moments', () => {
  it('make a feed, newest first, with ranges, types, nesting and references', async () => {
    const tenant = 'feed'
    const at = (day: number) => `2026-03-0${day}T12:00:00Z`
    await node.request('POST', '/api/v1/moments', {
      tenant,
      body: {
        moments: [
          { id: 'm1', time: at(1), type: 'meeting', name: 'One', entities: ['ada'] },
          { id: 'm2', time: at(2), type: 'note', parent: 'm1', resources: ['r1'] },
          { id: 'm3', time: at(3), end_time: at(4), type: 'meeting', content: 'Three' },
          { id: 'm0', time: -5, type: 'note' },
        ],
      },
    })
    const feed = async (query: string) =>
      (await node.request('GET', `/api/v1/moments?${query}`, { tenant })).body.results.map(
        ({ id }: { id: string }) => id,
      )
    expect(await feed('')).toEqual(['m3', 'm2', 'm1', 'm0'])
    expect(await feed(`from=${at(2)}&to=${at(3)}`)).toEqual(['m3', 'm2'])
    expect(await feed('type=meeting')).toEqual(['m3', 'm1'])
    expect(await feed('parent=m1')).toEqual(['m2'])
    expect(await feed('entity=ada')).toEqual(['m1'])
    expect(await feed('resource=r1')).toEqual(['m2'])
    const page = (await node.request('GET', '/api/v1/moments?limit=2', { tenant })).body
    expect(
      (await node.request('GET', `/api/v1/moments?limit=2&cursor=${page.cursor}`, { tenant })).body.results.map(
        ({ id }: { id: string }) => id,
      ),
    ).toEqual(['m1', 'm0'])
    expect((await node.request('DELETE', '/api/v1/moments/m2', { tenant })).status).toBe(204)
    expect(await feed('parent=m1')).toEqual([])
    const same = { time: at(5), content: 'same' }
    expect((await node.request('POST', '/api/v1/moments', { tenant, body: same })).body).toEqual(
      (await node.request('POST', '/api/v1/moments', { tenant, body: same })).body,
    )
  })

  it.each([{ time: 'yesterday' }, { time: '2026-13-01' }, { time: at(), end_time: '1999-01-01' }, { time: 1.5 }])(
    'refuse %j',
    async body => {
      const answer = await node.request('POST', '/api/v1/moments', { body })
      expect(answer.status).toBe(400)
      expect(answer.body.field).toMatch(/time/)
    },
  )
  function at() {
    return '2026-01-01T00:00:00Z'
  }
})

describe('bad requests', () => {
  it.each([
    [undefined, 'TENANT_MISSING'],
    ['', 'TENANT_MISSING'],
    ['A', 'TENANT_INVALID'],
    ['a.b', 'TENANT_INVALID'],
    ['../x', 'TENANT_INVALID'],
    ['-a', 'TENANT_INVALID'],
    ['a'.repeat(64), 'TENANT_INVALID'],
  ])('with tenant %j get %s', async (tenant, code) => {
    expect((await node.request('GET', '/api/v1/resources', { tenant })).body).toMatchObject({
      status: 400,
      code,
      field: 'X-Tenant-ID',
    })
  })

  it.each([
    ['POST', '/api/v1/resources', '{', 400, 'INVALID_JSON'],
    ['POST', '/api/v1/resources', '', 400, 'INVALID_JSON'],
    ['POST', '/api/v1/resources', '[]', 400, 'INVALID_ARGUMENT'],
    ['POST', '/api/v1/resources', '{"content":""}', 400, 'INVALID_ARGUMENT'],
    ['POST', '/api/v1/resources', '{"content":"x","wat":1}', 400, 'INVALID_ARGUMENT'],
    ['POST', '/api/v1/resources', '{"content":"x","ordinal":"1"}', 400, 'INVALID_ARGUMENT'],
    ['POST', '/api/v1/resources', '{"content":"x","ordinal":-1}', 400, 'INVALID_ARGUMENT'],
    ['POST', '/api/v1/resources', '{"content":"x","metadata":[]}', 400, 'INVALID_ARGUMENT'],
    ['POST', '/api/v1/resources', '{"content":"x","metadata":{"__proto__":{"a":1}}}', 400, 'INVALID_JSON'],
    ['POST', '/api/v1/resources', '{"content":"\\ud800"}', 400, 'INVALID_ARGUMENT'],
    ['POST', '/api/v1/resources', `{"content":"${'x'.repeat(200_000)}"}`, 413, 'BODY_TOO_LARGE'],
    ['POST', '/api/v1/resources', `{"content":"x","metadata":{"k":"${'x'.repeat(70_000)}"}}`, 413, 'BODY_TOO_LARGE'],
    [
      'POST',
      '/api/v1/resources',
      `{"content":"x","metadata":${'{"a":'.repeat(40)}1${'}'.repeat(40)}}`,
      400,
      'INVALID_ARGUMENT',
    ],
    ['POST', '/api/v1/resources', 'x'.repeat(5_000_000), 413, 'BODY_TOO_LARGE'],
    ['GET', '/api/v1/resources?limit=0', undefined, 400, 'INVALID_ARGUMENT'],
    ['GET', '/api/v1/resources?query=x&limit=1001', undefined, 400, 'INVALID_ARGUMENT'],
    ['GET', '/api/v1/resources?query=x&mode=fast', undefined, 400, 'INVALID_ARGUMENT'],
    ['GET', '/api/v1/resources?query=%20', undefined, 400, 'INVALID_ARGUMENT'],
    ['GET', '/api/v1/resources?wat=1', undefined, 400, 'INVALID_ARGUMENT'],
    ['GET', '/api/v1/resources?cursor=abc', undefined, 400, 'INVALID_CURSOR'],
    ['GET', '/api/v1/resources?filter={', undefined, 400, 'INVALID_ARGUMENT'],
    ['GET', '/api/v1/resources/%00', undefined, 400, 'INVALID_ARGUMENT'],
    ['GET', '/api/v1/resources/%E0%A4%A', undefined, 400, 'INVALID_ARGUMENT'],
    ['PATCH', '/api/v1/resources', '{}', 405, 'METHOD_NOT_ALLOWED'],
    ['GET', '/api/v1/nothing', undefined, 404, 'ROUTE_NOT_FOUND'],
    ['POST', '/api/v1/chat', '{"messages":[]}', 400, 'INVALID_ARGUMENT'],
    ['POST', '/api/v1/chat', '{"messages":[{"role":"assistant","content":"x"}]}', 400, 'INVALID_ARGUMENT'],
  ])('%s %s with %.40s', async (method, path, body, status, code) => {
    const answer = await node.request(method, path, {
      tenant: 'bad',
      ...(body === undefined ? {} : { body, headers: { 'content-type': 'application/json' } }),
    })
    expect([answer.status, answer.body.code]).toEqual([status, code])
    expect(answer.headers.get('content-type')).toMatch('application/problem+json')
    expect(answer.body.detail.length).toBeGreaterThan(10)
  })

  it.each([
    ['/resources', { content: 'x', name: 'n'.repeat(5000) }, 'name', /5000 bytes; at most 1024 .*Shorten it/],
    ['/resources', { content: 'c'.repeat(200_000) }, 'content', /at most 131072 .*Split it into chunks/],
    ['/moments', { name: 'n'.repeat(5000) }, 'name', /Shorten it/],
    ['/moments', { content: 'c'.repeat(200_000) }, 'content', /Split it into chunks/],
    ['/moments', { metadata: { k: 'm'.repeat(70_000) } }, 'metadata', /Leave out what is not needed/],
  ])('too large for %s are told what to do about that field', async (path, body, field, remedy) => {
    const answer = await node.request('POST', `/api/v1${path}`, { tenant: 'bad', body })
    expect([answer.status, answer.body.code, answer.body.field]).toEqual([413, 'BODY_TOO_LARGE', field])
    expect(answer.body.detail).toMatch(remedy)
  })

  it('with another content type get 415', async () => {
    const answer = await node.request('POST', '/api/v1/resources', {
      body: 'content=x',
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
    })
    expect([answer.status, answer.body.code]).toEqual([415, 'UNSUPPORTED_MEDIA_TYPE'])
  })

  it('leave nothing on disk, neither do reads of unknown tenants', async () => {
    await node.request('GET', '/api/v1/resources?query=x', { tenant: 'never-written' })
    await node.request('DELETE', '/api/v1/resources/x', { tenant: 'never-written' })
    const tenants = await readdir(join(node.folder, 'tenants'))
    expect(tenants).not.toContain('never-written')
    expect(tenants).not.toContain('bad')
  })
})

describe('tenants', () => {
  it('never see one another: by id, search, list, graph, feed, chat or cursor', async () => {
    const id = await put({ content: 'The secret launch code is swordfish.', uri: 'x:secret' }, 'alpha')
    await node.request('PUT', '/api/v1/entities/agent', {
      tenant: 'alpha',
      body: { name: 'Agent Alpha', edges: [{ type: 'knows', to: 'agent' }] },
    })
    await node.request('POST', '/api/v1/moments', { tenant: 'alpha', body: { content: 'secret meeting' } })
    await put({ content: 'Nothing to see here, ordinary words.' }, 'beta')
    const paths = [
      `/resources/${id}`,
      '/resources?query=secret+swordfish',
      '/resources?query=swordfish&mode=vector',
      '/resources',
      '/entities/agent',
      '/entities?name=agent',
      '/entities/agent/traverse',
      '/entities',
      '/moments',
    ]
    for (const path of paths) {
      const { body } = await node.request('GET', `/api/v1${path}`, { tenant: 'beta' })
      expect(JSON.stringify(body)).not.toMatch(/swordfish|Agent Alpha|secret meeting/)
    }
    const chat = await node.request('POST', '/api/v1/chat', {
      tenant: 'beta',
      body: { messages: [{ role: 'user', content: 'What is the secret launch code?' }] },
    })
    expect(JSON.stringify(chat.body)).not.toMatch(/swordfish/)
    expect(chat.body.choices[0].message.content).toMatch(/Nothing relevant/)
  })
})

describe('chat', () => {
  const ask = (content: string, rest: object = {}) =>
    node.request('POST', '/api/v1/chat', { tenant: 'chatty', body: { messages: [{ role: 'user', content }], ...rest } })
  beforeAll(async () => {
    await put(
      {
        uri: 'doc:1',
        content: 'The boiler holds 40 litres. The warranty period is 24 months from delivery. Paint it blue.',
        metadata: { document: 'boiler.pdf', page: 7 },
      },
      'chatty',
    )
    await node.request('PUT', '/api/v1/entities/boiler', {
      tenant: 'chatty',
      body: { name: 'Boiler', type: 'product', properties: { maker: 'Steamworks' } },
    })
  })

  it('quotes the sentence that answers, with its source, and says that no model is set', async () => {
    const { body } = await ask('How long is the warranty period?')
    expect(body.object).toBe('chat.completion')
    expect(body.choices[0].message.content).toContain('The warranty period is 24 months from delivery.')
    expect(body.choices[0].message.content).toContain('No chat model is set')
    expect(body.citations[0]).toMatchObject({ n: 1, document: 'boiler.pdf', page: 7, kind: 'resource' })
  })

  it('tells what it knows of entities in the question', async () => {
    expect((await ask('Who made the boiler?')).body.choices[0].message.content).toContain('maker: Steamworks')
  })

  it('says so when nothing relevant is stored', async () => {
    expect((await ask('What is the capital of Mongolia?')).body.choices[0].message.content).toMatch(/Nothing relevant/)
  })

  it('streams events that end with [DONE], also at the path of OpenAI clients', async () => {
    const { body, headers } = await node.request('POST', '/v1/chat/completions', {
      tenant: 'chatty',
      body: { messages: [{ role: 'user', content: 'warranty period?' }], stream: true },
    })
    expect(headers.get('content-type')).toMatch('text/event-stream')
    expect(headers.get('x-percolate-node')).toBe(node.node)
    const events = (body as string)
      .trim()
      .split('\n\n')
      .map(line => line.replace(/^data: /, ''))
    expect(events.at(-1)).toBe('[DONE]')
    const chunks = events.slice(0, -1).map(text => JSON.parse(text))
    expect(chunks.map(chunk => chunk.choices[0].delta.content ?? '').join('')).toContain('24 months')
    expect(chunks.at(-1).citations.length).toBeGreaterThan(0)
    expect(chunks.at(-1).choices[0].finish_reason).toBe('stop')
  })
})

describe('operations', () => {
  it('answers probes, metrics, the OpenAPI document and its page', async () => {
    expect((await node.request('GET', '/health', { tenant: undefined })).status).toBe(200)
    expect((await node.request('GET', '/ready', { tenant: undefined })).body.status).toBe('ready')
    const metrics = (await node.request('GET', '/metrics', { tenant: undefined })).body as string
    for (const name of [
      'percolate_active_tenants{tier="small"}',
      'percolate_request_duration_seconds_bucket',
      'percolate_open_tenants',
      'percolate_outbox_entries',
      'nodejs_eventloop_lag_p99_seconds',
    ])
      expect(metrics).toContain(name)
    expect(metrics).not.toMatch(/searching|chatty/)
    const openapi = (await node.request('GET', '/openapi.json', { tenant: undefined })).body
    expect(Object.keys(openapi.paths)).toContain('/api/v1/resources/{id}')
    expect(openapi.components.schemas.ResourceInput.properties.content.type).toBe('string')
    expect((await node.request('GET', '/docs', { tenant: undefined })).body).toContain('<title>Swagger UI')
    for (const [path, operations] of Object.entries(openapi.paths as Record<string, Record<string, unknown>>))
      for (const [method, operation] of Object.entries(operations)) {
        if (method === 'servers') continue
        const { operationId, parameters = [] } = operation as { operationId?: string; parameters?: { name: string }[] }
        expect(operationId, `${method} ${path}`).toMatch(/^[a-z]+[A-Z]/)
        if (/^\/(api|v1|upload|jobs)/.test(path))
          expect(parameters, path).toContainEqual(expect.objectContaining({ name: 'X-Tenant-ID', required: true }))
      }
    expect(Object.keys(openapi.paths)).toEqual(expect.arrayContaining(['/upload', '/jobs', '/jobs/{id}']))
    // Between nodes only.
    expect(JSON.stringify(openapi.paths)).not.toMatch(/api\/v1\/sync/)
    const { paths } = openapi
    const asOf = paths['/api/v1/retractions'].post.parameters.filter(
      ({ name }: { name: string }) => name === 'X-Percolate-As-Of',
    )
    expect(asOf).toEqual([expect.objectContaining({ required: true })])
    const named = (path: string, method: string) =>
      paths[`/api/v1${path}`][method].parameters.map(({ name }: { name: string }) => name)
    expect(named('/entities/{id}', 'get')).toEqual(
      expect.arrayContaining(['X-Percolate-Bookmark', 'X-Percolate-Consistency']),
    )
    for (const method of ['put', 'delete'])
      expect(named('/entities/{id}', method)).toEqual(
        expect.arrayContaining(['X-Percolate-Durability', 'X-Percolate-As-Of', 'If-Match']),
      )
    expect(named('/resources', 'post')).not.toContain('If-Match')
    expect(named('/resources/search', 'post')).not.toContain('X-Percolate-Durability')
    expect(named('/changes', 'get')).toContain('Last-Event-ID')
    for (const path of ['/replication', '/replication/check', '/replication/late'])
      expect(named(path, 'get')).toContain('X-Tenant-ID')
    const { responses } = paths['/api/v1/entities'].post
    expect(Object.keys(responses['201'].headers)).toEqual(
      expect.arrayContaining(['X-Percolate-Durability', 'X-Percolate-Bookmark', 'X-Percolate-Clock']),
    )
    expect(responses['4XX'].description).toMatch(/409 `EMBEDDING_MODEL_MISMATCH`/)
    expect(paths['/upload'].post.responses['4XX'].description).toMatch(/408 `UPLOAD_STALLED`/)
    expect(openapi.components.schemas.Problem.properties.code.enum).toContain('CHANGES_EXPIRED')
    const mode = openapi.paths['/api/v1/resources'].get.parameters.find(({ name }: { name: string }) => name === 'mode')
    expect(mode.schema.enum).toEqual(['hybrid', 'text', 'vector'])
    for (const name of ['ResourceInput', 'EntityPatch', 'MomentInput', 'SearchInput', 'ChatInput'])
      expect(openapi.components.schemas[name].example, name).toBeTypeOf('object')
  })

  it('answers a person at /, a program at /, and says where uploads go', async () => {
    const html = { accept: 'text/html,application/xhtml+xml,*/*;q=0.8' }
    const page = await node.request('GET', '/', { tenant: undefined, headers: html })
    expect([page.status, page.headers.get('content-type')]).toEqual([200, 'text/html; charset=utf-8'])
    expect(page.body).toMatch(/href="\/docs"[\s\S]*version \d/)
    expect((await node.request('GET', '/', { tenant: undefined })).body).toMatchObject({ role: 'database node' })
    for (const path of ['/upload', '/jobs/1'])
      expect((await node.request('POST', path)).body).toMatchObject({
        status: 404,
        detail: expect.stringMatching(/8081/),
      })
  })

  it("has errors and usage that OpenAI's clients can read at /v1", async () => {
    const wrong = await node.request('POST', '/v1/chat/completions', { body: { messages: [] } })
    expect(wrong.body).toMatchObject({
      code: 'INVALID_ARGUMENT',
      error: { message: wrong.body.detail, type: 'invalid_request_error', code: 'invalid_argument' },
    })
    expect((await node.request('POST', '/v1/embeddings', { body: {} })).body.error.message).toContain('/v1/embeddings')
    expect((await node.request('POST', '/api/v1/chat', { body: { messages: [] } })).body.error).toBeUndefined()
    const messages = [{ role: 'user', content: 'Is there anything?' }]
    const { usage } = (await node.request('POST', '/v1/chat/completions', { body: { messages } })).body
    expect(usage.total_tokens).toBe(usage.prompt_tokens + usage.completion_tokens)
    expect(usage.prompt_tokens).toBeGreaterThan(0)
  })

  it('carries a request id through', async () => {
    const { headers, body } = await node.request('GET', '/api/v1/resources/none', {
      headers: { 'x-request-id': 'my-id-1' },
    })
    expect(headers.get('x-request-id')).toBe('my-id-1')
    expect(body.request_id).toBe('my-id-1')
  })
})
