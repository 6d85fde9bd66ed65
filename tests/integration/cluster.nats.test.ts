import type { Metadata } from '@grpc/grpc-js'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { timeoutSignal } from '../../src/base/timeout.ts'
import { PeerAuth } from '../../src/replication/auth.ts'
import { encodeEntry } from '../../src/storage/codec.ts'
import { subjects } from '../../src/stream/subjects.ts'
import { FAST, TestCluster } from '../support/cluster.ts'
import { grpcClient, writeStream } from '../support/grpc.ts'
import { connectNats, eventually, listed, request, startTestObjects, tempFolder } from '../support/running.ts'

let cluster: TestCluster
beforeAll(async () => {
  cluster = await TestCluster.start()
})
afterAll(() => cluster.stop())

const put = (node: string, tenant: string, id: string, properties: object, headers: Record<string, string> = {}) =>
  cluster.node(node).request('PUT', `/api/v1/entities/${id}`, { tenant, body: { properties }, headers })
const get = (node: string, tenant: string, id: string, headers: Record<string, string> = {}) =>
  cluster.node(node).request('GET', `/api/v1/entities/${id}`, { tenant, headers })
const replicated = { 'x-percolate-durability': 'replicated' }

describe('a tenant in a cluster', () => {
  it('is written on one node, held by two in different zones, and answered by all', async () => {
    const written = await put('n1', 'acme', 'ada', { role: 'engineer' }, replicated)
    expect(written.status).toBe(200)
    expect(written.headers.get('x-percolate-durability')).toBe('replicated')
    const holders = await cluster.holders('acme')
    expect(holders[0]).toBe('n1')
    for (const { name } of cluster.nodes.values()) {
      const read = await get(name, 'acme', 'ada', {
        'x-percolate-bookmark': written.headers.get('x-percolate-bookmark')!,
      })
      expect([read.status, read.body.properties]).toEqual([200, { role: 'engineer' }])
      expect(read.headers.get('x-percolate-entry-node')).toBe(name)
      expect(holders).toContain(read.headers.get('x-percolate-node'))
    }
  })

  it('takes writes on every node, with bodies of every size, and merges them', async () => {
    await put('n1', 'merge', 'e', { a: 1 })
    await cluster.holders('merge')
    const big = 'x'.repeat(60_000)
    const answers = await Promise.all(
      ['n1', 'n2', 'n3'].map(node => put(node, 'merge', 'e', { [node]: big }, replicated)),
    )
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200])
    await eventually('all holders are equal', async () => {
      const { body } = await cluster.node('n2').request('GET', '/api/v1/replication/check', { tenant: 'merge' })
      return body.equal && body.comparisons.length > 0
    })
    const { body } = await get('n3', 'merge', 'e')
    expect(Object.keys(body.properties).sort()).toEqual(['a', 'n1', 'n2', 'n3'])
  })

  it('is not there when nobody wrote it, and a read or a delete makes nothing', async () => {
    for (const headers of [{}, { 'if-match': '"x"' }, { 'x-percolate-consistency': 'home' }]) {
      const deleted = await cluster.node('n1').request('DELETE', '/api/v1/entities/x', { tenant: 'nobody', headers })
      expect([deleted.status, deleted.body.code]).toEqual([404, 'NOT_FOUND'])
    }
    expect((await get('n2', 'nobody', 'x')).status).toBe(404)
    expect((await cluster.node('n1').request('GET', '/api/v1/resources', { tenant: 'nobody' })).body).toEqual({
      results: [],
    })
    expect((await cluster.node('n1').request('GET', '/api/v1/replication', { tenant: 'nobody' })).status).toBe(404)
  })

  it('is searched and streamed over gRPC through a node that does not hold it', async () => {
    const written = await cluster.node('n1').request('POST', '/api/v1/resources', {
      tenant: 'grpc',
      body: { resources: [{ content: 'Percolation of coffee' }, { content: 'Roasting of beans' }] },
      headers: replicated,
    })
    expect(written.status).toBe(201)
    const outsider = await cluster.outsider('grpc')
    const { client, metadata } = grpcClient(`127.0.0.1:${outsider.grpcPort}`, 'grpc')
    const found: string[] = []
    const stream = client.SearchResources!({ query: 'coffee', limit: 1 }, metadata)
    let head: Metadata | undefined
    stream.once('metadata', (received: Metadata) => {
      head = received
    })
    for await (const { resource } of stream) found.push(resource.content)
    expect(found).toEqual(['Percolation of coffee'])
    expect(head!.get('x-percolate-entry-node')).toEqual([outsider.name])
    expect(await cluster.holders('grpc')).toContain(head!.get('x-percolate-node')[0])

    const trailer = new Promise<Metadata>(resolve => {
      const call = client.PutEntities!({ entities: [{ id: 'g', name: 'Gia' }] }, metadata, () => {})
      call.on('status', (status: { metadata: Metadata }) => resolve(status.metadata))
    })
    expect((await trailer).get('x-percolate-bookmark')[0]).toMatch(/^[\w-]+$/)

    expect((await writeStream(client, metadata, 300)).written).toBe(300)
    client.close()
  })

  it('gives a gRPC write its head before anybody does anything of it: a call without one was never taken', async () => {
    await put('n1', 'head', 'h', { n: 0 }, replicated)
    const outsider = await cluster.outsider('head')
    const holders = await cluster.holders('head')
    const { client, metadata } = grpcClient(`127.0.0.1:${outsider.grpcPort}`, 'head')
    const tenant = outsider.replica!.directory.placements().find(({ tenant: id }) => id === 'head')!.tenant
    let release = () => {}
    const released = new Promise<void>(resolve => {
      release = resolve
    })
    // As long as somebody has the tenant alone, nobody can write.
    const alone = holders.map(name => cluster.node(name).replica!.pool.alone(tenant, () => released))
    const call = client.PutEntities!({ entities: [{ id: 'h', name: 'Hal' }] }, metadata, () => {})
    const head = await new Promise<Metadata>(resolve => call.once('metadata', resolve))
    const trailer = new Promise<Metadata>(resolve =>
      call.on('status', (status: { metadata: Metadata }) => resolve(status.metadata)),
    )
    release()
    await Promise.all(alone)
    expect(head.get('x-percolate-entry-node')).toEqual([outsider.name])
    expect(head.get('x-percolate-node')).toEqual([])
    expect(holders).toContain((await trailer).get('x-percolate-node')[0])
    client.close()
  })

  it('decides on If-Match at the home, whichever node is asked', async () => {
    await put('n2', 'cas', 'c', { n: 0 }, replicated)
    await cluster.holders('cas')
    const { headers } = await get('n2', 'cas', 'c')
    const tag = headers.get('etag')!
    const answers = await Promise.all(
      ['n1', 'n2', 'n3', 'n1', 'n2', 'n3'].map((node, n) => put(node, 'cas', 'c', { n }, { 'if-match': tag })),
    )
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 412, 412, 412, 412, 412])
    for (const { headers: sent } of answers) expect(sent.get('x-percolate-node')).toBe('n2')
  })

  it('decides there on merges by POST, on creations, and on conditions in gRPC metadata too', async () => {
    await put('n2', 'cas2', 'c', { n: 0 }, replicated)
    await cluster.holders('cas2')
    const tag = (await get('n2', 'cas2', 'c')).headers.get('etag')!
    const nodes = ['n1', 'n2', 'n3']
    const post = (node: string, id: string, headers: Record<string, string>) =>
      cluster
        .node(node)
        .request('POST', '/api/v1/entities', { tenant: 'cas2', body: { id, properties: { node } }, headers })
    const merged = await Promise.all(nodes.map(node => post(node, 'c', { 'if-match': tag })))
    expect(merged.map(({ status }) => status).sort()).toEqual([201, 412, 412])
    const made = await Promise.all(nodes.map(node => post(node, 'new', { 'if-none-match': '*' })))
    expect(made.map(({ status }) => status).sort()).toEqual([201, 412, 412])
    for (const name of nodes) {
      const { client, metadata } = grpcClient(`127.0.0.1:${cluster.node(name).grpcPort}`, 'cas2')
      metadata.set('if-match', tag)
      const code = await new Promise(resolve =>
        client.DeleteEntity!({ id: 'c' }, metadata, (error: { metadata: Metadata } | null) =>
          resolve(error?.metadata.get('percolate-code')[0]),
        ),
      )
      expect([name, code]).toEqual([name, 'PRECONDITION_FAILED'])
      client.close()
    }
  })

  it('refuses what is malformed: durability, bookmark, consistency', async () => {
    for (const [header, value] of [
      ['x-percolate-durability', 'eventually'],
      ['x-percolate-bookmark', 'not a bookmark!'],
      ['x-percolate-consistency', 'strong'],
    ] as const) {
      const { status, body } = await get('n1', 'acme', 'ada', { [header]: value })
      expect([status, body.field.toLowerCase()]).toEqual([400, header])
    }
  })

  it('says 503 for a bookmark that nobody has, and whether one is replicated', async () => {
    const written = await put('n1', 'marks', 'e', { a: 1 }, replicated)
    await cluster.holders('marks')
    const bookmark = written.headers.get('x-percolate-bookmark')!
    const ahead = await cluster.node('n1').request('GET', '/api/v1/replication', { tenant: 'marks' })
    expect(ahead.body.holders.map((holder: { lag: number }) => holder.lag)).toEqual([0, 0])
    const asked = await cluster
      .node('n3')
      .request('GET', `/api/v1/replication?bookmark=${bookmark}`, { tenant: 'marks' })
    expect(asked.body.replicated).toBe(true)
    const { packValue } = await import('../../src/storage/codec.ts')
    const future = packValue([1, ahead.body.incarnation, { 'n1.00000000': 999 }]).toString('base64url')
    const { status, body, headers } = await get('n1', 'marks', 'e', { 'x-percolate-bookmark': future })
    expect([status, body.code]).toEqual([503, 'BOOKMARK_NOT_REACHED'])
    expect(headers.get('retry-after')).toBe('1')
    const foreign = await get('n1', 'acme', 'ada', { 'x-percolate-bookmark': bookmark })
    expect([foreign.status, foreign.body.code]).toEqual([400, 'INVALID_BOOKMARK'])
    const path = `/api/v1/replication?bookmark=${bookmark}`
    const asOther = await cluster.node('n1').request('GET', path, { tenant: 'acme' })
    expect([asOther.status, asOther.body.code, asOther.body.field]).toEqual([400, 'INVALID_BOOKMARK', 'bookmark'])
  })
})

