import { checkObject } from '../../base/check-object.ts'
import { PercolateError } from '../../base/errors.ts'
import { checkId } from '../../base/ids.ts'
import {
  CATEGORY_BYTES_MAX,
  FIND_DEPTH_MAX,
  ID_BYTES_MAX,
  LIST_LIMIT_DEFAULT,
  NAME_BYTES_MAX,
} from '../../base/limits.ts'
import { jsonOf, PageBytes } from '../../base/page-bytes.ts'
import { Slicer } from '../../base/slice.ts'
import { type EntityCommand, planDelete, planEntity } from '../../rem/plan.ts'
import { type LwwRecord, type Op, type RecordRef, withoutRepeats } from '../../rem/record.ts'
import { type Edge, type Entity, edgeSurvives, entityView } from '../../rem/views.ts'
import { entitiesById, matchEntities } from '../../search/entities.ts'
import { edgesFrom, traverse } from '../../search/traverse.ts'
import { readBriefly, readByWeight, readInTurn } from '../../session/heavy-reads.ts'
import type { Session } from '../../session/session.ts'
import { write, writeExisting } from '../../session/write.ts'
import { eachRecord, ReadIsLarge, Reading } from '../../tenant/reading.ts'
import { assertIndexesFit, asTextBytes, stagedByEntity } from '../../tenant/staged-size.ts'
import type { Tenant } from '../../tenant/tenant.ts'
import { decodeCursor, encodeCursor } from '../cursor.ts'
import type { EntitiesQuery, EntityInput, EntityOutput, TraverseQuery } from '../schemas.ts'
import { checkName } from './check-fields.ts'
import { assertLater, type Conditions, checkConditions, etagWith, hasCondition } from './conditions.ts'
import { isoTime, notFound, type OperationsContext } from './context.ts'
import { assertAllFit } from './entity-sizes.ts'

/** Edges that one answer about an entity lists; traversal reaches the others. */
const EDGES_SHOWN_MAX = 1000

export class EntityOperations {
  readonly #context: OperationsContext

  constructor(context: OperationsContext) {
    this.#context = context
  }

  /** Merges entities, all or none. With a condition there is one, which must be as it was read, or not exist. */
  async put(call: Session, inputs: readonly EntityInput[], conditions: Conditions = {}): Promise<{ ids: string[] }> {
    const isConditional = hasCondition(conditions)
    if (isConditional && inputs.length !== 1) {
      const field = conditions.ifMatch === undefined ? 'If-None-Match' : 'If-Match'
      throw new PercolateError(
        'INVALID_ARGUMENT',
        `${field} goes with one entity, and here are ${inputs.length}; send each by itself, with its own condition.`,
        { field },
      )
    }
    const commands = inputs.map((input, n) => toCommand(input, inputs.length === 1 ? '' : `entities[${n}].`))
    const edges = commands.reduce((sum, command) => sum + (command.edges?.length ?? 0), 0)
    const staged = commands.reduce((bytes, command) => bytes + stagedByEntity(command), 0)
    const touched = withoutRepeats(commands.flatMap(touchedBy))
    return write(
      this.#context,
      call,
      async context => {
        const slicer = new Slicer(() => call.throwIfEnded())
        if (isConditional) {
          const { id } = commands[0]!
          const record = await context.read({ kind: 'entity', key: [id] })
          checkConditions(record, entityView(id, record) !== undefined, conditions, call.asOf)
          // An edge is a record of its own, of which If-Match asks nothing.
          for (const ref of call.asOf ? touched : []) {
            await slicer.pause()
            assertLater(await context.read(ref), call.asOf!)
          }
        }
        const ops: Op[][] = []
        for (const command of commands) {
          ops.push(planEntity(command, context.clock))
          await slicer.pause()
        }
        await assertAllFit(commands, ops, context, slicer)
        if (staged > context.stagedBytesMax) await assertIndexesFit(ops.flat(), context, slicer)
        return {
          ops: ops.flat(),
          result: { ids: commands.map(({ id }) => id) },
        }
      },
      { weight: commands.length + edges, textBytes: asTextBytes(staged), touches: touched },
    )
  }

  async get(call: Session, id: string): Promise<Shown> {
    return readByWeight(
      this.#context,
      call,
      (tenant, reading) => shown(tenant, id, reading),
      () => {
        throw notFound('entity', id)
      },
    )
  }

  /** What a write that stands has made: nothing of it is waited for, and of edges that would take a turn to read those are listed that need none. */
  async getWritten(call: Session, id: string): Promise<Shown> {
    return readBriefly(
      this.#context,
      call,
      (tenant, reading) => shown(tenant, id, reading, { mayCut: true }),
      () => {
        throw notFound('entity', id)
      },
    )
  }

