import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { type ClientHttp2Session, type ClientHttp2Stream, connect, createServer as createHttp2Server } from 'node:http2'
import { type AddressInfo, connect as tcpConnect } from 'node:net'
import { afterEach, expect, it } from 'vitest'
import { HoldingGrpcProxy } from '../../../src/activator/grpc-proxy.ts'
import { HoldingHttpProxy } from '../../../src/activator/http-proxy.ts'
import { WaitingRoom } from '../../../src/activator/room.ts'
import type { Backend } from '../../../src/activator/waiters.ts'
import { Connections } from '../../../src/base/connections.ts'
import { systemTime } from '../../../src/base/time.ts'
import { eventually, logger } from '../../support/running.ts'

const closing: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close()
})

/** A room without a node, or with the one that is given. */
const roomWith = (backend?: Partial<Backend>, options: Partial<ConstructorParameters<typeof WaitingRoom>[0]> = {}) =>
  new WaitingRoom({
    time: systemTime,
    picker: () => (backend ? () => ({ node: 'n1', http: '', grpc: '', ...backend }) : undefined),
    requestsMax: 100,
    bytesMax: 100 * 1024 * 1024,
    holdMs: 10_000,
    wakeMs: 100,
    ...options,
  })

async function startGrpc(room: WaitingRoom, connectionsMax = 100) {
  const connections = new Connections(connectionsMax)
  const proxy = new HoldingGrpcProxy({ room, logger, connections, host: '127.0.0.1', port: 0 })
  const port = await proxy.start()
  closing.push(() => proxy.stop())
  return { port, connections }
}

async function startHttp(room: WaitingRoom, connectionsMax = 100) {
  const connections = new Connections(connectionsMax)
  const proxy = new HoldingHttpProxy({ room, logger, connections, host: '127.0.0.1', port: 0 })
  const port = await proxy.start()
  closing.push(() => proxy.stop())
  return { port, connections }
}

/** A node that does what is given with each request. */
async function startNode(handle: (request: IncomingMessage, response: ServerResponse) => void): Promise<string> {
  const node = createServer(handle)
  await new Promise<void>(resolve => node.listen(0, '127.0.0.1', () => resolve()))
  closing.push(() => {
    node.closeAllConnections()
    node.close()
  })
  return `127.0.0.1:${(node.address() as AddressInfo).port}`
}

/** A bare connection, and what has come on it. */
function bareClient(port: number) {
  const socket = tcpConnect(port, '127.0.0.1')
  const seen = { text: '', isClosed: false }
  socket.on('error', () => {})
  socket.on('data', data => (seen.text += data.toString('latin1')))
  socket.once('close', () => (seen.isClosed = true))
  closing.push(() => socket.destroy())
  return { socket, seen }
}

const head = (method: string, path: string, ...fields: string[]) =>
  [`${method} ${path} HTTP/1.1`, 'host: x', ...fields, '', ''].join('\r\n')

/** A client that closes when the test is over, before what it talks to. */
function http2Client(port: number): ClientHttp2Session {
  const session = connect(`http://127.0.0.1:${port}`)
  session.on('error', () => {})
  closing.push(() => session.destroy())
  return session
}

const call = (session: ClientHttp2Session, headers: Record<string, string> = {}): ClientHttp2Stream => {
  const stream = session.request(
    { ':method': 'POST', ':path': '/percolate.v1.Rem/GetEntity', 'content-type': 'application/grpc', ...headers },
    { endStream: false },
  )
  stream.on('error', () => {})
  return stream.resume()
}
const closed = (stream: ClientHttp2Stream) =>
  new Promise<number>(resolve => stream.once('close', () => resolve(stream.rstCode!)))

it('a refused gRPC call whose client does not end its side is closed all the same, without an error', async () => {
  const { port } = await startGrpc(roomWith(undefined, { holdMs: 200, requestsMax: 10 }))
  const session = http2Client(port)
  const streams = Array.from({ length: 200 }, (_, n) => call(session, { 'x-tenant-id': `t${n}` }))
  for (const stream of streams) stream.write(Buffer.alloc(100))
  expect(new Set(await Promise.all(streams.map(closed)))).toEqual(new Set([0]))
})

