import { Slicer } from '../base/slice.ts'
import { keys, type PostingField } from '../storage/keys.ts'
import type { Overlay } from '../storage/overlay.ts'
import { blockOf, decodeBlock, encodeBlock, type Posting } from '../storage/postings.ts'
import type { DocumentTerm } from './indexes.ts'

/** Blocks read together; few enough that changing them does not hold the event loop. */
const BLOCKS_AT_ONCE = 128
/** Blocks changed between two looks at the time. */
const BLOCKS_A_SLICE = 8

/** Posting changes of a whole group of commands, so that each block is read, changed and written once. */
export class StagedPostings {
  readonly #overlay: Overlay
  readonly #blocks = new Map<
    string,
    { field: PostingField; term: string; block: number; changes: Map<number, Posting | undefined> }
  >()

  constructor(overlay: Overlay) {
    this.#overlay = overlay
  }

  replace(docNo: number, before: readonly DocumentTerm[], after: readonly DocumentTerm[]): void {
    for (const { field, term } of before) this.#change(field, term, docNo, undefined)
    for (const { field, term, frequency, length } of after)
      this.#change(field, term, docNo, { docNo, frequency, length })
  }

  /** Puts the changed blocks into the overlay. */
  async flush(): Promise<void> {
    const slicer = new Slicer()
    const staged = [...this.#blocks.values()]
    for (let at = 0; at < staged.length; at += BLOCKS_AT_ONCE) {
      const part = staged.slice(at, at + BLOCKS_AT_ONCE)
      const blockKeys = part.map(({ field, term, block }) => keys.posting(field, term, block))
      const stored = await this.#overlay.getMany(blockKeys)
      for (const [n, { block, changes }] of part.entries()) {
        const bytes = stored[n]
        const postings = merge(bytes === undefined ? [] : decodeBlock(block, bytes), changes)
        if (postings.length > 0) this.#overlay.put(blockKeys[n]!, encodeBlock(block, postings))
        else if (bytes !== undefined) this.#overlay.del(blockKeys[n]!)
        if (n % BLOCKS_A_SLICE === 0) await slicer.pause()
      }
    }
    this.#blocks.clear()
  }

  #change(field: PostingField, term: string, docNo: number, posting: Posting | undefined): void {
    const block = blockOf(docNo)
    const name = `${field}:${block}:${term}`
    let staged = this.#blocks.get(name)
    if (staged === undefined) {
      staged = { field, term, block, changes: new Map() }
      this.#blocks.set(name, staged)
    }
    staged.changes.set(docNo, posting)
  }
}

function merge(stored: readonly Posting[], changes: ReadonlyMap<number, Posting | undefined>): Posting[] {
  const kept = stored.filter(posting => !changes.has(posting.docNo))
  for (const posting of changes.values()) if (posting !== undefined) kept.push(posting)
  return kept.sort((a, b) => a.docNo - b.docNo)
}
