import { spawn } from 'node:child_process'
import { access, mkdir, rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { PercolateError } from '../base/errors.ts'
import { Slicer } from '../base/slice.ts'
import {
  DatabaseDamaged,
  type Kv,
  type KvEntry,
  type KvOperation,
  type KvOperations,
  type KvRange,
  type KvWrite,
  notKnown,
  refusedAfter,
} from './kv.ts'

/** The part of level-rocksdb 5 (levelup 5 over rocksdb 5.2, engine 6.17) that this adapter uses; the packages ship no types. */
interface LevelRocks {
  close(): Promise<void>
  get(key: Buffer, options?: object): Promise<Buffer>
  getMany(keys: readonly Buffer[]): Promise<(Buffer | undefined)[]>
  batch(operations: readonly KvOperation[], options: { sync: boolean }): Promise<void>
  iterator(options: object): LevelIterator
  /** Below levelup, whose own batches keep every operation as an object as well. */
  readonly db: { batch(): LevelBatch }
}
interface LevelBatch {
  put(key: Buffer, value: Buffer): void
  del(key: Buffer): void
  write(options: { sync: boolean }, callback: (error?: Error) => void): void
}
interface LevelIterator {
  next(callback: (error: Error | undefined, key?: Buffer, value?: Buffer) => void): void
  end(callback: (error?: Error) => void): void
}
type LevelFactory = (
  location: string,
  options: object,
  opened: (error: Error | undefined, level: LevelRocks) => void,
) => void

const require = createRequire(import.meta.url)
const levelRocksdb = require('level-rocksdb') as LevelFactory

/** Bytes that one trip to the native iterator fetches; 16 KiB, its default, makes scans of vectors 3 times slower. */
const ITERATOR_BYTES = 256 * 1024
const CHUNK_ENTRIES = 512
/** A write with more is given to RocksDB in parts, before it is written as one. */
const OPERATIONS_AT_ONCE = 1024
const OPERATIONS_A_SLICE = 64

export interface RocksOptions {
  readonly createIfMissing: boolean
  /** Bytes of the memtable; each open database takes about this much when written to. */
  readonly writeBufferBytes: number
  /** Bytes of the block cache. */
  readonly blockCacheBytes: number
  /** It is known to be damaged: another process opens it first. */
  readonly isSuspect?: boolean
}

/** In a database's folder while it is being opened. One that is found before is of a process that ended meanwhile. */
const OPENING = 'OPENING'
/** How long another process may take to show whether a database can be opened. */
const PROBE_MS = 60_000
/** Opens a database and closes it. Whether RocksDB answers with an error does not matter here, only that it answers. */
const PROBE = `
  const [module, folder] = process.argv.slice(1)
  require(module)(folder, { createIfMissing: false }, (error, level) => error ? process.exit(0) : level.close(() => process.exit(0)))
`
/** What a process is sent by its own failed assertion, or by memory that is not as it should be. */
const CRASHES: readonly (NodeJS.Signals | null)[] = ['SIGABRT', 'SIGSEGV', 'SIGBUS', 'SIGILL', 'SIGFPE']

/**
 * Thrown as PercolateError DATA_DIR_IN_USE when another process (or this one) has the database open: RocksDB locks its folder; DISK_FULL when there is no room for what RocksDB writes as it opens; as DatabaseDamaged when RocksDB
 * finds it corrupt, or when opening it ends a process, as some damage does (docs/decisions/0021).
 */
export async function openRocksKv(folder: string, options: RocksOptions): Promise<Kv> {
  if (options.createIfMissing) await mkdir(folder, { recursive: true })
  const opening = join(folder, OPENING)
  if ((options.isSuspect || (await isThere(opening))) && (await crashes(folder)))
    throw new DatabaseDamaged('The database does not open: RocksDB ends the process that tries.', undefined)
  // Only a help for the next process: a folder that is not there, or a full disk, is for RocksDB to refuse.
  await writeFile(opening, '').catch(() => undefined)
  try {
    return await open(folder, options)
  } finally {
    await rm(opening, { force: true }).catch(() => undefined)
  }
}

const isThere = (path: string) =>
  access(path).then(
    () => true,
    () => false,
  )

/** Whether another process crashes as it opens the database. No answer in time is not taken for one. */
async function crashes(folder: string): Promise<boolean> {
  const child = spawn(process.execPath, ['-e', PROBE, require.resolve('level-rocksdb'), folder], {
    stdio: 'ignore',
    timeout: PROBE_MS,
    killSignal: 'SIGKILL',
  })
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (_, signal) => resolve(CRASHES.includes(signal)))
  })
}

