import type { Server } from 'node:http'
import type { Connections } from './connections.ts'

/** Bounds the connections of an HTTP/1.1 server. One is in use from the head of a request until its answer was taken or the client has gone. */
export function boundConnections(server: Server, connections: Connections): void {
  server.on('connection', socket => connections.take(socket))
  server.on('request', (request, response) => {
    response.once('close', connections.begin(request.socket))
  })
}
