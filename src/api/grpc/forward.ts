import { type ClientUnaryCall, loadPackageDefinition, Metadata, type ServiceClientConstructor } from '@grpc/grpc-js'
import { isErrorCode, PercolateError } from '../../base/errors.ts'
import type { TenantId } from '../../base/ids.ts'
import { PEER_HEADER, type PeerAuth } from '../../replication/auth.ts'
import type { Member } from '../../replication/placement.ts'
import { askEach, lost, misdirected, Refused } from '../../session/forward.ts'
import { Channels, isConnected } from './channels.ts'
import type { Message } from './messages.ts'
import { loadRemProto } from './protos.ts'

/** How long another node may take to accept a connection, and then to say that it takes a write. */
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
export interface ForwardedCall {
  readonly tenant: TenantId
  /** In the order of preference. */
  readonly targets: readonly Member[]
  /** A write is asked of a second node only when the first one took nothing of it. */
  readonly isWrite: boolean
  readonly signal: AbortSignal
  /** Is told which node answers, before anything of the answer is sent. */
  readonly onServed: (node: string) => void
}
/** One call on its way to another node. */
export interface GrpcForward {
  unary(name: string, call: Incoming, request: Message): Promise<Forwarded>
  serverStream(name: string, call: Incoming, request: Message): AsyncIterable<Message>
  clientStream(name: string, call: Incoming, requests: AsyncIterable<Message>): Promise<Forwarded>
}
type Outgoing = ClientUnaryCall & AsyncIterable<Message> & NodeJS.WritableStream
/** A stream that a node has taken. */
interface Opened {
  readonly first: IteratorResult<Message>
  readonly next: () => Promise<IteratorResult<Message>>
  readonly end: () => void
}
/** A method of a node, with all but its first arguments. */
type Invoke = (args: unknown[], done?: (error: Error | null, answer: Message) => void) => Outgoing

/**
 * Sends gRPC calls on to the nodes that hold the tenant, as {@link HttpForwarder} does for HTTP. A node that takes a call sends its head before it does anything, one that refuses sends none:
 * the messages of a stream leave only after the head has come.
 */
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

  begin(forwarded: ForwardedCall): GrpcForward {
    return {
      unary: (name, call, request) =>
        askEach(forwarded.targets, async target => {
          const invoke = await this.#prepare(target, forwarded, name, call, ANSWER_MS_MAX)
          return this.#one(target, forwarded, done => invoke([request], done))
        }),
      serverStream: (name, call, request) => this.#stream(forwarded, name, call, request),
      clientStream: (name, call, requests) =>
        askEach(forwarded.targets, async target => {
          const invoke = await this.#prepare(target, forwarded, name, call)
          return this.#one(
            target,
            forwarded,
            done => invoke([], done),
            outgoing => void sendAll(outgoing, requests),
          )
        }),
    }
  }

  /** A call with one answer. */
  #one(
    target: Member,
    { isWrite, signal, onServed }: ForwardedCall,
    invoke: (done: (error: Error | null, answer: Message) => void) => Outgoing,
    onTaken?: (outgoing: Outgoing) => void,
  ): Promise<Forwarded> {
    return new Promise((resolve, reject) => {
      let answer: Message | undefined
      let isTaken = false
      // The messages of a stream wait for the head; a single one is on its way at once.
      const isSent = isWrite && onTaken === undefined
      const outgoing = invoke((error, message) => {
        clearTimeout(confirm)
        signal.removeEventListener('abort', cancel)
        if (error)
          return reject(
            isLate ? unconfirmed(target.node, isSent) : callError(target.node, error, isTaken || isSent, signal),
          )
        answer = message
      })
      let isLate = false
      const cancel = () => outgoing.cancel()
      const confirm = setTimeout(() => {
        isLate = isWrite
        if (isWrite) cancel()
      }, CONFIRM_MS_MAX)
      signal.addEventListener('abort', cancel, { once: true })
      outgoing.once('metadata', () => {
        clearTimeout(confirm)
        isTaken = true
        onServed(target.node)
        onTaken?.(outgoing)
      })
      outgoing.on('status', status => {
        if (answer) resolve({ answer, trailer: ours(status.metadata) })
      })
    })
  }

  async *#stream(forwarded: ForwardedCall, name: string, call: Incoming, request: Message): AsyncGenerator<Message> {
    const { targets, signal } = forwarded
    let opened: Opened | undefined
    try {
      opened = await askEach(targets, target => this.#open(target, forwarded, name, call, request))
      for (let next = opened.first; !next.done; next = await opened.next()) yield next.value
    } catch (error) {
      // Nobody waits for it any more.
      if (!signal.aborted) throw error
    } finally {
      opened?.end()
    }
  }

  /** Asks one node for a stream, as far as its first message: from there on it is that node's to answer. */
  async #open(
    target: Member,
    forwarded: ForwardedCall,
    name: string,
    call: Incoming,
    request: Message,
  ): Promise<Opened> {
    const { signal, onServed } = forwarded
    let isTaken = false
    const invoke = await this.#prepare(target, forwarded, name, call)
    signal.throwIfAborted()
    const outgoing = invoke([request])
    outgoing.once('metadata', () => {
      isTaken = true
      onServed(target.node)
    })
    const cancel = () => outgoing.cancel()
    signal.addEventListener('abort', cancel, { once: true })
    const end = () => {
      signal.removeEventListener('abort', cancel)
      cancel()
    }
    const messages = outgoing[Symbol.asyncIterator]()
    const next = () =>
      messages.next().catch(error => {
        end()
        throw callError(target.node, error as Error, isTaken, signal)
      })
    return { first: await next(), next, end }
  }

  /** Throws {@link Refused} when there is no connection to the node. */
  async #prepare(
    target: Member,
    { tenant }: ForwardedCall,
    name: string,
    call: Incoming,
    answerMs = Number.POSITIVE_INFINITY,
  ): Promise<Invoke> {
    const metadata = ours(call.metadata)
    metadata.set(PEER_HEADER, this.#auth.token(target.node, tenant))
    const client = this.#channels.to(target.node, target.grpc)
    if (!(await isConnected(client, CONFIRM_MS_MAX))) throw new Refused(`no connection to node ${target.node}`)
    const method = (client as unknown as Record<string, (...args: unknown[]) => Outgoing>)[name]!
    const asked = call.getDeadline()
    const deadline = Number.isFinite(Number(asked)) ? asked : Date.now() + answerMs
    return (args, done) => method.call(client, ...args, metadata, { deadline }, ...(done ? [done] : []))
  }
}

