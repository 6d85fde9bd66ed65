import type { FastifyInstance, FastifyRequest } from 'fastify'
import { PercolateError } from '../../base/errors.ts'
import { parseTenantId, type TenantId } from '../../base/ids.ts'
import type { Time } from '../../base/time.ts'
import { type Call, parseAsOf } from '../operations/context.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Set by the tenant hook on every route under `/api` and `/v1`. */
    call: Call
  }
}

/** Reads who asks, for the routes of one scope, and ends the call when the client goes away. */
export function addTenantHook(
  scope: FastifyInstance,
  options: { time: Time; onTenant: (tenant: TenantId) => void },
): void {
  // biome-ignore lint/suspicious/noExplicitAny: Fastify wants a value of the property's type; the hook sets the real one.
  scope.decorateRequest('call', null as any)
  scope.addHook('onRequest', async (request, reply) => {
    const tenant = parseTenantId(request.headers['x-tenant-id'])
    const asOf = request.headers['x-percolate-as-of']
    const controller = new AbortController()
    reply.raw.once('close', () => {
      if (!reply.raw.writableFinished) controller.abort(new PercolateError('CANCELLED', 'The client went away.'))
    })
    request.call = {
      tenant,
      signal: controller.signal,
      ...(asOf === undefined ? {} : { asOf: parseAsOf(String(asOf), options.time.now()) }),
    }
    options.onTenant(tenant)
  })
}

export const ifMatchOf = (request: FastifyRequest): string | undefined => request.headers['if-match']
