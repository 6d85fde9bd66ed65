import { PercolateError } from '../base/errors.ts'

/**
 * Postings are kept in blocks: block `b` of a term holds the documents `b * 256 … b * 256 + 255`, so that the block of a document is
 * computed, not searched, and a write touches one block a term. A block is a run of varint triples, ascending by document:
 * (gap to the previous document in the block, term frequency, document length in terms).
 */
export const BLOCK_DOCS = 256

export interface Posting {
  readonly docNo: number
  /** How often the term occurs in the document. */
  readonly frequency: number
  /** The document's length, in terms. */
  readonly length: number
}

export const blockOf = (docNo: number): number => Math.floor(docNo / BLOCK_DOCS)

export function encodeBlock(block: number, postings: readonly Posting[]): Buffer {
  const out: number[] = []
  let previous = block * BLOCK_DOCS - 1
  for (const posting of postings) {
    pushVarint(out, posting.docNo - previous - 1)
    pushVarint(out, posting.frequency)
    pushVarint(out, posting.length)
    previous = posting.docNo
  }
  return Buffer.from(out)
}

/** The postings of a block, ascending by document. Throws DATA_CORRUPT for what is no block. */
export function decodeBlock(block: number, bytes: Buffer): Posting[] {
  columns.read(bytes)
  const first = block * BLOCK_DOCS
  return Array.from({ length: columns.count }, (_, n) => ({
    docNo: first + columns.places[n]!,
    frequency: columns.frequencies[n]!,
    length: columns.lengths[n]!,
  }))
}

/** How many documents a block holds, without decoding it: a number ends with a byte below 128, and three make a posting. */
export function countPostings(bytes: Buffer): number {
  let numbers = 0
  for (const byte of bytes) if (byte < 0x80) numbers++
  return numbers / 3
}

/** One decoded block in columns, which are used again for the next, so that loops over many blocks make no objects. Numbers are below 2^32. */
export class PostingColumns {
  count = 0
  /** Places in the block, 0 to {@link BLOCK_DOCS} - 1, ascending. */
  readonly places = new Uint32Array(BLOCK_DOCS)
  /** How often the term occurs. */
  readonly frequencies = new Uint32Array(BLOCK_DOCS)
  /** Lengths of the documents, in terms. */
  readonly lengths = new Uint32Array(BLOCK_DOCS)
  #at = 0

  /** Throws DATA_CORRUPT for what is no block. */
  read(bytes: Buffer): void {
    this.#at = 0
    let count = 0
    let place = -1
    while (this.#at < bytes.length) {
      place += this.#varint(bytes) + 1
      if (place >= BLOCK_DOCS) throw new PercolateError('DATA_CORRUPT', 'A posting block names a document beyond it.')
      this.places[count] = place
      this.frequencies[count] = this.#varint(bytes)
      this.lengths[count] = this.#varint(bytes)
      count++
    }
    this.count = count
  }

  #varint(bytes: Buffer): number {
    let value = 0
    let shift = 1
    for (;;) {
      const byte = bytes[this.#at++]
      if (byte === undefined)
        throw new PercolateError('DATA_CORRUPT', 'A posting block ends in the middle of a number.')
      if (byte < 0x80) return value + byte * shift
      value += (byte & 0x7f) * shift
      shift *= 128
    }
  }
}

/** What {@link decodeBlock} decodes into. */
const columns = new PostingColumns()

function pushVarint(out: number[], value: number): void {
  let rest = value
  while (rest >= 0x80) {
    out.push((rest % 128) | 0x80)
    rest = Math.floor(rest / 128)
  }
  out.push(rest)
}
