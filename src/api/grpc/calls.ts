import type { EventEmitter } from 'node:events'
import { constants } from 'node:http2'
import {
  Metadata,
  type ServerDuplexStream,
  type ServerReadableStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
  status,
} from '@grpc/grpc-js'
import {
  ERROR_TEXT_CHARS_MAX,
  errorTable,
  headerOfExtra,
  PercolateError,
  shortened,
  toPercolateError,
} from '../../base/errors.ts'
import type { TenantId } from '../../base/ids.ts'
import type { Logger } from '../../base/logger.ts'
import type { Metrics } from '../../base/metrics.ts'
import type { Refusals } from '../../base/refusals.ts'
import type { Time } from '../../base/time.ts'
import { formatClock } from '../../clock/hlc.ts'
import { PEER_HEADER } from '../../replication/auth.ts'
import type { Member } from '../../replication/placement.ts'
import { encodeBookmark } from '../../session/bookmark.ts'
import { final } from '../../session/forward.ts'
import type { Gate } from '../../session/gate.ts'
import { type Access, parseRequest } from '../../session/request.ts'
import { type Ending, Session } from '../../session/session.ts'
import { type FeedPlaces, feedsEnd } from '../feed-places.ts'
import type { HeldAnswer, HeldAnswers } from '../held-answers.ts'
import type { SlowReaders } from '../slow-readers.ts'
import { type ConditionField, takeConditions } from './conditions.ts'
import { trustConnectionOf } from './connections.ts'
import type { GrpcForward, GrpcForwarder } from './forward.ts'
import { takeOver } from './held-messages.ts'
import type { Message } from './messages.ts'
import { cutOffWith, streamOf } from './open-calls.ts'
import type { Encoded } from './strict-messages.ts'

export interface CallContext {
  readonly logger: Logger
  readonly metrics: Metrics
  readonly refusals: Refusals
  readonly time: Time
  /** See `ClockBounds`. */
  readonly asOfAheadMsMax: number
  readonly node: string
  readonly onTenant: (tenant: TenantId) => void
  readonly readers: SlowReaders
  /** Where answers are counted until they are taken, and what makes their bytes; without them none is. */
  readonly answers?: HeldAnswers | undefined
  readonly encode?: ((method: string, message: object) => Encoded) | undefined
  readonly gate?: Gate | undefined
  readonly forwarder?: GrpcForwarder | undefined
}

type AnyCall =
  | ServerUnaryCall<Message, Message>
  | ServerReadableStream<Message, Message>
  | ServerWritableStream<Message, Message>
  | ServerDuplexStream<Message, Message>

export type UnaryHandler = (call: Session, request: Message) => Promise<Message>
/** `hold`: counts results that wait here to be sent, so many bytes; TOO_BUSY when there is no room. */
export type StreamHandler = (call: Session, request: Message, hold: (bytes: number) => void) => AsyncIterable<Message>
export type ClientStreamHandler = (call: Session, requests: AsyncIterable<Message>) => Promise<Message>

/** `conditions`: those that the method decides on. */
export function unary(
  context: CallContext,
  name: string,
  handler: UnaryHandler,
  access: Access = 'write',
  conditions: readonly ConditionField[] = [],
) {
  return (call: ServerUnaryCall<Message, Message>, done: sendUnaryData<Message>) => {
    const observe = timer(context, name)
    // A handler goes on for a while when its client has gone, and holds what was made of the message.
    const release = takeOver(call.request)
    const ways = {
      here: async (session: Session) => {
        const answer = made(context, name, call, session, await handler(session, call.request))
        return { answer, trailer: trailerOf(context, session) }
      },
      forward: async (forward: GrpcForward, session: Session) => {
        const { answer, trailer } = await forward.unary(name, call, call.request)
        return { answer: made(context, name, call, session, answer), trailer }
      },
    }
    begin(context, call, access, ways, conditions)
      .finally(release)
      .then(
        ({ answer, trailer }) => {
          observe('OK')
          done(null, answer, trailer)
          void cutOffUntaken(context, call)
        },
        error => done(fail(context, observe, error)),
      )
  }
}

