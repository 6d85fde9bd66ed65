import type { IncomingMessage, ServerResponse } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { PercolateError } from '../../base/errors.ts'
import { parseTenantId, type TenantId } from '../../base/ids.ts'
import type { Time } from '../../base/time.ts'
import type { Clock } from '../../clock/hlc.ts'
import { PEER_HEADER } from '../../replication/auth.ts'
import type { Member } from '../../replication/placement.ts'
import { parseBookmark } from '../bookmark.ts'
import type { Access, Gate } from '../gate.ts'
import {
  type Call,
  type Consistency,
  parseAsOf,
  parseConsistency,
  parseDurability,
  type WriteOutcome,
} from '../operations/context.ts'
import type { HttpForwarder } from './forward.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Set by the tenant hook on every route under `/api` and `/v1`. */
    call: Call
  }
  interface FastifyContextConfig {
    /** A POST that changes nothing. */
    isRead?: boolean
    /** Answered by the node that is asked, whoever holds the tenant. */
    isLocal?: boolean
  }
}

/** The signal is made when somebody asks for it: most reads are done before it could fire, and it costs more than they do. */
class HttpCall implements Call {
  readonly tenant: TenantId
  readonly asOf: Clock | undefined
  readonly consistency: Consistency
  outcome: WriteOutcome | undefined
  readonly #reply: FastifyReply
  #controller: AbortController | undefined

  constructor(tenant: TenantId, reply: FastifyReply, asOf: Clock | undefined, consistency: Consistency) {
    this.tenant = tenant
    this.asOf = asOf
    this.consistency = consistency
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

export interface TenantHookOptions {
  readonly time: Time
  /** A tenant whose home is here, or that this node alone serves, counts as active. */
  readonly onTenant: (tenant: TenantId) => void
  readonly gate?: Gate | undefined
  readonly forwarder?: HttpForwarder | undefined
}

/** A request whose body waits for our word (`Expect: 100-continue`). */
const waiting = new WeakSet<IncomingMessage>()

/** Who waits for `100 Continue` gets it when it is known that the request is answered here. */
export function holdContinue(app: FastifyInstance): void {
  app.server.on('checkContinue', (request: IncomingMessage, response: ServerResponse) => {
    if (/^\/(api|v1)\//.test(request.url ?? '')) waiting.add(request)
    else response.writeContinue()
    app.server.emit('request', request, response)
  })
}

/** Reads who asks, for the routes of one scope, decides whether this node answers, and ends the call when the client goes away. */
export function addTenantHook(scope: FastifyInstance, options: TenantHookOptions): void {
  // biome-ignore lint/suspicious/noExplicitAny: Fastify wants a value of the property's type; the hook sets the real one.
  scope.decorateRequest('call', null as any)
  scope.addHook('onRequest', async (request, reply) => {
    const { headers } = request
    const tenant = parseTenantId(headers['x-tenant-id'])
    const asOf = headers['x-percolate-as-of']
    const consistency = consistencyOf(request)
    request.call = new HttpCall(
      tenant,
      reply,
      asOf === undefined ? undefined : parseAsOf(String(asOf), options.time.now()),
      consistency,
    )
    const { gate, forwarder } = options
    const config = request.routeOptions.config
    if (!gate || !forwarder || config.isLocal) options.onTenant(tenant)
    else {
      const peerToken = headers[PEER_HEADER]
      const wanted = {
        tenant,
        access: accessOf(request.method, config.isRead),
        consistency,
        peerToken: peerToken === undefined ? undefined : String(peerToken),
      }
      const forward = (targets: readonly Member[]) => forwarder.forward(request, reply, tenant, gate.node, targets)
      if (await gate.through(wanted, forward)) return
      options.onTenant(tenant)
    }
    if (waiting.delete(request.raw)) reply.raw.writeContinue()
  })
  scope.addHook('onSend', async (request, reply) => {
    const { outcome } = request.call ?? {}
    if (!outcome) return
    void reply
      .header('x-percolate-durability', outcome.reached)
      .header('x-percolate-bookmark', outcome.bookmark)
      .header('x-percolate-clock', outcome.clock)
  })
}

function accessOf(method: string, isRead = false): Access {
  if (isRead || method === 'GET' || method === 'HEAD') return 'read'
  return method === 'DELETE' ? 'delete' : 'write'
}

function consistencyOf({ headers }: FastifyRequest): Consistency {
  const { 'x-percolate-durability': durability, 'x-percolate-bookmark': bookmark } = headers
  const consistency = headers['x-percolate-consistency']
  return {
    durability: durability === undefined ? undefined : parseDurability(String(durability)),
    bookmark: bookmark === undefined ? undefined : parseBookmark(String(bookmark), 'X-Percolate-Bookmark'),
    needsHome:
      headers['if-match'] !== undefined || (consistency !== undefined && parseConsistency(String(consistency))),
  }
}

export const ifMatchOf = (request: FastifyRequest): string | undefined => request.headers['if-match']
