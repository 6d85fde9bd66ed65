import { randomUUID } from 'node:crypto'
import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Clock } from '../clock/hlc.ts'
import { packValue, unpackValue } from '../storage/codec.ts'
import { KEY_LAYOUT_VERSION, keys } from '../storage/keys.ts'
import type { Kv } from '../storage/kv.ts'

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
  /** Sum of the visible resources' lengths in terms; with `documents`, the average that BM25 needs. */
  readonly termTotal: number
}

/** Which vectors the tenant holds; set by the first one stored. */
export interface EmbeddingSpec {
  readonly model: string
  readonly dimensions: number
}

const NEW_STATE: TenantState = { sequence: 0, clock: undefined, nextDocNo: 0, documents: 0, termTotal: 0 }

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

export async function createIdentity(kv: Kv, tenant: TenantId, nowMs: number): Promise<TenantIdentity> {
  const identity: TenantIdentity = { layout: KEY_LAYOUT_VERSION, tenant, incarnation: randomUUID(), createdAtMs: nowMs }
  await kv.write([{ type: 'put', key: keys.meta('tenant'), value: packValue(identity) }], { sync: true })
  return identity
}

export async function readState(kv: Kv): Promise<TenantState> {
  const bytes = await kv.get(keys.meta('state'))
  if (bytes === undefined) return NEW_STATE
  const [sequence, clock, nextDocNo, documents, termTotal] = unpackValue(bytes) as [
    number,
    [number, number, string] | null,
    number,
    number,
    number,
  ]
  return {
    sequence,
    clock: clock === null ? undefined : { wall: clock[0], counter: clock[1], origin: clock[2] },
    nextDocNo,
    documents,
    termTotal,
  }
}

export function encodeState(state: TenantState): Buffer {
  const clock = state.clock === undefined ? null : [state.clock.wall, state.clock.counter, state.clock.origin]
  return packValue([state.sequence, clock, state.nextDocNo, state.documents, state.termTotal])
}

export async function readEmbeddingSpec(kv: Kv): Promise<EmbeddingSpec | undefined> {
  const bytes = await kv.get(keys.meta('embedding'))
  return bytes === undefined ? undefined : (unpackValue(bytes) as EmbeddingSpec)
}

export const encodeEmbeddingSpec = (spec: EmbeddingSpec): Buffer =>
  packValue({ model: spec.model, dimensions: spec.dimensions })
