import { PAGE_BYTES_MAX } from './limits.ts'

/** The JSON of results that were counted. They are not changed from then on, and it goes with them. */
const counted = new WeakMap<object, string>()

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

  /** As {@link take}, of a result that is sent as something else, made from this. */
  takeLike(result: object): boolean {
    return this.#fits(JSON.stringify(result))
  }

  #fits(json: string): boolean {
    const bytes = this.#bytes + Buffer.byteLength(json)
    if (this.#bytes > 0 && bytes > PAGE_BYTES_MAX) return false
    this.#bytes = bytes
    return true
  }
}
