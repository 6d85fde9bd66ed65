import { type Clock, compareClocks } from '../clock/hlc.ts'
import { isVisible, mergeRecords, RecordFold } from './merge.ts'
import { EMPTY_RECORD, type LwwRecord, nameOf, type Op, type RecordRef, type Value } from './record.ts'

/** What an entry says of one record, its ops merged. */
export interface Said {
  readonly ref: RecordRef
  readonly record: LwwRecord
}

/** What an entry says of each of its records, in the order in which it names them first. */
export function saidBy(ops: readonly Op[]): Said[] {
  const said = new Map<string, { readonly ref: RecordRef; readonly fold: RecordFold }>()
  for (const op of ops) {
    const name = nameOf(op)
    let known = said.get(name)
    if (!known) {
      known = { ref: { kind: op.kind, key: [...op.key] }, fold: new RecordFold() }
      said.set(name, known)
    }
    known.fold.add(op)
  }
  return [...said.values()].map(({ ref, fold }) => ({ ref, record: fold.record }))
}

/** Whether a record has all that was said of it, or something later in its place: merged into it, that changes nothing. */
export function hasAll(record: LwwRecord, said: LwwRecord): boolean {
  const merged = mergeRecords(record, said)
  return (
    isSame(merged.put, record.put) &&
    isSame(merged.del, record.del) &&
    merged.fields.size === record.fields.size &&
    [...merged.fields].every(([name, register]) => record.fields.get(name) === register)
  )
}

/** What decides how much of a late write is left to be said. */
export interface Beside {
  /** What other late writes say of the same record: they count as of their own clocks, whichever of them is applied first. */
  readonly others?: LwwRecord
  /** Of an edge: what is known of the entities at both ends; one that was deleted later took the edge along. */
  readonly ends?: readonly LwwRecord[]
}

/**
 * What was said too late to be merged, as an op of now, at `clock`: it says again what nothing later has changed or deleted since, and nothing else. `undefined`: nothing of it is left to be said.
 * A delete that something later stands on is not said again, and leaves all of the record.
 */
export function restated(
  { ref, record: late }: Said,
  before: LwwRecord,
  clock: Clock,
  { others = EMPTY_RECORD, ends = [] }: Beside = {},
): Op | undefined {
  const withEnds = (all: LwwRecord) => ends.reduce((so, { del }) => mergeRecords(so, { ...EMPTY_RECORD, del }), all)
  const record = withEnds(before)
  const merged = withEnds(mergeRecords(mergeRecords(before, late), others))
  if (late.del && !isVisible(merged) && isSame(merged.del, late.del) && !isSame(record.del, late.del))
    return { ...ref, action: 'del', clock, fields: {} }
  const fields: Record<string, Value> = {}
  for (const [name, register] of late.fields) if (merged.fields.get(name) === register) fields[name] = register.value
  const isPut = late.put !== undefined && isSame(merged.put, late.put) && !isSame(record.put, late.put)
  if (!isPut && Object.keys(fields).length === 0) return undefined
  return { ...ref, action: isPut ? 'put' : 'set', clock, fields }
}

const isSame = (a: Clock | undefined, b: Clock | undefined): boolean =>
  a === b || (a !== undefined && b !== undefined && compareClocks(a, b) === 0)
