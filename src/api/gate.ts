import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { PeerAuth } from '../replication/auth.ts'
import { activeHolders, type Member } from '../replication/placement.ts'
import type { Replica } from '../replication/replica.ts'
import type { Route } from '../replication/router.ts'
import type { Consistency } from './operations/context.ts'

export interface GateOptions {
  readonly replica: Replica
  readonly auth: PeerAuth
  readonly bookmarkWaitMs: number
}

/** What a request does with a tenant: a `delete` is a write that finds nothing, and makes nothing, where nothing is. */
export type Access = 'read' | 'write' | 'delete'

export interface GateRequest {
  readonly tenant: TenantId
  readonly access: Access
  readonly consistency: Consistency
  /** The value of {@link PEER_HEADER}, when the request came with one: another node forwarded it. */
  readonly peerToken: string | undefined
}

export type Passage = Route & {
  /** The node that forwarded the request here. */
  readonly forwardedBy: string | undefined
}

/** The gate in front of every operation of a tenant, the same for HTTP and gRPC: answer here, or forward. */
export class Gate {
  readonly auth: PeerAuth
  readonly #options: GateOptions

  constructor(options: GateOptions) {
    this.#options = options
    this.auth = options.auth
  }

  get node(): string {
    return this.#options.replica.service.node
  }

  /**
   * Passes the request through `forward` when another node has to answer it; false: it is answered here. When no node takes it, the directory is asked anew, once: a home that was handed over
   * meanwhile may be here by now.
   */
  async through(request: GateRequest, forward: (targets: readonly Member[]) => Promise<void>): Promise<boolean> {
    for (let isAgain = false; ; isAgain = true) {
      const passage = await this.pass(request)
      if (passage.kind === 'local') return false
      try {
        await forward(passage.targets)
        return true
      } catch (error) {
        if (isAgain || !(error instanceof NotTaken)) throw error
        await this.refresh(request.tenant)
      }
    }
  }

  /** Looks at the tenant's place in the directory itself; what this node remembers of it may be old. */
  async refresh(tenant: TenantId): Promise<void> {
    await this.#options.replica.directory.fetch(tenant).catch(() => undefined)
  }

  async pass({ tenant, access, consistency, peerToken }: GateRequest): Promise<Passage> {
    const { replica, auth, bookmarkWaitMs } = this.#options
    const forwardedBy = peerToken === undefined ? undefined : auth.verify(peerToken, tenant)
    const { needsHome, bookmark } = consistency
    const route = await replica.router.route({ tenant, mayCreate: access === 'write', needsHome, forwardedBy })
    if (route.kind === 'forward' || access !== 'read' || !bookmark) return { ...route, forwardedBy }
    const placement = replica.directory.placement(tenant)
    if (placement && placement.incarnation !== bookmark.incarnation)
      throw new PercolateError(
        'INVALID_BOOKMARK',
        'X-Percolate-Bookmark is of another tenant, or of one that was erased since.',
        {
          field: 'X-Percolate-Bookmark',
        },
      )
    if (await replica.covers(tenant, bookmark.vector, bookmarkWaitMs)) return { ...route, forwardedBy }
    const others = placement
      ? activeHolders(placement).filter(({ node }) => node !== this.node && replica.directory.isLive(node))
      : []
    const written = [...bookmark.vector.keys()]
    const targets = others
      .flatMap(({ node }) => replica.directory.member(node) ?? [])
      .sort((a, b) => rank(b, written, placement?.home) - rank(a, written, placement?.home))
    if (forwardedBy === undefined && targets.length > 0) return { kind: 'forward', targets, forwardedBy }
    throw new PercolateError(
      'BOOKMARK_NOT_REACHED',
      'No holder that could be asked has applied the bookmark yet; retry in a moment.',
    )
  }
}

/** Every node that was asked refused before it took anything of the request. */
export class NotTaken extends PercolateError {
  constructor(cause: unknown) {
    super('TENANT_UNAVAILABLE', 'No node that holds the tenant takes the request now; retry in a moment.', {
      retryAfterS: 1,
      cause,
    })
  }
}

/** Who wrote what the bookmark names has it for sure; then the home. */
const rank = (member: Member, origins: readonly string[], home: string | undefined): number =>
  (origins.some(origin => origin.startsWith(`${member.node}.`)) ? 2 : 0) + (member.node === home ? 1 : 0)