it('and so is an answered one', async () => {
  const node = createHttp2Server()
  node.on('stream', stream => {
    stream.on('error', () => {})
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true })
    stream.once('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }))
    stream.end(Buffer.alloc(5))
  })
  await new Promise<void>(resolve => node.listen(0, '127.0.0.1', () => resolve()))
  closing.push(() => node.close())
  const { port } = await startGrpc(roomWith({ grpc: `127.0.0.1:${(node.address() as AddressInfo).port}` }))
  const stream = call(http2Client(port), { 'x-tenant-id': 'acme' })
  let status: unknown
  stream.once('trailers', trailers => (status = trailers['grpc-status']))
  expect([await closed(stream), status]).toEqual([0, '0'])
})

it('a gRPC connection is in use only while calls are open on it, and makes way for others when there are too many', async () => {
  const room = roomWith(undefined, { requestsMax: 1 })
  const { port, connections } = await startGrpc(room, 2)
  const holding = http2Client(port)
  const held = call(holding, { 'x-tenant-id': 'acme' })
  while (room.held === 0) await new Promise(resolve => setTimeout(resolve, 5))
  const refused = http2Client(port)
  // What came of them is not read when they are refused.
  const streams = Array.from({ length: 50 }, () => call(refused, { 'x-tenant-id': 'other' }))
  for (const stream of streams) stream.end(Buffer.alloc(1000))
  await Promise.all(streams.map(closed))
  await new Promise(resolve => setTimeout(resolve, 700))
  const later = http2Client(port)
  await new Promise(resolve => refused.once('close', resolve))
  expect([connections.open, connections.gaveWay, connections.refused]).toEqual([2, 1, 0])
  await closed(call(later))
  expect([held.closed, holding.closed]).toEqual([false, false])
})

it.each(['ends', 'resets'])(
  'a gRPC connection that its client %s is gone, and what it waited for is held no longer',
  async how => {
    const room = roomWith()
    const { port, connections } = await startGrpc(room)
    const socket = tcpConnect(port, '127.0.0.1')
    const session = connect('http://127.0.0.1', { createConnection: () => socket })
    session.on('error', () => {})
    closing.push(() => session.destroy())
    call(session, { 'x-tenant-id': 'acme' })
    await eventually('it is held', async () => room.held === 1)
    if (how === 'ends') socket.end()
    else socket.resetAndDestroy()
    await eventually('it is gone', async () => room.held === 0 && connections.open === 0, 3000)
  },
)

it('as many calls are open on one gRPC connection as it says', async () => {
  const { port } = await startGrpc(roomWith())
  const session = http2Client(port)
  const settings = await new Promise<{ maxConcurrentStreams?: number }>(resolve =>
    session.once('remoteSettings', resolve),
  )
  expect(settings.maxConcurrentStreams).toBe(256)
})

it('of the requests that one connection sends at once a few are held', async () => {
  const room = roomWith(undefined, { holdMs: 500 })
  const { port } = await startHttp(room)
  const { socket } = bareClient(port)
  socket.write(head('GET', '/api/v1/entities/x', 'x-tenant-id: acme').repeat(1000))
  await eventually('some are held', async () => room.held > 0)
  await new Promise(resolve => setTimeout(resolve, 100))
  expect(room.held).toBe(4)
})

it('none of a connection that has gone is held', async () => {
  const room = roomWith()
  const { port } = await startHttp(room)
  const { socket } = bareClient(port)
  socket.write(head('GET', '/api/v1/entities/x', 'x-tenant-id: acme').repeat(4))
  await eventually('they are held', async () => room.held === 4)
  socket.destroy()
  await eventually('none is held', async () => room.held === 0, 2000)
})

