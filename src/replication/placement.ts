import { createHash } from 'node:crypto'
import type { TenantId } from '../base/ids.ts'

/**
 * A node as it reports itself, under `node.<id>` in the cluster's bucket. *starting*: it reads the directory; *ready*: it takes requests; *draining*:
 * it hands over and leaves. A record that stops changing is that of a node that is gone.
 */
export interface Member {
  readonly node: string
  readonly disk: string
  /** Made when the process starts: tells two processes under one id apart. */
  readonly session: string
  readonly zone: string
  readonly tier: string
  /** `host:port` for other nodes. */
  readonly http: string
  readonly grpc: string
  /** Host for routers, where it is another one than for nodes. */
  readonly routerHost?: string | undefined
  /** Its pod in Kubernetes. */
  readonly pod?: string | undefined
  readonly state: 'starting' | 'ready' | 'draining'
  /** It holds writes that no stream has acknowledged: its disk must be kept. */
  readonly unpublished: boolean
  readonly tenants: number
  /** The generation of the directory in which are all tenants that it knew or has on its disk. */
  readonly reported: number
  readonly beat: number
  readonly version: string
  /** What it understands of other nodes; see {@link PROTOCOL}. Not set by builds from before it was counted: 1. */
  readonly protocol?: number
  /** No decision of the node under this lease carries a wall clock above this, milliseconds since the epoch; not set: it decides nothing yet. */
  readonly decidesBelowMs?: number
  /** The lease is over: the node signed off, or another has proven it to be silent. Whoever renews such a record begins a new term. */
  readonly ended?: boolean
}

/** What nodes understand of one another: 2 since they decide on `If-None-Match: *`, and on `If-Match` of a POST. What came before ignores these. */
export const PROTOCOL = 2

export const protocolOf = ({ protocol }: Pick<Member, 'protocol'>): number => protocol ?? 1

/**
 * A copy of a tenant: *joining* while it is being made, *active* when it has been complete once, *dropping* when the controller has ordered it to go.
 */
export interface Holder {
  readonly node: string
  readonly state: 'joining' | 'active' | 'dropping'
}

/** Who holds a tenant, under `tenant.<id>`. Never deleted; `version` counts its changes, so that a directory that went back in time is noticed. */
export interface Placement {
  readonly tenant: TenantId
  readonly incarnation: string
  readonly tier: string
  readonly holders: readonly Holder[]
  /** The node that decides on conditional writes, while its lease lives. */
  readonly home: string | undefined
  /** What was in streams that have been reaped: a copy that lacks any of it is not current, however little there is to read. */
  readonly covered?: Record<string, number>
  /** Grows with every change of home. */
  readonly epoch: number
  /** Homes before this one may have decided up to this wall clock, milliseconds since the epoch; this one decides above it. */
  readonly decidesAboveMs?: number
  /** The fencing token of the last controller that changed this; one with a lower token changes nothing any more. */
  readonly token?: number
  /** The generation of the directory that it was entered into as a new tenant's; not set: 1. {@link PUT_BACK}: streams may have been lost since then. */
  readonly generation?: number
  readonly version: number
  readonly changedAtMs: number
}

/** Instead of a placement's generation: it came from a node's memory, a copy or a snapshot after the directory was lost, or was an older one. No directory is of this generation. */
export const PUT_BACK = 0

/** Whether the tenant was new in the directory as it is now, so that nothing of it can have been lost with an earlier one. */
export const isOfGeneration = ({ generation = 1 }: Placement, current: number): boolean => generation === current

export const holderOf = (placement: Placement | undefined, node: string): Holder | undefined =>
  placement?.holders.find(holder => holder.node === node)

export const activeHolders = (placement: Placement): Holder[] =>
  placement.holders.filter(({ state }) => state === 'active')

/** Those whose copies have been complete once. One that is ordered to go, and has not gone, is still among the places of what was acknowledged while it was active. */
export const completeHolders = (placement: Placement): Holder[] =>
  placement.holders.filter(({ state }) => state !== 'joining')

export const encodePlacement = (placement: Placement): Buffer => Buffer.from(JSON.stringify(placement))

export const decodePlacement = (value: Buffer): Placement => {
  const placement = JSON.parse(value.toString()) as Placement
  return { ...placement, home: placement.home ?? undefined }
}

export const encodeMember = (member: Member): Buffer => Buffer.from(JSON.stringify(member))
export const decodeMember = (value: Buffer): Member => JSON.parse(value.toString()) as Member

/**
 * Which nodes should hold a tenant: the highest random weights (Thaler and Ravishankar, 1998), taking a node from a zone that has none yet as
 * long as there is one. A node that joins or leaves moves only what falls to it.
 */
export function choosePlaces(
  tenant: TenantId,
  nodes: readonly Pick<Member, 'node' | 'zone'>[],
  wanted: number,
  kept: readonly string[] = [],
): string[] {
  const ranked = [...nodes].sort((a, b) => compareWeights(weight(tenant, a.node), weight(tenant, b.node)))
  const chosen = ranked.filter(({ node }) => kept.includes(node)).slice(0, wanted)
  while (chosen.length < wanted) {
    const zones = new Set(chosen.map(({ zone }) => zone))
    const left = ranked.filter(candidate => !chosen.includes(candidate))
    const next = left.find(({ zone }) => !zones.has(zone)) ?? left[0]
    if (!next) break
    chosen.push(next)
  }
  return chosen.map(({ node }) => node)
}

/** Of more copies than wanted, the one to give up: in a zone that has another, lowest weight first; never the home. */
export function chooseSurplus(
  tenant: TenantId,
  placement: Placement,
  zoneOf: (node: string) => string | undefined,
): string | undefined {
  const active = activeHolders(placement).filter(({ node }) => node !== placement.home)
  const zones = placement.holders.map(({ node }) => zoneOf(node))
  const crowded = ({ node }: Holder) => (zones.filter(zone => zone === zoneOf(node)).length > 1 ? 0 : 1)
  return [...active].sort(
    (a, b) => crowded(a) - crowded(b) || compareWeights(weight(tenant, b.node), weight(tenant, a.node)),
  )[0]?.node
}

const weight = (tenant: TenantId, node: string): Buffer =>
  createHash('sha256').update(`${tenant}\u0000${node}`).digest().subarray(0, 8)

/** The heaviest first. */
const compareWeights = (a: Buffer, b: Buffer): number => Buffer.compare(b, a)

/** Which pool stream a tenant's entries go to; the same everywhere, for good. */
export const poolOf = (tenant: TenantId, pools: number): number =>
  createHash('sha256').update(`pool\u0000${tenant}`).digest().readUInt32BE(0) % pools
