import { join } from 'node:path'
import {
  type Client,
  credentials,
  loadPackageDefinition,
  Metadata,
  makeGenericClientConstructor,
  type ServiceError,
} from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { service as healthService } from 'grpc-health-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { loaderOptions, loadRemProto } from '../../src/api/grpc/protos.ts'
import { PACKAGE_FOLDER } from '../../src/base/version.ts'
import { remove, startTestNode, type TestNode } from '../support/running.ts'

// biome-ignore lint/suspicious/noExplicitAny: a client made from a .proto at run time.
type Rem = Client & Record<string, any>
let node: TestNode
let client: Rem
beforeAll(async () => {
  node = await startTestNode()
  const { percolate } = loadPackageDefinition(loadRemProto()) as unknown as {
    percolate: { v1: { Rem: new (...args: unknown[]) => Rem } }
  }
  client = new percolate.v1.Rem(`127.0.0.1:${node.grpcPort}`, credentials.createInsecure())
})
afterAll(async () => {
  client.close()
  await node.stop()
  await remove(node.folder)
})

const meta = (tenant: string | undefined = 'acme', more: Record<string, string> = {}) => {
  const metadata = new Metadata()
  if (tenant) metadata.set('x-tenant-id', tenant)
  for (const [key, value] of Object.entries(more)) metadata.set(key, value)
  return metadata
}
// biome-ignore lint/suspicious/noExplicitAny: answers of every shape.
type Any = any
const unary = (method: string, request: object, metadata = meta(), options: object = {}) =>
  new Promise<Any>((resolve, reject) =>
    client[method](request, metadata, options, (error: ServiceError | null, answer: Any) =>
      error ? reject(error) : resolve(answer),
    ),
  )
const stream = (method: string, request: object, metadata = meta()) =>
  new Promise<Any[]>((resolve, reject) => {
    const messages: Any[] = []
    client[method](request, metadata)
      .on('data', (message: Any) => messages.push(message))
      .on('error', reject)
      .on('end', () => resolve(messages))
  })

