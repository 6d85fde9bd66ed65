import { connect as connectHttp2, constants } from 'node:http2'
import { connect, type Socket } from 'node:net'
import {
  loadPackageDefinition,
  Server,
  ServerCredentials,
  type ServiceClientConstructor,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js'
import fastify from 'fastify'
import { afterEach, expect, it } from 'vitest'
import { type CallContext, serverStream, unary } from '../../../src/api/grpc/calls.ts'
import { contractInterceptor } from '../../../src/api/grpc/interceptor.ts'
import { loadRemProto } from '../../../src/api/grpc/protos.ts'
import { sendChat } from '../../../src/api/http/chat.ts'
import { sendEvents } from '../../../src/api/http/events.ts'
import { createHttpServer } from '../../../src/api/http/server.ts'
import { SlowReaders } from '../../../src/api/slow-readers.ts'
import { Connections } from '../../../src/base/connections.ts'
import { Metrics } from '../../../src/base/metrics.ts'
import { Probes } from '../../../src/base/probes.ts'
import { Refusals } from '../../../src/base/refusals.ts'
import { systemTime } from '../../../src/base/time.ts'
import { logger } from '../../support/running.ts'

/** Clients that ask for an answer in pieces and never read it. */
const STALL_MS = 200
const PIECE = 'x'.repeat(256 * 1024)
const closing: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close()
})

const metrics = new Metrics()
const readers = new SlowReaders(STALL_MS, metrics)
const stalled = async () => {
  const text = await metrics.registry.getSingleMetricAsString('percolate_errors_total')
  return Number(/code="READER_STALLED"\} (\d+)/.exec(text)?.[1] ?? 0)
}

/** Endless; `ended` resolves when nobody asks for more. */
function endless<T>(piece: T) {
  let end = () => {}
  const ended = new Promise<void>(resolve => {
    end = resolve
  })
  async function* pieces(): AsyncGenerator<T> {
    try {
      for (;;) yield piece
    } finally {
      end()
    }
  }
  return { pieces: pieces(), ended }
}

async function serve(path: string, answer: (reply: Parameters<typeof sendEvents>[0]) => Promise<unknown>) {
  const app = fastify()
  app.get(path, async (_request, reply) => {
    await answer(reply)
    return reply
  })
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as { port: number }
  const socket = connect(port, '127.0.0.1')
  closing.push(
    () => app.close(),
    () => socket.destroy(),
  )
  socket.pause()
  socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`)
}

it('of a feed: the connection goes, and what the feed holds with it', async () => {
  const before = await stalled()
  const { pieces, ended } = endless({ cursor: PIECE })
  let answered: Promise<unknown> = Promise.resolve()
  await serve('/changes', reply => (answered = sendEvents(reply, pieces, readers)))
  await ended
  await answered
  expect(await stalled()).toBe(before + 1)
})

it('of a chat: the same', async () => {
  const before = await stalled()
  const { pieces, ended } = endless({ text: PIECE })
  const answer = { id: 'c', model: 'm', createdS: 0, promptChars: 1, pieces }
  await serve('/chat', reply => sendChat(reply, answer, true, readers))
  await ended
  expect(await stalled()).toBe(before + 1)
})

/** More than the system takes off our hands for a connection. */
const LARGE = 'x'.repeat(32 * 1024 * 1024)

/** A server as every role has it, and a connection on which `/large`, `/slow` and `/health` can be asked for. */
async function serveWhole(readerStallMs: number) {
  const app = createHttpServer({
    logger,
    metrics,
    probes: new Probes(1000),
    connections: new Connections(100),
    bodyBytesMax: 1024,
    requestReadMs: 60_000,
    readerStallMs,
  })
  app.get('/large', async () => LARGE)
  app.get('/slow', async () => {
    await systemTime.sleep(readerStallMs * 3)
    return 'late'
  })
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as { port: number }
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => {})
  closing.push(
    () => app.close(),
    () => socket.destroy(),
  )
  const served = new Promise<Socket>(resolve => app.server.once('connection', resolve))
  return {
    app,
    socket,
    served: await served,
    ask: (path: string) => socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`),
  }
}

it('of a whole answer: the connection goes, and the answer with it', async () => {
  const before = await stalled()
  const { socket, served, ask } = await serveWhole(STALL_MS)
  socket.pause()
  ask('/large')
  await new Promise<void>(resolve => served.once('close', resolve))
  expect(await stalled()).toBe(before + 1)
})

