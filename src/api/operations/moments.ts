import { checkObject } from '../../base/check-object.ts'
import { PercolateError } from '../../base/errors.ts'
import { checkId } from '../../base/ids.ts'
import { CATEGORY_BYTES_MAX, LIST_LIMIT_DEFAULT } from '../../base/limits.ts'
import { inPlaceOf, PageBytes } from '../../base/page-bytes.ts'
import { Slicer } from '../../base/slice.ts'
import { type MomentCommand, planDelete, planMoment } from '../../rem/plan.ts'
import type { Op, RecordRef } from '../../rem/record.ts'
import { type Moment, momentView } from '../../rem/views.ts'
import { readByWeight } from '../../session/heavy-reads.ts'
import { read } from '../../session/read.ts'
import type { Session } from '../../session/session.ts'
import { write, writeExisting } from '../../session/write.ts'
import { KeyReader, keyAfter, newestFirst, prefixes, prefixRange, space, textPart } from '../../storage/keys.ts'
import { eachRecord, Reading } from '../../tenant/reading.ts'
import { assertIndexesFit, asTextBytes, stagedByMoment } from '../../tenant/staged-size.ts'
import type { Tenant } from '../../tenant/tenant.ts'
import { decodeCursor, encodeCursor } from '../cursor.ts'
import type { MomentInput, MomentOutput, MomentsQuery } from '../schemas.ts'
import { checkContent, checkName, checkTitle, parseTime } from './check-fields.ts'
import { checkConditions, etagOf } from './conditions.ts'
import { isoTime, notFound, type OperationsContext } from './context.ts'

export class MomentOperations {
  readonly #context: OperationsContext

  constructor(context: OperationsContext) {
    this.#context = context
  }

  async append(call: Session, inputs: readonly MomentInput[]): Promise<{ ids: string[] }> {
    const nowMs = call.asOf?.wall ?? this.#context.time.now()
    const commands = inputs.map((input, n) => toCommand(input, inputs.length === 1 ? '' : `moments[${n}].`, nowMs))
    const staged = commands.reduce((bytes, command) => bytes + stagedByMoment(command), 0)
    return write(
      this.#context,
      call,
      async context => {
        const slicer = new Slicer(() => call.throwIfEnded())
        const ops: Op[] = []
        for (const command of commands) {
          ops.push(planMoment(command, context.clock))
          await slicer.pause()
        }
        if (staged > context.stagedBytesMax) await assertIndexesFit(ops, context, slicer)
        return { ops, result: { ids: ops.map(op => op.key[0]!) } }
      },
      { weight: commands.length, textBytes: asTextBytes(staged) },
    )
  }

  async get(call: Session, id: string): Promise<{ moment: MomentOutput; etag: string }> {
    return read(
      this.#context,
      call,
      async tenant => {
        const record = await tenant.record({ kind: 'moment', key: [id] })
        const moment = momentView(id, record)
        if (!moment) throw notFound('moment', id)
        return { moment: toOutput(moment), etag: etagOf(record!) }
      },
      () => {
        throw notFound('moment', id)
      },
    )
  }

  async delete(call: Session, id: string, ifMatch?: string): Promise<void> {
    await writeExisting(this.#context, call, notFound('moment', id), async context => {
      const record = await context.read({ kind: 'moment', key: [id] })
      if (!momentView(id, record)) throw notFound('moment', id)
      checkConditions(record, true, { ifMatch }, call.asOf)
      return { ops: [planDelete('moment', id, context.clock)], result: undefined }
    })
  }

  /** The feed, newest first. */
  async query(call: Session, query: MomentsQuery): Promise<{ results: MomentOutput[]; cursor?: string }> {
    const limit = query.limit ?? LIST_LIMIT_DEFAULT
    const fromMs = query.from === undefined ? undefined : parseTime(query.from, 'from')
    const toMs = query.to === undefined ? undefined : parseTime(query.to, 'to')
    if (fromMs !== undefined && toMs !== undefined && fromMs > toMs)
      throw new PercolateError('INVALID_ARGUMENT', 'from must not be later than to.', { field: 'from' })
    const { type, parent, resource, entity } = query
    const scope = {
      tenant: call.tenant,
      listing: 'moments',
      parameters: [fromMs ?? null, toMs ?? null, type ?? null, parent ?? null, resource ?? null, entity ?? null],
    }
    const position = query.cursor === undefined ? undefined : decodeCursor(scope, query.cursor, ['time', 'string'])
    return readByWeight<{ results: MomentOutput[]; cursor?: string }>(
      this.#context,
      call,
      async (tenant, reading) => {
        const { results, more } = await readFeed(tenant, {
          limit,
          reading,
          fromMs,
          toMs,
          type,
          parent,
          resource,
          entity,
          after: position && { timeMs: position[0] as number, id: position[1] as string },
        })
        const last = results.at(-1)
        return {
          results: results.map(moment => inPlaceOf(toOutput(moment), moment)),
          ...(more && last ? { cursor: encodeCursor(scope, [last.timeMs, last.id]) } : {}),
        }
      },
      () => ({ results: [] }),
    )
  }
}

