import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import {
  credentials,
  Metadata,
  makeGenericClientConstructor,
  type ServiceClientConstructor,
  type ServiceError,
} from '@grpc/grpc-js'
import { service as healthService } from 'grpc-health-check'
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest'
import { grpcClient, type RemClient } from '../support/grpc.ts'
import { remove, startTestNode, type TestNode, within } from '../support/running.ts'

/** However a gRPC call ends while its node can still say something, it ends with a status and a code of the error table. */

/** A provider of embeddings that takes requests and does not answer. */
let provider: Server
let asked = () => {}
let node: TestNode
const open: (() => unknown)[] = []

beforeAll(async () => {
  provider = createServer(() => asked())
  await new Promise<void>(resolve => provider.listen(0, '127.0.0.1', resolve))
})
afterEach(async () => {
  for (const close of open.splice(0)) close()
  await node.stop()
  await remove(node.folder)
})
afterAll(() => {
  provider.closeAllConnections()
  provider.close()
})

async function start(env: Record<string, string> = {}): Promise<{ client: RemClient; metadata: Metadata }> {
  node = await startTestNode({ env })
  const { client, metadata } = grpcClient(`127.0.0.1:${node.grpcPort}`, 'acme')
  open.push(() => client.close())
  return { client, metadata }
}

/** Status and code. */
const endOf = (error: ServiceError | null) => error && [error.code, error.metadata.get('percolate-code')[0]]
const endOfStream = (call: NodeJS.EventEmitter): Promise<unknown> =>
  new Promise(resolve => {
    call.on('data', () => {})
    call.once('error', error => resolve(endOf(error as ServiceError)))
    call.once('end', () => resolve(null))
  })

it.each([
  ['half a character', '\\ud800'],
  ['a long name', 'n'.repeat(100_000)],
  ['a long name of many bytes a character', '\u{1F600}'.repeat(30_000)],
])('an error that quotes %s reaches its client, and the node goes on', async (_, name) => {
  const { client, metadata } = await start()
  const filter = `{"${name}":{"no-such-comparison":1}}`
  const end = endOfStream(client.ListResources!({ filter }, metadata))
  expect(await within('the call ends', end, 10_000)).toEqual([3, 'INVALID_ARGUMENT'])
  expect(await endOfStream(client.ListResources!({}, metadata))).toBe(null)
})

it('calls that a stopping node waits for in vain are told so: a write under way, a stream that its client keeps open, a watch', async () => {
  const { port } = provider.address() as AddressInfo
  const { client, metadata } = await start({
    PERCOLATE_EMBEDDING_URL: `http://127.0.0.1:${port}`,
    PERCOLATE_EMBEDDING_MODEL: 'silent',
    PERCOLATE_DRAIN_MS: '300',
  })
  const isAsked = new Promise<void>(resolve => {
    asked = resolve
  })
  const written = new Promise(resolve =>
    client.PutResources!({ resources: [{ content: 'waits for its embedding' }] }, metadata, (error: ServiceError) =>
      resolve(endOf(error)),
    ),
  )
  const streamed = new Promise(resolve => {
    const call = client.WriteResources!(metadata, (error: ServiceError) => resolve(endOf(error)))
    call.write({ content: 'the first of many' })
  })
  const Health = makeGenericClientConstructor(healthService as never, 'health') as ServiceClientConstructor
  const health = new Health(`127.0.0.1:${node.grpcPort}`, credentials.createInsecure())
  open.push(() => health.close())
  const watched = (health as unknown as RemClient).Watch!({ service: '' }, new Metadata())
  const isWatched = new Promise(resolve => watched.once('data', resolve))
  const watchEnd = endOfStream(watched)
  await within('the calls have begun', Promise.all([isAsked, isWatched]), 10_000)
  await within('the node stops', node.stop(), 20_000)
  expect(await Promise.all([written, streamed, watchEnd])).toEqual([
    [14, 'SHUTTING_DOWN'],
    [14, 'SHUTTING_DOWN'],
    [14, 'SHUTTING_DOWN'],
  ])
})
