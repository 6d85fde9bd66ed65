import { constants } from 'node:http2'
import {
  ServerInterceptingCall,
  type ServerInterceptingCallInterface,
  type ServerInterceptor,
  ServerListenerBuilder,
  status,
} from '@grpc/grpc-js'
import { PercolateError } from '../../base/errors.ts'
import { HeldBodies } from '../held-bodies.ts'
import type { SlowReaders } from '../slow-readers.ts'
import { failure } from './calls.ts'
import { Frames, MessagePieces } from './frames.ts'
import { type HeldCall, HeldCalls } from './held-calls.ts'
import { HeldMessages } from './held-messages.ts'
import { holdBack } from './hold-back.ts'
import { encodingOf, onCutOff, streamOf } from './open-calls.ts'
import { malformed, Received } from './strict-messages.ts'

type Status = Parameters<ServerInterceptingCallInterface['sendStatus']>[0]

const PACKAGE = '/percolate.v1.'
const SERVICE = `${PACKAGE}Rem/`

export interface ContractOptions {
  /** Where what calls send is counted. Default: it has room for everything. */
  readonly bodies?: HeldBodies | undefined
  /** Where calls are counted. Default: it has room for every one. */
  readonly calls?: HeldCalls | undefined
  readonly readers?: SlowReaders | undefined
  /** See `PERCOLATE_REQUEST_READ_MS`. Default: no end. */
  readonly requestReadMs?: number | undefined
}

/** Within which a client that was refused takes the status, and ends its side. */
const LAST_WORD_MS = 500
/** And one that was too slow, at most. */
const SLOW_LAST_WORD_MS_MAX = 5000
/** The longest that a timer runs. */
const TIMER_MS_MAX = 2 ** 31 - 1

/**
 * What stands between grpc-js and the methods. What grpc-js refuses by itself, before or beside a method, is answered with the codes of the error table, too: none or two messages where there is one, a
 * deadline that is no time, a message that is too large or compressed, one that does not come. Only what has no call (unknown methods, another content type) stays as grpc-js answers it. What a call sends is counted as it comes, and a
 * message is made of it only when it has no more in it than it may have.
 */