export interface FeedRequest {
  readonly limit: number
  readonly fromMs?: number | undefined
  readonly toMs?: number | undefined
  readonly type?: string | undefined
  readonly parent?: string | undefined
  readonly resource?: string | undefined
  readonly entity?: string | undefined
  /** Counts what is read, and stops it; default: nothing does. */
  readonly reading?: Reading
  readonly after?: { readonly timeMs: number; readonly id: string } | undefined
}

/** Walks the narrowest index, newest first, and checks the other conditions on the moment. */
export async function readFeed(tenant: Tenant, request: FeedRequest): Promise<{ results: Moment[]; more: boolean }> {
  const prefix = feedPrefix(request)
  const range = prefixRange(prefix)
  let gte = request.toMs === undefined ? range.gte : Buffer.concat([prefix, newestFirst(request.toMs)])
  if (request.after)
    gte = keyAfter(Buffer.concat([prefix, newestFirst(request.after.timeMs), textPart(request.after.id)]))
  const lt = request.fromMs === undefined ? range.lt : keyAfter(Buffer.concat([prefix, newestFirst(request.fromMs)]))
  const results: Moment[] = []
  const page = new PageBytes()
  const reading = request.reading ?? new Reading()
  for await (const chunk of tenant.chunks({ gte, lt, values: false })) {
    const ids = chunk.map(([key]) => new KeyReader(key, prefix.length + 6).text())
    const refs = ids.map((id): RecordRef => ({ kind: 'moment', key: [id] }))
    let n = 0
    for await (const record of eachRecord(tenant, refs, reading, () => request.limit + 1 - results.length)) {
      const moment = momentView(ids[n++]!, record)
      if (!moment || !meets(moment, request)) continue
      if (results.length === request.limit || !page.takeLike(moment)) return { results, more: true }
      results.push(moment)
    }
  }
  return { results, more: false }
}

function feedPrefix(request: FeedRequest): Buffer {
  if (request.resource !== undefined) return prefixes.momentReference('resource', request.resource)
  if (request.entity !== undefined) return prefixes.momentReference('entity', request.entity)
  if (request.parent !== undefined) return prefixes.momentParent(request.parent)
  if (request.type !== undefined) return prefixes.momentType(request.type)
  return prefixes.space(space.momentByTime)
}

const meets = (moment: Moment, request: FeedRequest): boolean =>
  (request.type === undefined || moment.type === request.type) &&
  (request.parent === undefined || moment.parent === request.parent) &&
  (request.resource === undefined || moment.resources.includes(request.resource)) &&
  (request.entity === undefined || moment.entities.includes(request.entity))

function toCommand(input: MomentInput, path: string, nowMs: number): MomentCommand {
  const ids = (list: readonly string[] | undefined, field: string) =>
    list?.map((id, n) => checkId(id, `${path}${field}[${n}]`))
  const timeMs = input.time === undefined ? nowMs : parseTime(input.time, `${path}time`)
  const endTimeMs =
    input.end_time === undefined || input.end_time === null
      ? input.end_time
      : parseTime(input.end_time, `${path}end_time`)
  if (typeof endTimeMs === 'number' && endTimeMs < timeMs) {
    throw new PercolateError('INVALID_ARGUMENT', `${path}end_time must not be earlier than time.`, {
      field: `${path}end_time`,
    })
  }
  return {
    id: input.id === undefined ? undefined : checkId(input.id, `${path}id`),
    timeMs,
    endTimeMs,
    type: typeof input.type === 'string' ? checkName(input.type, `${path}type`, CATEGORY_BYTES_MAX) : input.type,
    name: typeof input.name === 'string' ? checkTitle(input.name, `${path}name`) : input.name,
    content: typeof input.content === 'string' ? checkContent(input.content, `${path}content`) : input.content,
    parent: typeof input.parent === 'string' ? checkId(input.parent, `${path}parent`) : input.parent,
    resources: ids(input.resources, 'resources'),
    entities: ids(input.entities, 'entities'),
    metadata: input.metadata === undefined ? undefined : checkObject(input.metadata, `${path}metadata`),
  }
}

const toOutput = (moment: Moment): MomentOutput => ({
  id: moment.id,
  time: isoTime(moment.timeMs),
  end_time: moment.endTimeMs === null ? null : isoTime(moment.endTimeMs),
  type: moment.type,
  name: moment.name,
  content: moment.content,
  parent: moment.parent,
  resources: [...moment.resources],
  entities: [...moment.entities],
  metadata: moment.metadata as Record<string, unknown>,
})
