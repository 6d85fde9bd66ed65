import { PercolateError } from '../../base/errors.ts'
import { EDGE_BYTES_MAX, ENTITY_BYTES_MAX, ENTITY_NAMES_BYTES_MAX } from '../../base/limits.ts'
import type { Slicer } from '../../base/slice.ts'
import { mergeRecords, RecordFold } from '../../rem/merge.ts'
import type { EntityCommand } from '../../rem/plan.ts'
import { EMPTY_RECORD, type LwwRecord, type Op, type RecordRef } from '../../rem/record.ts'
import { entityView } from '../../rem/views.ts'
import type { PlanContext } from '../../tenant/writer.ts'

/** What a request does to one record, and the last of its fields that does. */
interface Change {
  readonly ref: RecordRef
  readonly fold: RecordFold
  field: string
}

/**
 * Looks at what every record would be when the request is merged. One that it names several times is read, merged and measured once. Throws BODY_TOO_LARGE, which names the last field that
 * makes the record what it would be.
 */
export async function assertAllFit(
  commands: readonly EntityCommand[],
  ops: readonly Op[][],
  { read }: Pick<PlanContext, 'read'>,
  slicer: Slicer,
): Promise<void> {
  for (const { ref, fold, field } of await changesOf(commands, ops, slicer)) {
    await slicer.pause()
    const before = (await read(ref)) ?? EMPTY_RECORD
    const after = mergeRecords(before, fold.record)
    if (ref.kind === 'entity') assertFits(ref.key[0]!, before, after, field)
    else assertEdgeFits(before, after, `${field}properties`)
  }
}

async function changesOf(
  commands: readonly EntityCommand[],
  ops: readonly Op[][],
  slicer: Slicer,
): Promise<Iterable<Change>> {
  const changes = new Map<string, Change>()
  const note = (op: Op, field: string) => {
    const name = JSON.stringify(op.key)
    const change = changes.get(name) ?? { ref: { kind: op.kind, key: op.key }, fold: new RecordFold(), field }
    change.fold.add(op)
    change.field = field
    changes.set(name, change)
  }
  for (const [n, { edges = [] }] of commands.entries()) {
    const path = commands.length === 1 ? '' : `entities[${n}].`
    const [entityOp, ...edgeOps] = ops[n]!
    note(entityOp!, path)
    for (const [m, edge] of edges.entries()) {
      if (slicer.due) await slicer.pause()
      // Only properties make an edge grow.
      if (edge.properties !== undefined || edge.remove) note(edgeOps[m]!, `${path}edges[${m}].`)
    }
  }
  return changes.values()
}

/** As {@link assertFits}, for an edge. */
function assertEdgeFits(before: LwwRecord, after: LwwRecord, field: string): void {
  const bytes = bytesOf(after)
  if (bytes <= EDGE_BYTES_MAX || bytes <= bytesOf(before)) return
  throw new PercolateError(
    'BODY_TOO_LARGE',
    `${field} would make the edge ${bytes} bytes; at most ${EDGE_BYTES_MAX} are allowed, and a property that was set to null still counts with its name. Put what belongs together into an entity of its own between the two, or remove the edge ("remove": true) and add it again in a second request with what it needs.`,
    { field },
  )
}

/** Whether an entity may become what it would be; one that is too large already may still become smaller. */
function assertFits(id: string, before: LwwRecord, after: LwwRecord, path: string): void {
  const names = namesBytesOf(id, after)
  if (names > ENTITY_NAMES_BYTES_MAX && names > namesBytesOf(id, before))
    throw new PercolateError(
      'BODY_TOO_LARGE',
      `${path}name and ${path}aliases would have ${names} bytes together; at most ${ENTITY_NAMES_BYTES_MAX} are allowed. Shorten them, remove aliases with remove_aliases, or put long texts into properties.`,
      { field: `${path}aliases` },
    )
  const bytes = bytesOf(after)
  if (bytes <= ENTITY_BYTES_MAX || bytes <= bytesOf(before)) return
  throw new PercolateError(
    'BODY_TOO_LARGE',
    `${path}properties and ${path}aliases would make the entity ${bytes} bytes; at most ${ENTITY_BYTES_MAX} are allowed. Remove what it does not need, or put it into entities of its own, with edges to them.`,
    { field: `${path}properties` },
  )
}

const namesBytesOf = (id: string, record: LwwRecord): number => {
  const entity = entityView(id, record)
  return entity ? [entity.name ?? '', ...entity.aliases].reduce((bytes, name) => bytes + Buffer.byteLength(name), 0) : 0
}

/** About what it takes on disk. */
function bytesOf({ fields }: LwwRecord): number {
  let bytes = 0
  for (const [name, { value }] of fields)
    bytes += 48 + Buffer.byteLength(name) + (typeof value === 'boolean' ? 1 : Buffer.byteLength(JSON.stringify(value)))
  return bytes
}
