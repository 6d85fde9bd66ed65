import {
  ServerInterceptingCall,
  type ServerInterceptingCallInterface,
  type ServerInterceptor,
  ServerListenerBuilder,
  status,
} from '@grpc/grpc-js'
import { PercolateError } from '../../base/errors.ts'
import { HeldBodies } from '../held-bodies.ts'
import { failure } from './calls.ts'
import { HeldMessages } from './held-messages.ts'
import { streamOf } from './open-calls.ts'
import { malformed, Received } from './strict-messages.ts'

type Status = Parameters<ServerInterceptingCallInterface['sendStatus']>[0]

const SERVICE = '/percolate.v1.Rem/'

export interface ContractOptions {
  /** Where what calls send is counted. Default: it has room for everything. */
  readonly bodies?: HeldBodies | undefined
}

/**
 * What stands between grpc-js and the methods. What grpc-js refuses by itself, before or beside a method, is answered with the codes of the error table, too: none or two messages where there is one, a
 * deadline that is no time, a message that is too large. Only what has no call (unknown methods, another content type) stays as grpc-js answers it. What a call sends is counted as it comes, and a
 * message is made of it only when it has no more in it than it may have.
 */
export const contractInterceptor =
  ({ bodies = new HeldBodies(Number.POSITIVE_INFINITY) }: ContractOptions = {}): ServerInterceptor =>
  (method, call) => {
    // grpc-js sends what it refuses from the innermost call, below every interceptor (grpc-internals.test.ts).
    const send = call.sendStatus.bind(call)
    if (method.path.startsWith(SERVICE)) call.sendStatus = status => send(translate(status))
    const stream = streamOf(call)!
    const held = new HeldMessages(bodies, stream)
    let messages = 0
    let hasEnded = false
    const refuse = (error: PercolateError) => {
      if (hasEnded) return
      hasEnded = true
      held.end()
      send(failure(error))
    }
    // Before grpc-js keeps it. It has paused the stream: to listen does not make it flow.
    stream.prependListener('data', (data: Buffer) => {
      try {
        held.receive(data.length)
      } catch (error) {
        refuse(error as PercolateError)
      }
    })
    const listener = new ServerListenerBuilder()
      .withOnReceiveMessage((received, next) => {
        if (hasEnded) return
        messages++
        if (!method.requestStream && messages > 1)
          return refuse(malformed('The call takes one message and got two; send each with a call of its own.'))
        // Those of the health and reflection services are read by grpc-js.
        if (!(received instanceof Received)) return next(received)
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
        if (!method.requestStream && messages === 0)
          return refuse(malformed('The call got no message; send one, it may be empty.'))
        next()
      })
      .build()
    return new ServerInterceptingCall(call, { start: next => next(listener) })
  }

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
  if (code === status.INTERNAL && details === 'Failed to decompress message')
    return new PercolateError('REQUEST_MALFORMED', 'The message does not decompress as grpc-encoding says.', {
      field: 'grpc-encoding',
    })
  if (code === status.INTERNAL) return new PercolateError('INTERNAL', 'Internal error; the server log has the details.')
  return undefined
}
