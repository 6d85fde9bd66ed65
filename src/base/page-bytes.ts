import { PAGE_BYTES_MAX } from './limits.ts'

/** What one answer carries: results are taken for as long as their JSON, as UTF-8, fits into {@link PAGE_BYTES_MAX} together; the first is, whatever its size. */
export class PageBytes {
  #bytes = 0

  /** Whether the result still goes into the answer; when it does not, the answer ends before it. */
  take(result: unknown): boolean {
    const bytes = this.#bytes + Buffer.byteLength(JSON.stringify(result))
    if (this.#bytes > 0 && bytes > PAGE_BYTES_MAX) return false
    this.#bytes = bytes
    return true
  }
}
