import { createServer, type IncomingMessage, type OutgoingHttpHeaders, type Server } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { text } from 'node:stream/consumers'
import fastify, { type FastifyInstance } from 'fastify'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { FeedPlaces } from '../../../src/api/feed-places.ts'
import { addTenantHook } from '../../../src/api/http/call.ts'
import { HttpForwarder } from '../../../src/api/http/forward.ts'
import { KEPT_BODY_BYTES_MAX } from '../../../src/api/http/kept-body.ts'
import { closeBehindHalves, sendError } from '../../../src/api/http/server.ts'
import { holdContinue } from '../../../src/base/expect-continue.ts'
import { gatherBodies } from '../../../src/base/gathered-bodies.ts'
import { createLogger } from '../../../src/base/logger.ts'
import { Metrics } from '../../../src/base/metrics.ts'
import { Refusals } from '../../../src/base/refusals.ts'
import { systemTime } from '../../../src/base/time.ts'
import { PeerAuth } from '../../../src/replication/auth.ts'
import type { Member } from '../../../src/replication/placement.ts'
import type { Replica } from '../../../src/replication/replica.ts'
import type { Route } from '../../../src/replication/router.ts'
import { Gate } from '../../../src/session/gate.ts'

/** Nodes as a forwarding node sees them: real servers, and a real gate and forwarder that are told where to go. */
const closing: { close(): unknown }[] = []
const bodies: { readonly node: string; readonly text: string }[] = []
const routes: Route[] = []
let late: Member
let serving: Member
let behind: Member
let entry: FastifyInstance
let url: string

beforeAll(async () => {
  // It stopped being the home when it had the body.
  late = await peer('late', 421)
  serving = await peer('serving', 200)
  // Its copy has not applied what the read's bookmark names.
  behind = await peer('behind', 421, { 'x-percolate-lacks': 'bookmark' })
  const auth = new PeerAuth('secret', 'n1')
  const replica = {
    service: { node: 'n1' },
    router: { refresh: async () => {}, route: async () => routes.shift()!, answered: () => {} },
  } as unknown as Replica
  const gate = new Gate({ replica, auth, bookmarkWaitMs: 0 })
  const forwarder = new HttpForwarder(auth, new FeedPlaces({ feedsMax: 1, tenantFeedsMax: 1 }))
  entry = fastify({ bodyLimit: 1e7 })
  gatherBodies(entry.server)
  closeBehindHalves(entry)
  const refusals = new Refusals({ logger: createLogger({ level: 'silent', role: 'test' }), metrics: new Metrics() })
  entry.setErrorHandler((error, request, reply) => sendError(error, request, reply, refusals))
  addTenantHook(entry, { time: systemTime, asOfAheadMsMax: 0, onTenant: () => {}, gate, forwarder })
  holdContinue(entry.server)
  entry.put('/api/v1/e', async request => ({ node: 'n1', got: request.body }))
  entry.put('/e', async request => ({ node: 'n1', got: request.body }))
  entry.get('/e', async () => ({ node: 'n1' }))
  url = await entry.listen({ host: '127.0.0.1', port: 0 })
  closing.push(forwarder, entry)
})
afterAll(async () => {
  for (const server of closing) await server.close()
})

async function peer(node: string, status: number, headers: OutgoingHttpHeaders = {}): Promise<Member> {
  const server: Server = createServer(async (request: IncomingMessage, response) => {
    let body = ''
    try {
      for await (const chunk of request) body += chunk
    } catch {
      return
    }
    bodies.push({ node, text: body })
    response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify({ node }))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  closing.push({ close: () => server.closeAllConnections() ?? server.close() })
  const { port } = server.address() as AddressInfo
  return { node, http: `127.0.0.1:${port}` } as Member
}

const put = (body: object, ...to: Route[]) =>
  send(to, {
    method: 'PUT',
    headers: { 'x-tenant-id': 'acme', 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })
const get = (...to: Route[]) => send(to, { headers: { 'x-tenant-id': 'acme' } })

async function send(to: readonly Route[], init: RequestInit) {
  routes.splice(0, routes.length, ...to)
  bodies.length = 0
  const answer = await fetch(`${url}/e`, init)
  return { status: answer.status, body: JSON.parse(await answer.text()) }
}

const forward = (...targets: Member[]): Route => ({ kind: 'forward', targets })
const small = { properties: { n: 1 } }
const large = { text: 'x'.repeat(KEPT_BODY_BYTES_MAX) }

describe('a request that a node took and then did nothing of', () => {
  it('goes with its body to the next', async () => {
    const answer = await put(small, forward(late, serving))
    expect(answer).toEqual({ status: 200, body: { node: 'serving' } })
    expect(bodies).toEqual(['late', 'serving'].map(node => ({ node, text: JSON.stringify(small) })))
  })

  it('is answered here, when this node has become the home meanwhile', async () => {
    const answer = await put(small, forward(late), { kind: 'local' })
    expect(answer).toEqual({ status: 200, body: { node: 'n1', got: small } })
  })

  it('goes elsewhere when the directory says so by then', async () => {
    const answer = await put(small, forward(late), forward(serving))
    expect(answer).toEqual({ status: 200, body: { node: 'serving' } })
  })

  it('is to be sent again by the client when it is too large to be kept', async () => {
    const answer = await put(large, forward(late, serving), forward(serving))
    expect([answer.status, answer.body.code]).toEqual([503, 'TENANT_UNAVAILABLE'])
    expect(answer.body.detail).toContain('did nothing; send it again')
    expect(bodies.map(({ node }) => node)).toEqual(['late'])
  })
})

describe('a read that a node does not answer, since its copy lacks what the bookmark names', () => {
  it('goes to the next', async () => {
    const answer = await get(forward(behind, serving))
    expect(answer).toEqual({ status: 200, body: { node: 'serving' } })
    expect(bodies.map(({ node }) => node)).toEqual(['behind', 'serving'])
  })

  it('is refused for that when no other takes it, and not sent there again', async () => {
    const answer = await get(forward(behind, late), forward(serving))
    expect([answer.status, answer.body.code]).toEqual([503, 'BOOKMARK_NOT_REACHED'])
    expect(bodies.map(({ node }) => node)).toEqual(['behind', 'late'])
  })
})

it('a client that waits for our word before it sends its body gets it, and its answer', {
  timeout: 10_000,
}, async () => {
  routes.splice(0, routes.length, forward(serving))
  bodies.length = 0
  const socket = connect(Number(new URL(url).port), '127.0.0.1')
  const said = text(socket)
  socket.once('data', () => socket.write(JSON.stringify(small)))
  socket.write(
    `PUT /api/v1/e HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Tenant-ID: acme\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: ${JSON.stringify(small).length}\r\n\r\n`,
  )
  expect(await said).toMatch(/^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200 /)
  expect(bodies).toEqual([{ node: 'serving', text: JSON.stringify(small) }])
})

it('a body in very many chunks of one byte is refused here, and is whole nowhere', async () => {
  routes.splice(0, routes.length, forward(serving))
  bodies.length = 0
  const socket = connect(Number(new URL(url).port), '127.0.0.1')
  socket.write(
    `PUT /e HTTP/1.1\r\nHost: x\r\nX-Tenant-ID: acme\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n${'1\r\na\r\n'.repeat(50_000)}0\r\n\r\n`,
  )
  const answer = await text(socket)
  expect(answer).toMatch(/^HTTP\/1\.1 400 /)
  expect(answer).toContain('"code":"REQUEST_MALFORMED"')
  expect(bodies).toEqual([])
})
