import type { EventEmitter } from 'node:events'
import {
  Metadata,
  type ServerDuplexStream,
  type ServerReadableStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
  status,
} from '@grpc/grpc-js'
import { errorTable, PercolateError, toPercolateError } from '../../base/errors.ts'
import { parseTenantId, type TenantId } from '../../base/ids.ts'
import type { Logger } from '../../base/logger.ts'
import type { Metrics } from '../../base/metrics.ts'
import type { Time } from '../../base/time.ts'
import type { Clock } from '../../clock/hlc.ts'
import { PEER_HEADER } from '../../replication/auth.ts'
import { parseBookmark } from '../bookmark.ts'
import { type Access, type Gate, NotTaken, type Passage } from '../gate.ts'
import { type Call, type Consistency, parseAsOf, parseConsistency, parseDurability } from '../operations/context.ts'
import type { GrpcForward, GrpcForwarder } from './forward.ts'
import type { Message } from './messages.ts'

export interface CallContext {
  readonly logger: Logger
  readonly metrics: Metrics
  readonly time: Time
  readonly node: string
  readonly onTenant: (tenant: TenantId) => void
  readonly gate?: Gate | undefined
  readonly forwarder?: GrpcForwarder | undefined
}

type AnyCall =
  | ServerUnaryCall<Message, Message>
  | ServerReadableStream<Message, Message>
  | ServerWritableStream<Message, Message>
  | ServerDuplexStream<Message, Message>

export type UnaryHandler = (call: Call, request: Message) => Promise<Message>
export type StreamHandler = (call: Call, request: Message) => AsyncIterable<Message>
export type ClientStreamHandler = (call: Call, requests: AsyncIterable<Message>) => Promise<Message>

export function unary(context: CallContext, name: string, handler: UnaryHandler, access: Access = 'write') {
  return (call: ServerUnaryCall<Message, Message>, done: sendUnaryData<Message>) => {
    const observe = timer(context, name)
    const run = async () => {
      const { started, forward } = await begin(context, call, access)
      if (forward) return forward.unary(name, call, call.request)
      const answer = await handler(started, call.request)
      return { answer, trailer: trailerOf(started) }
    }
    twice(context, call, run).then(
      ({ answer, trailer }) => {
        observe('OK')
        done(null, answer, trailer)
      },
      error => done(fail(context, observe, error)),
    )
  }
}

export function serverStream(context: CallContext, name: string, handler: StreamHandler) {
  return (call: ServerWritableStream<Message, Message>) => {
    const observe = timer(context, name)
    const run = async () => {
      const { started, forward } = await begin(context, call, 'read')
      const messages = forward ? forward.serverStream(name, call, call.request) : handler(started, call.request)
      for await (const message of messages) {
        if (started.signal.aborted) return
        // A slow reader holds us back; a cancelled one does not.
        if (!call.write(message)) await drained(call, started.signal)
      }
    }
    twice(context, call, run).then(
      () => {
        observe('OK')
        call.end()
      },
      error => call.emit('error', fail(context, observe, error)),
    )
  }
}

function drained(call: EventEmitter, signal: AbortSignal): Promise<void> {
  return new Promise(resolve => {
    const done = () => {
      call.off('drain', done)
      signal.removeEventListener('abort', done)
      resolve()
    }
    call.once('drain', done)
    signal.addEventListener('abort', done)
    if (signal.aborted) done()
  })
}

export function clientStream(context: CallContext, name: string, handler: ClientStreamHandler) {
  return (call: ServerReadableStream<Message, Message>, done: sendUnaryData<Message>) => {
    const observe = timer(context, name)
    const run = async () => {
      const { started, forward } = await begin(context, call, 'write')
      if (forward) return forward.clientStream(name, call, call as AsyncIterable<Message>)
      const answer = await handler(started, call as AsyncIterable<Message>)
      return { answer, trailer: trailerOf(started) }
    }
    twice(context, call, run).then(
      ({ answer, trailer }) => {
        observe('OK')
        done(null, answer, trailer)
      },
      error => done(fail(context, observe, error)),
    )
  }
}

/** As {@link Gate.through} does: when no node took the call, it is tried once more; a home that was handed over meanwhile may be here by now. */
async function twice<T>(context: CallContext, call: AnyCall, run: () => Promise<T>): Promise<T> {
  try {
    return await run()
  } catch (error) {
    if (!(error instanceof NotTaken)) throw error
    await context.gate?.refresh(parseTenantId(call.metadata.get('x-tenant-id')[0]))
    return run()
  }
}

