import { connect, type Socket } from 'node:net'
import { afterEach, expect, it } from 'vitest'
import { grpcClient } from '../support/grpc.ts'
import { eventually, startFileNode } from '../support/running.ts'

/** Clients that connect, and ask for nothing: they make way for those that do. */

const MAX = 20
const node = await startFileNode({ env: { PERCOLATE_CONNECTIONS_MAX: String(MAX) } })
const open: Socket[] = []
afterEach(() => {
  for (const socket of open.splice(0)) socket.destroy()
})

async function connectMany(port: number): Promise<() => number> {
  let closed = 0
  for (let n = 0; n < MAX * 3; n++) {
    const socket = connect(port, '127.0.0.1')
    open.push(socket)
    await new Promise<void>(resolve => socket.once('connect', resolve).once('error', () => resolve()))
    socket.on('error', () => {})
    socket.on('close', () => closed++)
    socket.resume()
  }
  return () => closed
}

const metric = async (name: string, server: string): Promise<number> => {
  const page = await (await fetch(`${node.url}/metrics`)).text()
  return Number(new RegExp(`^${name}\\{server="${server}"\\} (\\d+)`, 'm').exec(page)?.[1] ?? Number.NaN)
}

it('by HTTP', async () => {
  await node.request('PUT', '/api/v1/entities/e', { tenant: 'acme', body: { name: 'E' } })
  const following = await fetch(`${node.url}/api/v1/changes`, { headers: { 'x-tenant-id': 'acme' } })
  expect(following.status).toBe(200)
  const closed = await connectMany(node.httpPort)
  await eventually('the first of them are closed', async () => closed() >= MAX * 2)
  expect((await node.request('GET', '/api/v1/entities/e', { tenant: 'acme' })).status).toBe(200)
  expect(await metric('percolate_connections', 'http')).toBeLessThanOrEqual(MAX)
  expect(await metric('percolate_connections_gave_way_total', 'http')).toBeGreaterThanOrEqual(MAX * 2)
  expect(await metric('percolate_connections_refused_total', 'http')).toBe(0)
  // The request that was under way all the time still is.
  const reader = following.body!.getReader()
  await node.request('PUT', '/api/v1/entities/late', { tenant: 'acme', body: { name: 'Late' } })
  let text = ''
  while (!text.includes('late')) {
    const { value, done } = await reader.read()
    expect(done).toBe(false)
    text += Buffer.from(value!).toString()
  }
  await reader.cancel()
})

it('by gRPC', async () => {
  await node.request('PUT', '/api/v1/entities/e', { tenant: 'acme', body: { name: 'E' } })
  const { client, metadata } = grpcClient(`127.0.0.1:${node.grpcPort}`, 'acme')
  const events: unknown[] = []
  const feed = client.followChanges!({}, metadata)
  feed.on('data', (event: unknown) => events.push(event))
  feed.on('error', () => {})
  await new Promise(resolve => feed.once('metadata', resolve))
  const closed = await connectMany(node.grpcPort)
  await eventually('the first of them are closed', async () => closed() >= MAX * 2)
  expect(await metric('percolate_connections', 'grpc')).toBeLessThanOrEqual(MAX)
  expect(await metric('percolate_connections_refused_total', 'grpc')).toBe(0)
  const before = events.length
  await node.request('PUT', '/api/v1/entities/again', { tenant: 'acme', body: { name: 'Again' } })
  await eventually('the feed goes on', async () => events.length > before)
  feed.cancel()
  client.close()
})
