import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { PercolateClient } from '../../../client/client.ts'

/** Answers that never come, or come from a router that has no node: what a client may make of them. */

let server: Server
let answer: (request: IncomingMessage, response: ServerResponse) => void
let asked = 0
let client: PercolateClient

beforeEach(async () => {
  asked = 0
  server = createServer((request, response) => {
    asked++
    request.resume().once('end', () => answer(request, response))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  client = new PercolateClient({ url: `http://127.0.0.1:${port}`, tenant: 'acme', attemptsMax: 2 })
})
afterEach(() => {
  server.closeAllConnections()
  server.close()
})

const NO_NODE =
  '<html><body><h1>503 Service Unavailable</h1>\nNo server is available to handle this request.\n</body></html>'
const cut = (_request: IncomingMessage, response: ServerResponse) => void response.socket!.destroy()
const fromRouter = (status: number) => (_request: IncomingMessage, response: ServerResponse) =>
  void response.writeHead(status, { 'content-type': 'text/html' }).end(NO_NODE)
const ways = [
  ['the connection ends', cut],
  ['a router has no answer (502)', fromRouter(502)],
  ['a router has no node (503)', fromRouter(503)],
  ['a router waits no longer (504)', fromRouter(504)],
] as const

it.each(ways)('%s: it is unreachable, and tried again', async (_, way) => {
  answer = way
  await expect(client.putEntities([{ id: 'a' }])).rejects.toMatchObject({ code: 'UNREACHABLE', retryable: true })
  expect(asked).toBe(2)
})

it.each(ways)(
  '%s: a write with a condition is sent once, since a second would be refused by the first',
  async (_, way) => {
    answer = way
    const body = { name: 'x' }
    for (const condition of [{ ifMatch: '"e"' }, { ifNoneMatch: '*' as const }])
      await expect(client.request('PUT', '/api/v1/entities/a', { body, ...condition })).rejects.toMatchObject({
        code: 'UNREACHABLE',
        retryable: true,
      })
    expect(asked).toBe(2)
  },
)

it('a read with a condition is tried again', async () => {
  answer = cut
  await expect(client.getEntity('a', { ifMatch: '"e"' })).rejects.toMatchObject({ code: 'UNREACHABLE' })
  expect(asked).toBe(2)
})

it('an answer that breaks off is none', async () => {
  answer = (_request, response) => {
    response.writeHead(200, { 'content-type': 'application/json', 'content-length': '100' })
    response.write('{"ids":["a"]}', () => response.socket!.destroy())
  }
  await expect(client.putEntities([{ id: 'a' }])).rejects.toMatchObject({ code: 'UNREACHABLE' })
})
