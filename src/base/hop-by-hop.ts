import type { IncomingHttpHeaders } from 'node:http'
import { PercolateError } from './errors.ts'

/** Header fields of one connection, which a proxy does not pass on (RFC 9110, 7.6.1), and `expect`, which each hop decides on for itself. */
const HOP_BY_HOP = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'http2-settings',
  'expect',
])

/** What is acted on at whichever node answers: it must arrive there. */
const ACTED_ON =
  /^(x-tenant-id|x-request-id|x-percolate-.*|percolate-.*|if-.*|content-.*|last-event-id|authorization|accept|range|host)$/

const namedBy = (connection: string | undefined): string[] =>
  connection === undefined
    ? []
    : connection
        .toLowerCase()
        .split(',')
        .map(name => name.trim())

/**
 * Refuses a request whose `Connection` names a header that we act on: the next hop would not get it, and what is a conditional write at one node would be a plain one behind another. The same
 * answer everywhere, whoever answers. INVALID_ARGUMENT.
 */
export function assertEndToEnd({ connection }: IncomingHttpHeaders): void {
  if (connection === undefined || connection === 'keep-alive' || connection === 'close') return
  const named = namedBy(connection).find(name => ACTED_ON.test(name))
  if (named === undefined) return
  throw new PercolateError(
    'INVALID_ARGUMENT',
    `Connection names "${named}", which is for whoever answers the request and would not reach them; leave it out of Connection.`,
    { field: 'Connection' },
  )
}

/** The header fields of a message that go to the next hop: neither those of the connection, nor those that its `Connection` field names. */
export function endToEnd(headers: IncomingHttpHeaders): Record<string, string | string[]> {
  const named = new Set(namedBy(headers.connection))
  const kept: Record<string, string | string[]> = {}
  for (const [name, value] of Object.entries(headers))
    if (value !== undefined && !HOP_BY_HOP.has(name) && !named.has(name)) kept[name] = value
  return kept
}

/**
 * What a proxy sends on of a request: without its `Host`, which names the proxy; the next hop is addressed by its own name, or whatever routes by host, such as a mesh's sidecar, takes the
 * request for another service. The name that the client used is kept in `x-forwarded-host`.
 */
export function forwardable(headers: IncomingHttpHeaders): Record<string, string | string[]> {
  const { host, ':authority': authority, ...kept } = endToEnd(headers)
  const asked = host ?? authority
  return asked === undefined ? kept : { 'x-forwarded-host': asked, ...kept }
}
