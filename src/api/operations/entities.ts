import { checkObject } from '../../base/check-object.ts'
import { checkId } from '../../base/ids.ts'
import { CATEGORY_BYTES_MAX, ID_BYTES_MAX, LIST_LIMIT_DEFAULT, NAME_BYTES_MAX } from '../../base/limits.ts'
import { type EntityCommand, planDelete, planEntity } from '../../rem/plan.ts'
import type { RecordRef } from '../../rem/record.ts'
import { type Edge, type Entity, edgeSurvives, entityView } from '../../rem/views.ts'
import { findEntities, listEntities } from '../../search/entities.ts'
import { edgesFrom, traverse } from '../../search/traverse.ts'
import { read } from '../../session/read.ts'
import type { Session } from '../../session/session.ts'
import { write, writeExisting } from '../../session/write.ts'
import { decodeCursor, encodeCursor } from '../cursor.ts'
import type { EntitiesQuery, EntityInput, EntityOutput, TraverseQuery } from '../schemas.ts'
import { checkName } from './check-fields.ts'
import { isoTime, notFound, type OperationsContext } from './context.ts'
import { checkIfMatch, etagOf } from './resources.ts'

/** Edges that one answer about an entity lists; traversal reaches the others. */
const EDGES_SHOWN_MAX = 1000

export class EntityOperations {
  readonly #context: OperationsContext

  constructor(context: OperationsContext) {
    this.#context = context
  }

  /** Merges entities, all or none. With `ifMatch` there is one, and it must be as it was read (`*`: exist). */
  async put(call: Session, inputs: readonly EntityInput[], ifMatch?: string): Promise<{ ids: string[] }> {
    const commands = inputs.map((input, n) => toCommand(input, inputs.length === 1 ? '' : `entities[${n}].`))
    const edges = commands.reduce((sum, command) => sum + (command.edges?.length ?? 0), 0)
    return write(
      this.#context,
      call,
      async context => {
        if (ifMatch !== undefined) {
          const id = commands[0]!.id
          const record = await context.read({ kind: 'entity', key: [id] })
          checkIfMatch(entityView(id, record) && record, ifMatch)
        }
        return {
          ops: commands.flatMap(command => planEntity(command, context.clock)),
          result: { ids: commands.map(({ id }) => id) },
        }
      },
      { weight: commands.length + edges, touches: commands.flatMap(touchedBy) },
    )
  }

  async get(call: Session, id: string): Promise<{ entity: EntityOutput; etag: string }> {
    return read(
      this.#context,
      call,
      async tenant => {
        const record = await tenant.record({ kind: 'entity', key: [id] })
        const entity = entityView(id, record)
        if (!entity) throw notFound('entity', id)
        const edges = (await edgesFrom(tenant, id, EDGES_SHOWN_MAX)).filter(edge => edgeSurvives(edge, record))
        return { entity: { ...toOutput(entity), edges: edges.map(edgeOutput) }, etag: etagOf(record!) }
      },
      () => {
        throw notFound('entity', id)
      },
    )
  }

  async delete(call: Session, id: string, ifMatch?: string): Promise<void> {
    await writeExisting(this.#context, call, notFound('entity', id), async context => {
      const record = await context.read({ kind: 'entity', key: [id] })
      if (!entityView(id, record)) throw notFound('entity', id)
      checkIfMatch(record!, ifMatch)
      return { ops: [planDelete('entity', id, context.clock)], result: undefined }
    })
  }

  /** By name (exact, prefix, fuzzy) when there is one, else a list by id. */
  async query(call: Session, query: EntitiesQuery) {
    const limit = query.limit ?? LIST_LIMIT_DEFAULT
    const type = query.type
    const scope = { tenant: call.tenant, listing: 'entities', parameters: [query.name ?? null, type ?? null] }
    if (query.name !== undefined) {
      const offset = query.cursor === undefined ? 0 : (decodeCursor(scope, query.cursor, ['number'])[0] as number)
      return read(
        this.#context,
        call,
        async tenant => {
          const found = await findEntities(tenant, query.name!, { type, limit: offset + limit + 1 })
          const page = found.slice(offset, offset + limit)
          const results = page.map(({ entity, score, match }) => ({ ...toOutput(entity), score, match }))
          return {
            results,
            ...(found.length > offset + limit ? { cursor: encodeCursor(scope, [offset + limit]) } : {}),
          }
        },
        () => ({ results: [] }),
      )
    }
    const position =
      query.cursor === undefined ? undefined : (decodeCursor(scope, query.cursor, ['string'])[0] as string)
    return read(
      this.#context,
      call,
      async tenant => {
        const { entities, more } = await listEntities(tenant, { type, after: position, limit })
        return {
          results: entities.map(toOutput),
          ...(more ? { cursor: encodeCursor(scope, [entities.at(-1)!.id]) } : {}),
        }
      },
      () => ({ results: [] }),
    )
  }

  async traverse(call: Session, id: string, query: TraverseQuery) {
    return read(
      this.#context,
      call,
      async tenant => {
        const walk = await traverse(tenant, {
          start: id,
          depth: query.depth ?? 1,
          direction: query.direction ?? 'out',
          type: query.type,
          limit: query.limit ?? LIST_LIMIT_DEFAULT,
        })
        if (!walk) throw notFound('entity', id)
        return {
          start: id,
          results: walk.reached.map(({ entity, depth, path }) => ({ ...toOutput(entity), depth, path: [...path] })),
          edges: walk.edges.map(edgeOutput),
          truncated: walk.truncated,
        }
      },
      () => {
        throw notFound('entity', id)
      },
    )
  }
}

/** The entity and its edges. */
const touchedBy = ({ id, edges = [] }: EntityCommand): RecordRef[] => [
  { kind: 'entity', key: [id] },
  ...edges.map(({ type, to }): RecordRef => ({ kind: 'edge', key: [id, type, to] })),
]

function toCommand(input: EntityInput, path: string): EntityCommand {
  const names = (list: readonly string[] | undefined, field: string) =>
    list?.map((name, n) => checkName(name, `${path}${field}[${n}]`, NAME_BYTES_MAX))
  return {
    id: checkId(input.id, `${path}id`),
    type:
      input.type === undefined || input.type === null
        ? input.type
        : checkName(input.type, `${path}type`, CATEGORY_BYTES_MAX),
    name:
      input.name === undefined || input.name === null
        ? input.name
        : checkName(input.name, `${path}name`, NAME_BYTES_MAX),
    aliases: names(input.aliases, 'aliases'),
    removeAliases: names(input.remove_aliases, 'remove_aliases'),
    properties: input.properties === undefined ? undefined : checkObject(input.properties, `${path}properties`),
    edges: input.edges?.map((edge, n) => ({
      type: checkName(edge.type, `${path}edges[${n}].type`, CATEGORY_BYTES_MAX),
      to: checkId(edge.to, `${path}edges[${n}].to`, ID_BYTES_MAX),
      weight: edge.weight,
      properties:
        edge.properties === undefined ? undefined : checkObject(edge.properties, `${path}edges[${n}].properties`),
      remove: edge.remove,
    })),
  }
}

const toOutput = (entity: Entity) => ({
  id: entity.id,
  type: entity.type,
  name: entity.name,
  aliases: [...entity.aliases],
  properties: entity.properties as Record<string, unknown>,
  updated_at: isoTime(entity.updatedAtMs),
})

const edgeOutput = (edge: Edge) => ({
  from: edge.from,
  type: edge.type,
  to: edge.to,
  weight: edge.weight,
  properties: edge.properties as Record<string, unknown>,
})
