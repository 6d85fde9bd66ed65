import type { Time } from '../base/time.ts'
import type { KvState } from '../stream/port.ts'

/** A watch that does not tell of our own write for this long is deaf. */
const DEAF_MS = 1500
/** How long a watch may take to begin, or to go on, until the state at its start is complete. */
const BEGIN_MS_MAX = 10_000

/** What is wrong with a watch: it is opened anew, and a bucket that is another one is judged from there. */
export type Complaint = 'gone' | 'another' | 'went back' | 'deaf' | 'does not begin'

/**
 * Whether the bucket that a node watches is the one that is there, and whether the watch tells of what is written to it. A watch proves neither: one whose bucket was lost, put back, or lost and made anew goes on from the revision
 * that it had come to, and since revisions begin at 1 again it may be silent for as long as the bucket took to come there. So nothing is concluded from large revisions alone: which bucket it is and how far it has come is asked
 * of the bucket ({@link KvState}), and compared with what the watch told.
 */
export class DirectoryLife {
  readonly #time: Time
  #opened: KvState | undefined
  /** The latest revision of this life that we know of, by whatever way. */
  #known = 0
  /** Up to where the watch has told of everything. */
  #heard = 0
  /** As they were at the look before. */
  #looked = { revision: 0, heard: 0, isBack: false }
  /** Our own write that the watch has not told of. */
  #wrote: { readonly revision: number; readonly atMs: number } | undefined
  /** Of our own writes since the watch was opened, which are made one after another. */
  #wroteLast = 0
  #isOpen = false
  #isBegun = false
  /** How far the state at the start of the watch went; what it tells beyond is new. */
  #begunAt = 0
  #progressAtMs = 0

  constructor(time: Time) {
    this.#time = time
  }

  /** To be taken before the bucket is asked for its state: what is heard while the answer is on its way may be later than it. */
  get known(): number {
    return this.#known
  }

  /** A watch is about to be opened. True: this is not the bucket that was watched before, or not as it was. */
  open(state: KvState, known: number): boolean {
    const before = this.#opened
    const isAnother = before !== undefined && (before.incarnation !== state.incarnation || state.revision < known)
    this.#opened = state
    this.#known = state.revision
    this.#heard = 0
    this.#looked = { revision: 0, heard: 0, isBack: false }
    this.#wrote = undefined
    this.#wroteLast = 0
    this.#isOpen = true
    this.#isBegun = false
    this.#progressAtMs = this.#time.monotonic()
    return isAnother
  }

  /** The watch has ended; there is none until the next is opened. */
  close(): void {
    this.#isOpen = false
    this.#isBegun = false
  }

  /** The watch told of a change. */
  heard(revision: number): void {
    this.#heard = Math.max(this.#heard, revision)
    this.#known = Math.max(this.#known, revision)
    this.#progressAtMs = this.#time.monotonic()
  }

  /** The watch told that the state at its start is complete. */
  begun(): void {
    this.#isBegun = true
    this.heard(this.#opened?.revision ?? 0)
    this.#begunAt = this.#heard
  }

  /** Whether the watch has told of something that was written after its beginning: until then it may be deaf. */
  get isTelling(): boolean {
    return this.#isBegun && this.#heard > this.#begunAt
  }

  /** Whether a bucket, whose state was asked for after `known` was taken, is the one that was watched last, and as far on as that was. */
  isStill(state: KvState | undefined, known: number): boolean {
    return state !== undefined && state.incarnation === this.#opened?.incarnation && state.revision >= known
  }

  /** A write of our own was confirmed. True: the bucket is not the one that we wrote to before, where it would have got a later revision. */
  wrote(revision: number): boolean {
    const isBack = this.#isBegun && revision <= this.#wroteLast
    this.#wroteLast = revision
    this.#known = Math.max(this.#known, revision)
    // Only the first that was not told of is waited for.
    if (!this.#wrote || this.#wrote.revision <= this.#heard) this.#wrote = { revision, atMs: this.#time.monotonic() }
    return isBack
  }

  /** What can be said without asking the bucket. */
  get complaint(): Complaint | undefined {
    if (!this.#isOpen) return undefined
    const now = this.#time.monotonic()
    if (!this.#isBegun) return now - this.#progressAtMs > BEGIN_MS_MAX ? 'does not begin' : undefined
    const wrote = this.#wrote
    return wrote && wrote.revision > this.#heard && now - wrote.atMs > DEAF_MS ? 'deaf' : undefined
  }

  /** What a look at the bucket shows; to be asked once for each look. */
  look(state: KvState | undefined, known: number): Complaint | undefined {
    if (!this.#opened || !this.#isBegun) return undefined
    if (!state) return 'gone'
    if (state.incarnation !== this.#opened.incarnation) return 'another'
    const before = this.#looked
    const isBack = state.revision < known
    this.#looked = { revision: state.revision, heard: this.#heard, isBack }
    // A server that has just become the leader may not have caught up yet: only the second time counts.
    if (isBack) return before.isBack ? 'went back' : undefined
    this.#known = Math.max(this.#known, state.revision)
    // What was there at the last look should have come by now; one that comes slowly does come.
    return before.revision > this.#heard && before.heard === this.#heard ? 'deaf' : undefined
  }
}
