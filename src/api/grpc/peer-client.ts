import { type Client, loadPackageDefinition, Metadata, type ServiceClientConstructor } from '@grpc/grpc-js'
import { isErrorCode, PercolateError } from '../../base/errors.ts'
import type { TenantId } from '../../base/ids.ts'
import { PEER_HEADER, type PeerAuth } from '../../replication/auth.ts'
import type { PeerHandlers, PeerPort, TransferPart } from '../../replication/peer.ts'
import { decodePart } from '../../replication/transfer.ts'
import { Channels } from './channels.ts'
import type { Message } from './messages.ts'
import { floorOf, statusOf, vectorMessage, vectorOf } from './peer-messages.ts'
import { recordsOf } from './peer-server.ts'
import { loadPeerProto } from './protos.ts'

export interface GrpcPeersOptions {
  readonly auth: PeerAuth
  /** `host:port` of a node's gRPC server, or undefined when it is not known. */
  readonly addressOf: (node: string) => string | undefined
  readonly timeoutMs: number
}

/** A transfer without a part for this long is given up. */
const TRANSFER_IDLE_MS = 30_000

type UnaryMethod = (
  request: Message,
  metadata: Metadata,
  options: { deadline: number },
  done: (error: Error | null, answer: Message) => void,
) => void
type StreamMethod = (request: Message, metadata: Metadata) => AsyncIterable<Message> & { cancel(): void }

/** The way to other nodes, over gRPC. */
export class GrpcPeers implements PeerPort {
  readonly #options: GrpcPeersOptions
  readonly #channels: Channels

  constructor(options: GrpcPeersOptions) {
    this.#options = options
    const loaded = loadPackageDefinition(loadPeerProto()) as unknown as {
      percolate: { v1: { Peer: ServiceClientConstructor } }
    }
    this.#channels = new Channels(loaded.percolate.v1.Peer)
  }

  close(): void {
    this.#channels.close()
  }

  to(node: string): PeerHandlers {
    const call = (method: string, tenant: TenantId, request: Message, timeoutMs = this.#options.timeoutMs) =>
      this.#call(node, method, tenant, request, timeoutMs)
    return {
      status: async tenant => statusOf(await call('Status', tenant, {})),
      awaitVector: async (tenant, incarnation, vector, timeoutMs, whole = new Map()) => {
        const request = {
          incarnation,
          vector: vectorMessage(vector),
          timeout_ms: Math.round(timeoutMs),
          whole: [...whole.keys()],
          whole_from: [...whole.values()],
        }
        return (await call('AwaitVector', tenant, request, timeoutMs + this.#options.timeoutMs)).reached === true
      },
      transfer: (tenant, incarnation, from) =>
        this.#transfer(node, tenant, { incarnation, reads_end_floor: true, ...(from ? { from } : {}) }),
      digests: async (tenant, incarnation) => {
        const answer = await call('Digests', tenant, { incarnation }, 10 * this.#options.timeoutMs)
        return {
          vector: vectorOf(answer.vector),
          floor: floorOf(answer.floor),
          collected: answer.collected === true,
          merging: answer.merging === true,
          buckets: Buffer.from((answer.buckets as Uint8Array | undefined) ?? []),
        }
      },
      bucket: async (tenant, incarnation, bucket) => {
        const answer = await call('Bucket', tenant, { incarnation, bucket }, 10 * this.#options.timeoutMs)
        return ((answer.items as { key: Uint8Array; digest: Uint8Array }[] | undefined) ?? []).map(
          ({ key, digest }) => ({ key: Buffer.from(key), digest: Buffer.from(digest) }),
        )
      },
      records: async (tenant, incarnation, keys) =>
        recordsOf((await call('Records', tenant, { incarnation, keys })).part),
      promiseFloor: async (tenant, incarnation, clock) =>
        vectorOf(await call('PromiseFloor', tenant, { incarnation, ...clock })),
      hasRead: async (tenant, stream, sequence) => {
        const answer = await call('HasRead', tenant, { stream, sequence }, 10 * this.#options.timeoutMs)
        return answer.read === true ? vectorOf(answer.vector) : undefined
      },
      requestHome: async (tenant, successor) =>
        (await call('RequestHome', tenant, { successor }, 4 * this.#options.timeoutMs)).reached === true,
      noteActive: async tenant => (await call('NoteActive', tenant, {})).reached === true,
      offer: async (tenant, from) =>
        (await call('Offer', tenant, { successor: from }, 10 * this.#options.timeoutMs)).reached === true,
      push: async (tenant, entries) => vectorOf(await call('Push', tenant, { entries })),
      late: async tenant =>
        (((await call('Late', tenant, {})).entries as Uint8Array[] | undefined) ?? []).map(entry => Buffer.from(entry)),
      keepLate: async (tenant, entries) => void (await call('KeepLate', tenant, { entries })),
      parked: async (tenant, after) =>
        (((await call('Parked', tenant, { ...after })).entries as Uint8Array[] | undefined) ?? []).map(entry =>
          Buffer.from(entry),
        ),
      keepParked: async (tenant, entries) => void (await call('KeepParked', tenant, { entries })),
      dismissLate: async (tenant, origin, sequence) => void (await call('DismissLate', tenant, { origin, sequence })),
    }
  }

  #call(node: string, method: string, tenant: TenantId, request: Message, timeoutMs: number): Promise<Message> {
    const { client, metadata } = this.#reach(node, tenant)
    return new Promise((resolve, reject) => {
      const invoke = (client as unknown as Record<string, UnaryMethod>)[method]!
      const deadline = Date.now() + timeoutMs
      invoke.call(client, { ...request, tenant }, metadata, { deadline }, (error, answer) =>
        error ? reject(peerError(node, error)) : resolve(answer),
      )
    })
  }

  async *#transfer(node: string, tenant: TenantId, request: Message): AsyncGenerator<TransferPart> {
    const { client, metadata } = this.#reach(node, tenant)
    const invoke = (client as unknown as Record<string, StreamMethod>).Transfer!
    const stream = invoke.call(client, { ...request, tenant }, metadata)
    let timer = setTimeout(() => stream.cancel(), TRANSFER_IDLE_MS).unref()
    try {
      for await (const { part } of stream) {
        clearTimeout(timer)
        yield decodePart(Buffer.from((part as Uint8Array | undefined) ?? []))
        timer = setTimeout(() => stream.cancel(), TRANSFER_IDLE_MS).unref()
      }
    } catch (error) {
      throw peerError(node, error as Error)
    } finally {
      clearTimeout(timer)
      stream.cancel()
    }
  }

  #reach(node: string, tenant: TenantId): { client: Client; metadata: Metadata } {
    const address = this.#options.addressOf(node)
    if (address === undefined) throw new PercolateError('NODE_UNAVAILABLE', `Node ${node} is not a member now.`)
    const metadata = new Metadata()
    metadata.set(PEER_HEADER, this.#options.auth.token(node, tenant))
    return { client: this.#channels.to(node, address), metadata }
  }
}

/** An error that the peer gave keeps its code; everything else is the network's. */
function peerError(node: string, error: Error): PercolateError {
  if (error instanceof PercolateError) return error
  const { metadata, details } = error as Error & { metadata?: Metadata; details?: string }
  const code = metadata?.get('percolate-code')[0]
  if (isErrorCode(code)) return new PercolateError(code, details ?? error.message)
  return new PercolateError('NODE_UNAVAILABLE', `Node ${node} cannot be reached.`, { cause: error })
}