describe('a request that is refused', () => {
  const known = () =>
    [...cluster.nodes.values()].flatMap(({ replica }) => [
      ...replica!.directory.placements().map(placement => placement.tenant as string),
      ...replica!.copies.tenants(),
    ])

  it('leaves nothing of a tenant that nobody knows, over HTTP: not in the directory, no copy, no retries', async () => {
    const bad: [method: string, path: string, body: unknown, headers?: Record<string, string>][] = [
      ['POST', '/api/v1/resources', '{ not json'],
      ['POST', '/api/v1/resources', {}],
      ['POST', '/api/v1/resources', { resources: [{ content: 'fine' }, { content: 7 }] }],
      ['POST', '/api/v1/resources', { content: '\ud800' }],
      [
        'POST',
        '/api/v1/resources',
        {
          resources: [
            { content: 'a', embedding: [1] },
            { content: 'b', embedding: [1, 2] },
          ],
        },
      ],
      ['POST', '/api/v1/resources/embeddings', { embeddings: [{ id: 'x', embedding: ['y'] }] }],
      ['PUT', '/api/v1/entities/e', { properties: 7 }],
      ['PUT', '/api/v1/entities/e', { properties: { a: 1 } }, { 'if-match': '"x"' }],
      ['PUT', '/api/v1/entities/e', { properties: { a: 1 } }, { 'x-percolate-as-of': 'yesterday' }],
      ['POST', '/api/v1/moments', { content: 'x', time: 'yesterday' }],
      ['POST', '/api/v1/sync', { entries: ['!'] }],
      ['DELETE', '/api/v1/entities/e', undefined],
      ['POST', '/api/v1/replication/late', { origin: 'x', sequence: 1, action: 'apply' }],
    ]
    const answers = await Promise.all(
      bad.flatMap(([method, path, body, headers = {}], n) =>
        [...cluster.nodes.values()].map(node =>
          node.request(method, path, { tenant: `refused-${n}-${node.name}`, body, headers }),
        ),
      ),
    )
    for (const { status } of answers) expect([400, 403, 404, 412, 422]).toContain(status)
    // Nothing to write is nothing to make a tenant for, either.
    const nothing = await cluster.node('n1').request('POST', '/api/v1/resources/embeddings', {
      tenant: 'refused-nothing',
      body: { embeddings: [{ id: 'x', embedding: [1] }] },
    })
    expect([nothing.status, nothing.body]).toEqual([200, { ids: [] }])
    // What was entered before this one is known by when this one is.
    await put('n1', 'accepted', 'e', { a: 1 }, replicated)
    await cluster.holders('accepted')
    expect(known()).toContain('accepted')
    expect(known().filter(tenant => tenant.startsWith('refused-'))).toEqual([])
  })

  it('leaves nothing over gRPC either; a stream makes its tenant with the first batch that is written', async () => {
    const call = (tenant: string, method: string, request: object) =>
      new Promise<number>(resolve => {
        const { client, metadata } = grpcClient(`127.0.0.1:${cluster.node('n2').grpcPort}`, tenant)
        client[method]!(request, metadata, (error: { code: number } | null) => {
          client.close()
          resolve(error?.code ?? 0)
        })
      })
    const codes = await Promise.all([
      call('refused-g1', 'PutResources', { resources: [] }),
      call('refused-g2', 'PutEntities', { entities: [{ id: '' }] }),
      call('refused-g3', 'PutEntities', { entities: [{ id: 'e' }], if_match: '"x"' }),
      call('refused-g4', 'AppendMoments', { moments: [{ content: 'x', time: 'yesterday' }] }),
      call('refused-g5', 'DeleteEntity', { id: 'e' }),
    ])
    for (const code of codes) expect(code).not.toBe(0)
    const { client, metadata } = grpcClient(`127.0.0.1:${cluster.node('n2').grpcPort}`, 'refused-stream')
    await new Promise<void>(resolve => {
      const stream = client.WriteResources!(metadata, (error: Error | null) => {
        expect(error).not.toBeNull()
        resolve()
      })
      stream.write({ content: 'fine', ordinal: -1 })
      stream.end()
    })
    const empty = await new Promise(resolve => {
      const stream = client.WriteResources!(metadata, (_: Error | null, answer: object) => resolve(answer))
      stream.end()
    })
    expect(empty).toMatchObject({ written: 0 })
    client.close()
    await put('n2', 'accepted-too', 'e', { a: 1 }, replicated)
    await cluster.holders('accepted-too')
    expect(known().filter(tenant => tenant.startsWith('refused-'))).toEqual([])
  })

  it('is no first write: those that come together on every node make one tenant', async () => {
    for (let n = 0; n < 5; n++) {
      const tenant = `together-${n}`
      const answers = await Promise.all(
        ['n1', 'n2', 'n3', 'n1', 'n2', 'n3'].map((node, m) => put(node, tenant, `e${m}`, { m }, replicated)),
      )
      expect(answers.map(({ status }) => status)).toEqual(Array(6).fill(200))
      await eventually(`n3 lists what all of them wrote`, async () => {
        const { body } = await cluster.node('n3').request('GET', '/api/v1/entities', { tenant })
        return body.results.length === 6
      })
    }
  })
})

