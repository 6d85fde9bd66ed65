import type { EventEmitter } from 'node:events'
import {
  loadPackageDefinition,
  Metadata,
  Server,
  ServerCredentials,
  type ServiceClientConstructor,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { failure } from '../../../src/api/grpc/calls.ts'
import { type ForwardedCall, GrpcForwarder } from '../../../src/api/grpc/forward.ts'
import { loadRemProto } from '../../../src/api/grpc/protos.ts'
import { PercolateError } from '../../../src/base/errors.ts'
import type { TenantId } from '../../../src/base/ids.ts'
import { PeerAuth } from '../../../src/replication/auth.ts'
import type { Member } from '../../../src/replication/placement.ts'
import { LACKS_BOOKMARK } from '../../../src/session/forward.ts'

/** Nodes as a forwarding node sees them: real gRPC servers, each with one way to take or refuse a call. */
const servers: Server[] = []
const forwarder = new GrpcForwarder(new PeerAuth('secret', 'n1'))
const call = { metadata: new Metadata(), getDeadline: () => Number.POSITIVE_INFINITY }
let refusing: Member
let behind: Member
let serving: Member
let dropping: Member
let silent: Member
let leaving: Member
const gone = member('gone', 1)
const taken: string[] = []
let dropped = 0

beforeAll(async () => {
  const misdirected = failure(new PercolateError('MISDIRECTED', 'Not here.'))
  refusing = await start('refusing', {
    PutResources: (_call: unknown, done: (error: unknown) => void) => done(misdirected),
    WriteResources: (_call: unknown, done: (error: unknown) => void) => done(misdirected),
    ListResources: (stream: EventEmitter) => stream.emit('error', misdirected),
  })
  const lacking = failure(new PercolateError('MISDIRECTED', 'Not yet.', { extra: { lacks: LACKS_BOOKMARK } }))
  behind = await start('behind', {
    PutResources: (_call: unknown, done: (error: unknown) => void) => done(lacking),
    ListResources: (stream: EventEmitter) => stream.emit('error', lacking),
  })
  serving = await start('serving', {
    PutResources: (_call: unknown, done: (error: null, answer: object) => void) => done(null, { ids: ['a'] }),
    WriteResources: async (
      stream: AsyncIterable<{ content: string }> & { sendMetadata(head: Metadata): void },
      done: (error: null, answer: object) => void,
    ) => {
      stream.sendMetadata(new Metadata())
      for await (const { content } of stream) taken.push(content)
      done(null, { written: taken.length })
    },
    ListResources: (stream: { write(message: object): void; end(): void }) => {
      stream.write({ id: 'x' })
      stream.end()
    },
  })
  // A process that is stopped: it accepts, and says nothing.
  silent = await start('silent', { PutResources: () => {}, WriteResources: () => {} })
  // Ends as it is stopped by force, with the call in its hands: grpc-js tells the other end CANCELLED.
  leaving = await start('leaving', {
    PutResources: (call: { sendMetadata(head: Metadata): void }) => {
      call.sendMetadata(new Metadata())
      setImmediate(() => itself.forceShutdown())
    },
  })
  const itself = servers.at(-1)!
  dropping = await start('dropping', {
    // Took the call, and is gone before it answers.
    PutResources: (_call: unknown, done: (error: unknown) => void) => {
      dropped++
      done({ code: 14, details: 'Connection dropped' })
    },
  })
})
afterAll(() => {
  forwarder.close()
  for (const server of servers) server.forceShutdown()
})

function member(node: string, port: number): Member {
  return {
    node,
    disk: 'd',
    session: 's',
    zone: 'z',
    tier: 'small',
    http: `127.0.0.1:${port}`,
    grpc: `127.0.0.1:${port}`,
    state: 'ready',
    unpublished: false,
  } as Member
}

async function start(node: string, methods: UntypedServiceImplementation | Record<string, unknown>): Promise<Member> {
  const { percolate } = loadPackageDefinition(loadRemProto()) as unknown as {
    percolate: { v1: { Rem: ServiceClientConstructor } }
  }
  const server = new Server()
  server.addService(percolate.v1.Rem.service, methods as UntypedServiceImplementation)
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, at) =>
      error ? reject(error) : resolve(at),
    ),
  )
  servers.push(server)
  return member(node, port)
}

