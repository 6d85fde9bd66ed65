import { LARGE_BATCH_TEXT_BYTES } from '../base/limits.ts'

/**
 * Where the large batches of a node's tenants take turns, first come, first served: what one of them takes while it is made is some fifty times
 * its text, and a node must not make them all at the same time. Small ones pass. Those who wait are writers, one a tenant, so the open tenants bound them.
 */
export class StagingRoom {
  readonly #bytesMax: number
  readonly #waiting: { readonly bytes: number; readonly grant: () => void }[] = []
  #held = 0
  #refused = 0

  /** `bytesMax`: text in large batches at the same time; see `PERCOLATE_STAGED_TEXT_BYTES_MAX`. */
  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax
  }

  /** Text of the large batches that are being made. */
  get heldBytes(): number {
    return this.#held
  }

  /** Commands that were refused because they alone would have taken too much memory. */
  get refused(): number {
    return this.#refused
  }

  countRefused(): void {
    this.#refused++
  }

  /** Writers that wait. */
  get waiting(): number {
    return this.#waiting.length
  }

  /** Resolves to what is to be called, once, when the batch is written or given up; undefined for one that need not wait. */
  async enter(textBytes: number): Promise<(() => void) | undefined> {
    if (textBytes <= LARGE_BATCH_TEXT_BYTES) return undefined
    if (this.#waiting.length === 0 && this.#fits(textBytes)) this.#held += textBytes
    else await new Promise<void>(grant => this.#waiting.push({ bytes: textBytes, grant }))
    return () => this.#leave(textBytes)
  }

  #leave(textBytes: number): void {
    this.#held -= textBytes
    for (let next = this.#waiting[0]; next && this.#fits(next.bytes); next = this.#waiting[0]) {
      this.#waiting.shift()
      this.#held += next.bytes
      next.grant()
    }
  }

  #fits(bytes: number): boolean {
    return this.#held === 0 || this.#held + bytes <= this.#bytesMax
  }
}
