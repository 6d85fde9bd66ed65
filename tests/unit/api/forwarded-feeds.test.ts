import {
  createServer,
  get as httpGet,
  request as httpRequest,
  type IncomingMessage,
  type ServerResponse,
} from 'node:http'
import type { AddressInfo } from 'node:net'
import {
  type Client,
  credentials,
  loadPackageDefinition,
  Metadata,
  Server,
  ServerCredentials,
  type ServiceClientConstructor,
  type ServiceError,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js'
import fastify from 'fastify'
import { afterEach, describe, expect, it } from 'vitest'
import { FeedPlaces } from '../../../src/api/feed-places.ts'
import { type CallContext, serverStream, unary } from '../../../src/api/grpc/calls.ts'
import { GrpcForwarder } from '../../../src/api/grpc/forward.ts'
import { loadRemProto } from '../../../src/api/grpc/protos.ts'
import { addTenantHook } from '../../../src/api/http/call.ts'
import { HttpForwarder } from '../../../src/api/http/forward.ts'
import { sendError } from '../../../src/api/http/server.ts'
import { SlowReaders } from '../../../src/api/slow-readers.ts'
import { createLogger } from '../../../src/base/logger.ts'
import { Metrics } from '../../../src/base/metrics.ts'
import { Refusals } from '../../../src/base/refusals.ts'
import { systemTime } from '../../../src/base/time.ts'
import { PeerAuth } from '../../../src/replication/auth.ts'
import type { Member } from '../../../src/replication/placement.ts'
import type { Replica } from '../../../src/replication/replica.ts'
import { Gate } from '../../../src/session/gate.ts'

/** A node that sends on what lasts: real servers and clients, and a real gate and forwarder that are told where to go. */

const closing: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close()
})

const SOCKETS_MAX = 2
const auth = new PeerAuth('secret', 'n1')
const logger = createLogger({ level: 'silent', role: 'test' })
const gateTo = (targets: readonly Member[]) =>
  new Gate({
    auth,
    bookmarkWaitMs: 0,
    replica: {
      service: { node: 'n1' },
      router: { refresh: async () => {}, route: async () => ({ kind: 'forward', targets }), answered: () => {} },
    } as unknown as Replica,
  })

