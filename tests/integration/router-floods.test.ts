import { createServer as createHttpServer, type Server, type ServerResponse } from 'node:http'
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect as connectHttp2,
  constants,
  createServer,
  type Http2Server,
  type ServerHttp2Session,
} from 'node:http2'
import { type AddressInfo, connect, type NetConnectOpts, type Socket } from 'node:net'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { sayNotChecked } from '../support/manifests.ts'
import { haproxy, type RunningRouter, startRouter } from '../support/router.ts'
import { eventually, request, within } from '../support/running.ts'

/** What one client can take of a real HAProxy, configured as in a local cluster, and of the connections that it has to a node: little enough that others do not notice. The node here is one in name only. */
if (haproxy === undefined) sayNotChecked('floods on the router. There is no HAProxy; "npm run setup" fetches it')

const PREFACE = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
const SETTINGS = '\0\0\0\x04\0\0\0\0\0'
let grpcNode: Http2Server
let httpNode: Server
let node: { http: number; grpc: number }
const sessions = new Set<ServerHttp2Session>()
let begun = 0
const feeds = new Set<ServerResponse>()
let router: RunningRouter
const sockets: Socket[] = []
const clients: ClientHttp2Session[] = []

beforeAll(async () => {
  grpcNode = createServer()
  grpcNode.on('session', session => {
    begun++
    sessions.add(session)
    session.once('close', () => sessions.delete(session)).on('error', () => {})
  })
  grpcNode.on('stream', (stream, headers) => {
    stream.on('error', () => {})
    if (headers[':path'] === '/never') return
    stream.respond({ ':status': 200 })
    if (headers[':path'] !== '/stream') stream.end('answer')
  })
  httpNode = createHttpServer((asked, answer) => {
    if (asked.url !== '/feed') return void answer.end('{}')
    feeds.add(answer)
    answer.writeHead(200, { 'content-type': 'text/event-stream' }).write(': hello\n\n')
  })
  for (const server of [grpcNode, httpNode])
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', () => resolve()))
  const portOf = (server: Server | Http2Server) => (server.address() as AddressInfo).port
  node = { http: portOf(httpNode), grpc: portOf(grpcNode) }
})
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy()
  for (const client of clients.splice(0)) client.destroy()
  await router?.stop()
})
afterAll(() => {
  for (const session of sessions) session.destroy()
  grpcNode.close()
  httpNode.closeAllConnections()
  httpNode.close()
})

/** A connection that says so much and no more. */
function half(port: number, text = '', from: Partial<NetConnectOpts> = {}) {
  const socket = connect({ port, host: '127.0.0.1', ...from })
  sockets.push(socket)
  let heard = ''
  socket.on('error', () => {})
  socket.on('data', bytes => {
    heard += bytes
  })
  socket.write(text)
  const closed = new Promise<void>(resolve => socket.once('close', () => resolve()))
  return { socket, closed, heard: () => heard }
}

function client(): ClientHttp2Session {
  const session = connectHttp2(`http://127.0.0.1:${router.grpc}`)
  session.on('error', () => {})
  clients.push(session)
  return session
}

function call(session: ClientHttp2Session, path: string, tenant = 'acme'): ClientHttp2Stream {
  const stream = session.request({ ':path': path, 'x-tenant-id': tenant })
  stream.on('error', () => {})
  return stream.resume()
}

/** The status of an answer, or undefined when there was none. */
const answered = (stream: ClientHttp2Stream): Promise<number | undefined> =>
  new Promise(resolve => {
    let status: number | undefined
    stream.once('response', head => {
      status = head[':status']
      resolve(status)
    })
    stream.once('close', () => resolve(status))
  })

