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

export function decodeBlock(block: number, bytes: Buffer): Posting[] {
  const postings: Posting[] = []
  visitBlock(block, bytes, (docNo, frequency, length) => postings.push({ docNo, frequency, length }))
  return postings
}

/** Decodes without allocating an object a posting: the hot loop of word search. */
export function visitBlock(
  block: number,
  bytes: Buffer,
  visit: (docNo: number, frequency: number, length: number) => void,
): void {
  let at = 0
  let docNo = block * BLOCK_DOCS - 1
  const varint = () => {
    let value = 0
    let shift = 1
    for (;;) {
      const byte = bytes[at++]
      if (byte === undefined)
        throw new PercolateError('DATA_CORRUPT', 'A posting block ends in the middle of a number.')
      value += (byte & 0x7f) * shift
      if (byte < 0x80) return value
      shift *= 128
    }
  }
  while (at < bytes.length) {
    docNo += varint() + 1
    const frequency = varint()
    visit(docNo, frequency, varint())
  }
}

function pushVarint(out: number[], value: number): void {
  let rest = value
  while (rest >= 0x80) {
    out.push((rest % 128) | 0x80)
    rest = Math.floor(rest / 128)
  }
  out.push(rest)
}
