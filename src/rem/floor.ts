import { type Clock, compareClocks, laterClock } from '../clock/hlc.ts'
import { type VersionVector, vectorFromObject, vectorToObject } from '../clock/vector.ts'
import type { LwwRecord, Op, RecordRef } from './record.ts'

/**
 * The garbage collection floor of a tenant. Every holder has promised to write nothing at or below `clock`, and has applied `vector`,
 * which is all that any of them had written by then. So what lies at or below the clock is settled: tombstones there can go, and what arrives from
 * there and is not in the vector comes from a copy that was away too long.
 */
export interface GcFloor {
  readonly clock: Clock
  readonly vector: VersionVector
}

export const FLOOR_REF: RecordRef = { kind: 'setting', key: ['gc-floor'] }

/** The op's clock is the floor's own, so that last-write-wins keeps the highest floor. */
export const planFloor = (floor: GcFloor): Op => ({
  ...FLOOR_REF,
  action: 'put',
  clock: floor.clock,
  fields: { vector: vectorToObject(floor.vector) },
})

/** Whether an op moves the floor: it carries the clock of the floor, however late it was written. */
export const isFloorOp = ({ kind, key }: Pick<Op, 'kind' | 'key'>): boolean =>
  kind === FLOOR_REF.kind && key[0] === FLOOR_REF.key[0]

export function floorOf(record: LwwRecord | undefined): GcFloor | undefined {
  const vector = vectorFromObject(record?.fields.get('vector')?.value)
  return record?.put && vector ? { clock: record.put, vector } : undefined
}

/** The latest clock in a record. */
export function latestClock(record: LwwRecord): Clock | undefined {
  let latest = laterClock(record.put, record.del)
  for (const { clock } of record.fields.values()) latest = laterClock(latest, clock)
  return latest
}

/**
 * What is left of a record when everything at or below the floor is settled: its delete clock is not needed any more, and a record that was nothing else is gone
 * (undefined). It does not matter whether later ops were merged before or after.
 */
export function collectRecord(record: LwwRecord, floor: Clock): LwwRecord | undefined {
  if (record.del === undefined || compareClocks(record.del, floor) > 0) return record
  if (record.put === undefined && record.fields.size === 0) return undefined
  return { ...record, del: undefined }
}

export const isSameFloor = (a: GcFloor | undefined, b: GcFloor | undefined): boolean =>
  a === b || (a !== undefined && b !== undefined && compareClocks(a.clock, b.clock) === 0)