describe.runIf(haproxy)('through a router', () => {
  it('a connection that asks nothing is let go, and one that asked for a stream is not', async () => {
    const requestHeadMs = 1000
    router = await startRouter([node], { requestHeadMs })
    const feed = half(router.http, 'GET /feed HTTP/1.1\r\nhost: x\r\nx-tenant-id: acme\r\n\r\n')
    const stream = call(client(), '/stream')
    expect(await answered(stream)).toBe(200)
    await eventually('the feed is there', async () => feed.heard().includes('hello'))
    const silent = {
      'HTTP, nothing': half(router.http),
      'HTTP, half of a head': half(router.http, 'GET / HTTP/1.1\r\nhost: x\r\nx-te'),
      'gRPC, nothing': half(router.grpc),
      'gRPC, half of the preface': half(router.grpc, PREFACE.slice(0, 10)),
      'gRPC, no stream': half(router.grpc, PREFACE + SETTINGS),
      'gRPC, half of a head': half(router.grpc, `${PREFACE}${SETTINGS}\0\0\x09\x01\x04\0\0\0\x01\x83`),
    }
    for (const [what, { closed }] of Object.entries(silent)) await within(`closed: ${what}`, closed, 20_000)
    // It closes without a word: a client that sends just then would take the word for its answer.
    expect(silent['HTTP, nothing'].heard()).toBe('')
    await new Promise(resolve => setTimeout(resolve, 2 * requestHeadMs))
    expect([feed.socket.destroyed, stream.destroyed]).toEqual([false, false])
    for (const answer of feeds) answer.write(': still here\n\n')
    await eventually('the feed goes on', async () => feed.heard().includes('still here'))
  })

  it('one address does not take all places', async () => {
    router = await startRouter([node], { connectionsMax: 40 })
    const taken = Array.from({ length: 60 }, (_, n) => half(n % 2 ? router.http : router.grpc))
    await eventually('what is beyond its share is closed', async () =>
      taken.some(({ socket }) => socket.destroyed && !socket.connecting),
    )
    // A page of the router, which counts no addresses, and, where a machine has more than one, another address.
    const health = request(`http://127.0.0.1:${router.stats}/health`, 'GET')
    expect((await within('the router says how it is', health, 20_000)).status).toBe(200)
    if (process.platform !== 'linux') return
    const other = half(router.http, 'GET / HTTP/1.1\r\nhost: x\r\nx-tenant-id: acme\r\n\r\n', {
      localAddress: '127.0.0.2',
    })
    await eventually('another address is answered', async () => other.heard().includes(' 200 '))
    for (const { socket } of taken) socket.destroy()
    await eventually('places come back', () =>
      request(`http://127.0.0.1:${router.http}/`, 'GET').then(
        ({ status }) => status === 200,
        () => false,
      ),
    )
  })

  it('calls that one client resets end no call of another, and one client has one connection to a node', async () => {
    router = await startRouter([node])
    const [flood, neighbour] = [client(), client()]
    const before = begun
    for (const session of [flood, neighbour, flood, neighbour]) expect(await answered(call(session, '/'))).toBe(200)
    const stream = call(neighbour, '/stream')
    expect(await answered(stream)).toBe(200)
    const took = begun - before
    // Node's bound is 1,000 at once, and 33 a second: behind it the router turns to the node on another connection.
    for (let n = 0; n < 100 && begun === before + took; n++) {
      const calls = Array.from({ length: 50 }, () => call(flood, '/never'))
      await new Promise(resolve => setTimeout(resolve, 20))
      for (const one of calls) one.close(constants.NGHTTP2_CANCEL)
    }
    expect(begun, 'the node ends a connection with too many resets').toBeGreaterThan(before + took)
    await new Promise(resolve => setTimeout(resolve, 500))
    expect(stream.closed).toBe(false)
    expect(await answered(call(neighbour, '/'))).toBe(200)
    expect(took).toBe(2)
  })

  it('a client keeps a connection to each of many nodes', async () => {
    const nodes = Array.from({ length: 8 }, () => node)
    router = await startRouter(nodes)
    const before = begun
    const one = client()
    for (let n = 0; n < 100; n++) expect(await answered(call(one, '/', `tenant-${n}`))).toBe(200)
    expect(begun - before).toBe(nodes.length)
  })
})