describe('who claims to be of the cluster', () => {
  it('has to prove it: forged forward headers and sync entries are refused', async () => {
    const forged = await get('n1', 'acme', 'ada', { 'x-percolate-peer': `n2:${'0'.repeat(64)}` })
    expect([forged.status, forged.body.code]).toEqual([403, 'PEER_FORBIDDEN'])
    const sync = { tenant: 'acme', body: { entries: ['AAAA'] } }
    expect((await cluster.node('n1').request('POST', '/api/v1/sync', sync)).status).toBe(403)
    // A proof for one node is worth nothing at another.
    const other = new PeerAuth(FAST.PERCOLATE_CLUSTER_SECRET, 'n2').token('n3', 'acme')
    expect((await get('n1', 'acme', 'ada', { 'x-percolate-peer': other })).status).toBe(403)
  })

  it('can send entries, all of which are checked before any is applied', async () => {
    const [home] = await cluster.holders('acme')
    const { body: state } = await cluster.node(home!).request('GET', '/api/v1/replication', { tenant: 'acme' })
    const headers = { 'x-percolate-peer': new PeerAuth(FAST.PERCOLATE_CLUSTER_SECRET, 'n9').token(home!, 'acme') }
    const entry = (sequence: number, rest: object = {}) =>
      encodeEntry({
        tenant: 'acme',
        incarnation: state.incarnation,
        origin: 'n9.abc',
        sequence,
        ops: [
          {
            kind: 'entity',
            key: ['synced'],
            action: 'put',
            clock: { wall: Date.now(), counter: 0, origin: 'n9.abc' },
            fields: { 'property:x': sequence },
          },
        ],
        ...rest,
      })
    const send = (...entries: Buffer[]) =>
      cluster.node(home!).request('POST', '/api/v1/sync', {
        tenant: 'acme',
        headers,
        body: { entries: entries.map(bytes => bytes.toString('base64')) },
      })
    for (const bad of [
      entry(2, { tenant: 'other' }),
      entry(2, { incarnation: 'other' }),
      Buffer.concat([Buffer.from([9]), entry(2).subarray(1)]),
      Buffer.from([1, 0xc1]),
      entry(2).subarray(0, 40),
      Buffer.alloc(0),
    ]) {
      const { status, body } = await send(entry(1), bad)
      expect([status, body.code, body.field]).toEqual([422, 'ENTRY_REFUSED', 'entries[1]'])
    }
    expect((await get(home!, 'acme', 'synced')).status).toBe(404)
    expect((await send(entry(1), entry(1), entry(2))).body.vector['n9.abc']).toBe(2)
    expect((await get(home!, 'acme', 'synced')).body.properties).toEqual({ x: 2 })
  })

  it('is no second process under the same node id', async () => {
    const stream = connectNats(cluster.nats.url)
    const { startTestNode } = await import('../support/running.ts')
    await expect(startTestNode({ env: { ...FAST, PERCOLATE_NODE_ID: 'n1' }, stream })).rejects.toMatchObject({
      code: 'NODE_ID_IN_USE',
    })
    await stream.close()
    expect((await get('n1', 'acme', 'ada')).status).toBe(200)
  })
})

