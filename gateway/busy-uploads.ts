import type { FairSemaphore } from '../src/base/fair-semaphore.ts'

/** An upload that holds a place. */
export interface PlacedUpload {
  readonly tenant: string
  /** What its client has sent of late; undefined: not known yet, or S3 holds it back. */
  bytesPerSecond: number | undefined
  /** What it has sent on the average since it has its place, S3's share of the time left out; undefined: not known yet. */
  bytesPerSecondInAll: number | undefined
}

/**
 * Who gives way when places are short: of the uploads whose place somebody waits for, the slowest, and no more of them than wait. Every one tells its pace here.
 */
export class BusyUploads {
  readonly #places: FairSemaphore
  readonly #placed = new Set<PlacedUpload>()
  /** Were told to give way, and hold their places until what they sent is taken away. */
  readonly #leaving = new Set<PlacedUpload>()

  constructor(places: FairSemaphore) {
    this.#places = places
  }

  /** From the moment when it has its place; returns what to call when it gives it back. */
  enter(upload: PlacedUpload): () => void {
    this.#placed.add(upload)
    return () => {
      this.#placed.delete(upload)
      this.#leaving.delete(upload)
    }
  }

  /** Whether somebody waits for the place of this upload who does not get one from those that leave. */
  isWanted({ tenant }: PlacedUpload): boolean {
    return this.#places.waiting > this.#leaving.size && this.#places.isWanted(tenant)
  }

  /** Whether this upload is the slowest of those whose place is wanted; one whose pace is not known is not compared. */
  isSlowestWanted(upload: PlacedUpload): boolean {
    const { bytesPerSecond } = upload
    if (bytesPerSecond === undefined || !this.isWanted(upload)) return false
    for (const other of this.#placed)
      if (
        other !== upload &&
        !this.#leaving.has(other) &&
        (other.bytesPerSecond ?? Number.POSITIVE_INFINITY) < bytesPerSecond &&
        this.isWanted(other)
      )
        return false
    return true
  }

  /**
   * Whether this upload is the slowest, over its whole time, of those that others have waited for, `waitedMs` of them. The faster half of those that have a place is safe, however many wait: if all had to go, none
   * of clients that are equally slow would ever come to its end. Who waits for its own tenant's share does not count.
   */
  isSlowestInAll(upload: PlacedUpload, waitedMs: number): boolean {
    const own = upload.bytesPerSecondInAll
    if (own === undefined || this.#leaving.has(upload)) return false
    const isAwaited = ({ tenant }: PlacedUpload) => this.#places.waitingOfOthers(tenant, waitedMs) > this.#leaving.size
    if (!isAwaited(upload)) return false
    let faster = 0
    for (const other of this.#placed) {
      const others = other.bytesPerSecondInAll
      if (other === upload || others === undefined || this.#leaving.has(other)) continue
      if (others > own) faster++
      else if (others < own && isAwaited(other)) return false
    }
    return faster >= Math.floor(this.#placed.size / 2)
  }

  /** It gives its place back as soon as it can. */
  leave(upload: PlacedUpload): void {
    if (this.#placed.has(upload)) this.#leaving.add(upload)
  }
}