/** `feeds`: where it has its place when it is a change feed that is sent on. */
export function serverStream(context: CallContext, name: string, handler: StreamHandler, feeds?: FeedPlaces) {
  return (call: ServerWritableStream<Message, Message>) => {
    const observe = timer(context, name)
    const release = takeOver(call.request)
    const stream = streamOf((call as { call?: object }).call)
    const send = async (session: Session, messages: AsyncIterable<Message>, onMessage: (bytes: number) => void) => {
      let hasSent = false
      try {
        for await (const message of messages) {
          if (session.signal.aborted) return
          const encoded = context.encode?.(name, message)
          onMessage(encoded?.bytes.length ?? 0)
          hasSent = true
          // A slow reader holds us back; a cancelled one does not.
          if (!call.write((encoded ?? message) as Message)) await context.readers.wait(call, session.signal)
          else if (stream?.writableNeedDrain) await context.readers.wait(stream, session.signal)
        }
      } catch (error) {
        throw hasSent ? final(error) : error
      }
    }
    begin(context, call, 'read', {
      here: (session, onAnswer) => {
        const hold = feeds ? undefined : heldFor(context, call, session)
        return send(
          session,
          handler(session, call.request, bytes => hold?.atLeast(bytes)),
          onAnswer,
        )
      },
      forward: (forward, session) => {
        const messages = forward.serverStream(name, call, call.request)
        if (feeds) return send(session, sentOn(feeds, session, messages), () => {})
        const hold = heldFor(context, call, session)
        return send(session, messages, bytes =>
          hold?.atLeast(Math.min(bytes * READ_AHEAD, Math.max(bytes, READ_AHEAD_BYTES))),
        )
      },
      closing: feeds?.closing,
    })
      .finally(release)
      .then(
        () => {
          observe('OK')
          call.end()
          void cutOffUntaken(context, call)
        },
        error => {
          const status = fail(context, observe, error)
          if (!(error instanceof PercolateError && error.code === 'READER_STALLED')) return call.emit('error', status)
          if (!cutOffWith(call, error))
            context.logger.error('cannot reset the stream of a reader that stalled: grpc-js keeps it elsewhere')
        },
      )
  }
}

/** What is held of the answer to a call, until its stream is closed. */
function heldFor({ answers, readers }: CallContext, call: object, { tenant }: Session): HeldAnswer | undefined {
  const stream = streamOf((call as { call?: object }).call)
  if (!answers || !stream || stream.closed || stream.destroyed) return undefined
  const held = answers.answer(tenant, () => {
    readers.countStalled()
    cutOff(call)
  })
  stream.once('close', held.release)
  return held
}

/** An answer as it goes out, counted. TOO_BUSY when there is no room for that to a read; what was written stands, and is told. */
function made(context: CallContext, name: string, call: object, session: Session, answer: Message): Message {
  const encoded = context.encode?.(name, answer)
  if (!encoded) return answer
  const { length } = encoded.bytes
  const held = heldFor(context, call, session)
  if (session.access === 'read') held?.atLeast(length)
  else held?.count(length)
  return encoded as unknown as Message
}

/** A change feed of another node, in its place, until this one drains. */
async function* sentOn(
  feeds: FeedPlaces,
  { tenant, signal }: Session,
  messages: AsyncIterable<Message>,
): AsyncGenerator<Message> {
  const release = feeds.hold(tenant, 'forwarded')
  let cursor: string | undefined
  try {
    for await (const message of messages) {
      if (typeof message.cursor === 'string' && message.cursor !== '') cursor = message.cursor
      yield message
    }
    if (feeds.closing.aborted && !signal.aborted) throw feedsEnd(cursor)
  } finally {
    release()
  }
}

/** What waits to be sent goes only with the stream: a status would wait behind it. ENHANCE_YOUR_CALM is RESOURCE_EXHAUSTED for gRPC. False: there is no stream to be found. */
export function cutOff(call: object): boolean {
  // grpc-js has no way of its own to reset a stream; interceptors lie around the call that has it (grpc-internals.test.ts).
  const stream = streamOf((call as { call?: object }).call)
  stream?.close(constants.NGHTTP2_ENHANCE_YOUR_CALM)
  return stream !== undefined
}

