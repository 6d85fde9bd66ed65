import { Slicer } from '../base/slice.ts'
import type { LwwRecord, RecordRef } from '../rem/record.ts'
import { decodeRecord } from '../storage/codec.ts'
import { keys } from '../storage/keys.ts'
import type { Tenant } from './tenant.ts'

/** Records that the first fetch of a read asks for, before it is known how large they are; one may have hundreds of KiB. */
const FIRST_AT_ONCE = 8
/** Records that one fetch asks for. */
const RECORDS_AT_ONCE = 64
/** Bytes that one fetch brings, about, when records are as large as those before them. */
const BYTES_AT_ONCE = 1024 * 1024

export interface ReadBounds {
  readonly records: number
  readonly bytes: number
}

/** One read of a tenant: its slices of the event loop, and what it has read of the store, which stops it when that is more than its bounds allow. */
export class Reading extends Slicer {
  readonly #bounds: ReadBounds | undefined
  #records = 0
  #bytes = 0

  /** `throwIfEnded` as of {@link Slicer}; without `bounds` the read may be of any size. */
  constructor(throwIfEnded?: () => void, bounds?: ReadBounds) {
    super(throwIfEnded)
    this.#bounds = bounds
  }

  /** Bytes of the records that were read, as they are stored. */
  get bytes(): number {
    return this.#bytes
  }

  /** How many records the next fetch may ask for. */
  get atOnce(): number {
    if (this.#records === 0) return FIRST_AT_ONCE
    const fit = Math.floor((BYTES_AT_ONCE * this.#records) / Math.max(1, this.#bytes))
    return Math.max(1, Math.min(RECORDS_AT_ONCE, fit))
  }

  /** Notes what was read. Throws {@link ReadIsLarge} when the read is larger than its bounds, and what `throwIfEnded` throws. */
  count(records: number, bytes: number): void {
    this.throwIfEnded()
    this.#records += records
    this.#bytes += bytes
    if (this.#bounds && (this.#records > this.#bounds.records || this.#bytes > this.#bounds.bytes))
      throw new ReadIsLarge()
  }
}

/** A read is larger than its bounds; it has changed nothing, and can be made again without. */
export class ReadIsLarge extends Error {
  constructor() {
    super('The read is larger than its bounds.')
  }
}

/** Records one by one, in the order of `refs`, fetched in parts of bounded size; who has enough ends the loop, and the rest is not fetched. `wanted`: how many the loop takes at most from now on. */
export async function* eachRecord(
  tenant: Tenant,
  refs: readonly RecordRef[],
  reading: Reading,
  wanted: () => number = () => Number.POSITIVE_INFINITY,
): AsyncGenerator<LwwRecord | undefined> {
  for (let at = 0; at < refs.length; ) {
    const part = refs.slice(at, at + Math.max(1, Math.min(reading.atOnce, wanted())))
    at += part.length
    const found = await tenant.getMany(part.map(keys.record))
    reading.count(
      part.length,
      found.reduce((sum, bytes) => sum + (bytes?.length ?? 0), 0),
    )
    for (const bytes of found) {
      if (reading.due) await reading.pause()
      yield bytes === undefined ? undefined : decodeRecord(bytes)
    }
  }
}