export const contractInterceptor =
  ({
    bodies = new HeldBodies(Number.POSITIVE_INFINITY),
    calls = new HeldCalls(Number.POSITIVE_INFINITY),
    readers,
    requestReadMs = TIMER_MS_MAX,
  }: ContractOptions = {}): ServerInterceptor =>
  (method, call) => {
    // grpc-js sends what it refuses from the innermost call, below every interceptor (grpc-internals.test.ts).
    const send = call.sendStatus.bind(call)
    const isOurs = method.path.startsWith(SERVICE)
    const stream = streamOf(call)!
    call.sendStatus = status => {
      send(isOurs ? translate(status) : status)
      // A client that takes nothing at all does not get the status either, and its stream would stay.
      if (!readers || stream.closed || stream.destroyed) return
      stream.once(
        'close',
        readers.watch(() => stream.close(constants.NGHTTP2_ENHANCE_YOUR_CALM)),
      )
    }
    const sendHead = call.sendMetadata.bind(call)
    call.sendMetadata = head => {
      head.set(ACCEPT_ENCODING, 'identity')
      sendHead(head)
    }
    const held = new HeldMessages(bodies, stream, error => refuse(error))
    let place: HeldCall | undefined
    let messages = 0
    let hasEnded = false
    /** Nothing follows the status, and the stream goes when it is not taken in time. */
    const end = (error: PercolateError, rst: number, lastWordMs: number) => {
      if (hasEnded) return
      hasEnded = true
      clearTimeout(late)
      held.end()
      const status = failure(error)
      status.metadata.set(ACCEPT_ENCODING, 'identity')
      send(status)
      setTimeout(() => stream.close(rst), lastWordMs).unref()
    }
    // Who does not end its side keeps the stream.
    const refuse = (error: PercolateError) => end(error, constants.NGHTTP2_NO_ERROR, LAST_WORD_MS)
    onCutOff(stream, error =>
      end(error, constants.NGHTTP2_ENHANCE_YOUR_CALM, Math.min(readers?.stallMsMax ?? 0, SLOW_LAST_WORD_MS_MAX)),
    )
    // Those for other nodes are written with an eye on their readers, too.
    if (!method.path.startsWith(PACKAGE)) holdBack(call, stream, readers)
    let late: NodeJS.Timeout | undefined
    const expect = () => {
      clearTimeout(late)
      late = setTimeout(() => {
        // What is held back here is not the client's fault.
        if (method.requestStream && stream.isPaused()) return expect()
        refuse(
          new PercolateError(
            'REQUEST_TIMEOUT',
            `The ${method.requestStream ? 'message' : 'call'} did not come whole within ${requestReadMs} ms (PERCOLATE_REQUEST_READ_MS): send it again, and end the client's side behind the message of a call that takes one.`,
          ),
        )
      }, requestReadMs).unref()
    }
    if (!method.requestStream) expect()
    stream.once('close', () => clearTimeout(late))
    const frames = new Frames()
    const pieces = new MessagePieces()
    // Nor was the time for which it was held back.
    stream.on('resume', () => {
      held.resumed()
      if (method.requestStream && frames.isWithin && !hasEnded) expect()
    })
    // Before grpc-js keeps it. It has paused the stream: to listen does not make it flow.
    stream.prependListener('data', (data: Buffer) => {
      try {
        place?.heard()
        held.receive(data.length)
        pieces.note(data.length)
        if (!method.requestStream || hasEnded) return
        const wasWithin = frames.isWithin
        const ended = frames.push(data)
        if (ended > 0) pieces.begin()
        if (!frames.isWithin) clearTimeout(late)
        else if (!wasWithin || ended > 0) expect()
      } catch (error) {
        refuse(error as PercolateError)
      }
    })
    const encoding = encodingOf(call)
    if (encoding !== 'identity') refuse(compressed(encoding))
    const listener = new ServerListenerBuilder()
      .withOnReceiveMetadata((metadata, next) => {
        // Those that name no tenant, which are refused later on, have the share of one.
        const tenant = isOurs ? (metadata.get('x-tenant-id')[0]?.toString() ?? '') : undefined
        try {
          place = calls.hold(method.path, tenant, refuse)
          stream.once('close', place.release)
        } catch (error) {
          return refuse(error as PercolateError)
        }
        next(metadata)
      })
      .withOnReceiveMessage((received, next) => {
        if (hasEnded) return
        messages++
        if (method.requestStream) place?.begun()
        if (!method.requestStream && messages > 1)
          return refuse(malformed('The call takes one message and got two; send each with a call of its own.'))
        // Those of the health and reflection services are read by grpc-js.
        if (!(received instanceof Received)) {
          held.letGo()
          return next(received)
        }
        let message: object
        try {
          message = held.open(received)
        } catch (error) {
          return refuse(error as PercolateError)
        }
        next(message)
      })
      .withOnReceiveHalfClose(next => {
        if (hasEnded) return
        place?.begun()
        clearTimeout(late)
        if (!method.requestStream && messages === 0)
          return refuse(malformed('The call got no message; send one, it may be empty.'))
        next()
      })
      .build()
    return new ServerInterceptingCall(call, {
      start: next => next(listener),
      sendMessage: (message, next) => {
        place?.heard()
        if (!hasEnded) next(message)
      },
    })
  }

/** What says which compression is taken; grpc-js names those that it can read. */
const ACCEPT_ENCODING = 'grpc-accept-encoding'

/** A thousandth of what it becomes can be sent, so nothing is inflated. */
const compressed = (encoding: string) =>
  new PercolateError(
    'COMPRESSION_UNSUPPORTED',
    `Messages compressed with ${encoding} are not taken; send them without compression (grpc-encoding: identity).`,
    { field: 'grpc-encoding' },
  )

/** A status that grpc-js made, which has none of our metadata. Its text is the only thing that tells its causes apart. */
function translate(given: Status): Status {
  if (given.code === status.OK || given.metadata?.get('percolate-code').length) return given
  const error = fromGrpc(given)
  return error ? failure(error) : given
}

function fromGrpc({ code, details }: Status): PercolateError | undefined {
  if (code === status.DEADLINE_EXCEEDED)
    return new PercolateError('DEADLINE_EXCEEDED', 'The deadline passed before the answer was ready.')
  if (code === status.RESOURCE_EXHAUSTED)
    return new PercolateError(
      'BODY_TOO_LARGE',
      `${details}; send less at once, bulk writes as a stream (WriteResources), or upload a file to the gateway.`,
    )
  if (code === status.INTERNAL && details.startsWith('Invalid grpc-timeout'))
    return new PercolateError('INVALID_ARGUMENT', `${details}; it is up to 8 digits and one of H M S m u n.`, {
      field: 'grpc-timeout',
    })
  if (code === status.INTERNAL) return new PercolateError('INTERNAL', 'Internal error; the server log has the details.')
  return undefined
}
