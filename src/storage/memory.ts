import { setImmediate as immediate } from 'node:timers/promises'
import { PercolateError } from '../base/errors.ts'
import type { Kv, KvEntry, KvOperation, KvOperations, KvRange, KvWrite } from './kv.ts'

const CHUNK_ENTRIES = 256

/** The memory adapter of the storage port, for unit tests and the simulator: a sorted array, copied on write for snapshots. */
export class MemoryKv implements Kv {
  #entries: KvEntry[] = []
  #closed = false

  async get(key: Buffer): Promise<Buffer | undefined> {
    this.#checkOpen()
    const at = this.#find(key)
    const entry = this.#entries[at]
    return entry?.[0].equals(key) ? Buffer.from(entry[1]) : undefined
  }

  async getMany(keys: readonly Buffer[]): Promise<(Buffer | undefined)[]> {
    return Promise.all(keys.map(key => this.get(key)))
  }

  async *chunks(range: KvRange): AsyncIterable<KvEntry[]> {
    this.#checkOpen()
    const snapshot = this.#entries
    let selected = snapshot.slice(this.#find(range.gte), this.#find(range.lt))
    if (range.reverse) selected = selected.reverse()
    if (range.limit !== undefined) selected = selected.slice(0, range.limit)
    for (let at = 0; at < selected.length; at += CHUNK_ENTRIES) {
      await immediate()
      yield selected
        .slice(at, at + CHUNK_ENTRIES)
        .map(([key, value]) => [Buffer.from(key), range.values === false ? Buffer.alloc(0) : Buffer.from(value)])
    }
  }

  async write(operations: KvOperations, { before }: KvWrite): Promise<void> {
    this.#checkOpen()
    before?.()
    const latest = new Map<string, KvOperation>()
    for (const operation of operations) latest.set(operation.key.toString('latin1'), operation)
    const changes = [...latest.values()].sort((a, b) => Buffer.compare(a.key, b.key))
    const merged: KvEntry[] = []
    let at = 0
    for (const change of changes) {
      const until = this.#find(change.key)
      while (at < until) merged.push(this.#entries[at++]!)
      if (this.#entries[at]?.[0].equals(change.key)) at++
      if (change.type === 'put') merged.push([Buffer.from(change.key), Buffer.from(change.value)])
    }
    while (at < this.#entries.length) merged.push(this.#entries[at++]!)
    this.#entries = merged
  }

  async close(): Promise<void> {
    this.#closed = true
  }

  /** Index of the first entry whose key is at or above `key`. */
  #find(key: Buffer): number {
    let low = 0
    let high = this.#entries.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (Buffer.compare(this.#entries[middle]![0], key) < 0) low = middle + 1
      else high = middle
    }
    return low
  }

  #checkOpen(): void {
    if (this.#closed) throw new PercolateError('STORAGE_FAILED', 'The database is closed.')
  }
}