/** Metadata that means something to us; the rest belongs to the connection. */
function ours(metadata: Metadata): Metadata {
  const kept = new Metadata()
  for (const [name, value] of Object.entries(metadata.getMap()))
    if (/^(x-|percolate-|authorization$)/.test(name) && name !== PEER_HEADER) kept.set(name, value)
  return kept
}

async function sendAll(outgoing: Outgoing, requests: AsyncIterable<Message>): Promise<void> {
  try {
    for await (const message of requests)
      if (!outgoing.write(message as unknown as string)) await new Promise(resolve => outgoing.once('drain', resolve))
    outgoing.end()
  } catch {
    // The client's stream broke off: what was sent of it is no whole request.
    outgoing.cancel()
  }
}

/** `isDone`: the node may have done something that must not be done twice, or has begun to answer. */
function callError(node: string, error: Error, isDone: boolean, signal: AbortSignal): Error {
  if (error instanceof PercolateError) return error
  const { metadata, details, code: status } = error as Error & { metadata?: Metadata; details?: string; code?: number }
  const code = metadata?.get('percolate-code')[0]
  const field = metadata?.get('percolate-field')[0]
  const retryAfterS = Number(metadata?.get('retry-after')[0])
  if (code === 'MISDIRECTED') return misdirected(node, metadata!.get('percolate-lacks')[0]?.toString())
  if (isErrorCode(code))
    return new PercolateError(code, details ?? error.message, {
      ...(field === undefined ? {} : { field: String(field) }),
      ...(Number.isFinite(retryAfterS) ? { retryAfterS } : {}),
      extra: extraOf(metadata!),
    })
  // A node whose connections are cut says CANCELLED, too; that nobody cancelled is known here alone.
  if (status === 1 && signal.aborted) return new PercolateError('CANCELLED', 'The client cancelled the call.')
  if (status === 4) return new PercolateError('DEADLINE_EXCEEDED', 'The deadline passed before the answer was ready.')
  return lost(node, error, isDone)
}

/** What an error carries beside its code and field, such as the cursor to go on from. */
const extraOf = (metadata: Metadata): Record<string, string> =>
  Object.fromEntries(
    Object.entries(metadata.getMap()).flatMap(([name, value]) => {
      const extra = /^percolate-(?!code$|field$)(.+)$/.exec(name)?.[1]
      return extra === undefined ? [] : [[extra, String(value)]]
    }),
  )

const unconfirmed = (node: string, isSent: boolean): Error =>
  isSent
    ? new PercolateError(
        'NODE_UNAVAILABLE',
        `Node ${node} did not say in time that it takes the call; what it did is not known.`,
      )
    : new Refused(`node ${node} did not say in time that it takes the call`)
