import type { KvOperation } from './kv.ts'

/** Two lengths of 32 bits stand before the bytes of each operation. */
const HEAD_BYTES = 8
const DELETED = 0xffffffff
const CHUNK_BYTES_MIN = 1024
const CHUNK_BYTES_MAX = 256 * 1024

/**
 * Operations as a run of bytes, in the order in which they were added: a hundred thousand small ones take what their keys and values take, not a
 * thousand bytes of objects each. They can be read as often as wanted.
 */
export class PackedOperations implements Iterable<KvOperation> {
  readonly #full: Buffer[] = []
  #chunk = Buffer.alloc(0)
  #at = 0
  #length = 0
  #bytes = 0

  /** How many there are. */
  get length(): number {
    return this.#length
  }

  /** Memory that they take. */
  get bytes(): number {
    return this.#bytes
  }

  put(key: Buffer, value: Buffer): void {
    this.#add(key, value.length, value)
  }

  del(key: Buffer): void {
    this.#add(key, DELETED, undefined)
  }

  *[Symbol.iterator](): Generator<KvOperation> {
    for (const chunk of this.#full) yield* operationsOf(chunk)
    yield* operationsOf(this.#chunk.subarray(0, this.#at))
  }

  #add(key: Buffer, valueLength: number, value: Buffer | undefined): void {
    const size = HEAD_BYTES + key.length + (value?.length ?? 0)
    if (this.#at + size > this.#chunk.length) this.#grow(size)
    const chunk = this.#chunk
    chunk.writeUInt32LE(key.length, this.#at)
    chunk.writeUInt32LE(valueLength, this.#at + 4)
    key.copy(chunk, this.#at + HEAD_BYTES)
    value?.copy(chunk, this.#at + HEAD_BYTES + key.length)
    this.#at += size
    this.#length++
  }

  #grow(size: number): void {
    if (this.#at > 0) this.#full.push(this.#chunk.subarray(0, this.#at))
    const wanted = Math.min(CHUNK_BYTES_MAX, Math.max(CHUNK_BYTES_MIN, this.#chunk.length * 2))
    this.#chunk = Buffer.allocUnsafeSlow(Math.max(wanted, size))
    this.#bytes += this.#chunk.length
    this.#at = 0
  }
}

function* operationsOf(chunk: Buffer): Generator<KvOperation> {
  let at = 0
  while (at < chunk.length) {
    const keyEnd = at + HEAD_BYTES + chunk.readUInt32LE(at)
    const valueLength = chunk.readUInt32LE(at + 4)
    const key = chunk.subarray(at + HEAD_BYTES, keyEnd)
    if (valueLength === DELETED) {
      yield { type: 'del', key }
      at = keyEnd
    } else {
      at = keyEnd + valueLength
      yield { type: 'put', key, value: chunk.subarray(keyEnd, at) }
    }
  }
}
