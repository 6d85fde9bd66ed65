import { createServer, request as httpRequest, type IncomingMessage, type Server } from 'node:http'
import {
  connect,
  constants,
  createServer as createHttp2Server,
  type Http2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Stream,
} from 'node:http2'
import type { AddressInfo } from 'node:net'
import type { ServiceError } from '@grpc/grpc-js'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { HoldingGrpcProxy } from '../../../src/activator/grpc-proxy.ts'
import { HoldingHttpProxy } from '../../../src/activator/http-proxy.ts'
import { WaitingRoom } from '../../../src/activator/room.ts'
import { Connections } from '../../../src/base/connections.ts'
import { systemTime } from '../../../src/base/time.ts'
import { grpcClient } from '../../support/grpc.ts'
import { logger } from '../../support/running.ts'

/** A node that keeps the head of what it is sent. A sidecar in front of it would route by these names. */
const seen: { http: IncomingMessage[]; grpc: IncomingHttpHeaders[] } = { http: [], grpc: [] }
const answerHeaders = {
  'content-type': 'application/json',
  connection: 'x-of-this-hop',
  'x-of-this-hop': '1',
  'proxy-authenticate': 'Basic',
  'x-percolate-node': 'n1',
}
/** How a node leaves a call unfinished. */
const HEAD = { ':status': 200, 'content-type': 'application/grpc' }
const endings: Record<string, (stream: ServerHttp2Stream) => void> = {
  'killed before the head': stream => stream.session!.destroy(),
  'killed after the head': stream => {
    stream.respond(HEAD)
    stream.write(Buffer.alloc(5), () => stream.session!.destroy())
  },
  'reset before the head': stream => stream.close(constants.NGHTTP2_CANCEL),
  'reset after the head': stream => {
    stream.respond(HEAD)
    stream.write(Buffer.alloc(5), () => stream.close(constants.NGHTTP2_INTERNAL_ERROR))
  },
  'cut off after the head': stream => {
    stream.respond(HEAD)
    stream.write(Buffer.alloc(5), () => stream.close(constants.NGHTTP2_CANCEL))
  },
  'ended without a status': stream => {
    stream.respond(HEAD)
    stream.end(Buffer.alloc(5))
  },
}
const refusal = (stream: ServerHttp2Stream) => stream.respond({ ':status': 415 }, { endStream: true })
let httpNode: Server
let grpcNode: Http2Server
let http: HoldingHttpProxy
let grpc: HoldingGrpcProxy
let httpPort: number
let grpcPort: number
let backend: { node: string; http: string; grpc: string }

const portOf = (server: Server | Http2Server) => (server.address() as AddressInfo).port

beforeAll(async () => {
  httpNode = createServer((request, response) => {
    seen.http.push(request)
    request.resume().once('end', () => response.writeHead(200, answerHeaders).end('{}'))
  })
  grpcNode = createHttp2Server()
  grpcNode.on('stream', (stream, headers) => {
    stream.on('error', () => {})
    seen.grpc.push(headers)
    const end = headers['content-type'] === 'text/plain' ? refusal : endings[String(headers['x-ends'])]
    if (end) return end(stream)
    stream.respond({ ':status': 200, 'content-type': 'application/grpc', 'grpc-status': '0' }, { endStream: true })
  })
  for (const server of [httpNode, grpcNode])
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', () => resolve()))
  backend = { node: 'n1', http: `127.0.0.1:${portOf(httpNode)}`, grpc: `127.0.0.1:${portOf(grpcNode)}` }
  const room = new WaitingRoom({
    time: systemTime,
    picker: () => () => backend,
    requestsMax: 10,
    bytesMax: 10 * 1024 * 1024,
    holdMs: 2000,
    wakeMs: 100,
  })
  const options = { room, logger, connections: new Connections(100), host: '127.0.0.1', port: 0 }
  http = new HoldingHttpProxy(options)
  grpc = new HoldingGrpcProxy(options)
  httpPort = await http.start()
  grpcPort = await grpc.start()
})
afterAll(async () => {
  await Promise.all([http.stop(), grpc.stop()])
  for (const server of [httpNode, grpcNode]) server.close()
})

const ask = (headers: Record<string, string>, body?: string) =>
  new Promise<IncomingMessage>((resolve, reject) => {
    const method = body === undefined ? 'GET' : 'POST'
    const outgoing = httpRequest({ host: '127.0.0.1', port: httpPort, path: '/api/v1/moments', method, headers })
    outgoing.once('error', reject)
    outgoing.once('response', answer => answer.resume().once('end', () => resolve(answer)))
    outgoing.end(body)
  })