it('not of one that is taken slowly and steadily', async () => {
  const before = await stalled()
  // Longer than a busy machine may stand still for.
  const stallMs = 1000
  const { socket, ask } = await serveWhole(stallMs)
  let taken = 0
  ask('/large')
  const startedAt = performance.now()
  while (taken < LARGE.length && !socket.destroyed) {
    const part: Buffer | null = socket.read()
    taken += part?.length ?? 0
    if (part) await systemTime.sleep(5)
    else await Promise.race(['readable', 'close'].map(name => new Promise(resolve => socket.once(name, resolve))))
  }
  expect(taken).toBeGreaterThanOrEqual(LARGE.length)
  // Otherwise this shows nothing.
  expect(performance.now() - startedAt).toBeGreaterThan(stallMs * 2)
  expect(await stalled()).toBe(before)
})

it('not of one that is late; and an unused connection is kept as long as before, and no longer', async () => {
  const before = await stalled()
  const { app, socket, served, ask } = await serveWhole(STALL_MS)
  const closed = new Promise<void>(resolve => socket.once('close', () => resolve()))
  const answered = (text: string) =>
    new Promise<void>(resolve => socket.on('data', data => data.toString().endsWith(text) && resolve()))
  ask('/slow')
  await answered('late')
  await systemTime.sleep(STALL_MS * 2)
  expect(served.destroyed).toBe(false)
  Object.assign(app.server, { keepAliveTimeout: STALL_MS, keepAliveTimeoutBuffer: 0 })
  ask('/health')
  await answered('{"status":"ok"}')
  await closed
  expect(await stalled()).toBe(before)
})

it('of a gRPC stream: the stream is reset, so that what waits to be sent goes, too', async () => {
  const before = await stalled()
  const { pieces, ended } = endless({ content: PIECE })
  const call = await callGrpc('ListResources', context => serverStream(context, 'ListResources', () => pieces))
  await new Promise<void>(resolve => call.once('close', resolve))
  expect(call.rstCode).toBe(constants.NGHTTP2_ENHANCE_YOUR_CALM)
  await ended
  expect(await stalled()).toBe(before + 1)
})

it('of a whole answer by gRPC: the same', async () => {
  const before = await stalled()
  const call = await callGrpc('GetResource', context => unary(context, 'GetResource', async () => ({ content: PIECE })))
  await new Promise<void>(resolve => call.once('close', resolve))
  expect(call.rstCode).toBe(constants.NGHTTP2_ENHANCE_YOUR_CALM)
  expect(await stalled()).toBe(before + 1)
})

it('of the end of a gRPC stream: the same', async () => {
  const before = await stalled()
  async function* pieces() {
    yield { content: 'short' }
  }
  const call = await callGrpc('ListResources', context => serverStream(context, 'ListResources', () => pieces()), 0)
  await new Promise<void>(resolve => call.once('close', resolve))
  expect(call.rstCode).toBe(constants.NGHTTP2_ENHANCE_YOUR_CALM)
  expect(await stalled()).toBe(before + 1)
})

/** Sends one empty message to a method; the answer is never read. `windowBytes`: what the client takes without being asked for. */
async function callGrpc(method: string, serve: (context: CallContext) => unknown, windowBytes = 65_535) {
  const refusals = new Refusals({ logger, metrics })
  const context = {
    logger,
    metrics,
    refusals,
    time: systemTime,
    asOfAheadMsMax: 0,
    node: 'n1',
    onTenant: () => {},
    readers,
  }
  const { percolate } = loadPackageDefinition(loadRemProto()) as unknown as {
    percolate: { v1: { Rem: ServiceClientConstructor } }
  }
  const server = new Server({ interceptors: [contractInterceptor()] })
  server.addService(percolate.v1.Rem.service, { [method]: serve(context) } as UntypedServiceImplementation)
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, at) =>
      error ? reject(error) : resolve(at),
    ),
  )
  const session = connectHttp2(`http://127.0.0.1:${port}`, { settings: { initialWindowSize: windowBytes } })
  closing.push(
    () => server.forceShutdown(),
    () => session.destroy(),
  )
  const call = session.request({
    ':method': 'POST',
    ':path': `/percolate.v1.Rem/${method}`,
    'content-type': 'application/grpc',
    te: 'trailers',
    'x-tenant-id': 'acme',
  })
  call.on('error', () => {})
  call.end(Buffer.alloc(5))
  return call
}