const begin = (targets: Member[], isWrite: boolean, onServed: ForwardedCall['onServed'] = () => {}) =>
  forwarder.begin({ tenant: 'acme' as TenantId, targets, isWrite, signal: new AbortController().signal, onServed })

describe('a forwarded gRPC call', () => {
  it('that is refused, or meets a node that is gone, goes whole to the next: unary, client stream, server stream', async () => {
    const served: string[] = []
    const targets = [refusing, gone, serving]
    const forward = begin(targets, true, node => served.push(node))
    expect((await forward.unary('PutResources', call, {})).answer).toEqual({ ids: ['a'] })
    const messages = async function* () {
      for (let n = 0; n < 200; n++) yield { content: `m${n}` }
    }
    expect((await forward.clientStream('WriteResources', call, messages())).answer).toMatchObject({ written: 200 })
    expect(taken).toEqual(Array.from({ length: 200 }, (_, n) => `m${n}`))
    const listed = []
    for await (const message of begin(targets, false, node => served.push(node)).serverStream(
      'ListResources',
      call,
      {},
    ))
      listed.push(message.id)
    expect(listed).toEqual(['x'])
    expect(new Set(served)).toEqual(new Set(['serving']))
  }, 30_000)

  it('says that nobody took it when all refuse, without touching the stream of the client', async () => {
    let read = 0
    const messages = async function* () {
      read++
      yield { content: 'x' }
    }
    const forward = begin([refusing], true)
    await expect(forward.clientStream('WriteResources', call, messages())).rejects.toMatchObject({
      code: 'TENANT_UNAVAILABLE',
    })
    await expect(forward.unary('PutResources', call, {})).rejects.toMatchObject({ code: 'TENANT_UNAVAILABLE' })
    expect(read).toBe(0)
  })

  it('that reads goes to the next node when one lacks what its bookmark names, and is refused for that when no other takes it', async () => {
    const first = async (...targets: Member[]) => {
      for await (const { id } of begin(targets, false).serverStream('ListResources', call, {})) return id
      return undefined
    }
    const unary = (...targets: Member[]) => begin(targets, false).unary('PutResources', call, {})
    expect(await first(behind, serving)).toBe('x')
    expect((await unary(behind, serving)).answer).toEqual({ ids: ['a'] })
    const refused = { code: 'BOOKMARK_NOT_REACHED' }
    await expect(first(behind, refusing)).rejects.toMatchObject(refused)
    await expect(unary(behind, refusing)).rejects.toMatchObject(refused)
  }, 30_000)

  it('is not done twice when what became of a write is not known; a read is asked of the next', async () => {
    await expect(begin([dropping, serving], true).unary('PutResources', call, {})).rejects.toMatchObject({
      code: 'NODE_UNAVAILABLE',
      message: expect.stringContaining('not known'),
    })
    expect(dropped).toBe(1)
    expect((await begin([dropping, serving], false).unary('PutResources', call, {})).answer).toEqual({ ids: ['a'] })
  })

  it('is not said to be cancelled when it is the other node that went away', async () => {
    await expect(begin([leaving], true).unary('PutResources', call, {})).rejects.toMatchObject({
      code: 'NODE_UNAVAILABLE',
      message: expect.stringContaining('not known'),
    })
  })

  it('waits for a node that says nothing only so long: a stream, of which nothing was sent, goes to the next; a single write does not', async () => {
    taken.length = 0
    const messages = async function* () {
      yield { content: 'only' }
    }
    const forward = begin([silent, serving], true)
    const [stream, single] = await Promise.allSettled([
      forward.clientStream('WriteResources', call, messages()),
      forward.unary('PutResources', call, {}),
    ])
    expect(stream).toMatchObject({ status: 'fulfilled', value: { answer: { written: 1 } } })
    expect(taken).toEqual(['only'])
    expect(single).toMatchObject({ status: 'rejected', reason: { code: 'NODE_UNAVAILABLE' } })
  }, 30_000)
})
