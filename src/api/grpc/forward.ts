import { type ClientUnaryCall, loadPackageDefinition, Metadata, type ServiceClientConstructor } from '@grpc/grpc-js'
import { isErrorCode, PercolateError } from '../../base/errors.ts'
import type { TenantId } from '../../base/ids.ts'
import { PEER_HEADER, type PeerAuth } from '../../replication/auth.ts'
import type { Member } from '../../replication/placement.ts'
import { NotTaken } from '../gate.ts'
import { Channels } from './channels.ts'
import type { Message } from './messages.ts'
import { loadRemProto } from './protos.ts'

/** How long another node may take to say that it takes a call. */
const CONFIRM_MS_MAX = 5000
/** How long another node may take to answer a call whose client gave no deadline. Streams have no such end: pings tell whether the node is there. */
const ANSWER_MS_MAX = 120_000

interface Incoming {
  readonly metadata: Metadata
  getDeadline(): number | Date
}
export interface Forwarded {
  readonly answer: Message
  readonly trailer: Metadata
}
/** One call on its way to another node. */
export interface GrpcForward {
  unary(name: string, call: Incoming, request: Message): Promise<Forwarded>
  serverStream(name: string, call: Incoming, request: Message): AsyncIterable<Message>
  clientStream(name: string, call: Incoming, requests: AsyncIterable<Message>): Promise<Forwarded>
}
type AnyMethod = (...args: unknown[]) => ClientUnaryCall & AsyncIterable<Message> & NodeJS.WritableStream

/** Sends gRPC calls on to the nodes that hold the tenant, as {@link HttpForwarder} does for HTTP. Messages of a stream leave only after the other node has sent its head. */
export class GrpcForwarder {
  readonly #auth: PeerAuth
  readonly #channels: Channels

  constructor(auth: PeerAuth) {
    this.#auth = auth
    const loaded = loadPackageDefinition(loadRemProto()) as unknown as {
      percolate: { v1: { Rem: ServiceClientConstructor } }
    }
    this.#channels = new Channels(loaded.percolate.v1.Rem)
  }

  close(): void {
    this.#channels.close()
  }

