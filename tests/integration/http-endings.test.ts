import { createServer, type Server } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest'
import { PEER_HEADER } from '../../src/replication/auth.ts'
import { eventually, remove, startTestNode, type TestNode, within } from '../support/running.ts'

/** HTTP requests that meet a node on its way out: they get an answer of the error table as long as the node can give one. */

let node: TestNode
/** A provider of embeddings that takes requests and does not answer. */
let provider: Server
let asked = () => {}
beforeAll(async () => {
  provider = createServer(() => asked())
  await new Promise<void>(resolve => provider.listen(0, '127.0.0.1', resolve))
})
afterAll(() => {
  provider.closeAllConnections()
  provider.close()
})
afterEach(async () => {
  await node.stop()
  await remove(node.folder)
})

it.each([
  ['of a client is told so, with the code and when to come back', 503, 'SHUTTING_DOWN', ''],
  ['that another node sent on goes back to it, so that it asks the next', 421, 'MISDIRECTED', `${PEER_HEADER}: x\r\n`],
])('a request that comes to an end while the node stops, %s', async (_, status, code, header) => {
  node = await startTestNode({ env: { PERCOLATE_DRAIN_MS: '10000' } })
  const socket = connect(node.httpPort, '127.0.0.1')
  let text = ''
  socket.setEncoding('utf8').on('data', (part: string) => {
    text += part
  })
  const closed = new Promise(resolve => socket.once('close', resolve))
  // Begun before the node stops, so that its connection is not idle.
  await new Promise<void>(resolve => socket.write('GET /api/v1/entities HTTP/1.1\r\nHost: x\r\n', () => resolve()))
  await eventually('the node has the connection', async () => (await node.request('GET', '/health')).status === 200)
  const stopped = node.stop()
  const isRefused = () =>
    node.request('GET', '/health').then(
      () => false,
      () => true,
    )
  await eventually('the node takes no more connections', isRefused)
  socket.write(`X-Tenant-ID: acme\r\n${header}\r\n`)
  await within('the connection is closed', closed, 10_000)
  await within('the node has stopped', stopped, 20_000)
  const [head = '', body = ''] = text.split('\r\n\r\n')
  expect(head.slice(0, 12)).toBe(`HTTP/1.1 ${status}`)
  expect(head.toLowerCase()).toMatch(/content-type: application\/problem\+json/)
  expect(/retry-after: \d/i.test(head)).toBe(status === 503)
  expect(head.toLowerCase()).toMatch(/connection: close/)
  expect(JSON.parse(body)).toMatchObject({ status, code })
})

it('a request that a stopping node waits for in vain is told so before its connection goes', async () => {
  const { port } = provider.address() as AddressInfo
  node = await startTestNode({
    env: {
      PERCOLATE_EMBEDDING_URL: `http://127.0.0.1:${port}`,
      PERCOLATE_EMBEDDING_MODEL: 'silent',
      PERCOLATE_DRAIN_MS: '300',
    },
  })
  const isAsked = new Promise<void>(resolve => {
    asked = resolve
  })
  const written = node.request('POST', '/api/v1/resources', { body: { content: 'waits for its embedding' } })
  await within('the write is under way', isAsked, 10_000)
  const stopped = node.stop()
  const { status, body, headers } = await within('the write is answered', written, 10_000)
  expect([status, body.code]).toEqual([503, 'SHUTTING_DOWN'])
  expect(body.detail).toMatch(/not known/)
  expect([headers.get('content-type'), headers.get('retry-after')]).toEqual(['application/problem+json', '1'])
  await within('the node has stopped', stopped, 20_000)
})