it.each([
  ['names no tenant', [], 400],
  ['finds no room', ['x-tenant-id: other'], 503],
])(
  'nothing is read of the body of a request that %s, and the connection is closed behind the answer',
  async (_, fields, status) => {
    const room = roomWith(undefined, { requestsMax: 1 })
    const { port } = await startHttp(room)
    bareClient(port).socket.write(head('GET', '/api/v1/entities/x', 'x-tenant-id: acme'))
    await eventually('the room is full', async () => room.held === 1)
    const { socket, seen } = bareClient(port)
    socket.write(head('POST', '/api/v1/resources', 'content-length: 50000000', ...fields))
    const piece = Buffer.alloc(256 * 1024)
    const more = setInterval(() => socket.write(piece), 5)
    closing.push(() => clearInterval(more))
    await eventually('it is answered, and closed', async () => seen.isClosed || /^connection: close/im.test(seen.text))
    expect(seen.text).toMatch(new RegExp(`^HTTP/1.1 ${status} `))
    expect(seen.text).toMatch(/^connection: close/im)
  },
)

it.each([
  ['a client that sends at once', []],
  ['one that waits for 100 Continue', ['expect: 100-continue']],
])('a body in thousands of tiny chunks reaches no node whole: %s', async (_, fields) => {
  let bytes = 0
  let isWhole = false
  const backend = await startNode((request, response) => {
    request
      .on('data', (data: Buffer) => (bytes += data.length))
      .once('end', () => {
        isWhole = true
        response.end('{}')
      })
  })
  const { port } = await startHttp(roomWith({ http: backend }))
  const { socket, seen } = bareClient(port)
  socket.write(head('POST', '/api/v1/resources', 'x-tenant-id: acme', 'transfer-encoding: chunked', ...fields))
  if (fields.length > 0) await eventually('it may send', async () => seen.text.includes('100 Continue'))
  socket.write(`${'1\r\nx\r\n'.repeat(50_000)}0\r\n\r\n`)
  await eventually('it is refused', async () => seen.text.includes('REQUEST_MALFORMED'))
  expect(seen.text).toMatch(/^HTTP\/1.1 400 /m)
  expect([isWhole, bytes < 50_000]).toEqual([false, true])
})

it('HTTP connections are bounded, and an idle one makes way', async () => {
  const room = roomWith()
  const { port, connections } = await startHttp(room, 2)
  const idle = bareClient(port)
  idle.socket.write(head('GET', '/ready'))
  await eventually('it is answered', async () => idle.seen.text.includes('holding'))
  const held = bareClient(port)
  held.socket.write(head('GET', '/api/v1/entities/x', 'x-tenant-id: acme'))
  await eventually('one is held', async () => room.held === 1)
  const later = bareClient(port)
  later.socket.write(head('GET', '/ready'))
  await eventually('it is answered', async () => later.seen.text.includes('holding'))
  expect([idle.seen.isClosed, held.seen.isClosed, connections.open]).toEqual([true, false, 2])
})

/** A node that refuses its first requests with a code. */
const refusing =
  (code: string, times: number, asked: { count: number }) => (request: IncomingMessage, response: ServerResponse) => {
    request.resume()
    if (asked.count++ >= times) return void response.end('{}')
    response
      .writeHead(503, { 'retry-after': '1', 'content-type': 'application/problem+json' })
      .end(JSON.stringify({ code }))
  }

it.each([
  ['TENANT_UNAVAILABLE', 200],
  ['PLACEMENT_UNKNOWN', 200],
  ['HOME_UNAVAILABLE', 200],
  ['TOO_BUSY', 503],
  ['OUTBOX_FULL', 503],
  ['STREAM_UNAVAILABLE', 503],
  ['NODE_UNAVAILABLE', 503],
  ['SHUTTING_DOWN', 503],
])('a node that says %s is asked again when waking explains that', async (code, status) => {
  const asked = { count: 0 }
  const { port } = await startHttp(roomWith({ http: await startNode(refusing(code, 1, asked)) }))
  const sinceMs = Date.now()
  const answer = await fetch(`http://127.0.0.1:${port}/api/v1/entities/x`, { headers: { 'x-tenant-id': 'acme' } })
  const body = (await answer.json()) as { code?: string }
  expect([answer.status, asked.count]).toEqual([status, status === 200 ? 2 : 1])
  if (status === 503) expect([body.code, answer.headers.get('retry-after')]).toEqual([code, '1'])
  else expect(Date.now() - sinceMs).toBeGreaterThanOrEqual(1000)
})

