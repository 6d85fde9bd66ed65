import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { PercolateError } from '../../base/errors.ts'
import { parseTenantId, type TenantId } from '../../base/ids.ts'
import type { Time } from '../../base/time.ts'
import type { Clock } from '../../clock/hlc.ts'
import { type Call, parseAsOf } from '../operations/context.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Set by the tenant hook on every route under `/api` and `/v1`. */
    call: Call
  }
}

/** The signal is made when somebody asks for it: most reads are done before it could fire, and it costs more than they do. */
class HttpCall implements Call {
  readonly tenant: TenantId
  readonly asOf: Clock | undefined
  readonly #reply: FastifyReply
  #controller: AbortController | undefined

  constructor(tenant: TenantId, reply: FastifyReply, asOf: Clock | undefined) {
    this.tenant = tenant
    this.asOf = asOf
    this.#reply = reply
  }

  get signal(): AbortSignal {
    if (this.#controller) return this.#controller.signal
    const controller = new AbortController()
    this.#controller = controller
    const { raw } = this.#reply
    const gone = () => controller.abort(new PercolateError('CANCELLED', 'The client went away.'))
    if (this.hasEnded) gone()
    else {
      raw.once('close', () => {
        if (!raw.writableFinished) gone()
      })
    }
    return controller.signal
  }

  get hasEnded(): boolean {
    const { raw } = this.#reply
    return this.#controller?.signal.aborted ?? (raw.destroyed && !raw.writableFinished)
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
    request.call = new HttpCall(
      tenant,
      reply,
      asOf === undefined ? undefined : parseAsOf(String(asOf), options.time.now()),
    )
    options.onTenant(tenant)
  })
}

export const ifMatchOf = (request: FastifyRequest): string | undefined => request.headers['if-match']