async function open(folder: string, options: RocksOptions): Promise<Kv> {
  const openOptions = {
    keyEncoding: 'binary',
    valueEncoding: 'binary',
    createIfMissing: options.createIfMissing,
    writeBufferSize: options.writeBufferBytes,
    cacheSize: options.blockCacheBytes,
    blockSize: 4096,
    maxOpenFiles: 64,
    infoLogLevel: 'error',
  }
  // The callback form: levelup opens by itself, and `open()` on top of that never answers when it fails.
  const level = await new Promise<LevelRocks>((resolve, reject) => {
    levelRocksdb(folder, openOptions, (error, opened) => (error ? reject(openError(error)) : resolve(opened)))
  })
  return new RocksKv(level)
}

function openError(error: unknown): PercolateError {
  const text = String((error as { cause?: unknown }).cause ?? error)
  if (/lock/i.test(text))
    return new PercolateError('DATA_DIR_IN_USE', 'The database is open in another process.', { cause: error })
  if (FULL.test(text))
    return new PercolateError(
      'DISK_FULL',
      'The disk is full: the database does not open, not even to be read, until there is space.',
      { retryAfterS: 30, cause: error },
    )
  if (DAMAGE.test(text)) return new DatabaseDamaged('The database does not open: RocksDB finds it corrupt.', error)
  return new PercolateError('STORAGE_FAILED', 'The database does not open.', { cause: error })
}

/** How RocksDB 6 says that what is on disk is not what it wrote: a checksum, a missing file, a block that the device can't read. */
const DAMAGE = /corrupt|checksum mismatch|bad block|no such file|input\/output error/i

/** How the system says it, in the words that RocksDB passes on. */
const FULL = /no space left|disk quota exceeded/i

function failureOf(error: unknown, text: string): PercolateError {
  const said = `${String((error as { cause?: unknown }).cause ?? '')} ${String(error)}`
  // Before damage: what could not be written is not damaged.
  if (FULL.test(said))
    return new PercolateError(
      'DISK_FULL',
      'The disk is full: RocksDB could not write, and takes no write until there is space.',
      {
        retryAfterS: 30,
        cause: error,
      },
    )
  if (DAMAGE.test(said))
    return new DatabaseDamaged('RocksDB finds the database corrupt; the log has its reason.', error)
  return new PercolateError('STORAGE_FAILED', text, { cause: error })
}

const REFUSED = 'RocksDB refused the operation; the log has its reason.'

/**
 * The RocksDB adapter. The raw binding crashes the process when a closed database is touched and levelup does not count what is
 * running, so this class does: close waits for running operations and refuses new ones.
 *
 * After a write that failed it takes no other. RocksDB does, as soon as the disk has room, and puts them into the log behind the piece that the failed one left there; it ends with that piece when the log is read at
 * the next opening, and what had been acknowledged after it is gone (tests/integration/disk.test.ts). What became of the failed write itself, and of those that were under way beside it, is not known: each may be in the log, or not.
 */
class RocksKv implements Kv {
  readonly #level: LevelRocks
  #running = 0
  /** A write that failed. */
  #failure: PercolateError | undefined
  #closing: Promise<void> | undefined
  #whenIdle: (() => void) | undefined

  constructor(level: LevelRocks) {
    this.#level = level
  }

