/** The storage port: one ordered map of bytes to bytes per tenant. Adapters pass `tests/contract/kv.ts`. */

import { PercolateError } from '../base/errors.ts'

export type KvOperation =
  | { readonly type: 'put'; readonly key: Buffer; readonly value: Buffer }
  | { readonly type: 'del'; readonly key: Buffer }

/** Operations that can be read more than once; a list is one. */
export interface KvOperations extends Iterable<KvOperation> {
  readonly length: number
}

export interface KvWrite {
  /** Resolved means fsynced: it survives a power cut, not only a process crash. */
  readonly sync: boolean
  /** Called at once before the operations go to the database, with nothing waited for in between: what it throws is thrown, and nothing is written. */
  readonly before?: () => void
}

export type KvEntry = readonly [key: Buffer, value: Buffer]

/** Half-open: `gte <= key < lt`, in the order of unsigned bytes. */
export interface KvRange {
  readonly gte: Buffer
  readonly lt: Buffer
  readonly reverse?: boolean
  /** Entries at most; default: no limit. */
  readonly limit?: number
  /** False spares reading the values; entries then carry empty buffers. */
  readonly values?: boolean
  /**
   * Everything is held against its checksum on disk, at the price of a second read: what leaves for another copy, to be trusted there. A binary of RocksDB that the set-up does not know reads ranges without, so that rot
   * may show as another value, as nothing at all, or as an error; single keys it always checks (docs/decisions/0021).
   */
  readonly verified?: boolean
}

/** The database itself is damaged: positive evidence, unlike a value that some reader could not make sense of. */
export class DatabaseDamaged extends PercolateError {
  constructor(message: string, cause: unknown) {
    super('DATA_CORRUPT', message, { cause })
  }
}

/** What a write ends with that was given to the database and not acknowledged by it: because of `failure`, its own or that of another. */
export const notKnown = (failure: PercolateError, text: string): PercolateError =>
  new PercolateError(
    failure.code,
    `${text} Whether this one was made is not known: read it back; or, if it has no condition, send it again as it was.`,
    { retryAfterS: failure.retryAfterS ?? 1, cause: failure },
  )

/** What a write ends with that was not given to the database, because one before it had failed. */
export const refusedAfter = (failure: PercolateError): PercolateError =>
  new PercolateError(
    failure.code,
    'A write of this database has failed before, and nothing of this one was made: it takes no other until it has been opened anew. Retry in a moment.',
    { retryAfterS: 1, cause: failure },
  )

export interface KvReader {
  get(key: Buffer): Promise<Buffer | undefined>
  /** In the order of `keys`. */
  getMany(keys: readonly Buffer[]): Promise<(Buffer | undefined)[]>
  /**
   * Entries in chunks of bounded size, all from one snapshot taken when the iteration starts. Ending the loop early
   * releases the snapshot. Yields to the event loop between chunks when a time slice is used up.
   */
  chunks(range: KvRange): AsyncIterable<KvEntry[]>
}

export interface Kv extends KvReader {
  /**
   * All or nothing. Yields to the event loop while many operations are prepared, before anything is written. Of one that failed (DISK_FULL, STORAGE_FAILED), and of those that were under way beside it, it is not known which of
   * the two it was: {@link notKnown}. Later ones are refused, {@link refusedAfter} it, until the database has been opened anew; reads go on.
   */
  write(operations: KvOperations, options: KvWrite): Promise<void>
  /** Waits for running operations, then closes. Calls after this are refused with an error. */
  close(): Promise<void>
}

/** Gathers a range; for ranges that are known to be small, or limited. */
export async function collect(reader: KvReader, range: KvRange): Promise<KvEntry[]> {
  const all: KvEntry[] = []
  for await (const chunk of reader.chunks(range)) all.push(...chunk)
  return all
}
