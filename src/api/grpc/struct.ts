/** google.protobuf.Struct and JSON, both ways (https://protobuf.dev/reference/protobuf/google.protobuf/#struct). */
export interface Struct {
  fields?: { [name: string]: StructValue }
}
interface StructValue {
  nullValue?: unknown
  numberValue?: number
  stringValue?: string
  boolValue?: boolean
  structValue?: Struct
  listValue?: { values?: StructValue[] }
}

const DEPTH_MAX = 64

export function structToJson(struct: Struct, depth = 0): Record<string, unknown> {
  const json: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(struct.fields ?? {})) {
    Object.defineProperty(json, name, {
      value: valueToJson(value, depth + 1),
      enumerable: true,
      writable: true,
      configurable: true,
    })
  }
  return json
}

function valueToJson(value: StructValue, depth: number): unknown {
  if (depth > DEPTH_MAX) return null
  if (value.structValue) return structToJson(value.structValue, depth)
  if (value.listValue) return (value.listValue.values ?? []).map(item => valueToJson(item, depth + 1))
  return value.stringValue ?? value.numberValue ?? value.boolValue ?? null
}

export function jsonToStruct(json: Readonly<Record<string, unknown>>): Struct {
  return { fields: Object.fromEntries(Object.entries(json).map(([name, value]) => [name, jsonToValue(value)])) }
}

function jsonToValue(value: unknown): StructValue {
  if (value === null || value === undefined) return { nullValue: 'NULL_VALUE' }
  if (typeof value === 'number') return { numberValue: value }
  if (typeof value === 'string') return { stringValue: value }
  if (typeof value === 'boolean') return { boolValue: value }
  if (Array.isArray(value)) return { listValue: { values: value.map(jsonToValue) } }
  return { structValue: jsonToStruct(value as Record<string, unknown>) }
}
