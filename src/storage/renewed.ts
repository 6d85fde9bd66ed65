import { PercolateError, toPercolateError } from '../base/errors.ts'
import { type Kv, type KvEntry, type KvOperations, type KvRange, type KvWrite, refusedAfter } from './kv.ts'

/**
 * A database that is opened anew by itself when a write of it has failed: for those that are open as long as the process is. At the next write, when nothing else uses it; else that write fails as well. Who uses it keeps
 * nothing in memory of what a failed write may have left on the disk.
 */
export class RenewedKv implements Kv {
  readonly #open: () => Promise<Kv>
  /** Undefined: it was closed to be opened anew, and that has failed so far. */
  #kv: Kv | undefined
  #failure: unknown
  #hasFailed = false
  #uses = 0
  #renewing: Promise<Kv> | undefined
  #isClosed = false

  private constructor(open: () => Promise<Kv>, kv: Kv) {
    this.#open = open
    this.#kv = kv
  }

  static async open(open: () => Promise<Kv>): Promise<RenewedKv> {
    return new RenewedKv(open, await open())
  }

  get(key: Buffer): Promise<Buffer | undefined> {
    return this.#use(kv => kv.get(key))
  }

  getMany(keys: readonly Buffer[]): Promise<(Buffer | undefined)[]> {
    return this.#use(kv => kv.getMany(keys))
  }

  async *chunks(range: KvRange): AsyncIterable<KvEntry[]> {
    const kv = await this.#enter()
    try {
      yield* kv.chunks(range)
    } finally {
      this.#uses--
    }
  }

  async write(operations: KvOperations, options: KvWrite): Promise<void> {
    if (this.#hasFailed) {
      if (this.#uses > 0) throw refusedAfter(toPercolateError(this.#failure))
      await this.#renew()
    }
    let isRefusal = false
    const before = () => {
      isRefusal = true
      options.before?.()
      isRefusal = false
    }
    await this.#use(async kv => {
      try {
        await kv.write(operations, { ...options, before })
      } catch (error) {
        if (!isRefusal) {
          this.#hasFailed = true
          this.#failure = error
        }
        throw error
      }
    })
  }

  async close(): Promise<void> {
    this.#isClosed = true
    await this.#renewing?.catch(() => {})
    await this.#kv?.close()
  }

  async #use<T>(work: (kv: Kv) => Promise<T>): Promise<T> {
    const kv = await this.#enter()
    try {
      return await work(kv)
    } finally {
      this.#uses--
    }
  }

  async #enter(): Promise<Kv> {
    const kv = this.#renewing || !this.#kv ? await this.#renew() : this.#kv
    this.#uses++
    return kv
  }

  #renew(): Promise<Kv> {
    if (this.#isClosed) throw new PercolateError('STORAGE_FAILED', 'The database is closed.')
    this.#renewing ??= (async () => {
      const old = this.#kv
      this.#kv = undefined
      try {
        await old?.close()
        const kv = await this.#open()
        this.#kv = kv
        this.#hasFailed = false
        return kv
      } finally {
        this.#renewing = undefined
      }
    })()
    return this.#renewing
  }
}
