import { isUtf8 } from 'node:buffer'
import type { MethodDefinition, ServiceDefinition, UntypedServiceImplementation } from '@grpc/grpc-js'
import type { PackageDefinition } from '@grpc/proto-loader'
import { PercolateError } from '../../base/errors.ts'

/** As proto-loader describes a message (google.protobuf.DescriptorProto). */
interface Descriptor {
  readonly name: string
  readonly field: readonly { name: string; number: number; type: string; typeName: string }[]
  readonly nestedType: readonly Descriptor[]
}

/** Stands for a message that does not decode; the interceptor answers it. grpc-js would take a thrown error for its own defect (INTERNAL). */
export class Malformed {
  readonly error: PercolateError

  constructor(message: string, field = 'message') {
    this.error = new PercolateError('REQUEST_MALFORMED', message, { field })
  }
}

const sizes = new WeakMap<object, number>()

/** Bytes of a message as it was received. */
export const messageBytes = (message: object): number => sizes.get(message) ?? 0

/** The service with deserializers that never throw, and that take no text which is not UTF-8: protobufjs reads every wrong byte as U+FFFD, so that different ids would become one. */
export function strictService(
  service: ServiceDefinition,
  definition: PackageDefinition,
): ServiceDefinition<UntypedServiceImplementation> {
  const descriptors = new Map<string, Descriptor>()
  const add = (descriptor: Descriptor) => {
    descriptors.set(descriptor.name, descriptor)
    descriptor.nestedType.forEach(add)
  }
  for (const entry of Object.values(definition)) if (isMessage(entry)) add(entry.type)
  const strict = (method: MethodDefinition<unknown, unknown>): MethodDefinition<unknown, unknown> => {
    const { type } = (method as unknown as { requestType: { type: Descriptor } }).requestType
    return {
      ...method,
      requestDeserialize: bytes => {
        let message: unknown
        try {
          message = method.requestDeserialize(bytes)
        } catch {
          return new Malformed(
            `The message does not decode as ${type.name}: it is cut short, of another type, compressed without saying so, or nested too deep.`,
          )
        }
        sizes.set(message as object, bytes.length)
        if (!hasReplacement(message)) return message
        const wrong = wrongText(bytes, type, descriptors)
        return wrong === undefined
          ? message
          : new Malformed(`${wrong} is not valid UTF-8; encode text as UTF-8.`, wrong)
      },
    }
  }
  return Object.fromEntries(Object.entries(service).map(([name, method]) => [name, strict(method)]))
}

const isMessage = (entry: object): entry is { type: Descriptor } =>
  'type' in entry && 'field' in (entry.type as object) && 'nestedType' in (entry.type as object)

/** What is not UTF-8 has become U+FFFD; so has U+FFFD itself. */
function hasReplacement(value: unknown): boolean {
  if (typeof value === 'string') return value.includes('\ufffd')
  if (value === null || typeof value !== 'object' || ArrayBuffer.isView(value)) return false
  if (Array.isArray(value)) return typeof value[0] !== 'number' && value.some(hasReplacement)
  return Object.entries(value).some(([name, item]) => name.includes('\ufffd') || hasReplacement(item))
}

const TAG_BITS = 3
const [VARINT, FIXED64, BYTES, FIXED32] = [0, 1, 2, 5]

/** The name of a text field whose bytes are no UTF-8, in a message that decodes (https://protobuf.dev/programming-guides/encoding/). */
function wrongText(
  bytes: Buffer,
  { field: fields }: Descriptor,
  descriptors: ReadonlyMap<string, Descriptor>,
): string | undefined {
  let at = 0
  const varint = (): number => {
    let value = 0
    for (let shift = 1; ; shift *= 128) {
      const byte = bytes[at++] ?? 0
      value += (byte & 0x7f) * shift
      if (byte < 0x80) return value
    }
  }
  while (at < bytes.length) {
    const tag = varint()
    const wire = tag % (1 << TAG_BITS)
    if (wire === VARINT) varint()
    else if (wire === FIXED64) at += 8
    else if (wire === FIXED32) at += 4
    else if (wire === BYTES) {
      const length = varint()
      const content = bytes.subarray(at, at + length)
      at += length
      const field = fields.find(({ number }) => number === Math.floor(tag / (1 << TAG_BITS)))
      if (field?.type === 'TYPE_STRING' && !isUtf8(content)) return field.name
      const inner = field?.type === 'TYPE_MESSAGE' && descriptors.get(field.typeName.split('.').at(-1)!)
      const wrong = inner ? wrongText(content, inner, descriptors) : undefined
      if (wrong !== undefined) return wrong
    }
    // The begin and end of a group: what is in between are fields.
  }
  return undefined
}
