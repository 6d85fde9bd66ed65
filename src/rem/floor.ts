import { type Clock, compareClocks, laterClock } from '../clock/hlc.ts'
import { type VersionVector, vectorFromObject, vectorToObject } from '../clock/vector.ts'
import { isVisible } from './merge.ts'
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

const settled = (clock: Clock | undefined, floor: Clock): boolean =>
  clock === undefined || compareClocks(clock, floor) <= 0

/**
 * What is left of a record when everything at or below the floor is settled: undefined for a tombstone that can go, without its delete clock
 * when it came back since. The same on every holder that has the same state and floor.
 */
export function collectRecord(record: LwwRecord, floor: Clock): LwwRecord | undefined {
  if (!isVisible(record)) return settled(latestClock(record), floor) ? undefined : record
  return record.del !== undefined && settled(record.del, floor) ? { ...record, del: undefined } : record
}
