import { type Clock, compareClocks } from '../clock/hlc.ts'
import { isVisible, mergeOp, mergeRecords } from './merge.ts'
import { EMPTY_RECORD, type LwwRecord, type Op, type RecordRef, type Value } from './record.ts'

/** What an entry says of one record, its ops merged. */
export interface Said {
  readonly ref: RecordRef
  readonly record: LwwRecord
}

/** What an entry says of each of its records, in the order in which it names them first. */
export function saidBy(ops: readonly Op[]): Said[] {
  const said = new Map<string, Said>()
  for (const op of ops) {
    const name = JSON.stringify([op.kind, op.key])
    const before = said.get(name)?.record ?? EMPTY_RECORD
    said.set(name, { ref: { kind: op.kind, key: [...op.key] }, record: mergeOp(before, op) })
  }
  return [...said.values()]
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

/**
 * What was said too late to be merged, as an op of now, at `clock`: it says again what nothing later has changed or deleted since, and nothing else. A delete leaves a record that was written
 * to after it. `undefined`: nothing of it is left to be said.
 */
export function restated({ ref, record: late }: Said, record: LwwRecord, clock: Clock): Op | undefined {
  const merged = mergeRecords(record, late)
  if (!isVisible(merged)) {
    if (!isVisible(record)) return undefined
    const isWrittenSince = [...merged.fields.values()].some(register => compareClocks(register.clock, late.del!) > 0)
    return isWrittenSince ? undefined : { ...ref, action: 'del', clock, fields: {} }
  }
  const fields: Record<string, Value> = {}
  for (const [name, register] of merged.fields) if (record.fields.get(name) !== register) fields[name] = register.value
  if (isVisible(record) && Object.keys(fields).length === 0) return undefined
  return { ...ref, action: late.put ? 'put' : 'set', clock, fields }
}

const isSame = (a: Clock | undefined, b: Clock | undefined): boolean =>
  a === b || (a !== undefined && b !== undefined && compareClocks(a, b) === 0)
