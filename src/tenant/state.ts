import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Time } from '../base/time.ts'
import type { Clock } from '../clock/hlc.ts'
import { packValue, unpackValue } from '../storage/codec.ts'
import { KEY_LAYOUT_VERSION, KeyReader, keys, prefixes, prefixRange, space } from '../storage/keys.ts'
import type { Kv, KvOperation } from '../storage/kv.ts'

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
  /** Sum of the visible resources' lengths in terms; with `documents`, the average that BM25 needs. */
  readonly termTotal: number
}

/** Which vectors the tenant holds; set by the first one stored. */
export interface EmbeddingSpec {
  readonly model: string
  readonly dimensions: number
}

const NEW_STATE: TenantState = { sequence: 0, clock: undefined, nextDocNo: 0, documents: 0, termTotal: 0, changes: 0 }

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
  made: { incarnation: string; createdAtMs: number; generation?: string | undefined },
): Promise<TenantIdentity> {
  const { incarnation, createdAtMs, generation } = made
  const identity: TenantIdentity = { layout: KEY_LAYOUT_VERSION, tenant, incarnation, createdAtMs }
  const operations: KvOperation[] = [{ type: 'put', key: keys.meta('tenant'), value: packValue(identity) }]
  if (generation !== undefined)
    operations.push({ type: 'put', key: keys.meta('local'), value: encodeLocal({ generation }) })
  await kv.write(operations, { sync: true })
  return identity
}

/** This copy's own: never part of a snapshot. */
export interface LocalState {
  /** Part of the origin when this is not the first copy of the tenant on this disk, so that no sequence is ever used twice. */
  readonly generation?: string | undefined
}

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
  for await (const chunk of kv.chunks(prefixRange(prefixes.space(space.versionVector))))
    for (const [key, value] of chunk) vector.set(new KeyReader(key).text(), Number(value.readBigUInt64BE(0)))
  return vector
}

export async function readState(kv: Kv): Promise<TenantState> {
  const bytes = await kv.get(keys.meta('state'))
  if (bytes === undefined) return NEW_STATE
  const [sequence, clock, nextDocNo, documents, termTotal, changes = 0] = unpackValue(bytes) as [
    number,
    [number, number, string] | null,
    number,
    number,
    number,
    number | undefined,
  ]
  return {
    sequence,
    clock: clock === null ? undefined : { wall: clock[0], counter: clock[1], origin: clock[2] },
    nextDocNo,
    documents,
    termTotal,
    changes,
  }
}

export function encodeState(state: TenantState): Buffer {
  const clock = state.clock === undefined ? null : [state.clock.wall, state.clock.counter, state.clock.origin]
  return packValue([state.sequence, clock, state.nextDocNo, state.documents, state.termTotal, state.changes])
}

export async function readEmbeddingSpec(kv: Kv): Promise<EmbeddingSpec | undefined> {
  const bytes = await kv.get(keys.meta('embedding'))
  return bytes === undefined ? undefined : (unpackValue(bytes) as EmbeddingSpec)
}

export const encodeEmbeddingSpec = (spec: EmbeddingSpec): Buffer =>
  packValue({ model: spec.model, dimensions: spec.dimensions })
