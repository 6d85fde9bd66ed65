import { Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { sayContinue } from '../../base/expect-continue.ts'
import type { TenantId } from '../../base/ids.ts'
import type { Time } from '../../base/time.ts'
import { formatClock } from '../../clock/hlc.ts'
import { encodeBookmark } from '../../session/bookmark.ts'
import type { Gate } from '../../session/gate.ts'
import { type Access, parseRequest } from '../../session/request.ts'
import { Session } from '../../session/session.ts'
import type { HeldAnswers } from '../held-answers.ts'
import { type ArrivingBody, type HeldBodies, SMALL_BODY_BYTES } from '../held-bodies.ts'
import { isConditional, isNewCondition } from './conditions.ts'
import { counted } from './counted.ts'
import type { HttpForwarder } from './forward.ts'
import { ReplyEnding } from './reply-ending.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Set by the tenant hook on every route under `/api` and `/v1`. */
    call: Session
  }
  interface FastifyContextConfig {
    /** A POST that changes nothing. */
    isRead?: boolean
    /** Answered by the node that is asked, whoever holds the tenant. */
    isLocal?: boolean
    /** Answered by the home, as if it had a condition. */
    isHomes?: boolean
    /** How long an answer may take to its end: `long`, as long as another service or its reader lets it; `feed`, until somebody ends it. Left out: as long as the work that it needs here. */
    lasts?: 'long' | 'feed'
  }
}

export interface TenantHookOptions {
  readonly time: Time
  /** See `ClockBounds`. */
  readonly asOfAheadMsMax: number
  /** A tenant whose home is here, or that this node alone serves, counts as active. */
  readonly onTenant: (tenant: TenantId) => void
  readonly gate?: Gate | undefined
  readonly forwarder?: HttpForwarder | undefined
  /** Where bodies are counted; the gateway streams its own. */
  readonly bodies?: HeldBodies | undefined
  /** Where answers are counted until they are taken, see `holdAnswers`. */
  readonly answers?: HeldAnswers | undefined
  /** What a body may have. */
  readonly bodyBytesMax?: number | undefined
}

/** What lets go of a request's body, until its handler has it. */
const releases = new WeakMap<FastifyRequest, () => void>()
/** Large bodies are counted as they come. */
const arrivals = new WeakMap<FastifyRequest, ArrivingBody>()
/** And read there. */
const counting = new WeakMap<FastifyRequest, Readable>()

/** Bytes of the body that is announced; undefined: it does not say how many. */
function announcedBytes({ headers }: FastifyRequest, bodyBytesMax: number): number | undefined {
  if (headers['content-length'] !== undefined) return Math.min(Number(headers['content-length']), bodyBytesMax)
  return headers['transfer-encoding'] === undefined ? 0 : undefined
}

/** Refuses a body that has no room beside the others, before it is read when it says how large it is, or counts it. */
function beginBody(
  bodies: HeldBodies,
  bytes: number | undefined,
  tenant: TenantId,
  request: FastifyRequest,
  reply: FastifyReply,
): void {
  if (bytes !== undefined && bytes <= SMALL_BODY_BYTES) releases.set(request, bodies.hold(bytes, tenant))
  else {
    if (bytes !== undefined) bodies.check(bytes, tenant)
    const body = bodies.arriving(tenant, error => counting.get(request)?.destroy(error))
    arrivals.set(request, body)
    releases.set(request, body.release)
  }
  // A client that goes before its body is whole has no handler, and no answer.
  reply.raw.once('close', () => letGo(request))
}

function letGo(request: FastifyRequest): void {
  releases.get(request)?.()
  releases.delete(request)
}