  async delete(call: Session, id: string, ifMatch?: string): Promise<void> {
    await writeExisting(this.#context, call, notFound('entity', id), async context => {
      const record = await context.read({ kind: 'entity', key: [id] })
      if (!entityView(id, record)) throw notFound('entity', id)
      checkConditions(record, true, { ifMatch }, call.asOf)
      return { ops: [planDelete('entity', id, context.clock)], result: undefined }
    })
  }

  /** By name (exact, prefix, fuzzy) when there is one, else a list by id. */
  async query(call: Session, query: EntitiesQuery) {
    const limit = query.limit ?? LIST_LIMIT_DEFAULT
    const type = query.type
    const scope = { tenant: call.tenant, listing: 'entities', parameters: [query.name ?? null, type ?? null] }
    if (query.name !== undefined) {
      const offset = query.cursor === undefined ? 0 : (decodeCursor(scope, query.cursor, ['offset'])[0] as number)
      if (offset > FIND_DEPTH_MAX)
        throw new PercolateError('INVALID_CURSOR', 'cursor is not one that this API gave.', { field: 'cursor' })
      return readInTurn(
        this.#context,
        call,
        async tenant => {
          const results: (ReturnType<typeof toOutput> & { score: number; match: string })[] = []
          const page = new PageBytes()
          let skipped = 0
          let more = false
          const enough = offset + limit + 1
          const reading = new Reading(() => call.throwIfEnded())
          for await (const { entity, score, match } of matchEntities(tenant, query.name!, { type, enough }, reading)) {
            if (skipped < offset) {
              skipped++
              continue
            }
            const output = { ...toOutput(entity), score, match }
            if (results.length === limit || !page.take(output)) {
              more = true
              break
            }
            results.push(output)
          }
          const next = offset + results.length
          return { results, ...(more && next <= FIND_DEPTH_MAX ? { cursor: encodeCursor(scope, [next]) } : {}) }
        },
        () => ({ results: [] }),
      )
    }
    const position =
      query.cursor === undefined ? undefined : (decodeCursor(scope, query.cursor, ['string'])[0] as string)
    return readByWeight<EntityPage>(
      this.#context,
      call,
      async (tenant, reading) => {
        const results: EntityPage['results'] = []
        const page = new PageBytes()
        const wanted = () => limit + 1 - results.length
        for await (const entity of entitiesById(tenant, { type, after: position, wanted }, reading)) {
          const output = toOutput(entity)
          if (results.length === limit || !page.take(output))
            return { results, cursor: encodeCursor(scope, [results.at(-1)!.id]) }
          results.push(output)
        }
        return { results }
      },
      () => ({ results: [] }),
    )
  }

  async traverse(call: Session, id: string, query: TraverseQuery) {
    return readInTurn(
      this.#context,
      call,
      async tenant => {
        const results: (ReturnType<typeof toOutput> & { depth: number; path: string[] })[] = []
        const page = new PageBytes()
        const walk = await traverse(tenant, {
          start: id,
          depth: query.depth ?? 1,
          direction: query.direction ?? 'out',
          type: query.type,
          limit: query.limit ?? LIST_LIMIT_DEFAULT,
          throwIfEnded: () => call.throwIfEnded(),
          take: ({ entity, depth, path }) => {
            const output = { ...toOutput(entity), depth, path: [...path] }
            if (!page.take(output)) return false
            results.push(output)
            return true
          },
        })
        if (!walk) throw notFound('entity', id)
        // What one answer carries: the entities nearest to the start, and of the edges between them those that fit beside them.
        const edges = cutPage(walk.edges.map(edgeOutput), page)
        return { start: id, results, edges, truncated: walk.truncated || edges.length < walk.edges.length }
      },
      () => {
        throw notFound('entity', id)
      },
    )
  }
}

/** As many as the answer still carries. */
function cutPage<T extends object>(results: readonly T[], page: PageBytes): T[] {
  const past = results.findIndex(result => !page.take(result))
  return past < 0 ? [...results] : results.slice(0, past)
}

interface Shown {
  readonly entity: EntityOutput
  readonly etag: string
}

/** `mayCut`: a reading beyond its bounds ends the list of edges; else it throws {@link ReadIsLarge}. */
async function shown(tenant: Tenant, id: string, reading: Reading, { mayCut = false } = {}): Promise<Shown> {
  const record = await tenant.record({ kind: 'entity', key: [id] })
  const entity = entityView(id, record)
  if (!entity) throw notFound('entity', id)
  const edges: ReturnType<typeof edgeOutput>[] = []
  const isCut = await listEdges(tenant, id, record!, reading, edges).catch(error => {
    if (mayCut && error instanceof ReadIsLarge) return true
    throw error
  })
  return {
    entity: { ...toOutput(entity), edges, ...(isCut ? { edges_truncated: true } : {}) },
    // An edge can change, and end with the entity that it leads to, while the record of this one stays as it is.
    etag: etagWith(record!, [...edges.map(edge => jsonOf(edge)!), ...(isCut ? ['truncated'] : [])]),
  }
}

/** Lists the edges that an answer about an entity shows: those that outlived its ends, as many as it carries. True when there are more. */
async function listEdges(
  tenant: Tenant,
  id: string,
  record: LwwRecord,
  reading: Reading,
  edges: ReturnType<typeof edgeOutput>[],
): Promise<boolean> {
  const page = new PageBytes()
  /** Whether one of these does not go into the answer any more. */
  const isFullWith = async (part: readonly Edge[]): Promise<boolean> => {
    let n = 0
    for await (const end of eachRecord(
      tenant,
      part.map(({ to }) => ({ kind: 'entity', key: [to] })),
      reading,
    )) {
      const edge = part[n++]!
      if (!edgeSurvives(edge, record) || !edgeSurvives(edge, end)) continue
      const output = edgeOutput(edge)
      if (!page.take(output)) return true
      edges.push(output)
    }
    return false
  }
  let listed = 0
  let part: Edge[] = []
  for await (const edge of edgesFrom(tenant, id, reading)) {
    if (++listed > EDGES_SHOWN_MAX) {
      await isFullWith(part)
      return true
    }
    if (part.push(edge) < reading.atOnce) continue
    if (await isFullWith(part)) return true
    part = []
  }
  return isFullWith(part)
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

interface EntityPage {
  readonly results: ReturnType<typeof toOutput>[]
  readonly cursor?: string
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