/** What a write came to goes behind its answer. */
function trailerOf({ outcome }: Call): Metadata {
  const trailer = new Metadata()
  if (outcome) {
    trailer.set('x-percolate-durability', outcome.reached)
    trailer.set('x-percolate-bookmark', outcome.bookmark)
    trailer.set('x-percolate-clock', outcome.clock)
  }
  return trailer
}

/** Reads who asks, and decides whether this node answers; cancellation and the client's deadline end the call. */
async function begin(
  context: CallContext,
  call: AnyCall,
  access: Access,
): Promise<{ started: Call; forward: GrpcForward | undefined }> {
  const one = (name: string): string | undefined => call.metadata.get(name)[0]?.toString()
  const values = call.metadata.get('x-tenant-id')
  const controller = new AbortController()
  ;(call as EventEmitter).once('cancelled', () => {
    const deadline = Number(call.getDeadline())
    controller.abort(
      Number.isFinite(deadline) && context.time.now() >= deadline
        ? new PercolateError('DEADLINE_EXCEEDED', 'The deadline passed before the answer was ready.')
        : new PercolateError('CANCELLED', 'The client cancelled the call.'),
    )
  })
  let tenant: TenantId
  let consistency: Consistency
  let asOf: Clock | undefined
  let passage: Passage | undefined
  try {
    tenant = parseTenantId(values.length > 1 ? values : values[0])
    const [durability, bookmark, wanted, clock] = [
      one('x-percolate-durability'),
      one('x-percolate-bookmark'),
      one('x-percolate-consistency'),
      one('x-percolate-as-of'),
    ]
    const request = (call as { request?: Message }).request
    consistency = {
      durability: durability === undefined ? undefined : parseDurability(durability),
      bookmark: bookmark === undefined ? undefined : parseBookmark(bookmark, 'X-Percolate-Bookmark'),
      needsHome: request?.if_match !== undefined || (wanted !== undefined && parseConsistency(wanted)),
    }
    asOf = clock === undefined ? undefined : parseAsOf(clock, context.time.now())
    passage = await context.gate?.pass({ tenant, access, consistency, peerToken: one(PEER_HEADER) })
  } catch (error) {
    // To a node that forwards, a head says that the call is taken.
    if (one(PEER_HEADER) === undefined) sendHead(context, call, context.node)
    throw error
  }
  const started: Call = {
    tenant,
    signal: controller.signal,
    get hasEnded() {
      return controller.signal.aborted
    },
    asOf,
    consistency,
  }
  if (passage?.kind === 'forward') {
    const forward = context.forwarder!.begin({
      tenant,
      targets: passage.targets,
      isWrite: access !== 'read',
      signal: controller.signal,
      onServed: served => sendHead(context, call, served),
    })
    return { started, forward }
  }
  context.onTenant(tenant)
  sendHead(context, call, context.node)
  return { started, forward: undefined }
}

function sendHead(context: CallContext, call: AnyCall, served: string): void {
  const head = new Metadata()
  head.set('x-percolate-node', served)
  head.set('x-percolate-entry-node', context.node)
  call.sendMetadata(head)
}

function timer(context: CallContext, name: string): (outcome: string) => void {
  const startedAt = context.time.monotonic()
  return outcome => context.metrics.observeRequest('grpc', name, outcome, (context.time.monotonic() - startedAt) / 1000)
}

function fail(context: CallContext, observe: (outcome: string) => void, raw: unknown) {
  const error = toPercolateError(raw)
  const { grpc, log, http } = errorTable[error.code]
  observe(status[grpc] ?? String(grpc))
  context.metrics.countError(error.code)
  context.logger[log]({ code: error.code, ...(http >= 500 ? { err: error.cause ?? error } : {}) }, error.message)
  return failure(error)
}

/** An error as gRPC carries it: status, message, and our code in the trailing metadata. */
export function failure(error: PercolateError) {
  const metadata = new Metadata()
  metadata.set('percolate-code', error.code)
  if (error.field !== undefined && /^[\x20-\x7e]*$/.test(error.field)) metadata.set('percolate-field', error.field)
  if (error.retryAfterS !== undefined) metadata.set('retry-after', String(error.retryAfterS))
  for (const [name, value] of Object.entries(error.extra ?? {})) metadata.set(`percolate-${name}`, value)
  return { code: errorTable[error.code].grpc, details: error.message, metadata }
}
