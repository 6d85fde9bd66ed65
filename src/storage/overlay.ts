import type { Kv, KvOperation } from './kv.ts'

/** Two buffers, an object, a string and its place in a map, beside what they hold. */
const ENTRY_BYTES = 400
/** The bytes here, the name in the map, and those that the database makes of them as it takes them, in its batch and in its memtable. */
const COPIES = 4

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
    this.#bytes += ENTRY_BYTES + key.length * COPIES + value.length * COPIES
    this.#pending.set(key.toString('latin1'), { key, value })
  }

  del(key: Buffer): void {
    this.#bytes += ENTRY_BYTES + key.length * COPIES
    this.#pending.set(key.toString('latin1'), { key, value: undefined })
  }

  /** Reads many keys in one go, so that the reads of each command in a group cost no trip of their own. */
  async prefetch(keys: readonly Buffer[]): Promise<void> {
    const values = await this.#base.getMany(keys)
    for (const [n, key] of keys.entries()) this.#known.set(key.toString('latin1'), { value: values[n] })
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

  /** Memory that the puts and deletes take, about; what replaces an earlier one counts beside it. */
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