describe('entries in the stream that are not what they should be', () => {
  it('are refused, counted and passed over; one from the future waits', async () => {
    await put('n1', 'hostile', 'e', { a: 1 }, replicated)
    const holders = await cluster.holders('hostile')
    const { body: state } = await cluster.node('n1').request('GET', '/api/v1/replication', { tenant: 'hostile' })
    const stream = connectNats(cluster.nats.url)
    const publish = (id: string, bytes: Buffer) => stream.publish(subjects.syncOps('hostile' as never), bytes, id)
    const entry = (origin: string, wall: number) =>
      encodeEntry({
        tenant: 'hostile',
        incarnation: state.incarnation,
        origin,
        sequence: 1,
        ops: [{ kind: 'entity', key: [origin], action: 'put', clock: { wall, counter: 0, origin }, fields: {} }],
      })
    await publish('junk', Buffer.from('not an entry'))
    await publish('version', Buffer.concat([Buffer.from([200]), entry('x.1', 1).subarray(1)]))
    await publish('future', entry('ahead.1', Date.now() + 13_000))
    await publish('good', entry('good.1', Date.now()))
    await eventually(
      'the good one is applied',
      async () => (await get(holders[1]!, 'hostile', 'good.1')).status === 200,
    )
    expect((await get(holders[1]!, 'hostile', 'ahead.1')).status).toBe(404)
    const metrics = await (await fetch(`${cluster.node(holders[1]!).url}/metrics`)).text()
    expect(Number(/percolate_refused_entries_total (\d+)/.exec(metrics)![1])).toBeGreaterThanOrEqual(2)
    expect(Number(/percolate_parked_entries_total (\d+)/.exec(metrics)![1])).toBeGreaterThanOrEqual(1)
    await eventually(
      'the one from the future is applied when due',
      async () => (await get(holders[1]!, 'hostile', 'ahead.1')).status === 200,
    )
    await stream.close()
  })
})

