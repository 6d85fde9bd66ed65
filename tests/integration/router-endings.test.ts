import { createServer as createHttpServer, type Server } from 'node:http'
import {
  connect,
  constants,
  createServer,
  type Http2Server,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2'
import type { AddressInfo } from 'node:net'
import type { ServiceError } from '@grpc/grpc-js'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { PercolateClient } from '../../client/client.ts'
import type { PercolateClientError } from '../../client/errors.ts'
import { isLostCall, isRoutersStatus } from '../../test-topology/lost-answers.ts'
import { grpcClient } from '../support/grpc.ts'
import { sayNotChecked } from '../support/manifests.ts'
import { haproxy, type RunningRouter, startRouter } from '../support/router.ts'

/**
 * What clients see, through a real HAProxy, of requests whose node does not end them: docs/errors.md tells it. The node here is one in name only, so that it can be at every point of a call as it goes: each of these
 * happens to a real node that is killed.
 */
if (haproxy === undefined)
  sayNotChecked('what clients of the router see. There is no HAProxy; "npm run setup" fetches it')

const HEAD = { ':status': 200, 'content-type': 'application/grpc' }
const destroy = (stream: ServerHttp2Stream) => void stream.session!.destroy()
const endings: Record<string, (stream: ServerHttp2Stream) => void> = {
  'nothing, then gone': destroy,
  'the head, then gone': stream => {
    stream.respond(HEAD)
    setTimeout(() => destroy(stream), 50)
  },
  'the head and a message, then gone': stream => {
    stream.respond(HEAD)
    stream.write(Buffer.alloc(5))
    setTimeout(() => destroy(stream), 50)
  },
  'the head, then cut off as a reader that stalls': stream => {
    stream.respond(HEAD)
    setTimeout(() => stream.close(constants.NGHTTP2_ENHANCE_YOUR_CALM), 50)
  },
}
let router: RunningRouter
let grpcNode: Http2Server
let httpNode: Server
const sessions = new Set<ServerHttp2Session>()

beforeAll(async () => {
  if (haproxy === undefined) return
  grpcNode = createServer()
  grpcNode.on('session', session => {
    sessions.add(session)
    session.once('close', () => sessions.delete(session)).on('error', () => {})
  })
  grpcNode.on('stream', (stream, headers) => {
    stream.on('error', () => {})
    endings[String(headers['x-ends'])]!(stream)
  })
  httpNode = createHttpServer((asked, answer) => {
    if (asked.url === '/ready') return void answer.end('{}')
    if (asked.method === 'GET') {
      answer.writeHead(200, { 'content-length': '100' })
      return void answer.write('{"id":', () => asked.socket.destroy())
    }
    asked.socket.destroy()
  })
  for (const server of [grpcNode, httpNode])
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', () => resolve()))
  const portOf = (server: Server | Http2Server) => (server.address() as AddressInfo).port
  router = await startRouter([{ http: portOf(httpNode), grpc: portOf(grpcNode) }])
})
afterAll(async () => {
  if (haproxy === undefined) return
  await router.stop()
  for (const session of sessions) session.destroy()
  grpcNode.close()
  httpNode.closeAllConnections()
  httpNode.close()
})

/** What the client sees: the status, and whether a code of the error table came with it. */
async function endOf(method: 'unary' | 'server stream' | 'client stream', ending: string): Promise<ServiceError> {
  const { client, metadata } = grpcClient(`127.0.0.1:${router.grpc}`, 'acme')
  metadata.set('x-ends', ending)
  const options = { deadline: Date.now() + 20_000 }
  try {
    return await new Promise<ServiceError>(resolve => {
      if (method === 'unary') client.PutEntities!({}, metadata, options, resolve)
      else if (method === 'client stream') client.WriteResources!(metadata, options, resolve).write({ content: 'x' })
      else
        client.ListResources!({}, metadata, options)
          .on('data', () => {})
          .once('error', resolve)
    })
  } finally {
    client.close()
  }
}

describe.runIf(haproxy)('behind a router, of a node that says', () => {
  it.each([
    // REFUSED_STREAM, or 503 on a connection of its own.
    ['unary', 'nothing, then gone', 14, /HTTP status code 503|refused/],
    ['client stream', 'nothing, then gone', 14, /HTTP status code 503|refused/],
    ['unary', 'the head, then gone', 13, /RST_STREAM with code 0 \(Call ended without gRPC status\)/],
    ['server stream', 'the head and a message, then gone', 13, /RST_STREAM with code 0/],
    ['client stream', 'the head, then gone', 1, /cancelled/i],
    ['server stream', 'the head, then cut off as a reader that stalls', 13, /RST_STREAM with code 0/],
  ] as const)('a %s call: %s', async (method, ending, code, details) => {
    const error = await endOf(method, ending)
    expect(error).toMatchObject({ code, details: expect.stringMatching(details) })
    expect(error.metadata.get('percolate-code')).toEqual([])
    expect(isLostCall(error)).toBe(true)
  })

  it.each(['/percolate.v1.Peer/Pull', '/percolate.v1.Peer/'])(
    '%s: it is asked by nodes alone, and refused here',
    async path => {
      const session = connect(`http://127.0.0.1:${router.grpc}`)
      try {
        const status = await new Promise((resolve, reject) => {
          const stream = session.request({ ':method': 'POST', ':path': path, 'content-type': 'application/grpc' })
          stream.once('response', head => resolve(head[':status'])).once('error', reject)
        })
        expect(status).toBe(403)
      } finally {
        session.close()
      }
    },
  )

  it('nothing: a request over HTTP has no code, and the client calls it unreachable', async () => {
    const url = `http://127.0.0.1:${router.http}`
    const client = new PercolateClient({ url, tenant: 'acme', attemptsMax: 1 })
    const error = await client.putEntities([{ id: 'a' }]).then(
      () => expect.unreachable(),
      (error: PercolateClientError) => error,
    )
    expect(error.code).toBe('UNREACHABLE')
    // On a connection that was used before, HAProxy closes the client's instead.
    expect(error.status === undefined || isRoutersStatus(error.status)).toBe(true)
  })

  it('half of an answer: it breaks off over HTTP too, and is none', async () => {
    const client = new PercolateClient({ url: `http://127.0.0.1:${router.http}`, tenant: 'acme', attemptsMax: 1 })
    await expect(client.getEntity('a')).rejects.toMatchObject({ code: 'UNREACHABLE', status: undefined })
  })
})

it('other ends without a code are none that a lost node makes', () => {
  for (const [code, details] of [
    [13, 'Internal error'],
    [2, 'Unknown Error'],
    [12, 'The server does not implement the method'],
    [8, 'Received message larger than max (5000000 vs. 4194304)'],
    [3, ''],
  ] as const)
    expect([code, isLostCall({ code, details })]).toEqual([code, false])
})
