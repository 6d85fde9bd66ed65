import { isUtf8 } from 'node:buffer'
import type { MethodDefinition, ServiceDefinition, UntypedServiceImplementation } from '@grpc/grpc-js'
import type { PackageDefinition } from '@grpc/proto-loader'
import { PercolateError } from '../../base/errors.ts'
import {
  BYTES,
  type Descriptor,
  FIXED32,
  FIXED64,
  fieldWithTooMuch,
  lastPart,
  TAG_BITS,
  type TooMuch,
  VARINT,
} from './count-fields.ts'

/** A message as it came: nothing of it is made before the call that it came with has counted it. grpc-js would take an error thrown where it reads a message for its own defect (INTERNAL). */
export class Received {
  readonly bytes: Buffer
  readonly #decode: (bytes: Buffer) => object

  constructor(bytes: Buffer, decode: (bytes: Buffer) => object) {
    this.bytes = bytes
    this.#decode = decode
  }

  /** REQUEST_MALFORMED or INVALID_ARGUMENT, with the field. */
  decode(): object {
    const message = this.#decode(this.bytes)
    sizes.set(message, this.bytes.length)
    return message
  }
}

/** A message as it goes out: who counts its bytes makes them, and grpc-js sends these. */
export class Encoded {
  readonly bytes: Buffer

  constructor(bytes: Buffer) {
    this.bytes = bytes
  }
}

/** Makes what a method of the service sends of a message. */
export const encoderOf =
  (service: ServiceDefinition): ((method: string, message: object) => Encoded) =>
  (method, message) =>
    new Encoded(service[method]!.responseSerialize(message))

const sizes = new WeakMap<object, number>()

/** Bytes of a message as it was received. */
export const messageBytes = (message: object): number => sizes.get(message) ?? 0

/**
 * The service with messages that may be made before they are sent ({@link Encoded}), and that are read when somebody asks for it ({@link Received}): only such as have no more in them than they may have, and no text which is not UTF-8. protobufjs reads every wrong
 * byte as U+FFFD, so that different ids would become one.
 */
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
    const decode = (bytes: Buffer): object => {
      let message: object
      try {
        const tooMuch = fieldWithTooMuch(bytes, type, descriptors)
        if (tooMuch) throw refusalOf(tooMuch)
        message = method.requestDeserialize(bytes) as object
      } catch (error) {
        if (error instanceof PercolateError) throw error
        throw malformed(
          `The message does not decode as ${type.name}: it is cut short, of another type, compressed without saying so, or nested too deep.`,
        )
      }
      const wrong = hasReplacement(message) ? wrongText(bytes, type, descriptors) : undefined
      if (wrong !== undefined) throw malformed(`${wrong} is not valid UTF-8; encode text as UTF-8.`, wrong)
      return message
    }
    return {
      ...method,
      requestDeserialize: bytes => new Received(bytes, decode),
      responseSerialize: message => (message instanceof Encoded ? message.bytes : method.responseSerialize(message)),
    }
  }
  return Object.fromEntries(Object.entries(service).map(([name, method]) => [name, strict(method)]))
}

export const malformed = (message: string, field = 'message') =>
  new PercolateError('REQUEST_MALFORMED', message, { field })

const refusalOf = ({ field, max, of }: TooMuch) =>
  new PercolateError(
    'INVALID_ARGUMENT',
    of === 'items'
      ? `${field} has more than ${max} items; send fewer at once.`
      : `${field} has more values than a message of ${max} has room for; send less at once, resources as a stream (WriteResources).`,
    { field },
  )

const isMessage = (entry: object): entry is { type: Descriptor } =>
  'type' in entry && 'field' in (entry.type as object) && 'nestedType' in (entry.type as object)

/** What is not UTF-8 has become U+FFFD; so has U+FFFD itself. */
function hasReplacement(value: unknown): boolean {
  if (typeof value === 'string') return value.includes('\ufffd')
  if (value === null || typeof value !== 'object' || ArrayBuffer.isView(value)) return false
  if (Array.isArray(value)) return typeof value[0] !== 'number' && value.some(hasReplacement)
  return Object.entries(value).some(([name, item]) => name.includes('\ufffd') || hasReplacement(item))
}

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
      const inner = field?.type === 'TYPE_MESSAGE' && descriptors.get(lastPart(field.typeName))
      const wrong = inner ? wrongText(content, inner, descriptors) : undefined
      if (wrong !== undefined) return wrong
    }
    // The begin and end of a group: what is in between are fields.
  }
  return undefined
}