describe('the change feed', () => {
  async function follow(node: string, path: string, headers: Record<string, string>, count: number) {
    const abort = new AbortController()
    const response = await fetch(`${cluster.node(node).url}${path}`, {
      headers: { 'x-tenant-id': 'feed', ...headers },
      signal: abort.signal,
    })
    if (response.status !== 200) return { status: response.status, body: await response.json(), events: [] }
    const events: { id: string; changes: { id: string; action: string }[] }[] = []
    let text = ''
    try {
      for await (const chunk of response.body!) {
        text += Buffer.from(chunk).toString()
        for (const block of text.split('\n\n').slice(0, -1)) {
          const id = /^id: (.+)$/m.exec(block)?.[1]
          const data = /^data: (.+)$/m.exec(block)?.[1]
          if (id && data) events.push({ id, changes: JSON.parse(data).changes })
        }
        text = text.split('\n\n').at(-1)!
        if (events.length >= count) break
      }
    } finally {
      abort.abort()
    }
    return { status: 200, events, body: undefined }
  }

  it('resumes on any node, and says 410 with a cursor below its window', async () => {
    for (let n = 0; n < 5; n++) await put('n1', 'feed', `e${n}`, { n }, replicated)
    const [home, second] = await cluster.holders('feed')
    const all = await follow(home!, '/api/v1/changes?cursor=earliest', {}, 5)
    expect(all.events.map(({ changes }) => changes[0]!.id)).toEqual(['e0', 'e1', 'e2', 'e3', 'e4'])
    const rest = await follow(second!, '/api/v1/changes', { 'last-event-id': all.events[2]!.id }, 2)
    expect(rest.events.map(({ changes }) => changes[0]!.id)).toEqual(['e3', 'e4'])
    // A holder that was made later knows the state, not the history; it says so.
    const outsider = await cluster.outsider('feed')
    const through = await follow(outsider.name, '/api/v1/changes', { 'last-event-id': all.events[3]!.id }, 1)
    expect(through.events.map(({ changes }) => changes[0]!.id)).toEqual(['e4'])
    const live = follow(second!, '/api/v1/changes', {}, 1)
    await eventually('the live feed sees it', async () => {
      await cluster.node('n1').request('DELETE', '/api/v1/entities/e0', { tenant: 'feed' })
      await put('n1', 'feed', 'e0', { again: Date.now() })
      return Promise.race([live, new Promise(resolve => setTimeout(() => resolve(undefined), 300))])
    })
    expect(['del', 'put']).toContain((await live).events[0]!.changes[0]!.action)
    expect((await follow(home!, '/api/v1/changes', { 'last-event-id': 'nonsense!' }, 1)).status).toBe(400)
    for (const tenant of ['feed', 'nobody-wrote-to-it']) {
      const url = `${cluster.node(home!).url}/api/v1/changes?cursor=nonsense`
      const { status, body } = await request(url, 'GET', { tenant })
      expect([status, body.code, body.field]).toEqual([400, 'INVALID_CURSOR', 'cursor'])
    }
  })

  it('says 410 with a usable cursor when the log no longer reaches back', async () => {
    const small = await TestCluster.start({ nodes: ['s1'], env: { PERCOLATE_CHANGES_MAX: '3' } })
    try {
      const node = small.node('s1')
      const write = (n: number) =>
        node.request('PUT', `/api/v1/entities/e${n}`, { tenant: 'feed', body: { properties: { n } } })
      const first = (await write(0)).headers.get('x-percolate-bookmark')!
      for (let n = 1; n < 6; n++) await write(n)
      const gone = await request(`${node.url}/api/v1/changes?cursor=${first}`, 'GET', { tenant: 'feed' })
      expect([gone.status, gone.body.code]).toEqual([410, 'CHANGES_EXPIRED'])
      const response = await fetch(`${node.url}/api/v1/changes?heartbeat_ms=100`, {
        headers: { 'x-tenant-id': 'feed', 'last-event-id': gone.body.cursor },
        signal: timeoutSignal(400),
      })
      expect(response.status).toBe(200)
      await response.text().catch(() => {})
    } finally {
      await small.stop()
    }
  })
})