/** An answer that was handed over as a whole stays in memory until the client takes it, which it has to do in the time that a reader may take nothing. */
async function cutOffUntaken({ readers }: CallContext, call: object): Promise<void> {
  const stream = streamOf((call as { call?: object }).call)
  if (stream && !stream.closed && (await readers.leavesRest(stream))) cutOff(call)
}

export function clientStream(context: CallContext, name: string, handler: ClientStreamHandler) {
  return (call: ServerReadableStream<Message, Message>, done: sendUnaryData<Message>) => {
    const observe = timer(context, name)
    const requests = lettingGo(call as AsyncIterable<Message>)
    begin(context, call, 'write', {
      here: async session => {
        // What was read of the client's stream cannot be read again.
        const answer = await handler(session, requests).catch(error => {
          throw final(error)
        })
        return { answer, trailer: trailerOf(context, session) }
      },
      forward: forward => forward.clientStream(name, call, requests),
    }).then(
      ({ answer, trailer }) => {
        observe('OK')
        done(null, answer, trailer)
        void cutOffUntaken(context, call)
      },
      error => done(fail(context, observe, error)),
    )
  }
}

/** The messages of a stream; one that was asked for the next has done with the last, unless it has taken it over. A stream that ends before its client has ended it was cancelled. */
async function* lettingGo(messages: AsyncIterable<Message>): AsyncGenerator<Message> {
  try {
    for await (const message of messages) {
      yield message
      takeOver(message)()
    }
  } catch (error) {
    if ((error as { code?: unknown }).code !== 'ERR_STREAM_PREMATURE_CLOSE') throw error
    throw new PercolateError('CANCELLED', 'The client cancelled the call.')
  }
}

/** What a write came to, and which node did it, goes behind its answer. */
function trailerOf({ node }: CallContext, { outcome }: Session): Metadata {
  const trailer = new Metadata()
  trailer.set('x-percolate-node', node)
  if (outcome) {
    trailer.set('x-percolate-durability', outcome.reached)
    trailer.set('x-percolate-bookmark', encodeBookmark(outcome.bookmark))
    trailer.set('x-percolate-clock', formatClock(outcome.clock))
  }
  return trailer
}

/** The two ways in which a call is answered. */
interface Ways<T> {
  /** `onAnswer`: to be called before anything of a read's answer is sent. */
  readonly here: (session: Session, onAnswer: () => void) => Promise<T>
  readonly forward: (forward: GrpcForward, session: Session) => Promise<T>
  /** Ends a call that is sent on, beside its client. */
  readonly closing?: AbortSignal | undefined
}

/**
 * Reads who asks, and has the gate decide who answers; cancellation and the client's deadline end the session.
 *
 * A client gets the head of a write's answer before anybody does anything of the write, here or elsewhere. A call that ends without a head was never taken, for routers (HAProxy resets it as REFUSED_STREAM)
 * and clients (gRPC's transparent retry sends it again): a conditional write that had been done would be answered with a refusal. The head of a read's answer waits for the answer: until then another
 * node may be asked, which the head names.
 */