describe('gRPC', () => {
  it('stores, reads, searches and deletes resources', async () => {
    const { ids } = await unary('PutResources', {
      resources: [
        {
          content: 'The turbine spins clockwise.',
          uri: 'x:1',
          ordinal: 2,
          category: 'c',
          metadata: { fields: { page: { numberValue: 3 }, tags: { listValue: { values: [{ stringValue: 'a' }] } } } },
        },
      ],
    })
    const resource = await unary('GetResource', { id: ids[0] })
    expect(resource).toMatchObject({
      content: 'The turbine spins clockwise.',
      ordinal: 2,
      category: 'c',
      embedding: 'stored',
    })
    expect((await node.request('GET', `/api/v1/resources/${ids[0]}`)).body.metadata).toEqual({ page: 3, tags: ['a'] })
    const hits = await stream('SearchResources', { query: 'turbine', filter: '{"page":3}' })
    expect(hits[0]).toMatchObject({
      resource: { id: ids[0] },
      snippet: expect.stringContaining('<mark>turbine</mark>'),
    })
    await expect(unary('DeleteResource', { id: ids[0], if_match: '"no"' })).rejects.toMatchObject({ code: 9 })
    await unary('DeleteResource', { id: ids[0], if_match: resource.etag })
    await expect(unary('GetResource', { id: ids[0] })).rejects.toMatchObject({
      code: 5,
      details: expect.stringContaining('no resource'),
    })
  })

  it('writes in bulk as a client stream, and lists as a server stream', async () => {
    const answer = await new Promise<Any>((resolve, reject) => {
      const call = client.WriteResources(meta('bulk'), (error: ServiceError | null, done: Any) =>
        error ? reject(error) : resolve(done),
      )
      for (let n = 0; n < 777; n++) call.write({ content: `bulk item ${n}` })
      call.end()
    })
    expect(answer).toMatchObject({ written: 777 })
    expect((await stream('ListResources', {}, meta('bulk'))).length).toBe(777)
    expect((await stream('ListResources', { limit: 300 }, meta('bulk'))).length).toBe(300)
  })

  it('holds little of a bulk write whose client holds back the rest', async () => {
    const held = async () =>
      Number(/^percolate_held_body_bytes (\d+)/m.exec(await (await fetch(`${node.url}/metrics`)).text())![1])
    const calls = Array.from({ length: 2 }, (_, n) => {
      const call = client.WriteResources(meta(`stalled${n}`), () => {})
      call.on('error', () => {})
      for (let at = 0; at < 3; at++) call.write({ content: 'words '.repeat(10_000), uri: `u${at}` })
      return call
    })
    const listed = async (n: number) => (await stream('ListResources', {}, meta(`stalled${n}`))).length
    await expect
      .poll(async () => [await held(), ...(await Promise.all([0, 1].map(listed)))], { timeout: 20_000 })
      .toEqual([0, 3, 3])
    for (const call of calls) call.cancel()
  })

  it('says what is wrong in a bulk write, and what is stored', async () => {
    const call = new Promise((resolve, reject) => {
      const bulk = client.WriteResources(meta('bulk2'), (error: ServiceError | null, done: Any) =>
        error ? reject(error) : resolve(done),
      )
      bulk.on('error', () => {})
      bulk.write({ content: 'good' })
      bulk.write({ content: '' })
      bulk.end()
    })
    await expect(call).rejects.toMatchObject({ code: 3, details: expect.stringMatching(/content.*0 resources/) })
  })

  it('merges, finds and walks entities; appends and lists moments', async () => {
    await unary('PutEntities', {
      entities: [
        {
          id: 'a',
          name: 'Anna',
          type: 'person',
          properties: { fields: { age: { numberValue: 7 } } },
          edges: [{ type: 'knows', to: 'b', weight: 2.5 }],
        },
        { id: 'b', name: 'Bert' },
      ],
    })
    expect(await unary('GetEntity', { id: 'a' })).toMatchObject({ name: 'Anna', edges: [{ to: 'b', weight: 2.5 }] })
    expect((await stream('FindEntities', { name: 'ana' }))[0]).toMatchObject({ id: 'a', match: 'fuzzy' })
    expect(await unary('TraverseEntities', { id: 'a', depth: 3 })).toMatchObject({
      results: [{ id: 'b', depth: 1, path: ['a', 'b'] }],
    })
    const { ids } = await unary('AppendMoments', {
      moments: [{ content: 'met', time: '2026-01-01T00:00:00Z', entities: ['a'] }],
    })
    expect((await stream('ListMoments', { entity: 'a' })).map(({ id }) => id)).toEqual(ids)
    await unary('DeleteMoment', { id: ids[0] })
    await unary('DeleteEntity', { id: 'b' })
    expect((await unary('TraverseEntities', { id: 'a' })).results).toEqual([])
  })

  it('answers questions as a stream', async () => {
    await unary('PutResources', { resources: [{ content: 'The archive opens at nine.' }] }, meta('chat'))
    const chunks = await stream(
      'Chat',
      { messages: [{ role: 'user', content: 'When does the archive open?' }] },
      meta('chat'),
    )
    expect(chunks.map(({ text }) => text ?? '').join('')).toContain('opens at nine')
    expect(chunks.at(-1).citations[0].kind).toBe('resource')
  })

  it('maps errors from the one table, with code and field in metadata', async () => {
    const failing = async (call: Promise<unknown>) => (await call.catch(error => error)) as ServiceError
    expect((await failing(unary('GetResource', { id: 'x' }, meta('')))).metadata.get('percolate-code')).toEqual([
      'TENANT_MISSING',
    ])
    expect((await failing(unary('GetResource', { id: 'x' }, meta('No.Good')))).code).toBe(3)
    const bad = await failing(unary('PutResources', { resources: [{ content: 'x', embedding: [1, Number.NaN] }] }))
    expect([bad.code, bad.metadata.get('percolate-field')[0]]).toEqual([3, 'embedding[1]'])
    expect((await failing(unary('PutResources', { resources: [] }))).code).toBe(3)
    expect((await failing(unary('PutResources', { resources: [{ content: 'x'.repeat(5_000_000) }] }))).code).toBe(8)
    expect((await failing(stream('SearchResources', { query: '' }))).code).toBe(3)
    expect((await failing(stream('ListMoments', { from: 'never' }))).metadata.get('percolate-field')).toEqual(['from'])
  })

  it('honours deadlines', async () => {
    await expect(unary('GetResource', { id: 'x' }, meta(), { deadline: Date.now() - 1 })).rejects.toMatchObject({
      code: 4,
    })
  })

  it('names the node that served', async () => {
    const head = await new Promise<Metadata>(resolve =>
      client.GetResource({ id: 'x' }, meta(), () => {}).on('metadata', resolve),
    )
    expect(head.get('x-percolate-node')).toEqual([node.node])
  })

  it('offers health and reflection', async () => {
    const Health = makeGenericClientConstructor(healthService as never, 'health') as unknown as new (
      ...args: unknown[]
    ) => Rem
    const health = new Health(`127.0.0.1:${node.grpcPort}`, credentials.createInsecure())
    const answer = await new Promise<Any>((resolve, reject) =>
      health.Check({ service: 'percolate.v1.Rem' }, (error: unknown, value: unknown) =>
        error ? reject(error) : resolve(value),
      ),
    )
    expect(answer.status).toBe('SERVING')
    health.close()
    const proto = loadSync('reflection.proto', {
      ...loaderOptions,
      includeDirs: [join(PACKAGE_FOLDER, 'node_modules/@grpc/reflection/build/proto/grpc/reflection/v1')],
    })
    const { grpc } = loadPackageDefinition(proto) as unknown as {
      grpc: { reflection: { v1: { ServerReflection: new (...args: unknown[]) => Rem } } }
    }
    const reflection = new grpc.reflection.v1.ServerReflection(
      `127.0.0.1:${node.grpcPort}`,
      credentials.createInsecure(),
    )
    const services = await new Promise<Any>((resolve, reject) => {
      const call = reflection.ServerReflectionInfo()
      call.on('data', (message: Any) =>
        resolve(message.list_services_response.service.map(({ name }: { name: string }) => name)),
      )
      call.on('error', reject)
      call.write({ list_services: '' })
      call.end()
    })
    expect(services).toContain('percolate.v1.Rem')
    reflection.close()
  })
})
