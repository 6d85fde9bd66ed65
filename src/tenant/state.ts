import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Time } from '../base/time.ts'
import type { Clock } from '../clock/hlc.ts'
import { decodeEntry, packValue, unpackValue } from '../storage/codec.ts'
import { KEY_LAYOUT_VERSION, KeyReader, keys, prefixes, prefixRange, space } from '../storage/keys.ts'
import type { Kv, KvOperation } from '../storage/kv.ts'
import { type AheadRecords, type LostEntries, NONE_LOST, packAhead, toggleLost, unpackAhead } from './change-log.ts'

/** Who the tenant is; written once, when its database is made. */
export interface TenantIdentity {
  readonly layout: number
  readonly tenant: string
  /** Erase and create gives another, so that nothing of the old one is taken for the new one's. */
  readonly incarnation: string
  readonly createdAtMs: number
}

/** Counters that every write moves; written in the write's own batch. */
export interface TenantState {
  /** Last sequence of this origin's entries. */
  readonly sequence: number
  /** The highest clock reading given out; the clock resumes above it. */
  readonly clock: Clock | undefined
  readonly nextDocNo: number
  /** Visible resources. */
  readonly documents: number
  /** Last number of the change log. */
  readonly changes: number
  /** Entries that the vector counts and that were given up for lost. */
  readonly lost: LostEntries
  /** Records that came from other copies ahead of the vector. */
  readonly ahead: AheadRecords | undefined
  /** Last number given out in the outbox: entries leave in this order, also those of an earlier origin of this copy. */
  readonly outbox: number
  /** Sum of the visible resources' lengths in terms; with `documents`, the average that BM25 needs. */
  readonly termTotal: number
}

/** Which vectors the tenant holds; set by the first one stored. */
export interface EmbeddingSpec {
  readonly model: string
  readonly dimensions: number
}

const NEW_STATE: TenantState = {
  sequence: 0,
  clock: undefined,
  nextDocNo: 0,
  documents: 0,
  termTotal: 0,
  changes: 0,
  lost: NONE_LOST,
  ahead: undefined,
  outbox: 0,
}

export async function readIdentity(kv: Kv, tenant: TenantId): Promise<TenantIdentity | undefined> {
  const bytes = await kv.get(keys.meta('tenant'))
  if (bytes === undefined) return undefined
  const identity = unpackValue(bytes) as TenantIdentity
  if (identity.layout !== KEY_LAYOUT_VERSION) {
    throw new PercolateError(
      'FORMAT_UNSUPPORTED',
      `The tenant's data has key layout ${identity.layout}; this version of Percolate reads ${KEY_LAYOUT_VERSION}.`,
    )
  }
  if (identity.tenant !== tenant)
    throw new PercolateError('DATA_CORRUPT', "The folder holds another tenant's database.")
  return identity
}

/** Sorts by time of creation, so that of two incarnations it is clear which is the later one. */
export const newIncarnation = (time: Time): string =>
  `${time.now().toString(16).padStart(12, '0')}-${time.random(8).toString('hex')}`

export async function createIdentity(
  kv: Kv,
  tenant: TenantId,
  made: { incarnation: string; createdAtMs: number; local?: LocalState | undefined },
): Promise<TenantIdentity> {
  const { incarnation, createdAtMs, local } = made
  const identity: TenantIdentity = { layout: KEY_LAYOUT_VERSION, tenant, incarnation, createdAtMs }
  const operations: KvOperation[] = [{ type: 'put', key: keys.meta('tenant'), value: packValue(identity) }]
  if (local) operations.push({ type: 'put', key: keys.meta('local'), value: encodeLocal(local) })
  await kv.write(operations, { sync: true })
  return identity
}

/** This copy's own: never part of a snapshot. */
export interface LocalState {
  /** Part of the origin when this is not the first copy of the tenant on this disk, so that no sequence is ever used twice. */
  readonly generation?: string | undefined
  /** The copy is being made from another one and is not complete. */
  readonly joining?: boolean
  /** The copy is being emptied, to be made anew. */
  readonly wiping?: boolean
}

/** What this copy has promised about the garbage collection floor, and for which floor it has collected. */
export interface FloorState {
  readonly promised?: Clock | undefined
  readonly collected?: Clock | undefined
}

export async function readFloorState(kv: Kv): Promise<FloorState> {
  const bytes = await kv.get(keys.meta('floor'))
  return bytes === undefined ? {} : (unpackValue(bytes) as FloorState)
}

export const encodeFloorState = (state: FloorState): Buffer => packValue(state)

export async function readLocal(kv: Kv): Promise<LocalState> {
  const bytes = await kv.get(keys.meta('local'))
  return bytes === undefined ? {} : (unpackValue(bytes) as LocalState)
}

export const encodeLocal = (local: LocalState): Buffer => packValue(local)

export const newGeneration = (time: Time): string => time.random(4).toString('hex')

export const originOf = (disk: string, local: LocalState): string =>
  local.generation === undefined ? disk : `${disk}.${local.generation}`

/** How far this copy has read its tenant's sync stream: an optimisation, the version vector is the truth. */
export interface StreamCursor {
  /** When the stream was made: another stream of the same name has another. */
  readonly stream: string
  readonly sequence: number
}