  get(key: Buffer): Promise<Buffer | undefined> {
    return this.#run(async () => {
      try {
        return await this.#level.get(key)
      } catch (error) {
        if ((error as { notFound?: boolean }).notFound) return undefined
        throw error
      }
    })
  }

  getMany(keys: readonly Buffer[]): Promise<(Buffer | undefined)[]> {
    return keys.length === 0 ? Promise.resolve([]) : this.#run(() => this.#level.getMany(keys))
  }

  async write(operations: KvOperations, { sync, before }: KvWrite): Promise<void> {
    let refusal: { readonly reason: unknown } | undefined
    await this.#run(async () => {
      const batch = operations.length > OPERATIONS_AT_ONCE ? await this.#gather(operations) : [...operations]
      try {
        before?.()
      } catch (reason) {
        refusal = { reason }
        return
      }
      // Asked last: others may have failed while the batch was made.
      if (this.#failure) {
        refusal = { reason: refusedAfter(this.#failure) }
        return
      }
      try {
        if (Array.isArray(batch)) await this.#level.batch(batch, { sync })
        else await written(batch, sync)
      } catch (error) {
        const failure = failureOf(error, REFUSED)
        this.#failure ??= failure
        refusal = { reason: failure instanceof DatabaseDamaged ? failure : notKnown(failure, failure.message) }
        return
      }
      // It went to the same log while another failed: it may lie behind what that one left there, or before.
      if (this.#failure)
        refusal = {
          reason: notKnown(this.#failure, 'Another write of this database failed while this one was under way.'),
        }
    })
    if (refusal) throw refusal.reason
  }

  /** The operations as RocksDB holds them, outside of the heap. */
  async #gather(operations: KvOperations): Promise<LevelBatch> {
    const batch = this.#level.db.batch()
    const slicer = new Slicer()
    let count = 0
    for (const operation of operations) {
      if (operation.type === 'put') batch.put(operation.key, operation.value)
      else batch.del(operation.key)
      if (++count % OPERATIONS_A_SLICE === 0) await slicer.pause()
    }
    return batch
  }

  async *chunks(range: KvRange): AsyncIterable<KvEntry[]> {
    this.#enter()
    const iterator = this.#level.iterator({
      gte: range.gte,
      lt: range.lt,
      reverse: range.reverse ?? false,
      limit: range.limit ?? -1,
      values: range.values ?? true,
      keyAsBuffer: true,
      valueAsBuffer: true,
      highWaterMark: ITERATOR_BYTES,
    })
    const slicer = new Slicer()
    try {
      for (;;) {
        const { entries, done } = await nextChunk(iterator)
        if (range.verified) await this.getMany(entries.map(([key]) => key))
        if (entries.length > 0) yield entries
        if (done) return
        await slicer.pause()
      }
    } finally {
      await new Promise<void>(resolve => iterator.end(() => resolve()))
      this.#leave()
    }
  }

  close(): Promise<void> {
    this.#closing ??= (async () => {
      if (this.#running > 0) {
        await new Promise<void>(resolve => {
          this.#whenIdle = resolve
        })
      }
      await this.#level.close()
    })()
    return this.#closing
  }

  async #run<T>(operation: () => Promise<T>): Promise<T> {
    this.#enter()
    try {
      return await operation()
    } catch (error) {
      throw failureOf(error, REFUSED)
    } finally {
      this.#leave()
    }
  }

  #enter(): void {
    if (this.#closing) throw new PercolateError('STORAGE_FAILED', 'The database is closed.')
    this.#running++
  }

  #leave(): void {
    this.#running--
    if (this.#running === 0) this.#whenIdle?.()
  }
}

const written = (batch: LevelBatch, sync: boolean): Promise<void> =>
  new Promise((resolve, reject) => batch.write({ sync }, error => (error ? reject(error) : resolve())))

function nextChunk(iterator: LevelIterator): Promise<{ entries: KvEntry[]; done: boolean }> {
  return new Promise((resolve, reject) => {
    const entries: KvEntry[] = []
    const step = () => {
      iterator.next((error, key, value) => {
        if (error) {
          reject(failureOf(error, 'RocksDB failed while reading a range.'))
        } else if (key === undefined) {
          resolve({ entries, done: true })
        } else {
          entries.push([key, value ?? Buffer.alloc(0)])
          if (entries.length < CHUNK_ENTRIES) step()
          else resolve({ entries, done: false })
        }
      })
    }
    step()
  })
}
