import { type Clock, compareClocks } from '../clock/hlc.ts'
import { isVisible } from './merge.ts'
import {
  ALIAS_FIELD_PREFIX,
  EMBEDDING_FIELD_PREFIX,
  type LwwRecord,
  PROPERTY_FIELD_PREFIX,
  type Value,
} from './record.ts'

/** What readers see of records: registers resolved to plain values. */
export interface Resource {
  readonly id: string
  /** '' when the resource was stored without one. */
  readonly uri: string
  readonly ordinal: number
  readonly content: string
  readonly name: string | null
  readonly category: string | null
  readonly metadata: { readonly [key: string]: Value }
  /** Models that a vector is stored for. */
  readonly embeddings: readonly string[]
  /** When it was last put, milliseconds since the epoch. */
  readonly updatedAtMs: number
}

export interface Entity {
  readonly id: string
  readonly type: string | null
  readonly name: string | null
  readonly aliases: readonly string[]
  readonly properties: { readonly [key: string]: Value }
  readonly updatedAtMs: number
}

export interface Edge {
  readonly from: string
  readonly type: string
  readonly to: string
  readonly weight: number
  readonly properties: { readonly [key: string]: Value }
  readonly put: Clock
}

export interface Moment {
  readonly id: string
  readonly timeMs: number
  readonly endTimeMs: number | null
  readonly type: string | null
  readonly name: string | null
  readonly content: string | null
  readonly parent: string | null
  readonly resources: readonly string[]
  readonly entities: readonly string[]
  readonly metadata: { readonly [key: string]: Value }
  readonly updatedAtMs: number
}

/** The visible resource in a record, or undefined. */
export function resourceView(id: string, record: LwwRecord | undefined): Resource | undefined {
  if (record === undefined || !isVisible(record)) return undefined
  const embeddings: string[] = []
  for (const name of record.fields.keys()) {
    if (name.startsWith(EMBEDDING_FIELD_PREFIX)) embeddings.push(name.slice(EMBEDDING_FIELD_PREFIX.length))
  }
  return {
    id,
    uri: (value(record, 'uri') as string | null) ?? '',
    ordinal: (value(record, 'ordinal') as number | null) ?? 0,
    content: (value(record, 'content') as string | null) ?? '',
    name: value(record, 'name') as string | null,
    category: value(record, 'category') as string | null,
    metadata: (value(record, 'metadata') as { [key: string]: Value } | null) ?? {},
    embeddings,
    updatedAtMs: record.put!.wall,
  }
}

export function entityView(id: string, record: LwwRecord | undefined): Entity | undefined {
  if (record === undefined || !isVisible(record)) return undefined
  const aliases: string[] = []
  for (const [name, register] of record.fields) {
    if (name.startsWith(ALIAS_FIELD_PREFIX) && register.value === true)
      aliases.push(name.slice(ALIAS_FIELD_PREFIX.length))
  }
  return {
    id,
    type: value(record, 'type') as string | null,
    name: value(record, 'name') as string | null,
    aliases: aliases.sort(),
    properties: properties(record),
    updatedAtMs: record.put!.wall,
  }
}

/** An edge that is visible by itself; whether its ends are is for the reader to check. */
export function edgeView(key: readonly string[], record: LwwRecord | undefined): Edge | undefined {
  if (record === undefined || !isVisible(record)) return undefined
  return {
    from: key[0]!,
    type: key[1]!,
    to: key[2]!,
    weight: (value(record, 'weight') as number | null) ?? 1,
    properties: properties(record),
    put: record.put!,
  }
}

export function momentView(id: string, record: LwwRecord | undefined): Moment | undefined {
  if (record === undefined || !isVisible(record)) return undefined
  return {
    id,
    timeMs: (value(record, 'time') as number | null) ?? record.put!.wall,
    endTimeMs: value(record, 'end_time') as number | null,
    type: value(record, 'type') as string | null,
    name: value(record, 'name') as string | null,
    content: value(record, 'content') as string | null,
    parent: value(record, 'parent') as string | null,
    resources: (value(record, 'resources') as string[] | null) ?? [],
    entities: (value(record, 'entities') as string[] | null) ?? [],
    metadata: (value(record, 'metadata') as { [key: string]: Value } | null) ?? {},
    updatedAtMs: record.put!.wall,
  }
}

/** An edge outlives neither of its ends: what was linked before an end was deleted stays unlinked when the end comes back. */
export const edgeSurvives = (edge: Edge, end: Pick<LwwRecord, 'del'> | undefined): boolean =>
  end?.del === undefined || compareClocks(edge.put, end.del) > 0

/** The words of a resource that search indexes: its name and its content. */
export const searchableText = (resource: Pick<Resource, 'name' | 'content'>): string =>
  resource.name === null ? resource.content : `${resource.name}\n${resource.content}`

function value(record: LwwRecord, field: string): Value {
  return record.fields.get(field)?.value ?? null
}

function properties(record: LwwRecord): { [key: string]: Value } {
  const result: { [key: string]: Value } = {}
  for (const name of [...record.fields.keys()].sort()) {
    const register = record.fields.get(name)!
    if (name.startsWith(PROPERTY_FIELD_PREFIX) && register.value !== null) {
      result[name.slice(PROPERTY_FIELD_PREFIX.length)] = register.value
    }
  }
  return result
}
