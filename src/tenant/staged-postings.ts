import { Slicer } from '../base/slice.ts'
import { keys, type PostingField } from '../storage/keys.ts'
import type { KvReader } from '../storage/kv.ts'
import { PackedOperations } from '../storage/packed-operations.ts'
import { blockOf, decodeBlock, encodeBlock, type Posting } from '../storage/postings.ts'
import type { DocumentTerm } from './indexes.ts'

/** Blocks read together; few enough that changing them does not hold the event loop. */
const BLOCKS_AT_ONCE = 128
/** Blocks changed between two looks at the time. */
const BLOCKS_A_SLICE = 8
/** Numbers of one change: the change before it of the same block (0: none), document, frequency (0: it has the term no more), length. */
const CHANGE_NUMBERS = 4
const CHANGES_MIN = 64
/** A term's string and its place in a map, about. */
const TERM_BYTES = 96
const FIELDS = 8

/**
 * Posting changes of a whole group of commands, so that each block is read, changed and written once. Text without spaces has tens of thousands of terms a
 * document: a change is four numbers in one array, and a term one entry of a map.
 */
export class StagedPostings {
  readonly #kv: Pick<KvReader, 'getMany'>
  readonly #onSlice: (() => void) | undefined
  /** By block and field, then by term: the last change. */
  readonly #blocks = new Map<number, Map<string, number>>()
  readonly #flushed = new PackedOperations()
  #changes = new Uint32Array(CHANGES_MIN * CHANGE_NUMBERS)
  #used = 1
  #terms = 0

  /** Nobody else changes the postings of `kv` until what {@link flush} gives is written. `onSlice`: see {@link Slicer}. */
  constructor(kv: Pick<KvReader, 'getMany'>, onSlice?: () => void) {
    this.#kv = kv
    this.#onSlice = onSlice
  }

  /** Memory held, about; of what is flushed the database makes itself a copy as it takes it. */
  get bytes(): number {
    return this.#changes.byteLength + this.#terms * TERM_BYTES + this.#flushed.bytes * 2
  }

  replace(docNo: number, before: readonly DocumentTerm[], after: readonly DocumentTerm[]): void {
    for (const { field, term } of before) this.#change(field, term, docNo, 0, 0)
    for (const { field, term, frequency, length } of after) this.#change(field, term, docNo, frequency, length)
  }

  /** The changed blocks, as they are to be written. The changes are let go of. */
  async flush(): Promise<PackedOperations> {
    const slicer = new Slicer(this.#onSlice)
    for (const [name, terms] of this.#blocks) {
      const field = (name % FIELDS) as PostingField
      const block = Math.floor(name / FIELDS)
      let part: [term: string, change: number][] = []
      for (const entry of terms) {
        part.push(entry)
        if (part.length < BLOCKS_AT_ONCE) continue
        await this.#flushPart(field, block, part, slicer)
        part = []
      }
      if (part.length > 0) await this.#flushPart(field, block, part, slicer)
      this.#blocks.delete(name)
      this.#terms -= terms.size
    }
    this.#changes = new Uint32Array(0)
    return this.#flushed
  }

  async #flushPart(
    field: PostingField,
    block: number,
    part: readonly (readonly [term: string, change: number])[],
    slicer: Slicer,
  ): Promise<void> {
    const blockKeys = part.map(([term]) => keys.posting(field, term, block))
    const stored = await this.#kv.getMany(blockKeys)
    for (const [n, [, change]] of part.entries()) {
      const bytes = stored[n]
      const postings = this.#merge(bytes === undefined ? [] : decodeBlock(block, bytes), change)
      if (postings.length > 0) this.#flushed.put(blockKeys[n]!, encodeBlock(block, postings))
      else if (bytes !== undefined) this.#flushed.del(blockKeys[n]!)
      if (n % BLOCKS_A_SLICE === 0) await slicer.pause()
    }
  }

  /** A block's postings after its changes, the latest of which is `change`; of several for one document the latest counts. */
  #merge(stored: readonly Posting[], change: number): readonly Posting[] {
    const numbers = this.#changes
    const first = change * CHANGE_NUMBERS
    // Most blocks of a new document: nothing there yet, one change.
    if (stored.length === 0 && numbers[first] === 0)
      return numbers[first + 2] === 0
        ? []
        : [{ docNo: numbers[first + 1]!, frequency: numbers[first + 2]!, length: numbers[first + 3]! }]
    const changed = new Set<number>()
    const kept: Posting[] = []
    for (let at = first; at > 0; at = numbers[at]! * CHANGE_NUMBERS) {
      const docNo = numbers[at + 1]!
      const frequency = numbers[at + 2]!
      if (changed.has(docNo)) continue
      changed.add(docNo)
      if (frequency > 0) kept.push({ docNo, frequency, length: numbers[at + 3]! })
    }
    for (const posting of stored) if (!changed.has(posting.docNo)) kept.push(posting)
    return kept.length < 2 ? kept : kept.sort((a, b) => a.docNo - b.docNo)
  }

  #change(field: PostingField, term: string, docNo: number, frequency: number, length: number): void {
    const name = blockOf(docNo) * FIELDS + field
    let terms = this.#blocks.get(name)
    if (terms === undefined) {
      terms = new Map()
      this.#blocks.set(name, terms)
    }
    const before = terms.get(term)
    if (before === undefined) this.#terms++
    const change = this.#used++
    const at = change * CHANGE_NUMBERS
    if (at === this.#changes.length) {
      const larger = new Uint32Array(this.#changes.length * 2)
      larger.set(this.#changes)
      this.#changes = larger
    }
    const numbers = this.#changes
    numbers[at] = before ?? 0
    numbers[at + 1] = docNo
    numbers[at + 2] = frequency
    numbers[at + 3] = length
    terms.set(term, change)
  }
}
