import { TRAVERSE_VISITS_MAX } from '../base/limits.ts'
import { Slicer } from '../base/slice.ts'
import type { LwwRecord } from '../rem/record.ts'
import { type Edge, type Entity, edgeSurvives, edgeView, entityView } from '../rem/views.ts'
import { decodeRecord } from '../storage/codec.ts'
import { KeyReader, parseRecordKey, prefixes, prefixRange } from '../storage/keys.ts'
import type { Tenant } from '../tenant/tenant.ts'

export type Direction = 'out' | 'in' | 'both'

export interface TraverseRequest {
  readonly start: string
  readonly depth: number
  readonly direction: Direction
  /** Only edges of this type. */
  readonly type?: string | undefined
  readonly limit: number
  /** Called now and then, to stop when nobody waits any more. */
  readonly throwIfEnded?: () => void
}

export interface Reached {
  readonly entity: Entity
  readonly depth: number
  /** Ids from the start to this entity. */
  readonly path: readonly string[]
}

export interface Traversal {
  readonly reached: Reached[]
  /** Every edge between entities that were reached. */
  readonly edges: Edge[]
  /** The limit, or the bound on visits, cut the walk short. */
  readonly truncated: boolean
}

/** Breadth-first walk; each entity once, so cycles end. Edges to what does not exist, or was deleted since, are not followed. */
export async function traverse(tenant: Tenant, request: TraverseRequest): Promise<Traversal | undefined> {
  const slicer = new Slicer(request.throwIfEnded)
  const cache = new Map<string, LwwRecord | undefined>()
  await loadEntities(tenant, [request.start], cache)
  if (!entityView(request.start, cache.get(request.start))) return undefined
  const reached = new Map<string, Reached>()
  const edges = new Map<string, Edge>()
  const seen = new Map<string, readonly string[]>([[request.start, [request.start]]])
  let frontier = [request.start]
  let visits = 0
  let truncated = false
  for (let depth = 1; depth <= request.depth && frontier.length > 0 && !truncated; depth++) {
    const next: string[] = []
    for (const id of frontier) {
      slicer.throwIfEnded()
      const found = await edgesAt(tenant, id, request, TRAVERSE_VISITS_MAX - visits + 1)
      await loadEntities(
        tenant,
        found.flatMap(edge => [edge.from, edge.to]),
        cache,
      )
      for (const edge of found) {
        if (slicer.due) await slicer.pause()
        if (++visits > TRAVERSE_VISITS_MAX) {
          truncated = true
          break
        }
        if (!isLive(edge, cache)) continue
        const other = edge.from === id ? edge.to : edge.from
        if (!seen.has(other)) {
          if (reached.size === request.limit) {
            truncated = true
            continue
          }
          const path = [...seen.get(id)!, other]
          seen.set(other, path)
          reached.set(other, { entity: entityView(other, cache.get(other))!, depth, path })
          next.push(other)
        }
        edges.set(JSON.stringify([edge.from, edge.type, edge.to]), edge)
      }
    }
    frontier = next
  }
  return { reached: [...reached.values()], edges: [...edges.values()], truncated }
}

const isLive = (edge: Edge, cache: ReadonlyMap<string, LwwRecord | undefined>): boolean =>
  [edge.from, edge.to].every(end => {
    const record = cache.get(end)
    return entityView(end, record) !== undefined && edgeSurvives(edge, record)
  })

async function loadEntities(
  tenant: Tenant,
  ids: readonly string[],
  cache: Map<string, LwwRecord | undefined>,
): Promise<void> {
  const missing = [...new Set(ids)].filter(id => !cache.has(id))
  const records = await tenant.records(missing.map(id => ({ kind: 'entity', key: [id] })))
  for (const [n, id] of missing.entries()) cache.set(id, records[n])
}

async function edgesAt(tenant: Tenant, id: string, request: TraverseRequest, max: number): Promise<Edge[]> {
  const edges: Edge[] = []
  if (request.direction !== 'in') edges.push(...(await edgesFrom(tenant, id, max)))
  if (request.direction !== 'out') {
    // An edge from an entity to itself is in both lists.
    edges.push(...(await edgesTo(tenant, id, max)).filter(edge => request.direction === 'in' || edge.from !== id))
  }
  const typed = request.type === undefined ? edges : edges.filter(edge => edge.type === request.type)
  return typed.sort((a, b) => b.weight - a.weight)
}

/** Visible edges that leave an entity, whatever their other end. */
export async function edgesFrom(tenant: Tenant, id: string, max: number): Promise<Edge[]> {
  const edges: Edge[] = []
  for await (const chunk of tenant.chunks(prefixRange(prefixes.edgesFrom(id)))) {
    for (const [key, value] of chunk) {
      const edge = edgeView(parseRecordKey(key).key, decodeRecord(value))
      if (edge) edges.push(edge)
      if (edges.length >= max) return edges
    }
  }
  return edges
}

async function edgesTo(tenant: Tenant, id: string, max: number): Promise<Edge[]> {
  const edges: Edge[] = []
  const prefix = prefixes.edgesTo(id)
  for await (const chunk of tenant.chunks({ ...prefixRange(prefix), values: false })) {
    const refs = chunk.map(([key]) => {
      const reader = new KeyReader(key, prefix.length)
      const type = reader.text()
      return { kind: 'edge' as const, key: [reader.text(), type, id] }
    })
    const records = await tenant.records(refs)
    for (const [n, ref] of refs.entries()) {
      const edge = edgeView(ref.key, records[n])
      if (edge) edges.push(edge)
      if (edges.length >= max) return edges
    }
  }
  return edges
}
