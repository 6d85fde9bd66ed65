import { PAGE_BYTES_MAX } from './limits.ts'

/** The JSON of results that were counted. They are not changed from then on, and it goes with them. */
const counted = new WeakMap<object, string>()

/** Bytes of the results that were counted as something else. */
const alike = new WeakMap<object, number>()

/** Bytes of a result, about, as a page counted it; of one that no page counted none. */
const countedBytes = (result: object): number => counted.get(result)?.length ?? alike.get(result) ?? 0

/** The same of a result that is not sent as JSON: what was made of it is let go of, since it is as large as the result. */
export function bytesInsteadOfJson(result: object): number {
  const bytes = countedBytes(result)
  counted.delete(result)
  return bytes
}

/** A result that is sent in the place of one that was counted, with its bytes. */
export function inPlaceOf<T extends object>(result: T, like: object): T {
  alike.set(result, countedBytes(like))
  return result
}

/** The JSON of a member of an answer: that of a result that was counted is not made twice. Undefined for what JSON has no word for. */
export const jsonOf = (value: unknown): string | undefined =>
  (typeof value === 'object' && value !== null ? counted.get(value) : undefined) ?? JSON.stringify(value)

/** What one answer carries: results are taken for as long as their JSON, as UTF-8, fits into {@link PAGE_BYTES_MAX} together; the first is, whatever its size. */
export class PageBytes {
  #bytes = 0

  /** Whether the result, which is sent as it is and not changed any more, still goes into the answer; when it does not, the answer ends before it. */
  take(result: object): boolean {
    const json = JSON.stringify(result)
    const fits = this.#fits(json)
    if (fits) counted.set(result, json)
    return fits
  }

  /** As {@link take}, of a result that is sent as something else, made from this; see {@link inPlaceOf}. */
  takeLike(result: object): boolean {
    const json = JSON.stringify(result)
    alike.set(result, json.length)
    return this.#fits(json)
  }

  #fits(json: string): boolean {
    const bytes = this.#bytes + Buffer.byteLength(json)
    if (this.#bytes > 0 && bytes > PAGE_BYTES_MAX) return false
    this.#bytes = bytes
    return true
  }
}
