import { addExtension, Packr, Unpackr } from 'msgpackr'
import { PercolateError } from '../base/errors.ts'
import { type Clock, COUNTER_MAX, compareClocks, formatClock, ORIGIN_PATTERN, WALL_MAX } from '../clock/hlc.ts'
import { type LwwRecord, type Op, type RecordKind, type Register, recordKinds, type Value } from '../rem/record.ts'

/**
 * Bytes of records, outbox entries and meta values: one version byte, then MessagePack (https://github.com/msgpack/msgpack/blob/master/spec.md)
 * in a fixed order, so that equal states have equal bytes on every node. `tests/unit/storage/codec.test.ts` holds golden bytes.
 */
export const RECORD_VERSION = 1
export const ENTRY_VERSION = 1

const packr = new Packr({ useRecords: false, variableMapSize: true, encodeUndefinedAsNil: false })
/** Records are defined by what is decoded, and no option forbids it: there is no room for a definition. */
const noRecords: object[] = []
const unpackr = new Unpackr({ useRecords: false, structuredClone: false, structures: noRecords })
Object.freeze(noRecords)
// A plain decoder that keeps `__proto__` as an own key would need a reviver; metadata is checked against that key at the API.

/**
 * Types of extensions that msgpackr reads and we never write, beside ids and pointers (`structuredClone`): large numbers, bundled strings, errors, sets, typed arrays and patterns. A few bytes of them
 * make much (an error's stack, all strings of a message again), and no option turns them off. Nothing else in the process uses msgpackr.
 */
const REFUSED_EXTENSIONS = [0x42, 0x62, 0x65, 0x73, 0x74, 0x78]
for (const type of REFUSED_EXTENSIONS)
  addExtension({
    type,
    unpack: () => {
      throw new Error(`an extension of type ${type} is not one that is written`)
    },
  })

export const packValue = (value: unknown): Buffer => packr.pack(value)

export function unpackValue(bytes: Uint8Array): unknown {
  try {
    return unpackr.unpack(bytes)
  } catch (cause) {
    throw new PercolateError('DATA_CORRUPT', 'A stored value does not decode.', { cause })
  }
}

type PackedClock = [wall: number, counter: number, origin: string]
const packClock = (clock: Clock): PackedClock => [clock.wall, clock.counter, clock.origin]
const unpackClock = ([wall, counter, origin]: PackedClock): Clock => ({ wall, counter, origin })

/** A record names each clock once: `[clocks ascending, put index or null, del index or null, [name, clock index, value, …] by name]`. */
export function encodeRecord(record: LwwRecord): Buffer {
  const clocks = new Map<string, Clock>()
  const note = (clock: Clock | undefined) => clock && clocks.set(formatClock(clock), clock)
  note(record.put)
  note(record.del)
  for (const register of record.fields.values()) note(register.clock)
  const sorted = [...clocks.entries()].sort(([, a], [, b]) => compareClocks(a, b))
  const indexes = new Map(sorted.map(([text], index) => [text, index]))
  const indexOf = (clock: Clock | undefined) => (clock === undefined ? null : indexes.get(formatClock(clock))!)
  const fields: unknown[] = []
  for (const name of [...record.fields.keys()].sort()) {
    const register = record.fields.get(name)!
    fields.push(name, indexOf(register.clock), register.value)
  }
  return versioned(RECORD_VERSION, [
    sorted.map(([, clock]) => packClock(clock)),
    indexOf(record.put),
    indexOf(record.del),
    fields,
  ])
}

export function decodeRecord(bytes: Buffer): LwwRecord {
  const [packed, put, del, flat] = readVersioned(bytes, RECORD_VERSION, 'record') as [
    PackedClock[],
    number | null,
    number | null,
    unknown[],
  ]
  const clocks = packed.map(unpackClock)
  const fields = new Map<string, Register>()
  for (let at = 0; at < flat.length; at += 3) {
    fields.set(flat[at] as string, { clock: clocks[flat[at + 1] as number]!, value: flat[at + 2] as Value })
  }
  return { put: put === null ? undefined : clocks[put], del: del === null ? undefined : clocks[del], fields }
}

/** What one write changed, as it goes to the tenant's sync stream. */
export interface Entry {
  readonly tenant: string
  /** The tenant's incarnation: made when the tenant is created. */
  readonly incarnation: string
  /** `node.disk`. */
  readonly origin: string
  /** Contiguous per origin, from 1. */
  readonly sequence: number
  readonly ops: readonly Op[]
}

