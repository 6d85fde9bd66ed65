import type { FastifyReply, FastifyRequest } from 'fastify'
import { PercolateError } from '../../base/errors.ts'
import { type Conditions, checkIfMatch, parseIfNoneMatch } from '../operations/conditions.ts'

/** Conditions that a route may decide on; see `config.conditions`. */
export type Condition = 'if-match' | 'if-none-match'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The conditional headers that the route decides on. A request with another one is refused before anything is done. */
    conditions?: readonly Condition[]
  }
}

/** All of RFC 9110, 13.1, as they are written. */
const HEADERS = {
  'if-match': 'If-Match',
  'if-none-match': 'If-None-Match',
  'if-modified-since': 'If-Modified-Since',
  'if-unmodified-since': 'If-Unmodified-Since',
  'if-range': 'If-Range',
} as const

/** On a read these only spare an answer; who gets all of it is served. */
const SPARING: ReadonlySet<string> = new Set(['if-none-match', 'if-modified-since', 'if-range'])

const isRead = ({ method }: FastifyRequest): boolean => method === 'GET' || method === 'HEAD' || method === 'OPTIONS'

/** Refuses a request with a condition on which its route does not decide: done without it, it would be another request. INVALID_ARGUMENT. */
export function refuseConditions(request: FastifyRequest): void {
  const { headers, routeOptions } = request
  for (const name in headers) {
    if (!name.startsWith('if-') || !(name in HEADERS) || request.is404) continue
    const header = HEADERS[name as keyof typeof HEADERS]
    if (isRead(request) && SPARING.has(name)) continue
    if (!routeOptions.config?.conditions?.includes(name as Condition))
      throw new PercolateError('INVALID_ARGUMENT', `${header} cannot be decided on here; ${remedyFor(name)}`, {
        field: header,
      })
    if (name === 'if-none-match') parseIfNoneMatch(headers[name], header)
  }
}

function remedyFor(name: string): string {
  const where = 'merges of one entity (PUT, or POST with one)'
  if (name === 'if-match') return `it goes with deletes, with reads of one record, and with ${where}. Leave it out.`
  if (name === 'if-none-match') return `on writes it is "*", and goes with ${where}. Leave it out.`
  return 'use If-Match with the ETag that a read gave, or leave it out.'
}

/** Whether the home must decide. */
export const isConditional = (request: FastifyRequest): boolean =>
  request.headers['if-match'] !== undefined || (request.headers['if-none-match'] !== undefined && !isRead(request))

/** Whether the version before does it without looking at the condition. */
export const isNewCondition = (request: FastifyRequest): boolean =>
  !isRead(request) &&
  (request.headers['if-none-match'] !== undefined ||
    (request.method === 'POST' && request.headers['if-match'] !== undefined))

/** The conditions of a write whose route decides on them. */
export function conditionsOf({ headers }: FastifyRequest): Conditions {
  return {
    ifMatch: headers['if-match'],
    ifNoneMatch: headers['if-none-match'] === undefined ? undefined : '*',
  }
}

/** Answers a read of one record: in short when the client has it as it is. PRECONDITION_FAILED when it was to be as it no longer is. */
export function sendTagged(request: FastifyRequest, reply: FastifyReply, etag: string, record: object): FastifyReply {
  const { 'if-match': ifMatch, 'if-none-match': ifNoneMatch } = request.headers
  if (ifMatch !== undefined) checkIfMatch(etag, ifMatch)
  void reply.header('etag', etag)
  const isKnown =
    ifNoneMatch !== undefined &&
    (ifNoneMatch.trim() === '*' || ifNoneMatch.split(',').some(tag => tag.trim().replace(/^W\//, '') === etag))
  return isKnown ? reply.code(304).send() : reply.send(record)
}