  /** `onServed` is told which node answers, before anything of the answer is sent. */
  begin(
    tenant: TenantId,
    targets: readonly Member[],
    signal: AbortSignal,
    onServed: (node: string) => void,
  ): GrpcForward {
    const each = async <T>(attempt: (target: Member) => Promise<T>): Promise<T> => {
      let last: unknown
      for (const target of targets) {
        try {
          return await attempt(target)
        } catch (error) {
          last = error
          if (!isRefusal(error)) throw error
        }
      }
      throw new NotTaken(last)
    }
    return {
      unary: (name, call, request) =>
        each(
          target =>
            new Promise<Forwarded>((resolve, reject) => {
              const { invoke, metadata, options } = this.#prepare(
                target,
                tenant,
                name,
                call,
                Date.now() + ANSWER_MS_MAX,
              )
              let answer: Message | undefined
              const outgoing = invoke(request, metadata, options, (error: Error | null, message: Message) => {
                signal.removeEventListener('abort', cancel)
                if (error) return reject(callError(target.node, error))
                answer = message
              })
              const cancel = () => outgoing.cancel()
              signal.addEventListener('abort', cancel, { once: true })
              outgoing.on('status', status => {
                if (answer === undefined) return
                onServed(target.node)
                resolve({ answer, trailer: ours(status.metadata) })
              })
            }),
        ),
      serverStream: (name, call, request) => this.#stream(targets, tenant, name, call, request, signal, onServed),
      clientStream: (name, call, requests) =>
        each(
          target =>
            new Promise<Forwarded>((resolve, reject) => {
              const { invoke, metadata, options } = this.#prepare(target, tenant, name, call)
              let answer: Message | undefined
              const outgoing = invoke(metadata, options, (error: Error | null, message: Message) => {
                clearTimeout(confirm)
                signal.removeEventListener('abort', cancel)
                if (error) return reject(callError(target.node, error))
                answer = message
              })
              const cancel = () => outgoing.cancel()
              const confirm = setTimeout(cancel, CONFIRM_MS_MAX)
              signal.addEventListener('abort', cancel, { once: true })
              outgoing.once('metadata', () => {
                clearTimeout(confirm)
                onServed(target.node)
                void sendAll(outgoing, requests)
              })
              outgoing.on('status', status => {
                if (answer) resolve({ answer, trailer: ours(status.metadata) })
              })
            }),
        ),
    }
  }

  async *#stream(
    targets: readonly Member[],
    tenant: TenantId,
    name: string,
    call: Incoming,
    request: Message,
    signal: AbortSignal,
    onServed: (node: string) => void,
  ): AsyncGenerator<Message> {
    let last: unknown
    for (const target of targets) {
      const { invoke, metadata, options } = this.#prepare(target, tenant, name, call)
      const outgoing = invoke(request, metadata, options)
      const cancel = () => outgoing.cancel()
      signal.addEventListener('abort', cancel, { once: true })
      let hasBegun = false
      outgoing.once('metadata', () => {
        hasBegun = true
        onServed(target.node)
      })
      try {
        for await (const message of outgoing) yield message
        return
      } catch (error) {
        last = callError(target.node, error as Error)
        if (signal.aborted) return
        if (hasBegun && !isRefusal(last)) throw last
      } finally {
        signal.removeEventListener('abort', cancel)
        outgoing.cancel()
      }
    }
    throw new NotTaken(last)
  }

  #prepare(target: Member, tenant: TenantId, name: string, call: Incoming, defaultDeadline = Number.POSITIVE_INFINITY) {
    const metadata = ours(call.metadata)
    metadata.set(PEER_HEADER, this.#auth.token(target.node, tenant))
    const client = this.#channels.to(target.node, target.grpc)
    const method = (client as unknown as Record<string, AnyMethod>)[name]!
    const deadline = call.getDeadline()
    const options = Number.isFinite(Number(deadline)) ? { deadline } : { deadline: defaultDeadline }
    return { invoke: method.bind(client), metadata, options }
  }
}

/** Metadata that means something to us; the rest belongs to the connection. */
function ours(metadata: Metadata): Metadata {
  const kept = new Metadata()
  for (const [name, value] of Object.entries(metadata.getMap()))
    if (/^(x-|percolate-|authorization$)/.test(name) && name !== PEER_HEADER) kept.set(name, value)
  return kept
}

async function sendAll(outgoing: NodeJS.WritableStream, requests: AsyncIterable<Message>): Promise<void> {
  try {
    for await (const message of requests)
      if (!outgoing.write(message as unknown as string)) await new Promise(resolve => outgoing.once('drain', resolve))
    outgoing.end()
  } catch {
    outgoing.end()
  }
}

/** It took nothing of the call: another node can be asked. */
const isRefusal = (error: unknown): boolean =>
  error instanceof PercolateError && (error.code === 'MISDIRECTED' || error.code === 'NODE_UNAVAILABLE')

function callError(node: string, error: Error): PercolateError {
  if (error instanceof PercolateError) return error
  const { metadata, details, code: status } = error as Error & { metadata?: Metadata; details?: string; code?: number }
  const code = metadata?.get('percolate-code')[0]
  const field = metadata?.get('percolate-field')[0]
  if (isErrorCode(code))
    return new PercolateError(code, details ?? error.message, field === undefined ? {} : { field: String(field) })
  if (status === 1) return new PercolateError('CANCELLED', 'The client cancelled the call.')
  if (status === 4) return new PercolateError('DEADLINE_EXCEEDED', 'The deadline passed before the answer was ready.')
  return new PercolateError('NODE_UNAVAILABLE', `Node ${node} cannot be reached.`, { cause: error })
}