export function encodeEntry(entry: Entry): Buffer {
  return versioned(ENTRY_VERSION, [
    entry.tenant,
    entry.incarnation,
    entry.origin,
    entry.sequence,
    entry.ops.map(packOp),
  ])
}

export function decodeEntry(bytes: Buffer): Entry {
  const fields = readVersioned(bytes, ENTRY_VERSION, 'entry')
  if (!Array.isArray(fields) || fields.length !== 5) throw malformed('does not have five fields')
  const [tenant, incarnation, origin, sequence, ops] = fields as unknown[]
  for (const [name, value] of Object.entries({ tenant, incarnation, origin }))
    if (typeof value !== 'string' || value.length === 0 || value.length > 256) throw malformed(`has no ${name}`)
  if (!Number.isSafeInteger(sequence) || (sequence as number) < 1) throw malformed('has no sequence')
  if (!Array.isArray(ops) || ops.length === 0) throw malformed('has no ops')
  for (const op of ops) checkOp(op)
  return {
    tenant: tenant as string,
    incarnation: incarnation as string,
    origin: origin as string,
    sequence: sequence as number,
    ops: (ops as PackedOp[]).map(unpackOp),
  }
}

const malformed = (why: string) => new PercolateError('DATA_CORRUPT', `An entry ${why}.`)

/** Entries come from other processes: nothing of them is taken on trust. */
function checkOp(op: unknown): void {
  if (!Array.isArray(op) || op.length !== 5) throw malformed('has an op that is not one')
  const [kind, key, action, clock, fields] = op as unknown[]
  const known = recordKinds[kind as number]
  if (typeof kind !== 'number' || known === undefined) throw malformed('has an op on an unknown kind of record')
  const parts = known === 'edge' ? 3 : 1
  if (!Array.isArray(key) || key.length !== parts || key.some(part => typeof part !== 'string' || part.length > 4096))
    throw malformed('has an op with a malformed key')
  if (typeof action !== 'number' || actions[action] === undefined) throw malformed('has an op with an unknown action')
  const [wall, counter, origin] = Array.isArray(clock) && clock.length === 3 ? (clock as unknown[]) : []
  const validClock =
    Number.isSafeInteger(wall) &&
    (wall as number) >= 0 &&
    (wall as number) <= WALL_MAX &&
    Number.isSafeInteger(counter) &&
    (counter as number) >= 0 &&
    (counter as number) <= COUNTER_MAX &&
    typeof origin === 'string' &&
    ORIGIN_PATTERN.test(origin)
  if (!validClock) throw malformed('has an op with a malformed clock')
  if (!Array.isArray(fields) || fields.length % 2 !== 0) throw malformed('has an op with malformed fields')
  for (let at = 0; at < fields.length; at += 2)
    if (typeof fields[at] !== 'string') throw malformed('has an op with a malformed field name')
}

const actions = ['del', 'put', 'set'] as const
type PackedOp = [kind: number, key: string[], action: number, clock: PackedClock, fields: unknown[]]

function packOp(op: Op): PackedOp {
  const fields = Object.keys(op.fields)
    .sort()
    .flatMap(name => [name, op.fields[name]])
  return [recordKinds.indexOf(op.kind), [...op.key], actions.indexOf(op.action), packClock(op.clock), fields]
}

function unpackOp([kind, key, action, clock, flat]: PackedOp): Op {
  const fields: Record<string, Value> = {}
  for (let at = 0; at < flat.length; at += 2) fields[flat[at] as string] = flat[at + 1] as Value
  return { kind: recordKinds[kind] as RecordKind, key, action: actions[action]!, clock: unpackClock(clock), fields }
}

function versioned(version: number, value: unknown): Buffer {
  return Buffer.concat([Buffer.from([version]), packr.pack(value)])
}

function readVersioned(bytes: Buffer, version: number, what: string): unknown {
  if (bytes[0] !== version) {
    throw new PercolateError(
      'FORMAT_UNSUPPORTED',
      `A stored ${what} has format ${bytes[0] ?? 'nothing'}; this version of Percolate reads ${version}.`,
    )
  }
  return unpackValue(bytes.subarray(1))
}
