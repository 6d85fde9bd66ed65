import { LRUCache } from 'lru-cache'
import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Time } from '../base/time.ts'
import { HybridLogicalClock } from '../clock/hlc.ts'
import type { LwwRecord, RecordRef } from '../rem/record.ts'
import { decodeRecord } from '../storage/codec.ts'
import { keys, prefixes, prefixRange, space } from '../storage/keys.ts'
import type { Kv, KvEntry, KvRange } from '../storage/kv.ts'
import type { StagedBatch } from './staging.ts'
import {
  createIdentity,
  type EmbeddingSpec,
  readEmbeddingSpec,
  readIdentity,
  readState,
  type TenantIdentity,
  type TenantState,
} from './state.ts'
import { type Planner, TenantWriter, type WriteOptions, type WriterState } from './writer.ts'

/** A cache that a layer above keeps with an open tenant; it sees every commit, and its memory counts towards the pool's budget. */
export interface Attachment {
  readonly bytes: number
  onCommit(batch: StagedBatch): void
}

export interface TenantOptions {
  readonly time: Time
  /** `node.disk`: who writes here. */
  readonly origin: string
  readonly outboxEnabled: boolean
  /** Bytes of unpublished changes above which writes are refused. */
  readonly outboxBytesMax: number
  /** Bytes of recently read records kept decoded. */
  readonly recordCacheBytes: number
  /** Throws when writes cannot be taken now, such as DISK_FULL. */
  readonly admitWrite?: () => void
  readonly onCommit: (tenant: Tenant, batch: StagedBatch) => void
}

/** An open tenant: the one door to its data. Readers get snapshots, writers go through {@link Tenant.write}. Held through leases of the pool. */
export class Tenant {
  readonly id: TenantId
  readonly identity: TenantIdentity
  readonly #kv: Kv
  readonly #state: WriterState
  readonly #writer: TenantWriter
  readonly #options: TenantOptions
  readonly #attachments = new Map<string, Attachment>()
  readonly #outbox: { entries: number; bytes: number }
  readonly #recent: LRUCache<string, { readonly record: LwwRecord }>
  #commits = 0
  #broken = false

  private constructor(
    id: TenantId,
    identity: TenantIdentity,
    state: WriterState,
    outbox: { entries: number; bytes: number },
    options: TenantOptions,
  ) {
    this.id = id
    this.identity = identity
    this.#kv = state.kv
    this.#state = state
    this.#outbox = outbox
    this.#options = options
    this.#recent = new LRUCache({ maxSize: options.recordCacheBytes, maxEntrySize: options.recordCacheBytes / 8 })
    this.#writer = new TenantWriter(state, {
      onCommit: batch => this.#committed(batch),
      onFailure: error => {
        if (error.code === 'STORAGE_FAILED') this.#broken = true
      },
    })
  }

  static async open(id: TenantId, kv: Kv, options: TenantOptions): Promise<Tenant> {
    const identity = (await readIdentity(kv, id)) ?? (await createIdentity(kv, id, options.time.now()))
    const state = await readState(kv)
    const clock = new HybridLogicalClock({
      now: () => options.time.now(),
      origin: options.origin,
      resumeAbove: state.clock,
    })
    const writerState: WriterState = {
      kv,
      tenant: id,
      incarnation: identity.incarnation,
      origin: options.origin,
      clock,
      outboxEnabled: options.outboxEnabled,
      state,
      embedding: await readEmbeddingSpec(kv),
    }
    return new Tenant(id, identity, writerState, await measureOutbox(kv), options)
  }

  get state(): TenantState {
    return this.#state.state
  }

  get embedding(): EmbeddingSpec | undefined {
    return this.#state.embedding
  }

  get outbox(): { readonly entries: number; readonly bytes: number } {
    return this.#outbox
  }

  /** After a failed write RocksDB may refuse all others until it is opened again; the pool does that when the last lease ends. */
  get broken(): boolean {
    return this.#broken
  }

  /** Bytes of the caches attached to this tenant. */
  get attachedBytes(): number {
    let bytes = 0
    for (const attachment of this.#attachments.values()) bytes += attachment.bytes
    return bytes
  }

  /** Plans and commits one command; see {@link TenantWriter.submit}. */
  async write<T>(plan: Planner<T>, options?: WriteOptions): Promise<T> {
    this.#options.admitWrite?.()
    if (this.#options.outboxEnabled && this.#outbox.bytes >= this.#options.outboxBytesMax) {
      return Promise.reject(
        new PercolateError(
          'OUTBOX_FULL',
          'This tenant has too many changes that wait to be published; writes resume when the stream is back.',
          {
            retryAfterS: 5,
          },
        ),
      )
    }
    return this.#writer.submit(plan, options)
  }

  /** One record, from the cache of recent ones or from disk: a point read then costs no trip to a thread. */
  async record(ref: RecordRef): Promise<LwwRecord | undefined> {
    const key = keys.record(ref)
    const name = key.toString('latin1')
    const cached = this.#recent.get(name)
    if (cached) return cached.record
    const commits = this.#commits
    const bytes = await this.#kv.get(key)
    if (bytes === undefined) return undefined
    const record = decodeRecord(bytes)
    // What was read before a commit may be what the commit replaced.
    if (commits === this.#commits) this.#recent.set(name, { record }, { size: name.length + bytes.length * 2 })
    return record
  }

  async records(refs: readonly RecordRef[]): Promise<(LwwRecord | undefined)[]> {
    const all = await this.#kv.getMany(refs.map(ref => keys.record(ref)))
    return all.map(bytes => (bytes === undefined ? undefined : decodeRecord(bytes)))
  }

  get(key: Buffer): Promise<Buffer | undefined> {
    return this.#kv.get(key)
  }

  getMany(manyKeys: readonly Buffer[]): Promise<(Buffer | undefined)[]> {
    return this.#kv.getMany(manyKeys)
  }

  chunks(range: KvRange): AsyncIterable<KvEntry[]> {
    return this.#kv.chunks(range)
  }

  /** The attachment of that name, made on first use. */
  attach<T extends Attachment>(name: string, make: () => T): T {
    let attachment = this.#attachments.get(name)
    if (attachment === undefined) {
      attachment = make()
      this.#attachments.set(name, attachment)
    }
    return attachment as T
  }

  /** Removes published entries; `bytes` is their size. Not fsynced: publishing an entry twice is harmless. */
  async removeFromOutbox(entryKeys: readonly Buffer[], bytes: number): Promise<void> {
    await this.#kv.write(
      entryKeys.map(key => ({ type: 'del', key })),
      { sync: false },
    )
    this.#outbox.entries -= entryKeys.length
    this.#outbox.bytes -= bytes
  }

  /** Lets queued writes finish, then closes the database. */
  async close(): Promise<void> {
    await this.#writer.idle()
    await this.#kv.close()
    this.#attachments.clear()
  }

  #committed(batch: StagedBatch): void {
    this.#commits++
    for (const { key } of batch.operations) this.#recent.delete(key.toString('latin1'))
    this.#outbox.entries += batch.outbox.entries
    this.#outbox.bytes += batch.outbox.bytes
    for (const attachment of this.#attachments.values()) attachment.onCommit(batch)
    this.#options.onCommit(this, batch)
  }
}

async function measureOutbox(kv: Kv): Promise<{ entries: number; bytes: number }> {
  const outbox = { entries: 0, bytes: 0 }
  for await (const chunk of kv.chunks(prefixRange(prefixes.space(space.outbox)))) {
    for (const [, value] of chunk) {
      outbox.entries++
      outbox.bytes += value.length
    }
  }
  return outbox
}
