import type { Citation } from '../../chat/answer.ts'
import { jsonToStruct, type Struct, structToJson } from './struct.ts'

/** Messages as proto-loader gives them: absent fields are absent, lists are lists. */
export type Message = Record<string, unknown>

const STRUCTS = new Set(['metadata', 'properties'])

/**
 * A request message as the JSON that the HTTP API takes, so that one schema checks both: structs become objects, empty lists are
 * left out (protobuf can't tell them from absent ones), nested messages are converted too.
 */
export function toInput(message: Message): Record<string, unknown> {
  const input: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(message)) {
    // Synthetic oneofs of optional fields come as `_name`.
    if (value === undefined || value === null || name.startsWith('_')) continue
    if (STRUCTS.has(name)) input[name] = structToJson(value as Struct)
    else if (Array.isArray(value)) {
      if (value.length > 0)
        input[name] = value.map(item => (item !== null && typeof item === 'object' ? toInput(item as Message) : item))
    } else input[name] = value
  }
  return input
}

/** An answer of the operations as a message: null is absent, objects named in `STRUCTS` become structs. */
export function toMessage(output: Readonly<Record<string, unknown>>): Message {
  const message: Message = {}
  for (const [name, value] of Object.entries(output)) {
    if (value === null || value === undefined) continue
    if (STRUCTS.has(name)) message[name] = jsonToStruct(value as Record<string, unknown>)
    else if (Array.isArray(value))
      message[name] = value.map(item =>
        item !== null && typeof item === 'object' ? toMessage(item as Record<string, unknown>) : item,
      )
    else message[name] = value
  }
  return message
}

export const citationMessage = ({ n, kind, id, document, page, uri, quote }: Citation): Message =>
  toMessage({ n, kind, id, document, page, uri, quote })

/** Protobuf's 0 stands for "not set" in limits and depths. */
export const positive = (value: unknown): number | undefined =>
  typeof value === 'number' && value !== 0 ? value : undefined
