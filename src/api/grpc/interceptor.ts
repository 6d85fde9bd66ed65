import {
  ServerInterceptingCall,
  type ServerInterceptingCallInterface,
  type ServerInterceptor,
  ServerListenerBuilder,
  status,
} from '@grpc/grpc-js'
import { PercolateError } from '../../base/errors.ts'
import { failure } from './calls.ts'
import { Malformed } from './strict-messages.ts'

type Status = Parameters<ServerInterceptingCallInterface['sendStatus']>[0]

const SERVICE = '/percolate.v1.Rem/'

/**
 * What grpc-js refuses by itself, before or beside a method, is answered with the codes of the error table, too: a message that does not decode, none or two where there is one, a deadline that is no
 * time, a message that does not decompress or is too large. Only what has no call (unknown methods, another content type) stays as grpc-js answers it.
 */
export const contractInterceptor: ServerInterceptor = (method, call) => {
  if (!method.path.startsWith(SERVICE)) return new ServerInterceptingCall(call)
  // grpc-js sends what it refuses from the innermost call, below every interceptor (grpc-internals.test.ts).
  const send = call.sendStatus.bind(call)
  call.sendStatus = given => send(translate(given))
  let messages = 0
  let hasEnded = false
  const refuse = (error: PercolateError) => {
    if (hasEnded) return
    hasEnded = true
    send(failure(error))
  }
  const listener = new ServerListenerBuilder()
    .withOnReceiveMessage((message, next) => {
      if (hasEnded) return
      if (message instanceof Malformed) return refuse(message.error)
      messages++
      if (!method.requestStream && messages > 1)
        return refuse(malformed('The call takes one message and got two; send each with a call of its own.'))
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

const malformed = (message: string) => new PercolateError('REQUEST_MALFORMED', message, { field: 'message' })

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