describe('when nodes come and go', () => {
  it('a new home is found when one stops; it returns, catches up and holds again', async () => {
    expect((await put('n3', 'moves', 'e', { a: 1 }, replicated)).status).toBe(200)
    const [home, second] = await cluster.holders('moves')
    await cluster.stopNode(home!)
    const tag = await eventually('the other holder is the home', async () => {
      const read = await get(second!, 'moves', 'e')
      const done = await put(second!, 'moves', 'e', { b: 2 }, { 'if-match': read.headers.get('etag') ?? '' })
      return done.status === 200 && done.headers.get('etag')
    })
    expect(tag).toMatch(/^"/)
    await cluster.startNode(home!)
    const read = await eventually('the one that returned answers with what it missed', async () => {
      const answer = await get(home!, 'moves', 'e')
      return answer.status === 200 && answer
    })
    expect(read.body.properties).toEqual({ a: 1, b: 2 })
    await cluster.holders('moves')
  })

  it('a lost directory is put back by the nodes, and nothing is deleted', async () => {
    expect((await put('n1', 'kept', 'e', { a: 1 }, replicated)).status).toBe(200)
    await cluster.holders('kept')
    const stream = connectNats(cluster.nats.url)
    await stream.deleteStream(`KV_${subjects.clusterBucket}`)
    await stream.close()
    await eventually('the directory is back', async () => {
      const { status, body } = await cluster.node('n2').request('GET', '/api/v1/replication', { tenant: 'kept' })
      return status === 200 && body.home !== null && body.holders.length >= 2
    })
    expect((await get('n2', 'kept', 'e')).body.properties).toEqual({ a: 1 })
    expect(await eventually('writes go on', async () => (await put('n2', 'kept', 'e', { b: 2 })).status === 200)).toBe(
      true,
    )
  })
})

describe('snapshots in the object store', () => {
  it('bring everything back when every disk is gone', async () => {
    const { objects, stop: stopObjects } = await startTestObjects(await tempFolder())
    const small = await TestCluster.start({ nodes: ['a', 'b'], objects })
    try {
      const node = small.node('a')
      const body = {
        resources: Array.from({ length: 50 }, (_, n) => ({ content: `Sentence number ${n} about tides`, ordinal: n })),
      }
      await node.request('POST', '/api/v1/resources', { tenant: 'deep', body, headers: replicated })
      await node.request('PUT', '/api/v1/entities/gone', { tenant: 'deep', body: { name: 'Gone' } })
      await node.request('DELETE', '/api/v1/entities/gone', { tenant: 'deep', headers: replicated })
      await small.holders('deep')
      await small.loseDisk('a')
      await small.loseDisk('b')
      expect((await listed(objects, 'snapshots/deep/')).some(key => key.endsWith('manifest.json'))).toBe(true)
      await small.startNode('a')
      const found = await eventually('the tenant is back', async () => {
        const answer = await small.node('a').request('GET', '/api/v1/resources?query=tides&limit=3', { tenant: 'deep' })
        return answer.status === 200 && answer.body.results.length === 3 && answer
      })
      expect(found.headers.get('x-percolate-node')).toBe('a')
      const all = await small.node('a').request('GET', '/api/v1/resources?limit=100', { tenant: 'deep' })
      expect(all.body.results).toHaveLength(50)
      expect((await small.node('a').request('GET', '/api/v1/entities/gone', { tenant: 'deep' })).status).toBe(404)
    } finally {
      await small.stop()
      await stopObjects()
    }
  })
})
