import type { Clock } from '../clock/hlc.ts'

/** What a register can hold: JSON values, and bytes for digests. */
export type Value = null | boolean | number | string | Uint8Array | Value[] | { [key: string]: Value }

export interface Register {
  readonly clock: Clock
  readonly value: Value
}

/**
 * The one shape of everything that replicates: a map of last-write-wins registers with a put clock and a delete clock. A record is
 * visible when its last put is later than its last delete; registers at or below the delete clock are gone, so that what
 * is added again after a delete starts empty.
 */
export interface LwwRecord {
  readonly put: Clock | undefined
  readonly del: Clock | undefined
  readonly fields: ReadonlyMap<string, Register>
}

/** A setting is the tenant's own: the garbage collection floor is one. */
export const recordKinds = ['resource', 'entity', 'edge', 'moment', 'setting'] as const
export type RecordKind = (typeof recordKinds)[number]

/** Names a record inside a tenant: one part, or three (from, type, to) for an edge. */
export interface RecordRef {
  readonly kind: RecordKind
  readonly key: readonly string[]
}

/** A record's name as one text; different records have different ones. */
export const nameOf = ({ kind, key }: RecordRef): string => JSON.stringify([kind, ...key])

/** Each record once, in the order in which they are named first. */
export const withoutRepeats = (refs: readonly RecordRef[]): RecordRef[] => [
  ...new Map(refs.map(ref => [nameOf(ref), ref])).values(),
]

/** The unit of replication: what one write did to one record. */
export interface Op extends RecordRef {
  /** `put` says that the record exists from now on, `set` only changes registers of a record that does, `del` says that it is gone. */
  readonly action: 'put' | 'set' | 'del'
  readonly clock: Clock
  /** Registers that a put or set changes; the others stay. Vectors travel whole (`Float32Array` bytes, little endian) under `embedding:<model>`. */
  readonly fields: Readonly<Record<string, Value>>
}

export const EMPTY_RECORD: LwwRecord = { put: undefined, del: undefined, fields: new Map() }

export const EMBEDDING_FIELD_PREFIX = 'embedding:'
export const PROPERTY_FIELD_PREFIX = 'property:'
export const ALIAS_FIELD_PREFIX = 'alias:'