async function begin<T>(
  context: CallContext,
  call: AnyCall,
  access: Access,
  ways: Ways<T>,
  conditions: readonly ConditionField[] = [],
): Promise<T> {
  const { gate, forwarder } = context
  const one = (name: string): string | undefined => call.metadata.get(name)[0]?.toString()
  const tenants = call.metadata.get('x-tenant-id')
  const ending = endingOf(context, call)
  let hasHead = false
  const sendHead = (served?: string) => {
    if (hasHead) return
    hasHead = true
    const head = new Metadata()
    if (served !== undefined) head.set('x-percolate-node', served)
    head.set('x-percolate-entry-node', context.node)
    call.sendMetadata(head)
  }
  try {
    const request = (call as { request?: Message }).request
    const session = new Session(
      parseRequest(
        {
          tenant: tenants.length > 1 ? tenants : tenants[0],
          access,
          isConditional: takeConditions(call.metadata, request, conditions),
          // The version before has no such field, and skips it.
          isNewCondition: request?.if_none_match !== undefined,
          header: one,
        },
        { nowMs: context.time.now(), asOfAheadMsMax: context.asOfAheadMsMax },
        gate?.auth,
      ),
      ending,
    )
    if (session.forwardedBy !== undefined) trustConnectionOf(call)
    context.answers?.admit(session.tenant)
    const onAnswer = () => sendHead(context.node)
    const here = async () => {
      context.onTenant(session.tenant)
      if (access !== 'read') onAnswer()
      const answer = await ways.here(session, onAnswer)
      onAnswer()
      return answer
    }
    if (!gate || !forwarder) return await here()
    const forward = (targets: readonly Member[]) => {
      const { tenant } = session
      const signal = ways.closing ? AbortSignal.any([session.signal, ways.closing]) : session.signal
      const isWrite = access !== 'read'
      if (isWrite) sendHead()
      return ways.forward(forwarder.begin({ tenant, targets, isWrite, signal, onServed: sendHead }), session)
    }
    try {
      const answer = await gate.answer(session, here, forward)
      gate.answered(session)
      return answer
    } catch (error) {
      const isAnswer = access === 'read' && error instanceof PercolateError && error.code === 'NOT_FOUND'
      if (isAnswer) gate.answered(session)
      throw error
    }
  } catch (error) {
    // To a node that forwards, a head says that the call is taken.
    if (one(PEER_HEADER) === undefined) sendHead(context.node)
    throw error
  }
}

function endingOf(context: CallContext, call: AnyCall): Ending {
  const controller = new AbortController()
  ;(call as EventEmitter).once('cancelled', () => {
    const deadline = Number(call.getDeadline())
    controller.abort(
      Number.isFinite(deadline) && context.time.now() >= deadline
        ? new PercolateError('DEADLINE_EXCEEDED', 'The deadline passed before the answer was ready.')
        : new PercolateError('CANCELLED', 'The client cancelled the call.'),
    )
  })
  return {
    signal: controller.signal,
    get hasEnded() {
      return controller.signal.aborted
    },
  }
}

function timer(context: CallContext, name: string): (outcome: string) => void {
  const startedAt = context.time.monotonic()
  return outcome => context.metrics.observeRequest('grpc', name, outcome, (context.time.monotonic() - startedAt) / 1000)
}

function fail(context: CallContext, observe: (outcome: string) => void, raw: unknown) {
  const error = toPercolateError(raw)
  const { grpc } = error.spec
  observe(status[grpc] ?? String(grpc))
  context.refusals.tell(error)
  return failure(error)
}

/** Messages of a stream that grpc-js reads ahead, as a client of another node, and keeps until they are written. */
const READ_AHEAD = 16
/** What of these is counted at most: large messages seldom come sixteen at a time, and a stream must not take a share alone. */
const READ_AHEAD_BYTES = 8 * 1024 * 1024

/** A text as grpc-js can send it: half of a surrogate pair, which JSON strings may have, ends the process (encodeURI throws where nobody catches). */
const sendable = (text: string): string => shortened(text).toWellFormed()

/** An error as gRPC carries it: status, message, and our code in the trailing metadata. */
export function failure(error: PercolateError) {
  const metadata = new Metadata()
  metadata.set('percolate-code', error.code)
  const field = error.field?.slice(0, ERROR_TEXT_CHARS_MAX)
  if (field !== undefined && /^[\x20-\x7e]*$/.test(field)) metadata.set('percolate-field', field)
  if (error.retryAfterS !== undefined) metadata.set('retry-after', String(error.retryAfterS))
  for (const [name, value] of Object.entries(error.extra ?? {})) {
    metadata.set(`percolate-${name}`, value)
    if (headerOfExtra[name]) metadata.set(headerOfExtra[name], value)
  }
  return { code: errorTable[error.code].grpc, details: sendable(error.message), metadata }
}
