import type { TenantId } from '../base/ids.ts'
import { activeHolders, type Placement } from '../replication/placement.ts'

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
  let needed = 0
  for (const placement of placements) {
    if (ready.size === 0 && !waiting.has(placement.tenant)) continue
    const holders = activeHolders(placement)
    if (holders.some(({ node }) => ready.has(node))) continue
    const places = holders.flatMap(({ node }) => placeOf(node, firstOrdinal) ?? [])
    if (places.length > 0) needed = Math.max(needed, Math.min(...places))
  }
  return needed
}

/** How many nodes there are when this one is; undefined when its name has no ordinal. */
function placeOf(node: string, firstOrdinal: number): number | undefined {
  const ordinal = /-(\d+)$/.exec(node)?.[1]
  return ordinal === undefined ? undefined : Number(ordinal) - firstOrdinal + 1
}
