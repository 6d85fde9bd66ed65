import { connect } from 'node:net'
import { afterEach, expect, it } from 'vitest'
import { eventually, remove, startTestNode, type TestNode, within } from '../support/running.ts'

/** HTTP requests that meet a node on its way out: they get an answer of the error table as long as the node can give one. */

let node: TestNode
afterEach(async () => {
  await node.stop()
  await remove(node.folder)
})

it('a request that comes to an end while the node stops is told so, with the code and when to come back', async () => {
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
  socket.write('X-Tenant-ID: acme\r\n\r\n')
  await within('the connection is closed', closed, 10_000)
  await within('the node has stopped', stopped, 20_000)
  const [head = '', body = ''] = text.split('\r\n\r\n')
  expect(head).toMatch(/^HTTP\/1.1 503 /)
  expect(head.toLowerCase()).toMatch(/content-type: application\/problem\+json/)
  expect(head.toLowerCase()).toMatch(/retry-after: \d/)
  expect(head.toLowerCase()).toMatch(/connection: close/)
  expect(JSON.parse(body)).toMatchObject({ status: 503, code: 'SHUTTING_DOWN' })
})
