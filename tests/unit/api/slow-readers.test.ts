import { connect as connectHttp2, constants } from 'node:http2'
import { connect } from 'node:net'
import {
  loadPackageDefinition,
  Server,
  ServerCredentials,
  type ServiceClientConstructor,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js'
import fastify from 'fastify'
import { afterEach, expect, it } from 'vitest'
import { serverStream } from '../../../src/api/grpc/calls.ts'
import { contractInterceptor } from '../../../src/api/grpc/interceptor.ts'
import { loadRemProto } from '../../../src/api/grpc/protos.ts'
import { sendChat } from '../../../src/api/http/chat.ts'
import { sendEvents } from '../../../src/api/http/events.ts'
import { SlowReaders } from '../../../src/api/slow-readers.ts'
import { Metrics } from '../../../src/base/metrics.ts'
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

it('of a gRPC stream: the stream is reset, so that what waits to be sent goes, too', async () => {
  const before = await stalled()
  const { pieces, ended } = endless({ content: PIECE })
  const context = { logger, metrics, time: systemTime, asOfAheadMsMax: 0, node: 'n1', onTenant: () => {}, readers }
  const { percolate } = loadPackageDefinition(loadRemProto()) as unknown as {
    percolate: { v1: { Rem: ServiceClientConstructor } }
  }
  const server = new Server({ interceptors: [contractInterceptor] })
  server.addService(percolate.v1.Rem.service, {
    ListResources: serverStream(context, 'ListResources', () => pieces),
  } as unknown as UntypedServiceImplementation)
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, at) =>
      error ? reject(error) : resolve(at),
    ),
  )
  const session = connectHttp2(`http://127.0.0.1:${port}`)
  closing.push(
    () => server.forceShutdown(),
    () => session.destroy(),
  )
  const call = session.request({
    ':method': 'POST',
    ':path': '/percolate.v1.Rem/ListResources',
    'content-type': 'application/grpc',
    te: 'trailers',
    'x-tenant-id': 'acme',
  })
  call.on('error', () => {})
  // One empty message; the answer is never read.
  call.end(Buffer.alloc(5))
  await new Promise<void>(resolve => call.once('close', resolve))
  expect(call.rstCode).toBe(constants.NGHTTP2_ENHANCE_YOUR_CALM)
  await ended
  expect(await stalled()).toBe(before + 1)
})
