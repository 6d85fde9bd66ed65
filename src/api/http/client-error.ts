import type { Socket } from 'node:net'
import { PercolateError, toProblem } from '../../base/errors.ts'
import type { Metrics } from '../../base/metrics.ts'
import { answerUnderWay } from './server-socket.ts'

/** What Node's HTTP parser and its clocks refuse before there is a request (https://nodejs.org/api/http.html#event-clienterror). */
interface ParserError extends Error {
  readonly code?: string
  readonly reason?: string
}

/** Answers what cannot become a request with a problem, as every other error, and closes the connection. */
export const answerClientErrors = (metrics: Metrics) => (raw: Error, socket: Socket) => {
  const parserError = raw as ParserError
  // Nothing may be written into the middle of an answer.
  const isAnswering = answerUnderWay(socket)?.headersSent ?? false
  if (parserError.code === 'ECONNRESET' || !socket.writable || isAnswering) return void socket.destroy()
  const error = fromParser(parserError)
  metrics.countError(error.code)
  const body = JSON.stringify(toProblem(error))
  const { http } = error.spec
  socket.end(
    [
      `HTTP/1.1 ${http} ${REASONS[http]}`,
      'content-type: application/problem+json',
      `content-length: ${Buffer.byteLength(body)}`,
      'connection: close',
      '',
      body,
    ].join('\r\n'),
    () => socket.destroy(),
  )
}

const REASONS: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  408: 'Request Timeout',
  431: 'Request Header Fields Too Large',
}

function fromParser({ code, reason }: ParserError): PercolateError {
  switch (code) {
    case 'HPE_HEADER_OVERFLOW':
      return new PercolateError(
        'HEADERS_TOO_LARGE',
        'The request line and headers are larger than 16 KiB together; send long queries in a body (POST /api/v1/resources/search), and fewer or shorter headers.',
      )
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new PercolateError(
        'REQUEST_TIMEOUT',
        'The request did not come within PERCOLATE_REQUEST_READ_MS, or its headers within a quarter of it; send it again.',
      )
    case 'HPE_INVALID_METHOD':
      return new PercolateError(
        'REQUEST_MALFORMED',
        'The method is none that HTTP has; use GET, POST, PUT or DELETE as /openapi.json says.',
        { field: 'method' },
      )
  }
  const why = reason ? ` (${reason})` : ''
  return new PercolateError(
    'REQUEST_MALFORMED',
    `This is no HTTP/1.1 request${why}; check what the client, or a proxy on the way, sends. gRPC has a port of its own.`,
  )
}
