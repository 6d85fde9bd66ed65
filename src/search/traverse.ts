import { TRAVERSE_VISITS_MAX } from '../base/limits.ts'
import { Slicer } from '../base/slice.ts'
import { isVisible } from '../rem/merge.ts'
import type { LwwRecord, RecordRef } from '../rem/record.ts'
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

/** What an edge asks of its ends. The records themselves, which may have hundreds of KiB, are kept of those that are reached. */
interface End extends Pick<LwwRecord, 'del'> {
  readonly isVisible: boolean
}

/** Edges whose ends are read at once. */
const EDGES_AT_ONCE = 32

/** Breadth-first walk; each entity once, so cycles end. Edges to what does not exist, or was deleted since, are not followed. */
export async function traverse(tenant: Tenant, request: TraverseRequest): Promise<Traversal | undefined> {
  const slicer = new Slicer(request.throwIfEnded)
  const ends = new Map<string, End>()
  await loadEnds(tenant, [request.start], ends)
  if (!ends.get(request.start)!.isVisible) return undefined
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
      for (let at = 0; at < found.length && visits <= TRAVERSE_VISITS_MAX; at += EDGES_AT_ONCE) {
        const part = found.slice(at, at + EDGES_AT_ONCE)
        const loaded = await loadEnds(
          tenant,
          part.flatMap(edge => [edge.from, edge.to]),
          ends,
        )
        for (const edge of part) {
          if (slicer.due) await slicer.pause()
          if (++visits > TRAVERSE_VISITS_MAX) {
            truncated = true
            break
          }
          if (!isLive(edge, ends)) continue
          const other = edge.from === id ? edge.to : edge.from
          if (!seen.has(other)) {
            if (reached.size === request.limit) {
              truncated = true
              continue
            }
            // Loaded before, and not reached then: by an edge that does not count.
            const entity = entityView(other, loaded.get(other) ?? (await tenant.records([entityRef(other)]))[0])
            if (!entity) continue
            const path = [...seen.get(id)!, other]
            seen.set(other, path)
            reached.set(other, { entity, depth, path })
            next.push(other)
          }
          edges.set(JSON.stringify([edge.from, edge.type, edge.to]), edge)
        }
      }
    }
    frontier = next
  }
  return { reached: [...reached.values()], edges: [...edges.values()], truncated }
}

const isLive = (edge: Edge, ends: ReadonlyMap<string, End>): boolean =>
  [edge.from, edge.to].every(id => {
    const end = ends.get(id)
    return end?.isVisible && edgeSurvives(edge, end)
  })

const entityRef = (id: string): RecordRef => ({ kind: 'entity', key: [id] })

/** Notes what edges ask of their ends; the records of those that were not known before. */
async function loadEnds(
  tenant: Tenant,
  ids: readonly string[],
  ends: Map<string, End>,
): Promise<Map<string, LwwRecord | undefined>> {
  const missing = [...new Set(ids)].filter(id => !ends.has(id))
  const records = await tenant.records(missing.map(entityRef))
  for (const [n, id] of missing.entries()) {
    const record = records[n]
    ends.set(id, { isVisible: record !== undefined && isVisible(record), del: record?.del })
  }
  return new Map(missing.map((id, n) => [id, records[n]]))
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
