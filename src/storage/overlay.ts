import type { Kv, KvOperation } from './kv.ts'

/** Two buffers, an object, a string and its place in a map, beside what they hold. */
const ENTRY_BYTES = 400
/** The bytes here, the name in the map, and those that the database makes of them as it takes them, in its batch and in its memtable. */
const COPIES = 4
/** What was read: an object, a string and its place in a map, beside what they hold. */
const KNOWN_BYTES = 200
/** Keys that are read ahead in one go. */
const PREFETCH_KEYS = 64
/** Bytes above which nothing more is read ahead: thousands of usual records, and little beside what a batch may take. */
const PREFETCH_BYTES_MAX = 4 * 1024 * 1024

/** Memory that a put takes until it is written, about. */
export const stagedBytes = (keyBytes: number, valueBytes = 0): number => ENTRY_BYTES + (keyBytes + valueBytes) * COPIES

/** Reads through puts and deletes that are not written yet; what a group of commands plans against. */
export class Overlay {
  readonly #base: Pick<Kv, 'get' | 'getMany'>
  readonly #pending = new Map<string, { key: Buffer; value: Buffer | undefined }>()
  /** Read ahead; nobody else writes while this overlay lives. */
  readonly #known = new Map<string, { value: Buffer | undefined }>()
  #bytes = 0

  constructor(base: Pick<Kv, 'get' | 'getMany'>) {
    this.#base = base
  }

  put(key: Buffer, value: Buffer): void {
    this.#bytes += stagedBytes(key.length, value.length)
    this.#pending.set(key.toString('latin1'), { key, value })
  }

  del(key: Buffer): void {
    this.#bytes += stagedBytes(key.length)
    this.#pending.set(key.toString('latin1'), { key, value: undefined })
  }

  /**
   * Reads many keys in few goes, so that the reads of each command in a group cost no trip of their own: each key once, and no more when they come to {@link PREFETCH_BYTES_MAX}. The others are read
   * when they are asked for, if ever: a command may be refused before that.
   */
  async prefetch(keys: readonly Buffer[]): Promise<void> {
    const wanted = [...new Map(keys.map(key => [key.toString('latin1'), key]))]
    let bytes = 0
    for (let at = 0; at < wanted.length && bytes < PREFETCH_BYTES_MAX; at += PREFETCH_KEYS) {
      const part = wanted.slice(at, at + PREFETCH_KEYS)
      const values = await this.#base.getMany(part.map(([, key]) => key))
      for (const [n, [name]] of part.entries()) {
        this.#known.set(name, { value: values[n] })
        bytes += KNOWN_BYTES + name.length + (values[n]?.length ?? 0)
      }
    }
    this.#bytes += bytes
  }

  async get(key: Buffer): Promise<Buffer | undefined> {
    const found = this.#find(key)
    return found ? found.value : this.#base.get(key)
  }

  async getMany(keys: readonly Buffer[]): Promise<(Buffer | undefined)[]> {
    const missing: Buffer[] = []
    const values = keys.map(key => {
      const found = this.#find(key)
      if (!found) missing.push(key)
      return found
    })
    const read = missing.length === 0 ? [] : await this.#base.getMany(missing)
    let next = 0
    return values.map(found => (found ? found.value : read[next++]))
  }

  /** Memory that the puts and deletes take, and what was read ahead, about; what replaces an earlier one counts beside it. */
  get bytes(): number {
    return this.#bytes
  }

  get size(): number {
    return this.#pending.size
  }

  operations(): KvOperation[] {
    return [...this.#pending.values()].map(({ key, value }) =>
      value === undefined ? { type: 'del', key } : { type: 'put', key, value },
    )
  }

  #find(key: Buffer): { readonly value: Buffer | undefined } | undefined {
    const name = key.toString('latin1')
    return this.#pending.get(name) ?? this.#known.get(name)
  }
}
