import { spawn } from 'node:child_process'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { TestCluster } from '../support/cluster.ts'

/** Bodies that break off while a node finds out who answers, and where nobody reads them. */

let cluster: TestCluster
beforeAll(async () => {
  cluster = await TestCluster.start({ nodes: ['a'] })
})
afterAll(() => cluster?.stop())

/** Clients that announce a body, and go. */
const GOING = `
const { connect } = require('node:net')
const [port, head] = process.argv.slice(1)
const one = n => new Promise(resolve => {
  const socket = connect(Number(port), '127.0.0.1', () => {
    socket.write(head)
    setTimeout(() => (n % 3 === 0 ? socket.resetAndDestroy() : socket.destroy()), n % 4 === 0 ? 0 : n)
  })
  if (n % 2) socket.resume()
  socket.on('error', () => {})
  socket.on('close', resolve)
})
for (let n = 0; n < 12; n++) (async () => {
  for (let left = 100; left > 0; left--) await one(n)
})()
`

it.each(['', 'Content-Type: text/nothing\r\n', 'Content-Type: application/json\r\n'])(
  'a body that breaks off ends nothing else (%s)',
  async type => {
    const node = cluster.node('a')
    const head = `POST /api/v1/resources HTTP/1.1\r\nHost: x\r\nX-Tenant-ID: acme\r\n${type}Transfer-Encoding: chunked\r\n\r\n`
    // In a process of its own, so that what it does comes at any time.
    const clients = spawn(process.execPath, ['-e', GOING, String(node.httpPort), head], { stdio: 'inherit' })
    await new Promise(resolve => clients.once('exit', resolve))
    expect((await node.request('GET', '/api/v1/entities', { tenant: 'acme' })).status).toBe(200)
  },
)
