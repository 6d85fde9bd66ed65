import type { Kv, KvOperation } from './kv.ts'

/** Reads through puts and deletes that are not written yet; what a group of commands plans against. */
export class Overlay {
  readonly #base: Pick<Kv, 'get' | 'getMany'>
  readonly #pending = new Map<string, { key: Buffer; value: Buffer | undefined }>()

  constructor(base: Pick<Kv, 'get' | 'getMany'>) {
    this.#base = base
  }

  put(key: Buffer, value: Buffer): void {
    this.#pending.set(key.toString('latin1'), { key, value })
  }

  del(key: Buffer): void {
    this.#pending.set(key.toString('latin1'), { key, value: undefined })
  }

  async get(key: Buffer): Promise<Buffer | undefined> {
    const pending = this.#pending.get(key.toString('latin1'))
    return pending ? pending.value : this.#base.get(key)
  }

  async getMany(keys: readonly Buffer[]): Promise<(Buffer | undefined)[]> {
    const missing: Buffer[] = []
    const values = keys.map(key => {
      const pending = this.#pending.get(key.toString('latin1'))
      if (!pending) missing.push(key)
      return pending
    })
    const read = await this.#base.getMany(missing)
    let next = 0
    return values.map(pending => (pending ? pending.value : read[next++]))
  }

  get size(): number {
    return this.#pending.size
  }

  operations(): KvOperation[] {
    return [...this.#pending.values()].map(({ key, value }) =>
      value === undefined ? { type: 'del', key } : { type: 'put', key, value },
    )
  }
}
