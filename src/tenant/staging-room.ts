import { LARGE_BATCH_TEXT_BYTES } from '../base/limits.ts'
import { systemTime, type Time } from '../base/time.ts'

/** How often those who wait are asked whether anybody still waits for them. */
const LOOK_MS = 100

interface Waiter {
  readonly bytes: number
  readonly isAwaited: () => boolean
  /** Resolves the wait: let in, or given up. */
  readonly end: (isIn: boolean) => void
}

/** A place in the room. */
export class Turn {
  readonly #leave: () => void
  #isHeld = true

  constructor(leave: () => void) {
    this.#leave = leave
  }

  get isHeld(): boolean {
    return this.#isHeld
  }

  /** Calling it again does nothing. */
  leave(): void {
    if (this.#isHeld) this.#leave()
    this.#isHeld = false
  }
}

/**
 * Where the large batches of a node's tenants take turns: what one of them takes while it is made is some fifty times its text, and a node must not make them all at the same time. Small ones
 * pass. Those who wait are writers, one a tenant and one batch a turn, so first come, first served gives each tenant its turn whatever the length of its queue, and the open tenants bound the line.
 */
export class StagingRoom {
  readonly #bytesMax: number
  readonly #time: Time
  readonly #waiting: Waiter[] = []
  #isLooking = false
  #isClosed = false
  #held = 0
  #refused = 0
  #tooLate = 0

  /** `bytesMax`: text in large batches at the same time; see `PERCOLATE_STAGED_TEXT_BYTES_MAX`. */
  constructor(bytesMax: number, time: Time = systemTime) {
    this.#bytesMax = bytesMax
    this.#time = time
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

  /** Commands that were refused because they had waited too long. */
  get tooLate(): number {
    return this.#tooLate
  }

  countTooLate(): void {
    this.#tooLate++
  }

  /** Writers that wait. */
  get waiting(): number {
    return this.#waiting.length
  }

  /** Whether the node is stopping and its time for requests is over: clients' commands are not begun any more, and large ones that are being staged are given up. */
  get isClosed(): boolean {
    return this.#isClosed
  }

  close(): void {
    this.#isClosed = true
    this.#look()
  }

  /**
   * Resolves to what is to be called, once, when the batch is written or given up; undefined for one that need not wait, and for one that nobody waits for any more, as `isAwaited` says, which is
   * asked now and then.
   */
  async enter(textBytes: number, isAwaited: () => boolean = () => true): Promise<(() => void) | undefined> {
    if (textBytes <= LARGE_BATCH_TEXT_BYTES) return undefined
    if (this.#waiting.length === 0 && this.#fits(textBytes)) this.#held += textBytes
    else {
      const isIn = await new Promise<boolean>(end => {
        this.#waiting.push({ bytes: textBytes, isAwaited, end })
        void this.#keepLooking()
      })
      if (!isIn) return undefined
    }
    return () => this.#leave(textBytes)
  }

  /** Enters for a command that is handed to a writer afterwards (`WriteOptions.turn`); throws what `refusal` says when that comes before. Undefined for one that need not wait. */
  async takeTurn(textBytes: number, refusal: () => unknown): Promise<Turn | undefined> {
    let refused: unknown
    const leave = await this.enter(textBytes, () => {
      refused = refusal()
      return refused === undefined
    })
    if (refused !== undefined) throw refused
    return leave && new Turn(leave)
  }

  #leave(textBytes: number): void {
    this.#held -= textBytes
    this.#letIn()
  }

  #letIn(): void {
    for (let next = this.#waiting[0]; next && this.#fits(next.bytes); next = this.#waiting[0]) {
      this.#waiting.shift()
      this.#held += next.bytes
      next.end(true)
    }
  }

  #fits(bytes: number): boolean {
    return this.#held === 0 || this.#held + bytes <= this.#bytesMax
  }

  async #keepLooking(): Promise<void> {
    if (this.#isLooking) return
    this.#isLooking = true
    while (this.#waiting.length > 0) {
      await this.#time.sleep(LOOK_MS, { ref: false })
      this.#look()
    }
    this.#isLooking = false
  }

  #look(): void {
    for (const waiter of [...this.#waiting]) {
      if (waiter.isAwaited()) continue
      this.#waiting.splice(this.#waiting.indexOf(waiter), 1)
      waiter.end(false)
    }
    // The one that went may have been too wide for what is left.
    this.#letIn()
  }
}