/** Reads who asks, for the routes of one scope, decides whether this node answers, and ends the session when the client goes away. */
export function addTenantHook(scope: FastifyInstance, options: TenantHookOptions): void {
  const { bodies, answers, bodyBytesMax = 0 } = options
  scope.decorateRequest('call')
  scope.addHook('onRequest', async (request, reply) => {
    const { headers } = request
    const { isRead, isLocal, isHomes } = request.routeOptions.config
    const gate = isLocal ? undefined : options.gate
    const session = new Session(
      parseRequest(
        {
          tenant: headers['x-tenant-id'],
          access: accessOf(request.method, isRead),
          isConditional: isHomes === true || isConditional(request),
          isNewCondition: isNewCondition(request),
          header: name => (headers[name] === undefined ? undefined : String(headers[name])),
        },
        { nowMs: options.time.now(), asOfAheadMsMax: options.asOfAheadMsMax },
        gate?.auth,
      ),
      new ReplyEnding(reply),
    )
    request.call = session
    answers?.admit(session.tenant)
    const { forwarder } = options
    if (gate && forwarder) {
      const isHere = await gate.answer(
        session,
        async () => true,
        async targets => {
          await forwarder.forward(request, reply, session.tenant, gate.node, targets)
          return false
        },
      )
      if (!isHere) return
    }
    // Of a client that went meanwhile nothing would let go of what is begun here.
    session.throwIfEnded()
    const bytes = announcedBytes(request, bodyBytesMax)
    if (bodies && bytes !== 0) beginBody(bodies, bytes, session.tenant, request, reply)
    options.onTenant(session.tenant)
    sayContinue(request.raw, reply.raw)
  })
  // A handler goes on for a while when its client has gone, and holds what was parsed.
  scope.addHook('onRoute', route => {
    const { handler } = route
    route.handler = async function (request, reply) {
      const release = releases.get(request)
      releases.delete(request)
      try {
        return await handler.call(this, request, reply)
      } finally {
        release?.()
      }
    }
  })
  scope.addHook('onResponse', async request => letGo(request))
  scope.addHook('preParsing', (request, _reply, payload, done) => {
    const body = arrivals.get(request)
    if (!body) return done(null, payload)
    const counts = counted(payload as Readable, body.add, body.whole)
    counting.set(request, counts)
    done(null, counts)
  })
  const { gate, forwarder } = options
  if (gate && forwarder) {
    // A body that was sent to a node that did not take it is read again here.
    scope.addHook('preParsing', (request, _reply, payload, done) => {
      const body = forwarder.keptBody(request.raw)
      done(null, body ? Readable.from([body]) : payload)
    })
    scope.addHook('onResponse', async (request, { statusCode }) => {
      const { call, routeOptions } = request
      const isAnswered = statusCode < 400 || (statusCode === 404 && call?.access === 'read')
      if (call && isAnswered && !routeOptions.config.isLocal) gate.answered(call)
    })
    scope.addHook('onRoute', route => {
      const { handler } = route
      if (route.config?.isLocal) return
      // The copy may have gone, or the tenant have been made elsewhere, while the body was read: what was read of it goes to who answers now.
      route.handler = async function (request, reply) {
        const { call } = request
        const here = async (): Promise<unknown> => handler.call(this, request, reply)
        try {
          return await here()
        } catch (error) {
          return gate.answerAgain(call, error, here, async targets => {
            const body = request.body === undefined ? undefined : Buffer.from(JSON.stringify(request.body))
            await forwarder.forward(request, reply, call.tenant, gate.node, targets, body)
            return reply
          })
        }
      }
    })
  }
  scope.addHook('onSend', async (request, reply) => {
    const { outcome } = request.call ?? {}
    if (!outcome) return
    void reply
      .header('x-percolate-durability', outcome.reached)
      .header('x-percolate-bookmark', encodeBookmark(outcome.bookmark))
      .header('x-percolate-clock', formatClock(outcome.clock))
  })
}

function accessOf(method: string, isRead = false): Access {
  if (isRead || method === 'GET' || method === 'HEAD') return 'read'
  return method === 'DELETE' ? 'delete' : 'write'
}
