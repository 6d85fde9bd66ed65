import { type ClientHttp2Session, type ClientHttp2Stream, connect, createServer as createHttp2Server } from 'node:http2'
import type { AddressInfo } from 'node:net'
import { afterEach, expect, it } from 'vitest'
import { HoldingGrpcProxy } from '../../../src/activator/grpc-proxy.ts'
import { type Backend, WaitingRoom } from '../../../src/activator/room.ts'
import { Connections } from '../../../src/base/connections.ts'
import { systemTime } from '../../../src/base/time.ts'
import { logger } from '../../support/running.ts'

const closing: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close()
})

/** A room without a node, or with the one that is given. */
const roomWith = (backend?: Partial<Backend>, options: Partial<ConstructorParameters<typeof WaitingRoom>[0]> = {}) =>
  new WaitingRoom({
    time: systemTime,
    pick: () => (backend ? { node: 'n1', http: '', grpc: '', ...backend } : undefined),
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

it('as many calls are open on one gRPC connection as it says', async () => {
  const { port } = await startGrpc(roomWith())
  const session = http2Client(port)
  const settings = await new Promise<{ maxConcurrentStreams?: number }>(resolve =>
    session.once('remoteSettings', resolve),
  )
  expect(settings.maxConcurrentStreams).toBe(256)
})
