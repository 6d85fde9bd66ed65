import { Server, ServerCredentials } from '@grpc/grpc-js'
import { GrpcPeers } from '../../src/api/grpc/peer-client.ts'
import { peerMethods } from '../../src/api/grpc/peer-server.ts'
import { loadPeerProto } from '../../src/api/grpc/protos.ts'
import { createLogger } from '../../src/base/logger.ts'
import { PeerAuth } from '../../src/replication/auth.ts'
import type { PeerHandlers } from '../../src/replication/peer.ts'

/** What node n2 has of n1, over gRPC; n1 answers with `handlers`. `stallMsMax`: how long n1 waits for a reader that takes nothing, ms. */
export async function peerPair(handlers: Partial<PeerHandlers>, { stallMsMax }: { stallMsMax?: number } = {}) {
  const server = new Server()
  server.addService(
    (loadPeerProto() as Record<string, unknown>)['percolate.v1.Peer'] as never,
    peerMethods({
      handlers: handlers as PeerHandlers,
      auth: new PeerAuth('secret', 'n1'),
      logger: createLogger({ level: 'silent', role: 'test' }),
      ...(stallMsMax === undefined ? {} : { stallMsMax }),
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
  const stop = () => {
    peers.close()
    server.forceShutdown()
  }
  return { n1: peers.to('n1'), stop }
}
