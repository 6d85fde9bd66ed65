import type { IncomingMessage, Server, ServerResponse } from 'node:http'

/** Requests whose bodies wait for our word (`Expect: 100-continue`). */
const waiting = new WeakSet<IncomingMessage>()

/** Who waits for `100 Continue` gets it when it is known who answers the request; see {@link sayContinue}. */
export function holdContinue(server: Server): void {
  server.on('checkContinue', (request: IncomingMessage, response: ServerResponse) => {
    if (/^\/(api|v1)\//.test(request.url ?? '')) waiting.add(request)
    else response.writeContinue()
    server.emit('request', request, response)
  })
}

/** Somebody takes the body now. */
export function sayContinue(request: IncomingMessage, response: ServerResponse): void {
  if (waiting.delete(request)) response.writeContinue()
}
