import { PercolateError } from '../../src/base/errors.ts'
import { kindByte, space } from '../../src/storage/keys.ts'
import {
  DatabaseDamaged,
  type Kv,
  type KvEntry,
  type KvOperations,
  type KvRange,
  type KvWrite,
} from '../../src/storage/kv.ts'

const SETTING = kindByte.setting

/** One database on a simulated disk. What was written without sync is lost by a crash of the machine, back to the last synced write. */
export class SimDatabase {
  #keys: string[] = []
  #values = new Map<string, Buffer>()
  /** What undoes the writes since the last synced one, newest last. */
  #undo: { key: string; before: Buffer | undefined }[] = []
  /** Blocks that cannot be read any more: those of records and indexes, or those that are read when it is opened. */
  rot: 'none' | 'records' | 'meta' = 'none'
  /** The disk says that it has synced, and has not, until the next crash. */
  lies = false

  get(key: string): Buffer | undefined {
    return this.#values.get(key)
  }

  get size(): number {
    return this.#keys.length
  }

  write(operations: KvOperations, sync: boolean): void {
    for (const operation of operations) {
      const key = operation.key.toString('latin1')
      this.#undo.push({ key, before: this.#values.get(key) })
      this.#set(key, operation.type === 'put' ? Buffer.from(operation.value) : undefined)
    }
    if (sync && !this.lies) this.#undo = []
  }

  /** What reading this key throws. */
  checkRot(key: Buffer): void {
    if (this.rot === 'none') return
    const isData = key[0]! >= space.record && key[0]! < space.outbox && !(key[0] === space.record && key[1] === SETTING)
    if (this.rot === 'meta' ? key[0] === space.meta : isData)
      throw new DatabaseDamaged('The simulated disk has a block that cannot be read.', undefined)
  }

  crash(): void {
    this.lies = false
    for (const { key, before } of this.#undo.reverse()) this.#set(key, before)
    this.#undo = []
  }

  range({ gte, lt, reverse, limit, values }: KvRange): KvEntry[] {
    let keys = this.#keys.slice(this.#find(gte.toString('latin1')), this.#find(lt.toString('latin1')))
    if (reverse) keys = keys.reverse()
    if (limit !== undefined) keys = keys.slice(0, limit)
    return keys.map(key => [
      Buffer.from(key, 'latin1'),
      values === false ? Buffer.alloc(0) : Buffer.from(this.#values.get(key)!),
    ])
  }

  clone(): SimDatabase {
    const copy = new SimDatabase()
    copy.#keys = [...this.#keys]
    copy.#values = new Map(this.#values)
    copy.rot = this.rot
    return copy
  }

  #set(key: string, value: Buffer | undefined): void {
    const had = this.#values.has(key)
    if (value === undefined) {
      if (!had) return
      this.#values.delete(key)
      this.#keys.splice(this.#find(key), 1)
    } else {
      this.#values.set(key, value)
      if (!had) this.#keys.splice(this.#find(key), 0, key)
    }
  }

  #find(key: string): number {
    let low = 0
    let high = this.#keys.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (this.#keys[middle]! < key) low = middle + 1
      else high = middle
    }
    return low
  }
}

export interface SimKvHooks {
  readonly isDead: () => boolean
  /** A moment that the disk takes; the simulated process may be killed in it. */
  readonly wait: (point: 'before-commit' | 'after-commit' | 'read') => Promise<void>
  /** In a shaken schedule: a moment before a read looks at the disk, or before what it saw arrives. */
  readonly shake?: (() => Promise<void>) | undefined
}

/** A process's handle on a database: what a dead process asks is never answered. */
export class SimKv implements Kv {
  readonly #database: SimDatabase
  readonly #hooks: SimKvHooks
  #closed = false

  constructor(database: SimDatabase, hooks: SimKvHooks) {
    this.#database = database
    this.#hooks = hooks
  }

  async get(key: Buffer): Promise<Buffer | undefined> {
    this.#check()
    if (this.#hooks.shake) await this.#hooks.shake()
    const value = this.#read(key)
    if (this.#hooks.shake) await this.#hooks.shake()
    return value
  }

  async getMany(keys: readonly Buffer[]): Promise<(Buffer | undefined)[]> {
    this.#check()
    if (this.#hooks.shake) await this.#hooks.shake()
    const values = keys.map(key => this.#read(key))
    if (this.#hooks.shake) await this.#hooks.shake()
    return values
  }

  async *chunks(range: KvRange): AsyncIterable<KvEntry[]> {
    this.#check()
    if (this.#hooks.shake) await this.#hooks.shake()
    this.#database.checkRot(range.gte)
    const entries = this.#database.range(range)
    if (this.#hooks.shake) await this.#hooks.shake()
    for (let at = 0; at < entries.length; at += 64) {
      yield entries.slice(at, at + 64)
      if (at + 64 < entries.length) await this.#hooks.wait('read')
    }
  }

  async write(operations: KvOperations, options: KvWrite): Promise<void> {
    this.#check()
    await this.#hooks.wait('before-commit')
    if (this.#hooks.isDead()) return never()
    options.before?.()
    this.#database.write(operations, options.sync)
    await this.#hooks.wait('after-commit')
  }

  async close(): Promise<void> {
    this.#closed = true
  }

  #read(key: Buffer): Buffer | undefined {
    this.#database.checkRot(key)
    const value = this.#database.get(key.toString('latin1'))
    return value && Buffer.from(value)
  }

  #check(): void {
    if (this.#closed) throw new PercolateError('STORAGE_FAILED', 'The database is closed.')
  }
}

export const never = (): Promise<never> => new Promise(() => {})

/** A node's disk: its databases, and what the node itself keeps. */
export class SimDisk {
  id: string
  databases = new Map<string, SimDatabase>()
  notes = new Map<string, string>()
  /** Databases that were set aside, as of another incarnation than their tenants'. */
  others = new Map<string, SimDatabase>()
  /** Tenants that are being made here, and their incarnations. */
  making = new Map<string, string>()
  /** Tenants whose folder is there without a database: its making was cut short. */
  halfMade = new Set<string>()

  constructor(id: string) {
    this.id = id
  }

  get lies(): boolean {
    return [...this.databases.values()].some(({ lies }) => lies)
  }

  crash(): void {
    for (const database of this.databases.values()) database.crash()
  }

  clone(): SimDisk {
    const copy = new SimDisk(this.id)
    for (const [tenant, database] of this.databases) copy.databases.set(tenant, database.clone())
    copy.notes = new Map(this.notes)
    copy.others = new Map(this.others)
    copy.making = new Map(this.making)
    copy.halfMade = new Set(this.halfMade)
    return copy
  }
}