/** `/held` begins no answer, `/feed` and `/chat` end none. */
async function httpNode(node: string): Promise<Member & { readonly open: Set<ServerResponse> }> {
  const open = new Set<ServerResponse>()
  const server = createServer((request, response) => {
    open.add(response)
    response.once('close', () => open.delete(response))
    if (request.url === '/held') return
    response.writeHead(200, { 'x-percolate-node': node })
    if (request.url === '/e') response.end('{}')
    else response.write(': heartbeat\n\n')
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  closing.push(() => server.closeAllConnections() ?? server.close())
  return { node, http: `127.0.0.1:${(server.address() as AddressInfo).port}`, open } as never
}

async function httpEntry(targets: readonly Member[], { confirmMs = 30_000 } = {}) {
  const places = new FeedPlaces({ feedsMax: 5, tenantFeedsMax: 4 })
  const forwarder = new HttpForwarder(auth, places, { socketsMax: SOCKETS_MAX, confirmMs })
  const entry = fastify({ forceCloseConnections: true })
  const refusals = new Refusals({ logger, metrics: new Metrics() })
  entry.setErrorHandler((error, request, reply) => sendError(error, request, reply, refusals))
  addTenantHook(entry, { time: systemTime, asOfAheadMsMax: 0, onTenant: () => {}, gate: gateTo(targets), forwarder })
  const answer = async () => ({ node: 'n1' })
  entry.get('/e', answer)
  entry.delete('/e', answer)
  entry.get('/held', answer)
  entry.get('/feed', { config: { lasts: 'feed' } }, answer)
  entry.get('/chat', { config: { lasts: 'long' } }, answer)
  await entry.listen({ host: '127.0.0.1', port: 0 })
  closing.push(
    () => entry.close(),
    () => forwarder.close(),
  )
  const { port } = entry.server.address() as AddressInfo
  const begin = (path: string, tenant = 'acme') => {
    const request = httpGet({ host: '127.0.0.1', port, path, headers: { 'x-tenant-id': tenant }, agent: false })
    request.on('error', () => {})
    return request
  }
  const ask = (path: string, { tenant = 'acme', method = 'GET' } = {}) =>
    new Promise<IncomingMessage>((resolve, reject) =>
      httpRequest({ host: '127.0.0.1', port, path, method, headers: { 'x-tenant-id': tenant }, agent: false }, resolve)
        .once('error', reject)
        .end(),
    )
  return { places, begin, ask }
}

const codeOf = async (answer: IncomingMessage) => {
  let text = ''
  for await (const chunk of answer) text += chunk
  return [answer.statusCode, JSON.parse(text).code]
}

describe('what is sent on to one node over HTTP, for longer than there are connections to it', () => {
  it('leaves room for other requests: change feeds, and answers of a chat model', async () => {
    const { ask, places } = await httpEntry([await httpNode('n2')])
    for (let n = 0; n <= SOCKETS_MAX; n++) expect((await ask('/feed')).statusCode).toBe(200)
    expect((await ask('/e')).statusCode).toBe(200)
    expect([places.forwarded, places.served]).toEqual([SOCKETS_MAX + 1, 0])
    for (let n = 0; n < SOCKETS_MAX; n++) expect((await ask('/chat')).statusCode).toBe(200)
    expect((await ask('/e')).statusCode).toBe(200)
  })

  it('is asked of the next node, or refused, when there is no connection in time', async () => {
    const [busy, free] = [await httpNode('busy'), await httpNode('free')]
    const alone = await httpEntry([busy], { confirmMs: 1000 })
    for (let n = 0; n < SOCKETS_MAX; n++) alone.begin('/held')
    while (busy.open.size < SOCKETS_MAX) await systemTime.sleep(1)
    expect(await codeOf(await alone.ask('/e'))).toEqual([503, 'TENANT_UNAVAILABLE'])
    const both = await httpEntry([busy, free], { confirmMs: 1000 })
    for (let n = 0; n < SOCKETS_MAX; n++) both.begin('/held')
    while (busy.open.size < 2 * SOCKETS_MAX) await systemTime.sleep(1)
    // Nothing of it has left this node, so that a write is not in doubt either.
    for (const method of ['GET', 'DELETE'])
      expect((await both.ask('/e', { method })).headers['x-percolate-node']).toBe('free')
  })
})

describe('change feeds that are sent on over HTTP', () => {
  it('have places here as those that are served: so many, and so many of one tenant; one that ends makes room', async () => {
    const target = await httpNode('n2')
    const { ask, places } = await httpEntry([target])
    const feeds = []
    for (let n = 0; n < 4; n++) feeds.push(await ask('/feed'))
    expect(await codeOf(await ask('/feed'))).toEqual([503, 'TOO_BUSY'])
    feeds.push(await ask('/feed', { tenant: 'other' }))
    const refused = await ask('/feed', { tenant: 'other' })
    expect(refused.headers['retry-after']).toBe('5')
    expect(await codeOf(refused)).toEqual([503, 'TOO_BUSY'])
    expect([places.forwarded, places.refused]).toEqual([5, 2])
    feeds[0]!.destroy()
    while (places.forwarded > 4) await systemTime.sleep(1)
    expect((await ask('/feed')).statusCode).toBe(200)
    expect(target.open.size).toBe(5)
  })

  it('end when this node drains, behind a whole event, with the cursor to go on from, and no more are taken', async () => {
    const target = await httpNode('n2')
    const { ask, places } = await httpEntry([target])
    const feed = await ask('/feed')
    const [sender] = target.open
    sender!.write('id: first\nevent: change\ndata: {"changes":["é"]}\n\nid: sec')
    let text = ''
    feed.setEncoding('utf8').on('data', chunk => (text += chunk))
    const ended = new Promise(resolve => feed.once('end', resolve))
    while (!text.includes('first')) await systemTime.sleep(1)
    places.close()
    await ended
    expect(text).toMatch(
      /^: heartbeat\n\nid: first\nevent: change\ndata: \{"changes":\["é"\]\}\n\nevent: error\ndata: \{"code":"SHUTTING_DOWN",.*"cursor":"first"\}\n\n$/,
    )
    expect(await codeOf(await ask('/feed'))).toEqual([503, 'SHUTTING_DOWN'])
    while (places.forwarded > 0) await systemTime.sleep(1)
  })

  it('say so when the node that they come from breaks off, and where to go on', async () => {
    const target = await httpNode('n2')
    const { ask, places } = await httpEntry([target])
    const feed = await ask('/feed')
    const [sender] = target.open
    sender!.write(': heartbeat\nid: latest\n\n', () => sender!.destroy())
    let text = ''
    for await (const chunk of feed) text += chunk
    expect(text).toMatch(/id: latest\n\nevent: error\ndata: \{"code":"NODE_UNAVAILABLE",.*"cursor":"latest"\}\n\n$/)
    while (places.forwarded > 0) await systemTime.sleep(1)
  })
})

const { Rem } = (
  loadPackageDefinition(loadRemProto()) as unknown as { percolate: { v1: { Rem: ServiceClientConstructor } } }
).percolate.v1

async function grpcServer(methods: Record<string, unknown>): Promise<string> {
  const server = new Server()
  server.addService(Rem.service, methods as UntypedServiceImplementation)
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, at) =>
      error ? reject(error) : resolve(at),
    ),
  )
  closing.push(() => server.forceShutdown())
  return `127.0.0.1:${port}`
}