export async function readCursor(kv: Kv): Promise<StreamCursor | undefined> {
  const bytes = await kv.get(keys.meta('cursor'))
  if (bytes === undefined) return undefined
  const [stream, sequence] = unpackValue(bytes) as [string, number]
  return { stream, sequence }
}

export const encodeCursorValue = ({ stream, sequence }: StreamCursor): Buffer => packValue([stream, sequence])

export async function readVector(kv: Kv): Promise<Map<string, number>> {
  const vector = new Map<string, number>()
  for await (const chunk of kv.chunks({ ...prefixRange(prefixes.space(space.versionVector)), verified: true }))
    for (const [key, value] of chunk) vector.set(new KeyReader(key).text(), Number(value.readBigUInt64BE(0)))
  return vector
}

export async function readState(kv: Kv): Promise<TenantState> {
  const bytes = await kv.get(keys.meta('state'))
  if (bytes === undefined) return NEW_STATE
  const [sequence, clock, nextDocNo, documents, termTotal, changes = 0, outbox = sequence, lost, ahead] = unpackValue(
    bytes,
  ) as [
    number,
    [number, number, string] | null,
    number,
    number,
    number,
    number | undefined,
    number | undefined,
    [number, string] | undefined,
    unknown,
  ]
  return {
    sequence,
    clock: clock === null ? undefined : { wall: clock[0], counter: clock[1], origin: clock[2] },
    nextDocNo,
    documents,
    termTotal,
    changes,
    lost: lost ? { count: lost[0], mark: lost[1] } : await countLost(kv),
    ahead: unpackAhead(ahead),
    outbox,
  }
}

/** For a state written before it said what was given up. */
async function countLost(kv: Kv): Promise<LostEntries> {
  let lost = NONE_LOST
  for await (const chunk of kv.chunks({ ...prefixRange(prefixes.space(space.skipped)), values: false }))
    for (const [key] of chunk) {
      const reader = new KeyReader(key)
      lost = toggleLost(lost, reader.text(), reader.u64(), 1)
    }
  return lost
}

export function encodeState(state: TenantState): Buffer {
  const clock = state.clock === undefined ? null : [state.clock.wall, state.clock.counter, state.clock.origin]
  return packValue([
    state.sequence,
    clock,
    state.nextDocNo,
    state.documents,
    state.termTotal,
    state.changes,
    state.outbox,
    [state.lost.count, state.lost.mark],
    packAhead(state.ahead) ?? null,
  ])
}

export async function readEmbeddingSpec(kv: Kv): Promise<EmbeddingSpec | undefined> {
  const bytes = await kv.get(keys.meta('embedding'))
  return bytes === undefined ? undefined : (unpackValue(bytes) as EmbeddingSpec)
}

export const encodeEmbeddingSpec = (spec: EmbeddingSpec): Buffer =>
  packValue({ model: spec.model, dimensions: spec.dimensions })

/** Keys at once in a batch that empties a copy. */
const WIPE_KEYS = 10_000

/** What a copy has that may be nowhere else, and that is true of any copy: entries that were set aside, and those that wait for their clock. */
const KEPT_BY_WIPE: readonly number[] = [space.quarantine, space.parked]

/**
 * Empties a copy, to be made anew from another one: what it never published is set aside in its quarantine first, in the same batch as the mark that
 * makes a restart go on. What is parked stays, and is applied when it is due, by the rules that hold then. The database must be open nowhere else.
 */
export async function wipeCopy(kv: Kv, time: Time): Promise<void> {
  const operations: KvOperation[] = []
  for await (const chunk of kv.chunks({ ...prefixRange(prefixes.space(space.outbox)), verified: true })) {
    for (const [key, value] of chunk) {
      const { origin, sequence } = decodeEntry(value)
      operations.push({ type: 'del', key }, { type: 'put', key: keys.quarantine(origin, sequence), value })
    }
  }
  const local: LocalState = { generation: newGeneration(time), joining: true, wiping: true }
  operations.push({ type: 'put', key: keys.meta('local'), value: encodeLocal(local) })
  await kv.write(operations, { sync: true })
  await finishWipe(kv, local)
}

/** Goes on where a wipe was cut short. */
export async function finishWipe(kv: Kv, local: LocalState): Promise<LocalState> {
  if (!local.wiping) return local
  const kept = new Set([keys.meta('tenant').toString('latin1'), keys.meta('local').toString('latin1')])
  for (const spaceByte of Object.values(space)) {
    if (KEPT_BY_WIPE.includes(spaceByte)) continue
    const range = prefixRange(prefixes.space(spaceByte))
    for (;;) {
      const doomed: KvOperation[] = []
      for await (const chunk of kv.chunks({ ...range, limit: WIPE_KEYS, values: false }))
        for (const [key] of chunk) if (!kept.has(key.toString('latin1'))) doomed.push({ type: 'del', key })
      if (doomed.length === 0) break
      await kv.write(doomed, { sync: false })
    }
  }
  const { wiping: _, ...rest } = local
  await kv.write([{ type: 'put', key: keys.meta('local'), value: encodeLocal(rest) }], { sync: true })
  return rest
}
