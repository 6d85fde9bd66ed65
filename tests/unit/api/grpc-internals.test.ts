import { connect as connectHttp2, constants, type Http2Server } from 'node:http2'
import { createServer } from 'node:net'
import {
  loadPackageDefinition,
  Server,
  ServerCredentials,
  type ServiceClientConstructor,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { cutOff } from '../../../src/api/grpc/calls.ts'
import { contractInterceptor } from '../../../src/api/grpc/interceptor.ts'
import { loadRemProto } from '../../../src/api/grpc/protos.ts'

/**
 * What we use of grpc-js that it does not promise: the HTTP/2 server of injected connections is the first of `http2Servers`, and makes the session of one at once (`GrpcConnections`); a handler's call has a `call`, interceptors lie around each other as `nextCall`, the innermost has the HTTP/2 `stream`; and what grpc-js refuses by
 * itself goes through `sendStatus` of the call that an interceptor is given. A version of grpc-js that changes this fails here: see `cutOff`, `OpenCalls` and `contractInterceptor` before you change a line of this.
 */

let server: Server
let port: number
let held: object | undefined
const open: (() => void)[] = []

beforeAll(async () => {
  server = new Server({ interceptors: [contractInterceptor()] })
  const { percolate } = loadPackageDefinition(loadRemProto()) as unknown as {
    percolate: { v1: { Rem: ServiceClientConstructor } }
  }
  server.addService(percolate.v1.Rem.service, {
    ListResources: (call: object) => {
      held = call
    },
  } as unknown as UntypedServiceImplementation)
  port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, at) =>
      error ? reject(error) : resolve(at),
    ),
  )
})
afterAll(() => {
  for (const close of open) close()
  server.forceShutdown()
})

function send(body: Buffer, headers: Record<string, string> = {}) {
  const session = connectHttp2(`http://127.0.0.1:${port}`)
  open.push(() => session.destroy())
  const call = session.request({
    ':method': 'POST',
    ':path': '/percolate.v1.Rem/ListResources',
    'content-type': 'application/grpc',
    te: 'trailers',
    ...headers,
  })
  call.on('error', () => {})
  call.end(body)
  let answered: Record<string, unknown> = {}
  call.on('response', head => {
    answered = { ...answered, ...head }
  })
  call.on('trailers', trailers => {
    answered = { ...answered, ...trailers }
  })
  call.resume()
  return { call, ended: new Promise<Record<string, unknown>>(resolve => call.once('close', () => resolve(answered))) }
}

const EMPTY_MESSAGE = Buffer.alloc(5)

describe('grpc-js, below its interface', () => {
  it('keeps the HTTP/2 stream of a call where a stalled reader is cut off', async () => {
    const { call, ended } = send(EMPTY_MESSAGE)
    for (const until = Date.now() + 10_000; !held && Date.now() < until; ) await new Promise(setImmediate)
    type Inner = { nextCall?: Inner; stream?: { close?: unknown } }
    let inner = (held as { call?: Inner }).call
    expect(inner, 'a handler gets an object with `call`').toBeTypeOf('object')
    let layers = 0
    for (; inner?.nextCall; inner = inner.nextCall) layers++
    expect(layers, 'interceptors lie around the call as `nextCall`').toBeGreaterThan(0)
    expect(inner?.stream?.close, 'the innermost call has the HTTP/2 `stream`').toBeTypeOf('function')
    expect(cutOff(held!)).toBe(true)
    await ended
    expect(call.rstCode).toBe(constants.NGHTTP2_ENHANCE_YOUR_CALM)
  })

  it('says so when there is no stream to be found', () => {
    expect(cutOff({})).toBe(false)
    expect(cutOff({ call: { nextCall: {} } })).toBe(false)
  })

  it.each([
    ['a deadline that is no time', EMPTY_MESSAGE, { 'grpc-timeout': 'soon' }, 'INVALID_ARGUMENT', '3'],
    [
      'a message that is compressed',
      Buffer.from([1, 0, 0, 0, 1, 7]),
      { 'grpc-encoding': 'gzip' },
      'COMPRESSION_UNSUPPORTED',
      '12',
    ],
    ['a message that is too large', Buffer.from([0, 0x7f, 0, 0, 0]), {}, 'BODY_TOO_LARGE', '8'],
  ] as const)('answers %s through the call that an interceptor is given', async (_, body, headers, code, status) => {
    const answer = await send(body, headers).ended
    expect([answer['percolate-code'], answer['grpc-status']]).toEqual([code, status])
  })

  it('has the HTTP/2 server of injected connections, which tells of sessions at once and of calls in one place', async () => {
    const injected = new Server()
    open.push(() => injected.forceShutdown())
    const injector = injected.createConnectionInjector(ServerCredentials.createInsecure())
    const [http2] = (injected as unknown as { http2Servers: Map<Http2Server, unknown> }).http2Servers.keys()
    expect(http2!.listeners('stream')).toHaveLength(1)
    let sessions = 0
    http2!.on('session', () => sessions++)
    const listener = createServer()
    open.push(() => listener.close())
    await new Promise<void>(resolve => listener.listen(0, '127.0.0.1', resolve))
    const connected = new Promise<number>(resolve =>
      listener.once('connection', socket => {
        injector.injectConnection(socket)
        resolve(sessions)
      }),
    )
    const client = connectHttp2(`http://127.0.0.1:${(listener.address() as { port: number }).port}`)
    open.push(() => client.destroy())
    expect(await connected).toBe(1)
  })
})
