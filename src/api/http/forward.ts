import { Agent, type ClientRequest, request as httpRequest, type IncomingMessage } from 'node:http'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { PercolateError } from '../../base/errors.ts'
import { sayContinue } from '../../base/expect-continue.ts'
import { bodyRefusal } from '../../base/gathered-bodies.ts'
import { endToEnd, forwardable } from '../../base/hop-by-hop.ts'
import type { TenantId } from '../../base/ids.ts'
import { closeBehindHalf } from '../../base/linger.ts'
import { PEER_HEADER, type PeerAuth } from '../../replication/auth.ts'
import type { Member } from '../../replication/placement.ts'
import { askEach, lost, misdirected } from '../../session/forward.ts'
import type { FeedPlaces } from '../feed-places.ts'
import { KeptBody } from './kept-body.ts'
import { passEvents } from './passed-events.ts'

/** Connections to one other node for requests that end by themselves, and as many again for those whose answer may take long. Feeds have as many as there are places for them. */
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
  readonly #feeds: FeedPlaces
  readonly #bodies = new WeakMap<IncomingMessage, KeptBody>()
  readonly #agents: { readonly brief: Agent; readonly long: Agent; readonly feed: Agent }
  readonly #confirmMs: number

  /** `feeds`: where those that are sent on have their places, and hear that the node drains, so that their clients turn to another one. `socketsMax`, `confirmMs`: less than usual, for tests. */
  constructor(auth: PeerAuth, feeds: FeedPlaces, { socketsMax = SOCKETS_MAX, confirmMs = CONFIRM_MS_MAX } = {}) {
    this.#auth = auth
    this.#feeds = feeds
    this.#confirmMs = confirmMs
    const agent = (maxSockets: number) => new Agent({ keepAlive: true, maxSockets, maxFreeSockets: 64, timeout: 0 })
    this.#agents = { brief: agent(socketsMax), long: agent(socketsMax), feed: agent(Number.POSITIVE_INFINITY) }
  }

  close(): void {
    for (const agent of Object.values(this.#agents)) agent.destroy()
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
    const { lasts = 'brief' } = request.routeOptions.config
    const release = lasts === 'feed' ? this.#feeds.hold(tenant, 'forwarded') : undefined
    try {
      await askEach(targets, async target => {
        const answer = await this.#ask(request, reply, tenant, target, body ?? this.keptBody(request.raw))
        await this.#answer(reply, answer, entryNode, lasts === 'feed')
      })
    } finally {
      release?.()
    }
  }

  /** The answer of one node; `Refused` when it took nothing, so that another can be asked. */
  async #ask(
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
    // Its `close` has been; nothing would end what is begun now.
    if (reply.raw.destroyed) throw wentAway()
    return new Promise((resolve, reject) => {
      let isSent = !hasBody
      const outgoing: ClientRequest = httpRequest({
        agent: this.#agents[request.routeOptions.config.lasts ?? 'brief'],
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
      /** Something of it that must not be sent twice may have left this node. */
      let hasLeft = false
      let isOver = false
      const settle = (): boolean => {
        if (isOver) return false
        isOver = true
        clearTimeout(confirm)
        clearTimeout(answerTimer)
        return true
      }
      const fail = (error: Error) => {
        reply.raw.off('close', gone)
        if (!settle()) return
        reject(reply.raw.destroyed ? wentAway() : lost(target.node, error, hasLeft && !isRead))
      }
      // A request that has no connection yet says nothing when it is destroyed.
      const giveUp = (why: string) => {
        const error = new Error(why)
        outgoing.destroy(error)
        fail(error)
      }
      const confirm = setTimeout(() => giveUp('not confirmed'), this.#confirmMs)
      const answerTimer = setTimeout(() => giveUp('no answer in time'), ANSWER_MS_MAX)
      const isRead = method === 'GET' || method === 'HEAD'
      const gone = () => giveUp('the client went away')
      reply.raw.once('close', gone)
      outgoing.once('continue', () => {
        isSent = true
        hasLeft = true
        clearTimeout(confirm)
        if (body) return void outgoing.end(body)
        this.#bodies.set(request.raw, new KeptBody(request.raw))
        const refuse = (error: Error) => {
          reply.raw.off('close', gone)
          if (settle()) reject(error)
          outgoing.destroy()
        }
        const refusal = bodyRefusal(request.raw)
        if (refusal) return refuse(refusal)
        request.raw.once('error', error => {
          if (error instanceof PercolateError) refuse(error)
        })
        sayContinue(request.raw, reply.raw)
        request.raw.pipe(outgoing)
      })
      if (!hasBody) {
        outgoing.end()
        // What reads may take longer; a lost connection shows by itself.
        const onConnected = () => {
          hasLeft = true
          clearTimeout(confirm)
        }
        outgoing.once('socket', socket => {
          if (!socket.connecting) onConnected()
          else socket.once('connect', onConnected)
        })
      } else outgoing.flushHeaders()
      outgoing.once('response', answer => {
        if (!settle()) return answer.destroy()
        if (answer.statusCode === 421) {
          answer.resume()
          reply.raw.off('close', gone)
          const isSpent = hasBody && isSent && !body && !this.keptBody(request.raw)
          if (!hasBody || !isSent) outgoing.destroy()
          return reject(misdirected(target.node, answer.headers['x-percolate-lacks']?.toString(), isSpent))
        }
        answer.once('close', () => reply.raw.off('close', gone))
        resolve(answer)
      })
      outgoing.on('error', fail)
    })
  }

  async #answer(reply: FastifyReply, answer: IncomingMessage, entryNode: string, isFeed: boolean): Promise<void> {
    reply.hijack()
    const { raw } = reply
    if (raw.destroyed) return void answer.destroy()
    closeBehindHalf(reply.request.raw, raw)
    raw.writeHead(answer.statusCode ?? 502, { ...endToEnd(answer.headers), 'x-percolate-entry-node': entryNode })
    return new Promise(resolve => {
      answer.setTimeout(0)
      // A stream of events is sent on as it comes.
      raw.flushHeaders()
      if (isFeed && answer.statusCode === 200) passEvents(answer, raw, this.#feeds.closing)
      else {
        answer.pipe(raw)
        answer.once('error', () => raw.destroy())
      }
      raw.once('close', () => {
        answer.destroy()
        resolve()
      })
    })
  }
}

const wentAway = (): PercolateError => new PercolateError('CANCELLED', 'The client went away.')
