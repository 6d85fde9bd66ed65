import {
  ALIASES_MAX,
  BATCH_ITEMS_MAX,
  CHAT_MESSAGES_MAX,
  DIMENSIONS_MAX,
  EDGES_PER_REQUEST_MAX,
  MESSAGE_VALUES_MAX,
  REFERENCES_MAX,
} from '../../base/limits.ts'

/** As proto-loader describes a message (google.protobuf.DescriptorProto). */
export interface Descriptor {
  readonly name: string
  readonly field: readonly Field[]
  readonly nestedType: readonly Descriptor[]
}
interface Field {
  readonly name: string
  readonly number: number
  readonly label: string
  readonly type: string
  readonly typeName: string
}

/** A field of which there is too much, as a path, and the most that there may be. `values`: of all that the message has. */
export interface TooMuch {
  readonly field: string
  readonly max: number
  readonly of: 'items' | 'values'
}

/** That a message does not decode: thrown for bytes that are no message of the type. */
export class Undecodable extends Error {}

/** Items of the lists of requests: the same as the schemas say, which see a message only when all of it has been made. */
const ITEMS_MAX: Readonly<Record<string, number | undefined>> = {
  'PutResourcesRequest.resources': BATCH_ITEMS_MAX,
  'PutEntitiesRequest.entities': BATCH_ITEMS_MAX,
  'AppendMomentsRequest.moments': BATCH_ITEMS_MAX,
  'EntityInput.aliases': ALIASES_MAX,
  'EntityInput.remove_aliases': ALIASES_MAX,
  'EntityInput.edges': EDGES_PER_REQUEST_MAX,
  'MomentInput.resources': REFERENCES_MAX,
  'MomentInput.entities': REFERENCES_MAX,
  'ResourceInput.embedding': DIMENSIONS_MAX,
  'SearchResourcesRequest.embedding': DIMENSIONS_MAX,
  'ChatRequest.messages': CHAT_MESSAGES_MAX,
}

export const TAG_BITS = 3
export const [VARINT, FIXED64, BYTES, FIXED32] = [0, 1, 2, 5]
const VARINT_BYTES_MAX = 10
const UINT32_MAX = 0xffffffff
/** As protobufjs has it (`Reader.recursionLimit`). */
const DEPTH_MAX = 100

const wires: Readonly<Record<string, number | undefined>> = {
  TYPE_STRING: BYTES,
  TYPE_BYTES: BYTES,
  TYPE_MESSAGE: BYTES,
  TYPE_DOUBLE: FIXED64,
  TYPE_FIXED64: FIXED64,
  TYPE_SFIXED64: FIXED64,
  TYPE_FLOAT: FIXED32,
  TYPE_FIXED32: FIXED32,
  TYPE_SFIXED32: FIXED32,
}
const wireOf = (type: string): number => wires[type] ?? VARINT!

/**
 * Whether a message has more than it may have, told from its bytes: each list its own bound, and texts, bytes and messages in it {@link MESSAGE_VALUES_MAX} all together. Two bytes make an object of
 * a hundred, so they are counted before they are made. Throws {@link Undecodable} for what is no message of this type. A known field in another form than its own is none, too: protobufjs would read
 * it regardless of what it says to be, and see other fields from there on than are counted here.
 */
export function fieldWithTooMuch(
  bytes: Uint8Array,
  type: Descriptor,
  descriptors: ReadonlyMap<string, Descriptor>,
): TooMuch | undefined {
  let at = 0
  let values = 0
  const varint = (end: number): number => {
    let value = 0
    let shift = 1
    for (let n = 0; n < VARINT_BYTES_MAX && at < end; n++, shift *= 128) {
      const byte = bytes[at++]!
      value += (byte & 0x7f) * shift
      if (byte < 0x80) return value
    }
    throw new Undecodable()
  }
  const uint32 = (end: number): number => {
    const value = varint(end)
    if (value > UINT32_MAX) throw new Undecodable()
    return value
  }
  const skip = (count: number, end: number) => {
    if (at + count > end) throw new Undecodable()
    at += count
  }
  const walk = (end: number, { name, field: fields }: Descriptor, depth: number): TooMuch | undefined => {
    if (depth > DEPTH_MAX) throw new Undecodable()
    const counts = new Map<Field, number>()
    while (at < end) {
      const tag = uint32(end)
      const wire = tag % (1 << TAG_BITS)
      const field = fields.find(({ number }) => number === tag >>> TAG_BITS)
      const own = field && wireOf(field.type)
      const isPacked = wire === BYTES && own !== BYTES && field?.label === 'LABEL_REPEATED'
      if (own !== undefined && own !== wire && !isPacked) throw new Undecodable()
      let items = 1
      let content = at
      if (wire === VARINT) varint(end)
      else if (wire === FIXED64) skip(8, end)
      else if (wire === FIXED32) skip(4, end)
      else if (wire === BYTES) {
        const length = uint32(end)
        content = at
        skip(length, end)
        if (isPacked) items = own === VARINT ? length : Math.floor(length / (own === FIXED32 ? 4 : 8))
        if (++values > MESSAGE_VALUES_MAX)
          return { field: field?.name ?? 'message', max: MESSAGE_VALUES_MAX, of: 'values' }
      } else throw new Undecodable()
      if (!field) continue
      const isList = field.label === 'LABEL_REPEATED'
      const index = counts.get(field) ?? 0
      if (isList) {
        counts.set(field, index + items)
        const max = ITEMS_MAX[`${name}.${field.name}`]
        if (max !== undefined && index + items > max) return { field: field.name, max, of: 'items' }
      }
      const inner = field.type === 'TYPE_MESSAGE' ? descriptors.get(lastPart(field.typeName)) : undefined
      if (!inner) continue
      const close = at
      at = content
      const found = walk(close, inner, depth + 1)
      if (found) return { ...found, field: pathOf(field.name, isList ? index : undefined, inner, found.field) }
    }
    return undefined
  }
  return walk(bytes.length, type, 0)
}

/** `resources[3].metadata`; what is inside of a struct is named by the struct. */
const pathOf = (outer: string, index: number | undefined, { name }: Descriptor, inner: string): string => {
  const itself = index === undefined ? outer : `${outer}[${index}]`
  return STRUCT.has(name) ? outer : `${itself}.${inner}`
}
const STRUCT = new Set(['Struct', 'Fields', 'Value', 'ListValue'])

export const lastPart = (typeName: string): string => typeName.slice(typeName.lastIndexOf('.') + 1)
