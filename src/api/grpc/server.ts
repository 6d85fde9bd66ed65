import { loadPackageDefinition, logVerbosity, Server, type ServiceDefinition, setLogVerbosity } from '@grpc/grpc-js'
import { ReflectionService } from '@grpc/reflection'
import { HealthImplementation } from 'grpc-health-check'
import type { Connections } from '../../base/connections.ts'
import { PercolateError } from '../../base/errors.ts'
import { listenError } from '../../base/listen-error.ts'
import type { Probes } from '../../base/probes.ts'
import type { HeldAnswers } from '../held-answers.ts'
import type { HeldBodies } from '../held-bodies.ts'
import type { Operations } from '../operations/operations.ts'
import { type CallContext, failure } from './calls.ts'
import { GrpcConnections } from './connections.ts'
import type { HeldCalls } from './held-calls.ts'
import { contractInterceptor } from './interceptor.ts'
import { remMethods } from './methods.ts'
import { OpenCalls } from './open-calls.ts'
import { type PeerServerOptions, peerMethods } from './peer-server.ts'
import { loadPeerProto, loadRemProto } from './protos.ts'
import { encoderOf, strictService } from './strict-messages.ts'

export interface GrpcApiOptions extends Omit<CallContext, 'encode'> {
  readonly operations: Operations
  readonly bodies: HeldBodies
  readonly answers: HeldAnswers
  readonly calls: HeldCalls
  readonly connections: Connections
  readonly probes: Probes
  readonly bodyBytesMax: number
  /** How long a client may take to send a call, ms. */
  readonly requestReadMs: number
  readonly host: string
  readonly port: number
  /** What running calls get, asked when it stops. */
  readonly drainMs: () => number
  /** Serves other nodes of the cluster too. */
  readonly peers?: PeerServerOptions | undefined
}

export interface GrpcApi {
  readonly port: number
  stop(): Promise<void>
}

const SERVICE = 'percolate.v1.Rem'
const HEALTH_CHECK_MS = 2000
/** How long a server that is stopped waits for calls at most: streams may stay open for ever. */
const CALLS_END_MS_MAX = 3000
/** Within which clients take the status of a call that was ended. */
const LAST_WORD_MS = 500
const GOING =
  'This node is going, and the call did not end in time; whether a write was done is not known. Turn to another node.'

/** The database node's gRPC API, with server reflection and the standard health service. */
export async function createGrpcApi(options: GrpcApiOptions): Promise<GrpcApi> {
  const { operations, probes, bodyBytesMax, host, port } = options
  // What it would print is in the errors that it throws.
  setLogVerbosity(logVerbosity.NONE)
  const definition = loadRemProto()
  const rem = (
    loadPackageDefinition(definition) as unknown as { percolate: { v1: { Rem: { service: ServiceDefinition } } } }
  ).percolate.v1.Rem.service
  const open = new OpenCalls()
  const server = new Server({
    interceptors: [contractInterceptor(options), open.interceptor],
    'grpc.max_receive_message_length': bodyBytesMax,
    'grpc.max_send_message_length': -1,
    // What is refused stays until its client has taken the refusal: no connection may have more of it than the node takes calls.
    'grpc.max_concurrent_streams': options.calls.max,
    // Who reads a stream and vanishes without a word must not keep its tenant open.
    'grpc.keepalive_time_ms': 10_000,
    'grpc.keepalive_timeout_ms': 5000,
  })
  server.addService(strictService(rem, definition), remMethods({ ...options, encode: encoderOf(rem) }, operations))
  if (options.peers) {
    const peerDefinition = loadPeerProto()
    const peer = (
      loadPackageDefinition(peerDefinition) as unknown as {
        percolate: { v1: { Peer: { service: ServiceDefinition } } }
      }
    ).percolate.v1.Peer.service
    server.addService(strictService(peer, peerDefinition), peerMethods(options.peers))
  }
  const health = new HealthImplementation({ '': 'NOT_SERVING', [SERVICE]: 'NOT_SERVING' })
  health.addToServer(server)
  new ReflectionService(definition).addToServer(server)
  const connections = new GrpcConnections(options.connections, server, options.readers.stallMsMax)
  const listener = await connections
    .listen({ host, port })
    .catch(error => Promise.reject(listenError(error, host, port, 'PERCOLATE_GRPC_PORT')))
  const report = async () => {
    const { ready } = await probes.check()
    for (const service of ['', SERVICE]) health.setStatus(service, ready ? 'SERVING' : 'NOT_SERVING')
  }
  await report()
  const ticker = setInterval(() => void report(), HEALTH_CHECK_MS).unref()
  return {
    port: listener.port,
    stop: async () => {
      clearInterval(ticker)
      listener.stop()
      for (const service of ['', SERVICE]) health.setStatus(service, 'NOT_SERVING')
      await new Promise<void>(resolve => {
        let forced = setTimeout(
          () => {
            open.end(failure(new PercolateError('SHUTTING_DOWN', GOING)))
            forced = setTimeout(() => {
              server.forceShutdown()
              // grpc-js waits for a client that takes nothing, and never hears of a session that it has destroyed.
              connections.end()
              resolve()
            }, LAST_WORD_MS).unref()
          },
          Math.min(options.drainMs(), CALLS_END_MS_MAX),
        ).unref()
        server.tryShutdown(() => {
          clearTimeout(forced)
          resolve()
        })
      })
    },
  }
}
