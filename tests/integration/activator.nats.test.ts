import { request as httpRequest } from 'node:http'
import type { Metadata } from '@grpc/grpc-js'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Activator } from '../../src/activator/activator.ts'
import { TestCluster } from '../support/cluster.ts'
import { grpcClient, writeStream } from '../support/grpc.ts'
import { eventually, request } from '../support/running.ts'

/** Everything but the nodes runs; nodes come and go. */
let cluster: TestCluster
let activator: Activator
let url: string
let controllerUrl: string
beforeAll(async () => {
  cluster = await TestCluster.start({ nodes: [], controller: false })
  await cluster.startController({
    PERCOLATE_ACTIVATOR_TIERS: 'small',
    PERCOLATE_ACTIVATOR_HTTP_PORT: '0',
    PERCOLATE_ACTIVATOR_GRPC_PORT: '0',
    PERCOLATE_CONTROLLER_PORT: '0',
    PERCOLATE_HOST: '127.0.0.1',
    PERCOLATE_HELD_REQUESTS_MAX: '6',
    PERCOLATE_HOLD_MS: '8000',
    PERCOLATE_WAKE_MS: '1500',
  })
  activator = cluster.controller.activator!
  url = `http://${activator.addresses('small').http}`
  controllerUrl = `http://127.0.0.1:${cluster.controller.port}`
})
afterAll(() => cluster.stop())

const metric = async (name: string): Promise<number> =>
  Number(
    new RegExp(`^percolate_${name}\\{tier="small"\\} (\\d+)`, 'm').exec(
      await (await fetch(`${controllerUrl}/metrics`)).text(),
    )?.[1],
  )

const heldClient = () => grpcClient(activator.addresses('small').grpc, 'held')

describe('requests to a tier without a node', () => {
  it('are held, seen by a scaler, and answered when a node is ready: HTTP, gRPC, streams', async () => {
    const body = {
      resources: Array.from({ length: 40 }, (_, n) => ({ content: `${'held '.repeat(1000)}${n}`, ordinal: n })),
    }
    const posted = request(`${url}/api/v1/resources`, 'POST', { tenant: 'held', body })
    const read = request(`${url}/api/v1/entities/nobody`, 'GET', { tenant: 'other' })
    const { client, metadata } = heldClient()
    const bulk = writeStream(client, metadata, 300)
    const unary = new Promise<{ ids: string[] }>((resolve, reject) =>
      client.PutEntities!(
        { entities: [{ id: 'g', name: 'Gia' }] },
        metadata,
        (error: Error | null, answer: { ids: string[] }) => (error ? reject(error) : resolve(answer)),
      ),
    )
    await eventually('they are held', async () => (await metric('held_requests')) === 4)
    expect(await metric('waiting_tenants')).toBe(2)
    expect(await metric('ready_nodes')).toBe(0)
    await cluster.startNode('n1')
    const answer = await posted
    expect([answer.status, answer.body.ids.length]).toEqual([201, 40])
    expect(answer.headers.get('x-percolate-entry-node')).toBe('n1')
    // Names of the test's nodes have no ordinals.
    expect([await metric('extent_nodes'), await metric('needed_nodes')]).toEqual([1, 0])
    expect((await read).status).toBe(404)
    expect((await bulk).written).toBe(300)
    expect((await unary).ids).toEqual(['g'])
    expect(await metric('held_requests')).toBe(0)
    await eventually('nobody waits any more', async () => (await metric('waiting_tenants')) === 0)
    // It goes on carrying what still comes here, streams too.
    const events = await fetch(`${url}/api/v1/changes?heartbeat_ms=100`, { headers: { 'x-tenant-id': 'held' } })
    const reader = events.body!.getReader()
    await request(`${url}/api/v1/entities/late`, 'PUT', { tenant: 'held', body: { name: 'Late' } })
    let seen = ''
    while (!seen.includes('"late"')) seen += Buffer.from((await reader.read()).value!).toString()
    await reader.cancel()
    const found: string[] = []
    for await (const { resource } of client.SearchResources!({ query: 'streamed', limit: 3 }, metadata))
      found.push(resource.id)
    expect(found).toHaveLength(3)
    client.close()
    await cluster.stopNode('n1')
    await eventually('the node is gone', async () => (await metric('ready_nodes')) === 0)
    expect(await metric('extent_nodes')).toBe(0)
  })

  it('wait for a node with what it had, and get no empty answer meanwhile', async () => {
    const read = request(`${url}/api/v1/entities/late`, 'GET', { tenant: 'held' })
    await eventually('it is held', async () => (await metric('held_requests')) === 1)
    await cluster.startNode('n1')
    const answer = await read
    expect([answer.status, answer.body.name]).toEqual([200, 'Late'])
    const ready = await cluster.node('n1').request('GET', '/ready/copies', { tenant: undefined })
    expect([ready.status, ready.body.probes.map(({ name }: { name: string }) => name)]).toEqual([
      200,
      expect.arrayContaining(['copies', 'serving']),
    ])
    await cluster.stopNode('n1')
    await eventually('the node is gone', async () => (await metric('ready_nodes')) === 0)
  })

  it('are refused when there are too many, when it takes too long, and when they name no tenant', async () => {
    const { status, body } = await request(`${url}/api/v1/entities/x`, 'GET', { tenant: undefined })
    expect([status, body.code]).toEqual([400, 'TENANT_MISSING'])
    const ask = (tenant: string) => request(`${url}/api/v1/entities/x`, 'GET', { tenant })
    const held = Array.from({ length: 3 }, () => ask('full'))
    await eventually('its half of the room is full', async () => (await metric('held_requests')) === 3)
    const refused = await ask('full')
    expect([refused.status, refused.body.code, refused.headers.get('retry-after')]).toEqual([503, 'TOO_BUSY', '2'])
    held.push(...Array.from({ length: 3 }, (_, n) => ask(`other-${n}`)))
    await eventually('the room is full', async () => (await metric('held_requests')) === 6)
    expect((await ask('another')).body.code).toBe('TOO_BUSY')
    for (const answer of await Promise.all(held))
      expect([answer.status, answer.body.code]).toEqual([503, 'TENANT_UNAVAILABLE'])
    const { client, metadata } = heldClient()
    metadata.remove('x-tenant-id')
    const error = await new Promise<{ code: number; metadata: Metadata }>(resolve =>
      client.GetEntity!({ id: 'x' }, metadata, resolve),
    )
    expect([error.code, error.metadata.get('percolate-code')]).toEqual([3, ['TENANT_MISSING']])
    client.close()
  })

  it('are forgotten when their client goes away, whatever it was sending', async () => {
    const outgoing = httpRequest(`${url}/api/v1/resources`, {
      method: 'POST',
      headers: { 'x-tenant-id': 'gone', 'content-type': 'application/json', 'content-length': '10000000' },
    })
    outgoing.on('error', () => {})
    outgoing.write('{"content": "')
    await eventually('it is held', async () => (await metric('held_requests')) === 1)
    outgoing.destroy()
    await eventually('it is held no more', async () => (await metric('held_requests')) === 0)
  })
})
