import type { TenantId } from '../base/ids.ts'
import { activeHolders, type Member, type Placement } from '../replication/placement.ts'

export interface NeededNodesOptions {
  readonly placements: readonly Placement[]
  /** Nodes of the tier that take requests now. */
  readonly ready: ReadonlySet<string>
  /** Tenants whose requests are held. */
  readonly waiting: ReadonlySet<TenantId>
  /** Of a tier's first node, as StatefulSets number them. */
  readonly firstOrdinal: number
}

/**
 * How many nodes a tier needs, so that each of its tenants has a complete copy on one that runs: a StatefulSet of N runs its lowest N ordinals, and a tenant whose copies are all on higher ones is
 * not served, however many requests come. While no node runs only the tenants that wait count. 0: no more nodes than other reasons ask for.
 */
export function neededNodes({ placements, ready, waiting, firstOrdinal }: NeededNodesOptions): number {
  const placeOf = placesFrom(firstOrdinal)
  let needed = 0
  for (const placement of placements) {
    if (ready.size === 0 && !waiting.has(placement.tenant)) continue
    const holders = activeHolders(placement)
    if (holders.some(({ node }) => ready.has(node))) continue
    const places = holders.flatMap(({ node }) => placeOf(node) ?? [])
    if (places.length > 0) needed = Math.max(needed, Math.min(...places))
  }
  return needed
}

export interface ExtentOptions {
  readonly placements: readonly Placement[]
  /** Members of the tier that may come back by themselves, and whether they are heard of now. */
  readonly members: readonly { readonly member: Pick<Member, 'node' | 'state' | 'ended'>; readonly isHeard: boolean }[]
  readonly firstOrdinal: number
}

/**
 * How far up, counted in nodes from the lowest ordinal, a tier that is awake reaches: to the highest node that has not said that it goes, ready or not, and to the lowest complete copy of each tenant. Those nodes that wake
 * first have a copy of every tenant only when they are at least as many. It is not the number of ready nodes: one that starts, or is silent, or is away while the tier is restarted node by node, has copies all the same. 0
 * while no node runs: what sleeps is woken by requests only.
 */
export function extentOf({ placements, members, firstOrdinal }: ExtentOptions): number {
  const staying = members.filter(({ member }) => member.state !== 'draining' && !member.ended)
  if (!staying.some(({ isHeard }) => isHeard)) return 0
  const placeOf = placesFrom(firstOrdinal)
  // Names without ordinals are counted.
  let extent = staying.length
  for (const { member } of staying) extent = Math.max(extent, placeOf(member.node) ?? 0)
  for (const placement of placements) {
    const places = activeHolders(placement).flatMap(({ node }) => placeOf(node) ?? [])
    if (places.length > 0) extent = Math.max(extent, Math.min(...places))
  }
  return extent
}

/** How many nodes there are when this one is; undefined when its name has no ordinal. Few nodes hold many tenants: each name is looked at once. */
function placesFrom(firstOrdinal: number): (node: string) => number | undefined {
  const places = new Map<string, number | undefined>()
  return node => {
    if (!places.has(node)) {
      const ordinal = /-(\d+)$/.exec(node)?.[1]
      places.set(node, ordinal === undefined ? undefined : Number(ordinal) - firstOrdinal + 1)
    }
    return places.get(node)
  }
}
