import type { ServerHttp2Stream } from 'node:http2'
import { ServerInterceptingCall, type ServerInterceptingCallInterface, type ServerInterceptor } from '@grpc/grpc-js'
import type { PercolateError } from '../../base/errors.ts'

type Status = Parameters<ServerInterceptingCallInterface['sendStatus']>[0]

interface Intercepted {
  readonly nextCall?: object
  readonly incomingEncoding?: string
  readonly stream?: ServerHttp2Stream
}

/** The innermost part of a call of grpc-js (grpc-internals.test.ts). */
function innermost(call: object | undefined): Intercepted | undefined {
  let inner = call as Intercepted | undefined
  while (inner?.nextCall) inner = inner.nextCall as Intercepted
  return inner
}

/** The HTTP/2 stream of a call. */
export const streamOf = (call: object | undefined): ServerHttp2Stream | undefined => innermost(call)?.stream

/** How a call's messages are compressed, as it says. */
export const encodingOf = (call: object): string => innermost(call)?.incomingEncoding ?? 'identity'

const cutOffs = new WeakMap<object, (error: PercolateError) => void>()

/** Sets what {@link cutOffWith} does with a stream. */
export const onCutOff = (stream: ServerHttp2Stream, end: (error: PercolateError) => void): void =>
  void cutOffs.set(stream, end)

/** Ends a call whose reader is too slow: what is on its way is all that it gets, with the error behind it, and when it does not take that either the stream is reset. False: there is no stream to be found. */
export function cutOffWith(call: object, error: PercolateError): boolean {
  const stream = streamOf((call as { call?: object }).call)
  const end = stream && cutOffs.get(stream)
  end?.(error)
  return end !== undefined
}

/**
 * The calls that a server has under way, of all its services. A server that must not wait for them any longer can still tell their clients so: a connection that just goes is CANCELLED to a client of
 * grpc-js, as if it had cancelled the call itself, and INTERNAL behind a router.
 */
export class OpenCalls {
  readonly #open = new Set<ServerInterceptingCallInterface>()
  #hasEnded = false

  /** To be put behind those that a status of the server itself has to pass. */
  readonly interceptor: ServerInterceptor = (_method, call) => {
    const stream = streamOf(call)
    if (stream && !stream.destroyed && !stream.closed) {
      this.#open.add(call)
      stream.once('close', () => this.#open.delete(call))
    }
    return new ServerInterceptingCall(call, {
      // Nothing may be written behind the status.
      sendMessage: (message, next) => {
        if (!this.#hasEnded) next(message)
      },
    })
  }

  /** Ends every call that is still open; what its handler says afterwards is not sent. Whoever reads nothing does not get this either. */
  end(last: Status): void {
    this.#hasEnded = true
    for (const call of this.#open) call.sendStatus(last)
  }
}