it.each([
  ['a read', undefined],
  ['a write', '{"a":1}'],
])('%s reaches a node under its own name; the name that the client used is kept beside', async (_, body) => {
  const answer = await ask({ host: 'percolate.example.com', 'x-tenant-id': 'acme' }, body)
  expect(answer.statusCode).toBe(200)
  const { headers } = seen.http.at(-1)!
  expect(headers).toMatchObject({
    host: backend.http,
    'x-forwarded-host': 'percolate.example.com',
    'x-tenant-id': 'acme',
  })
})

it('what a router in front says of the name stays; fields of one hop go no further, either way', async () => {
  const answer = await ask({
    host: 'inner.example.com',
    'x-forwarded-host': 'outer.example.com',
    'x-tenant-id': 'acme',
    connection: 'close, x-hop',
    'x-hop': '1',
    te: 'trailers',
    'proxy-authorization': 'Basic c2VjcmV0',
  })
  const { headers } = seen.http.at(-1)!
  expect(headers).toMatchObject({ host: backend.http, 'x-forwarded-host': 'outer.example.com' })
  for (const name of ['x-hop', 'te', 'proxy-authorization']) expect([name, headers[name]]).toEqual([name, undefined])
  expect(answer.headers['x-percolate-node']).toBe('n1')
  for (const name of ['x-of-this-hop', 'proxy-authenticate'])
    expect([name, answer.headers[name]]).toEqual([name, undefined])
})

it('a request whose Connection names a header that the node acts on is refused, and not sent on without it', async () => {
  const before = seen.http.length
  for (const name of ['If-Match', 'x-tenant-id', 'X-Percolate-Durability', 'content-type'])
    for (const body of [undefined, '{"a":1}']) {
      const answer = await ask({ 'x-tenant-id': 'acme', 'if-match': '"x"', connection: `keep-alive, ${name}` }, body)
      expect([name, answer.statusCode]).toEqual([name, 400])
    }
  expect(seen.http.length).toBe(before)
})

it('a gRPC call too', async () => {
  const session = connect(`http://127.0.0.1:${grpcPort}`)
  const stream = session.request({
    ':method': 'POST',
    ':path': '/percolate.v1.Rem/GetEntity',
    ':authority': 'percolate.example.com',
    'content-type': 'application/grpc',
    te: 'trailers',
    'x-tenant-id': 'acme',
  })
  stream.end()
  await new Promise((resolve, reject) => stream.once('response', resolve).once('error', reject))
  session.close()
  expect(seen.grpc.at(-1)).toMatchObject({
    ':authority': backend.grpc,
    'x-forwarded-host': 'percolate.example.com',
    'x-tenant-id': 'acme',
    te: 'trailers',
  })
  expect(seen.grpc.at(-1)!.host).toBeUndefined()
})

it.each(Object.keys(endings))('a gRPC call that its node leaves unfinished has an end all the same: %s', async how => {
  const { client, metadata } = grpcClient(`127.0.0.1:${grpcPort}`, 'acme')
  metadata.set('x-ends', how)
  const end = new Promise<ServiceError>(resolve =>
    client.GetEntity!({ id: 'a' }, metadata, { deadline: Date.now() + 10_000 }, (error: ServiceError) =>
      resolve(error),
    ),
  )
  const error = await end
  client.close()
  expect([error.code, error.metadata.get('percolate-code')[0]]).toEqual([14, 'NODE_UNAVAILABLE'])
})

it('what is no answer of gRPC stays what it is', async () => {
  const session = connect(`http://127.0.0.1:${grpcPort}`)
  const stream = session.request({
    ':method': 'POST',
    ':path': '/percolate.v1.Rem/GetEntity',
    'content-type': 'text/plain',
    'x-tenant-id': 'acme',
  })
  stream.end()
  let trailers: IncomingHttpHeaders | undefined
  stream.once('trailers', received => {
    trailers = received
  })
  const head = await new Promise<IncomingHttpHeaders>(resolve => stream.once('response', resolve))
  stream.resume()
  await new Promise(resolve => stream.once('close', resolve))
  session.close()
  expect([head[':status'], trailers]).toEqual([415, undefined])
})