it('what refuses at length is passed on whole', async () => {
  const text = 'x'.repeat(300_000)
  const backend = await startNode((_, response) => response.writeHead(503, { 'retry-after': '1' }).end(text))
  const { port } = await startHttp(roomWith({ http: backend }))
  const answer = await fetch(`http://127.0.0.1:${port}/api/v1/entities/x`, { headers: { 'x-tenant-id': 'acme' } })
  expect([answer.status, (await answer.text()) === text]).toEqual([503, true])
})

it('a node that dies in the middle of its refusal is asked again', async () => {
  let asked = 0
  const backend = await startNode((_, response) => {
    if (asked++ > 0) return void response.end('{}')
    response.writeHead(503, { 'retry-after': '1', 'content-length': '100' })
    response.write('{"code":', () => response.socket!.destroy())
  })
  const { port } = await startHttp(roomWith({ http: backend }))
  const answer = await fetch(`http://127.0.0.1:${port}/api/v1/entities/x`, { headers: { 'x-tenant-id': 'acme' } })
  expect([answer.status, asked]).toEqual([200, 2])
})

it.each([
  ['TENANT_UNAVAILABLE', 2, '0'],
  ['TOO_BUSY', 1, '14'],
  ['HOME_UNAVAILABLE', 1, '14'],
])('of gRPC, too: %s', async (code, times, status) => {
  let asked = 0
  const node = createHttp2Server()
  node.on('stream', stream => {
    const refusal = asked++ === 0 ? { 'grpc-status': '14', 'percolate-code': code } : { 'grpc-status': '0' }
    stream.respond({ ':status': 200, 'content-type': 'application/grpc', ...refusal }, { endStream: true })
  })
  await new Promise<void>(resolve => node.listen(0, '127.0.0.1', () => resolve()))
  closing.push(() => node.close())
  const { port } = await startGrpc(roomWith({ grpc: `127.0.0.1:${(node.address() as AddressInfo).port}` }))
  const stream = call(http2Client(port), { 'x-tenant-id': 'acme' })
  const answer = await new Promise<Record<string, unknown>>(resolve => stream.once('response', resolve))
  expect([answer['grpc-status'], asked]).toEqual([status, times])
})

it('what is no route of a node is refused at once, and wakes nothing', async () => {
  const room = roomWith()
  const http = await startHttp(room)
  for (const path of ['/', '/metrics', '/apis/x', '/x/api/v1/entities']) {
    const answer = await fetch(`http://127.0.0.1:${http.port}${path}`, { headers: { 'x-tenant-id': 'acme' } })
    expect([path, answer.status, ((await answer.json()) as { code: string }).code]).toEqual([
      path,
      404,
      'ROUTE_NOT_FOUND',
    ])
  }
  const session = http2Client((await startGrpc(room)).port)
  for (const path of ['/x', '/percolate.v1.Peer/Ping', '/grpc.health.v1.Health/Check']) {
    const stream = call(session, { ':path': path, 'x-tenant-id': 'acme' })
    const answer = await new Promise<Record<string, unknown>>(resolve => stream.once('response', resolve))
    expect([path, answer['grpc-status']]).toEqual([path, '12'])
  }
  expect([room.held, room.tenants]).toEqual([0, 0])
  // As a proxy asks, with the host.
  bareClient(http.port).socket.write(head('GET', 'http://x/v1/chat/completions', 'x-tenant-id: acme'))
  await eventually('it is held', async () => room.held === 1)
})