interface Stream extends AsyncIterable<{ cursor: string }> {
  once(event: 'data', on: (message: { cursor: string }) => void): Stream
  on(event: 'error', on: (error: ServiceError) => void): Stream
  cancel(): void
}

async function grpcEntry(feedsMax: number) {
  const grpc = await grpcServer({
    FollowChanges: (stream: { write(message: object): void }) => void stream.write({ cursor: 'c', heartbeat: true }),
    GetEntity: (_call: unknown, done: (error: null, answer: object) => void) => done(null, { id: 'e' }),
  })
  const places = new FeedPlaces({ feedsMax, tenantFeedsMax: feedsMax })
  const forwarder = new GrpcForwarder(auth)
  closing.push(() => forwarder.close())
  const metrics = new Metrics()
  const context: CallContext = {
    logger,
    metrics,
    refusals: new Refusals({ logger, metrics }),
    time: systemTime,
    asOfAheadMsMax: 0,
    node: 'n1',
    onTenant: () => {},
    readers: new SlowReaders(10_000, metrics),
    gate: gateTo([{ node: 'n2', grpc } as Member]),
    forwarder,
  }
  const here = () => expect.unreachable()
  const address = await grpcServer({
    FollowChanges: serverStream(context, 'FollowChanges', here, places),
    GetEntity: unary(context, 'GetEntity', here, 'read'),
  })
  const client = new Rem(address, credentials.createInsecure()) as unknown as Client & {
    FollowChanges(request: object, metadata: Metadata): Stream
    GetEntity(request: object, metadata: Metadata, done: (error: ServiceError | null, answer: object) => void): void
  }
  closing.push(() => client.close())
  const metadata = new Metadata()
  metadata.set('x-tenant-id', 'acme')
  /** Its first message, or how it ended. */
  const follow = async () => {
    const stream = client.FollowChanges({}, metadata)
    const ended = new Promise<ServiceError>(resolve => stream.on('error', resolve))
    const first = await Promise.race([new Promise<{ cursor: string }>(resolve => stream.once('data', resolve)), ended])
    return { stream, first, ended }
  }
  const read = () =>
    new Promise<object>((resolve, reject) =>
      client.GetEntity({ id: 'e' }, metadata, (error, answer) => (error ? reject(error) : resolve(answer))),
    )
  return { places, follow, read }
}

describe('change feeds that are sent on over gRPC', () => {
  it('leave room for other calls: all of them go over one connection', async () => {
    // More than the streams that a connection may have until the other end has said how many it takes.
    const feeds = 150
    const { places, follow, read } = await grpcEntry(feeds)
    for (const { first } of await Promise.all(Array.from({ length: feeds }, follow)))
      expect(first).toMatchObject({ cursor: 'c' })
    expect(places.forwarded).toBe(feeds)
    expect(await read()).toMatchObject({ id: 'e' })
  })

  it('have places here, which one that ends gives back', async () => {
    const { places, follow } = await grpcEntry(2)
    const { stream } = await follow()
    await follow()
    const { first } = await follow()
    expect((first as unknown as ServiceError).metadata.get('percolate-code')).toEqual(['TOO_BUSY'])
    expect([places.forwarded, places.refused]).toEqual([2, 1])
    stream.cancel()
    while (places.forwarded > 1) await systemTime.sleep(1)
    expect((await follow()).first).toMatchObject({ cursor: 'c' })
  })

  it('end at once when this node drains, with the cursor to go on from', async () => {
    const { places, follow } = await grpcEntry(2)
    const { ended } = await follow()
    places.close()
    const { metadata } = await ended
    expect(metadata.get('percolate-code')).toEqual(['SHUTTING_DOWN'])
    expect(metadata.get('percolate-cursor')).toEqual(['c'])
    expect(places.forwarded).toBe(0)
  })
})
