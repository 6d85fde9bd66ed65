import { createHmac, timingSafeEqual } from 'node:crypto'
import { PercolateError } from '../base/errors.ts'

/** HTTP header and gRPC metadata that a node of the cluster proves itself with. */
export const PEER_HEADER = 'x-percolate-peer'

/**
 * Who asks, and that it knows the cluster's secret: `<node>:<HMAC-SHA-256>` over sender, receiver and tenant. The secret itself never travels, and what was proved to one node is
 * worth nothing at another.
 */
export class PeerAuth {
  readonly #secret: string | undefined
  readonly #node: string
  readonly #made = new Map<string, string>()

  constructor(secret: string | undefined, node: string) {
    this.#secret = secret
    this.#node = node
  }

  token(to: string, tenant: string): string {
    const name = `${to} ${tenant}`
    let token = this.#made.get(name)
    if (token === undefined) {
      token = `${this.#node}:${this.#proof(this.#node, to, tenant)}`
      if (this.#made.size >= TOKENS_MAX) this.#made.clear()
      this.#made.set(name, token)
    }
    return token
  }

  /** The node that a token proves; PEER_FORBIDDEN for any other. */
  verify(token: unknown, tenant: string): string {
    const match = typeof token === 'string' ? /^([A-Za-z0-9][A-Za-z0-9_-]{0,62}):([0-9a-f]{64})$/.exec(token) : null
    if (match && this.#secret !== undefined) {
      const expected = this.#proof(match[1]!, this.#node, tenant)
      if (timingSafeEqual(Buffer.from(expected), Buffer.from(match[2]!))) return match[1]!
    }
    throw new PercolateError(
      'PEER_FORBIDDEN',
      'Only nodes of this cluster may send this; it takes the cluster secret (PERCOLATE_CLUSTER_SECRET).',
      { field: PEER_HEADER },
    )
  }

  #proof(from: string, to: string, tenant: string): string {
    if (this.#secret === undefined)
      throw new PercolateError('NODE_UNAVAILABLE', 'This node has no cluster secret, and so can reach no other node.')
    return createHmac('sha256', this.#secret).update(`percolate-peer-1\n${from}\n${to}\n${tenant}`).digest('hex')
  }
}

/** Tokens remembered, to spare computing them. */
const TOKENS_MAX = 10_000
