import { createHash } from 'node:crypto'
import { EMBEDDING_FIELD_PREFIX, type Op, type Value } from '../rem/record.ts'

/** A vector that an op carries, little endian `Float32Array` bytes, and the model that made it. */
export interface OpVector {
  readonly model: string
  readonly vector: Buffer
}

/** An op as its record has it, a digest in the place of each vector, and the vectors: their bytes live in a key space of their own, where a scan finds them side by side. */
export function splitVectors(op: Op): { op: Op; vectors: OpVector[] } {
  const vectors: OpVector[] = []
  const fields: Record<string, Value> = {}
  for (const [name, value] of Object.entries(op.fields)) {
    if (op.kind === 'resource' && name.startsWith(EMBEDDING_FIELD_PREFIX) && value instanceof Uint8Array) {
      const vector = asBuffer(value)
      vectors.push({ model: name.slice(EMBEDDING_FIELD_PREFIX.length), vector })
      fields[name] = digestOf(vector)
    } else fields[name] = value
  }
  return { op: { ...op, fields }, vectors }
}

/** Eight bytes by which a record names the vector that belongs to it. */
export const digestOf = (vector: Uint8Array): Buffer => createHash('sha256').update(vector).digest().subarray(0, 8)

export const asBuffer = (value: Value | undefined): Buffer =>
  value instanceof Uint8Array ? Buffer.from(value.buffer, value.byteOffset, value.byteLength) : Buffer.alloc(0)
