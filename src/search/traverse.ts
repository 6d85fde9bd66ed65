import { TRAVERSE_BYTES_MAX, TRAVERSE_VISITS_MAX } from '../base/limits.ts'
import { isVisible } from '../rem/merge.ts'
import type { LwwRecord, RecordRef } from '../rem/record.ts'
import { type Edge, type Entity, edgeSurvives, edgeView, entityView } from '../rem/views.ts'
import { decodeRecord } from '../storage/codec.ts'
import { KeyReader, parseRecordKey, prefixes, prefixRange, textPart } from '../storage/keys.ts'
import { eachRecord, Reading } from '../tenant/reading.ts'
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
  /** Asked of each entity in the order in which they are reached, until it says no: then the answer is full, and reaches no more. Default: all are taken. */
  readonly take?: (reached: Reached) => boolean
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
  /** The limit, `take`, or a bound on visits or bytes cut the walk short. */
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
  const reading = new Reading(request.throwIfEnded)
  const ends = new Map<string, End>()
  await loadEnds(tenant, [request.start], ends, reading)
  if (!ends.get(request.start)!.isVisible) return undefined
  const reached = new Map<string, Reached>()
  const edges = new Map<string, Edge>()
  const seen = new Map<string, readonly string[]>([[request.start, [request.start]]])
  let frontier = [request.start]
  let visits = 0
  let truncated = false
  let isFull = false
  const isPastBounds = () => visits > TRAVERSE_VISITS_MAX || reading.bytes > TRAVERSE_BYTES_MAX
  for (let depth = 1; depth <= request.depth && frontier.length > 0 && !isPastBounds(); depth++) {
    const next: string[] = []
    for (const id of frontier) {
      if (isPastBounds()) break
      reading.throwIfEnded()
      const found = await edgesAt(tenant, id, request, TRAVERSE_VISITS_MAX - visits + 1, reading)
      if (found.isCut) truncated = true
      for (let at = 0; at < found.edges.length && !isPastBounds(); ) {
        const part = found.edges.slice(at, at + Math.min(EDGES_AT_ONCE, reading.atOnce))
        at += part.length
        const loaded = await loadEnds(
          tenant,
          part.flatMap(edge => [edge.from, edge.to]),
          ends,
          reading,
        )
        for (const edge of part) {
          if (reading.due) await reading.pause()
          if (++visits > TRAVERSE_VISITS_MAX) break
          if (!isLive(edge, ends)) continue
          const other = edge.from === id ? edge.to : edge.from
          if (!seen.has(other)) {
            if (isFull || reached.size === request.limit) {
              truncated = true
              continue
            }
            // Loaded before, and not reached then: by an edge that does not count.
            const entity = entityView(other, loaded.get(other) ?? (await tenant.records([entityRef(other)]))[0])
            if (!entity) continue
            const path = [...seen.get(id)!, other]
            const step: Reached = { entity, depth, path }
            if (request.take && !request.take(step)) {
              isFull = true
              truncated = true
              continue
            }
            seen.set(other, path)
            reached.set(other, step)
            next.push(other)
          }
          edges.set(JSON.stringify([edge.from, edge.type, edge.to]), edge)
        }
      }
    }
    frontier = next
  }
  return { reached: [...reached.values()], edges: [...edges.values()], truncated: truncated || isPastBounds() }
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
  reading: Reading,
): Promise<Map<string, LwwRecord | undefined>> {
  const missing = [...new Set(ids)].filter(id => !ends.has(id))
  const records = new Map<string, LwwRecord | undefined>()
  for await (const record of eachRecord(tenant, missing.map(entityRef), reading)) {
    const id = missing[records.size]!
    records.set(id, record)
    ends.set(id, { isVisible: record !== undefined && isVisible(record), del: record?.del })
  }
  return records
}

/** The edges of one entity, heaviest first; cut when they are too many, or too large to be held together. */
async function edgesAt(
  tenant: Tenant,
  id: string,
  { direction, type }: TraverseRequest,
  max: number,
  reading: Reading,
): Promise<{ edges: Edge[]; isCut: boolean }> {
  const edges: Edge[] = []
  let isCut = false
  const gather = async (found: AsyncIterable<Edge>, bytesMax: number) => {
    const start = reading.bytes
    let count = 0
    for await (const edge of found) {
      // An edge from an entity to itself is in both lists.
      if (direction !== 'both' || found === outward || edge.from !== id) edges.push(edge)
      if (++count >= max) break
      if (reading.bytes - start > bytesMax) {
        isCut = true
        break
      }
    }
  }
  const outward = edgesFrom(tenant, id, reading, type)
  const bytesMax = TRAVERSE_BYTES_MAX / (direction === 'both' ? 4 : 2)
  if (direction !== 'in') await gather(outward, bytesMax)
  if (direction !== 'out') await gather(edgesTo(tenant, id, reading, type), bytesMax)
  return { edges: edges.sort((a, b) => b.weight - a.weight), isCut }
}

/** Visible edges that leave an entity, whatever their other end, of one type or of all, in the order of their types and ends; read for as long as they are asked for. */
export async function* edgesFrom(tenant: Tenant, id: string, reading: Reading, type?: string): AsyncGenerator<Edge> {
  for await (const chunk of tenant.chunks(prefixRange(ofType(prefixes.edgesFrom(id), type)))) {
    for (const [key, value] of chunk) {
      reading.count(1, value.length)
      if (reading.due) await reading.pause()
      const edge = edgeView(parseRecordKey(key).key, decodeRecord(value))
      if (edge) yield edge
    }
  }
}

async function* edgesTo(tenant: Tenant, id: string, reading: Reading, type?: string): AsyncGenerator<Edge> {
  const prefix = prefixes.edgesTo(id)
  for await (const chunk of tenant.chunks({ ...prefixRange(ofType(prefix, type)), values: false })) {
    const refs = chunk.map(([key]) => {
      const reader = new KeyReader(key, prefix.length)
      const edgeType = reader.text()
      return { kind: 'edge' as const, key: [reader.text(), edgeType, id] }
    })
    let n = 0
    for await (const record of eachRecord(tenant, refs, reading)) {
      const edge = edgeView(refs[n++]!.key, record)
      if (edge) yield edge
    }
  }
}

/** Of the edges of an entity, those of one type. */
const ofType = (prefix: Buffer, type: string | undefined): Buffer =>
  type === undefined ? prefix : Buffer.concat([prefix, textPart(type)])
