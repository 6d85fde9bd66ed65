import { Server, ServerCredentials } from '@grpc/grpc-js'
import { expect, it } from 'vitest'
import { GrpcPeers } from '../../../src/api/grpc/peer-client.ts'
import { wholeOf } from '../../../src/api/grpc/peer-messages.ts'
import { peerMethods } from '../../../src/api/grpc/peer-server.ts'
import { loadPeerProto } from '../../../src/api/grpc/protos.ts'
import { parseTenantId } from '../../../src/base/ids.ts'
import { createLogger } from '../../../src/base/logger.ts'
import { PeerAuth } from '../../../src/replication/auth.ts'
import type { PeerHandlers, WholeFrom } from '../../../src/replication/peer.ts'

it('a peer is told from which entry on nothing of an origin may be lacking; one that says no more than the origin means all of them', async () => {
  const asked: WholeFrom[] = []
  const handlers = {
    awaitVector: async (...[, , , , whole]: Parameters<PeerHandlers['awaitVector']>) => {
      asked.push(whole ?? new Map())
      return true
    },
  } as unknown as PeerHandlers
  const server = new Server()
  server.addService(
    (loadPeerProto() as Record<string, unknown>)['percolate.v1.Peer'] as never,
    peerMethods({
      handlers,
      auth: new PeerAuth('secret', 'n1'),
      logger: createLogger({ level: 'silent', role: 'test' }),
    }),
  )
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) =>
      error ? reject(error) : resolve(bound),
    ),
  )
  const peers = new GrpcPeers({
    auth: new PeerAuth('secret', 'n2'),
    addressOf: () => `127.0.0.1:${port}`,
    timeoutMs: 5000,
  })
  try {
    const vector = new Map([['a.1', 9]])
    const whole = new Map([
      ['a.1', 7],
      ['b.1', 0],
    ])
    await peers.to('n1').awaitVector(parseTenantId('acme'), 'one', vector, 100, whole)
    await peers.to('n1').awaitVector(parseTenantId('acme'), 'one', vector, 100)
    expect(asked).toEqual([whole, new Map()])
  } finally {
    peers.close()
    server.forceShutdown()
  }
  expect(wholeOf({ whole: ['a.1'] })).toEqual(new Map([['a.1', 0]]))
})
