import { Agent, type ClientRequest, request as httpRequest, type IncomingMessage } from 'node:http'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { PercolateError } from '../../base/errors.ts'
import { endToEnd, forwardable } from '../../base/hop-by-hop.ts'
import type { TenantId } from '../../base/ids.ts'
import { PEER_HEADER, type PeerAuth } from '../../replication/auth.ts'
import type { Member } from '../../replication/placement.ts'
import { askEach, lost, misdirected } from '../../session/forward.ts'
import { KeptBody } from './kept-body.ts'

/** Connections to one other node. */
const SOCKETS_MAX = 512
/** How long another node may take to say that it takes a request. */
const CONFIRM_MS_MAX = 5000
/** And until its answer begins; longer than any operation that a node bounds itself. */
const ANSWER_MS_MAX = 120_000

/**
 * Sends requests on to the nodes that hold the tenant. A body leaves this node only after the other has confirmed that it serves the tenant (`Expect: 100-continue`), so that one that refuses,
 * or is gone, costs nothing: the next is asked. So it is when a node has taken a small body and then finds that it does not serve the tenant any more ({@link KeptBody}).
 */
export class HttpForwarder {
  readonly #auth: PeerAuth
  readonly #agent = new Agent({ keepAlive: true, maxSockets: SOCKETS_MAX, maxFreeSockets: 64, timeout: 0 })

  readonly #draining: AbortSignal
  readonly #bodies = new WeakMap<IncomingMessage, KeptBody>()

  /** `draining`: feeds that are sent on end, so that their clients turn to another node. */
  constructor(auth: PeerAuth, draining: AbortSignal) {
    this.#auth = auth
    this.#draining = draining
  }

  close(): void {
    this.#agent.destroy()
  }

  /** The body of a request that was sent on and that nobody took: its stream has been read. */
  keptBody(request: IncomingMessage): Buffer | undefined {
    return this.#bodies.get(request)?.whole
  }

  /** `body`: the request's, when it has been read by now. */
  async forward(
    request: FastifyRequest,
    reply: FastifyReply,
    tenant: TenantId,
    entryNode: string,
    targets: readonly Member[],
    body?: Buffer,
  ): Promise<void> {
    await askEach(targets, async target => {
      const answer = await this.#ask(request, reply, tenant, target, body ?? this.keptBody(request.raw))
      await this.#answer(reply, answer, entryNode, request.routeOptions.config.isFeed ?? false)
    })
  }

  /** The answer of one node; `Refused` when it took nothing, so that another can be asked. */
  #ask(
    request: FastifyRequest,
    reply: FastifyReply,
    tenant: TenantId,
    target: Member,
    body: Buffer | undefined,
  ): Promise<IncomingMessage> {
    const { method, url, headers } = request.raw
    const hasBody =
      headers['content-length'] !== undefined
        ? headers['content-length'] !== '0'
        : headers['transfer-encoding'] !== undefined
    const at = target.http.lastIndexOf(':')
    return new Promise((resolve, reject) => {
      let isSent = !hasBody
      const outgoing: ClientRequest = httpRequest({
        agent: this.#agent,
        host: target.http.slice(0, at).replace(/^\[|\]$/g, ''),
        port: Number(target.http.slice(at + 1)),
        method,
        path: url,
        headers: {
          ...forwardable(headers),
          'x-request-id': request.id,
          [PEER_HEADER]: this.#auth.token(target.node, tenant),
          ...(hasBody ? { expect: '100-continue' } : {}),
          ...(body ? { 'content-length': body.length } : {}),
        },
      })
      const confirm = setTimeout(() => outgoing.destroy(new Error('not confirmed')), CONFIRM_MS_MAX)
      const answerTimer = setTimeout(() => outgoing.destroy(new Error('no answer in time')), ANSWER_MS_MAX)
      outgoing.once('close', () => clearTimeout(answerTimer))
      const isRead = method === 'GET' || method === 'HEAD'
      const gone = () => outgoing.destroy(new Error('the client went away'))
      reply.raw.once('close', gone)
      outgoing.once('continue', () => {
        isSent = true
        clearTimeout(confirm)
        if (body) return void outgoing.end(body)
        this.#bodies.set(request.raw, new KeptBody(request.raw))
        request.raw.pipe(outgoing)
      })
      if (!hasBody) {
        outgoing.end()
        // What reads may take longer; a lost connection shows by itself.
        outgoing.once('socket', socket => {
          if (!socket.connecting) clearTimeout(confirm)
          else socket.once('connect', () => clearTimeout(confirm))
        })
      } else outgoing.flushHeaders()
      outgoing.once('response', answer => {
        clearTimeout(confirm)
        clearTimeout(answerTimer)
        if (answer.statusCode === 421) {
          answer.resume()
          reply.raw.off('close', gone)
          const isSpent = hasBody && isSent && !body && !this.keptBody(request.raw)
          if (!hasBody || !isSent) outgoing.destroy()
          return reject(misdirected(target.node, answer.headers['x-percolate-lacks']?.toString(), isSpent))
        }
        // An answer before the body was asked for: the rest of it is not wanted.
        if (!isSent) request.raw.resume()
        answer.once('close', () => reply.raw.off('close', gone))
        resolve(answer)
      })
      outgoing.once('error', error => {
        clearTimeout(confirm)
        reply.raw.off('close', gone)
        if (reply.raw.destroyed) return reject(new PercolateError('CANCELLED', 'The client went away.'))
        const code = (error as NodeJS.ErrnoException).code
        // Nothing was done: no connection, or no body left this node. A read may be asked twice.
        const isUntouched = code === 'ECONNREFUSED' || (hasBody && !isSent) || isRead
        reject(lost(target.node, error, !isUntouched))
      })
    })
  }

  #answer(reply: FastifyReply, answer: IncomingMessage, entryNode: string, isFeed: boolean): Promise<void> {
    reply.hijack()
    const { raw } = reply
    raw.writeHead(answer.statusCode ?? 502, { ...endToEnd(answer.headers), 'x-percolate-entry-node': entryNode })
    return new Promise(resolve => {
      answer.setTimeout(0)
      // A stream of events is sent on as it comes.
      raw.flushHeaders()
      answer.pipe(raw)
      answer.once('error', () => raw.destroy())
      // Nothing is written behind what may be half an event.
      const end = () => {
        answer.unpipe(raw)
        raw.end()
      }
      if (isFeed) this.#draining.addEventListener('abort', end, { once: true })
      raw.once('close', () => {
        this.#draining.removeEventListener('abort', end)
        answer.destroy()
        resolve()
      })
    })
  }
}
