import { PercolateError } from '../base/errors.ts'
import { parseTenantId, type TenantId } from '../base/ids.ts'
import { type Clock, parseClock } from '../clock/hlc.ts'
import { PEER_HEADER, type PeerAuth } from '../replication/auth.ts'
import { type Durability, durabilities } from '../replication/replica.ts'
import { type Bookmark, parseBookmark } from './bookmark.ts'

/** What a request does with a tenant: a `delete` is a write that finds nothing, and makes nothing, where nothing is. */
export type Access = 'read' | 'write' | 'delete'

/** What a request asks of the cluster. */
export interface Consistency {
  /** Default: the node's setting. */
  readonly durability: Durability | undefined
  readonly bookmark: Bookmark | undefined
  /** A condition such as `If-Match`, or the home's own word on a read. */
  readonly needsHome: boolean
  /** The least `protocol` of a node that can do what is asked; not set: any can. */
  readonly protocol?: number
}

/** Any consistency, the node's own durability. */
export const ANY: Consistency = { durability: undefined, bookmark: undefined, needsHome: false }

/** A request as every protocol has it when its head has been read. */
export interface SessionRequest {
  readonly tenant: TenantId
  readonly access: Access
  readonly consistency: Consistency
  /** The clock to write with instead of now; see `X-Percolate-As-Of`. */
  readonly asOf: Clock | undefined
  /** The node that forwarded the request here, when one did: it goes no further. */
  readonly forwardedBy: string | undefined
}

/** What a client's clock is held against. */
export interface ClockBounds {
  readonly nowMs: number
  /** How far ahead of now it may be: what it moves a tenant's clock to must not be more than writes are admitted at. */
  readonly asOfAheadMsMax: number
}

/** A request's head. HTTP headers and gRPC metadata have the same names. */
export interface RequestHead {
  /** The values of `x-tenant-id`, as the protocol has them. */
  readonly tenant: unknown
  readonly access: Access
  /** Whether it has a condition that the home decides. */
  readonly isConditional: boolean
  /** Whether nodes of the version before would do it without looking at its condition. */
  readonly isNewCondition: boolean
  /** The value of a header, by its name in lower case. */
  header(name: string): string | undefined
}

/** Reads what a request asks for; the errors name the header. `auth` is that of a node in a cluster: a request that claims to be forwarded proves it. */
export function parseRequest(
  head: RequestHead,
  { nowMs, asOfAheadMsMax }: ClockBounds,
  auth: PeerAuth | undefined,
): SessionRequest {
  const tenant = parseTenantId(head.tenant)
  const durability = head.header('x-percolate-durability')
  const bookmark = head.header('x-percolate-bookmark')
  const wanted = head.header('x-percolate-consistency')
  const consistency: Consistency = {
    durability: durability === undefined ? undefined : parseDurability(durability),
    bookmark:
      bookmark === undefined
        ? undefined
        : withinBounds(parseBookmark(bookmark, 'X-Percolate-Bookmark'), nowMs + asOfAheadMsMax),
    needsHome: head.isConditional || (wanted !== undefined && parseConsistency(wanted)),
    ...(head.isNewCondition ? { protocol: 2 } : {}),
  }
  const asOf = head.header('x-percolate-as-of')
  const token = head.header(PEER_HEADER)
  return {
    tenant,
    access: head.access,
    consistency,
    asOf: asOf === undefined ? undefined : parseAsOf(asOf, nowMs, asOfAheadMsMax),
    forwardedBy: token === undefined ? undefined : auth?.verify(token, tenant),
  }
}

/** A clock that no write is admitted at is none of ours: nothing is moved to it. */
const withinBounds = (bookmark: Bookmark, wallMax: number): Bookmark =>
  bookmark.clock && bookmark.clock.wall > wallMax ? { ...bookmark, clock: undefined } : bookmark

function parseAsOf(text: string, nowMs: number, aheadMsMax: number): Clock {
  const field = 'X-Percolate-As-Of'
  const clock = parseClock(text)
  if (!clock) {
    throw new PercolateError(
      'INVALID_CLOCK',
      `${field} must look like 0193a1b2c3d4-00000000-origin: 12 hex digits of milliseconds, 8 of a counter, and a name.`,
      { field },
    )
  }
  if (clock.wall > nowMs + aheadMsMax)
    throw new PercolateError(
      'INVALID_CLOCK',
      `${field} is more than ${aheadMsMax} ms ahead of this node's clock; wait until it is due, or set the clock that it came from.`,
      { field },
    )
  return clock
}

function parseDurability(text: string): Durability {
  if ((durabilities as readonly string[]).includes(text)) return text as Durability
  throw new PercolateError('INVALID_ARGUMENT', `X-Percolate-Durability must be one of ${durabilities.join(', ')}.`, {
    field: 'X-Percolate-Durability',
  })
}

/** Whether the home must answer. */
function parseConsistency(text: string): boolean {
  if (text === 'home' || text === 'any') return text === 'home'
  throw new PercolateError(
    'INVALID_ARGUMENT',
    'X-Percolate-Consistency must be "home", or "any", which is the default.',
    {
      field: 'X-Percolate-Consistency',
    },
  )
}
