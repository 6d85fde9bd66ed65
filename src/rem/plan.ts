import { derivedId } from '../base/ids.ts'
import type { Clock } from '../clock/hlc.ts'
import { canonical } from './canonical.ts'
import { ALIAS_FIELD_PREFIX, EMBEDDING_FIELD_PREFIX, type Op, PROPERTY_FIELD_PREFIX, type Value } from './record.ts'

/** Turns checked commands into ops. Pure: command + clock → ops. A field left out keeps its register as it is. */

export interface ResourceCommand {
  readonly uri: string
  readonly ordinal: number
  readonly content: string
  readonly name?: string | null | undefined
  readonly category?: string | null | undefined
  readonly metadata?: { readonly [key: string]: Value } | undefined
  readonly embedding?: { readonly model: string; readonly vector: Float32Array } | undefined
}

export interface EdgeCommand {
  readonly type: string
  readonly to: string
  readonly weight?: number | undefined
  readonly properties?: { readonly [key: string]: Value } | undefined
  readonly remove?: boolean | undefined
}

export interface EntityCommand {
  readonly id: string
  readonly type?: string | null | undefined
  readonly name?: string | null | undefined
  readonly aliases?: readonly string[] | undefined
  readonly removeAliases?: readonly string[] | undefined
  /** null removes a property. */
  readonly properties?: { readonly [key: string]: Value } | undefined
  readonly edges?: readonly EdgeCommand[] | undefined
}

export interface MomentCommand {
  readonly id?: string | undefined
  readonly timeMs: number
  readonly endTimeMs?: number | null | undefined
  readonly type?: string | null | undefined
  readonly name?: string | null | undefined
  readonly content?: string | null | undefined
  readonly parent?: string | null | undefined
  readonly resources?: readonly string[] | undefined
  readonly entities?: readonly string[] | undefined
  readonly metadata?: { readonly [key: string]: Value } | undefined
}

/** A resource is its uri, ordinal and content: the same three are the same resource. */
export const resourceId = (resource: Pick<ResourceCommand, 'uri' | 'ordinal' | 'content'>): string =>
  derivedId('resource', resource.uri, String(resource.ordinal), resource.content)

export function planResource(command: ResourceCommand, clock: Clock): Op {
  const fields: Record<string, Value> = { uri: command.uri, ordinal: command.ordinal, content: command.content }
  if (command.name !== undefined) fields.name = command.name
  if (command.category !== undefined) fields.category = command.category
  if (command.metadata !== undefined) fields.metadata = canonical(command.metadata as Value)
  if (command.embedding !== undefined)
    fields[EMBEDDING_FIELD_PREFIX + command.embedding.model] = vectorBytes(command.embedding.vector)
  return { kind: 'resource', key: [resourceId(command)], action: 'put', clock, fields }
}

/** Adds a vector to a resource that exists; says nothing about its existence, so that it cannot bring a deleted one back. */
export const planEmbedding = (id: string, model: string, vector: Float32Array, clock: Clock): Op => ({
  kind: 'resource',
  key: [id],
  action: 'set',
  clock,
  fields: { [EMBEDDING_FIELD_PREFIX + model]: vectorBytes(vector) },
})

export function planEntity(command: EntityCommand, clock: Clock): Op[] {
  const fields: Record<string, Value> = {}
  if (command.type !== undefined) fields.type = command.type
  if (command.name !== undefined) fields.name = command.name
  for (const alias of command.aliases ?? []) fields[ALIAS_FIELD_PREFIX + alias] = true
  for (const alias of command.removeAliases ?? []) fields[ALIAS_FIELD_PREFIX + alias] = false
  for (const [name, value] of Object.entries(command.properties ?? {}))
    fields[PROPERTY_FIELD_PREFIX + name] = canonical(value)
  const ops: Op[] = [{ kind: 'entity', key: [command.id], action: 'put', clock, fields }]
  for (const edge of command.edges ?? []) ops.push(planEdge(command.id, edge, clock))
  return ops
}

function planEdge(from: string, edge: EdgeCommand, clock: Clock): Op {
  const key = [from, edge.type, edge.to]
  if (edge.remove) return { kind: 'edge', key, action: 'del', clock, fields: {} }
  const fields: Record<string, Value> = {}
  if (edge.weight !== undefined) fields.weight = edge.weight
  for (const [name, value] of Object.entries(edge.properties ?? {}))
    fields[PROPERTY_FIELD_PREFIX + name] = canonical(value)
  return { kind: 'edge', key, action: 'put', clock, fields }
}

/** A moment without an id is what it says: the same moment twice is one. */
export function momentId(command: MomentCommand): string {
  const { id, ...content } = command
  return id ?? derivedId('moment', JSON.stringify(canonical(content as unknown as Value)))
}

export function planMoment(command: MomentCommand, clock: Clock): Op {
  const fields: Record<string, Value> = { time: command.timeMs }
  if (command.endTimeMs !== undefined) fields.end_time = command.endTimeMs
  if (command.type !== undefined) fields.type = command.type
  if (command.name !== undefined) fields.name = command.name
  if (command.content !== undefined) fields.content = command.content
  if (command.parent !== undefined) fields.parent = command.parent
  if (command.resources !== undefined) fields.resources = [...command.resources]
  if (command.entities !== undefined) fields.entities = [...command.entities]
  if (command.metadata !== undefined) fields.metadata = canonical(command.metadata as Value)
  return { kind: 'moment', key: [momentId(command)], action: 'put', clock, fields }
}

export const planDelete = (kind: 'resource' | 'entity' | 'moment', id: string, clock: Clock): Op => ({
  kind,
  key: [id],
  action: 'del',
  clock,
  fields: {},
})

/** A vector's bytes: 32-bit floats, little endian. */
export function vectorBytes(vector: Float32Array): Buffer {
  const bytes = Buffer.alloc(vector.length * 4)
  for (let n = 0; n < vector.length; n++) bytes.writeFloatLE(vector[n]!, n * 4)
  return bytes
}

/** The inverse of {@link vectorBytes}; copies, since stored bytes need not be aligned. */
export function vectorOf(bytes: Uint8Array): Float32Array {
  const copy = new Uint8Array(bytes)
  return new Float32Array(copy.buffer, 0, copy.byteLength >> 2)
}
