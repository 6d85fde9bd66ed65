import type { Slicer } from '../base/slice.ts'
import { KeyReader, postingField, prefixes, prefixRange } from '../storage/keys.ts'
import { BLOCK_DOCS, countPostings, PostingColumns } from '../storage/postings.ts'
import type { Tenant } from '../tenant/tenant.ts'
import { Best, type Ranked } from './best.ts'

/** BM25 with the usual constants (Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009). */
const K1 = 1.2
const B = 0.75

export interface TermMatch {
  readonly term: string
  /** Documents that have the term. */
  readonly documents: number
  /** Inverse document frequency, ≥ 0. */
  readonly idf: number
}

export interface WordSearch {
  readonly scores: WordScores
  readonly terms: readonly TermMatch[]
}

export const inverseDocumentFrequency = (documents: number, total: number): number =>
  Math.log(1 + (total - documents + 0.5) / (documents + 0.5))

/** Scores of documents in blocks, as postings are: adding is an access of an array, and blocks that no term names take no memory. 2 KiB a block of 256 documents. */
export class WordScores {
  readonly #blocks = new Map<number, Float64Array>()

  /** The scores of a block's documents, by their place in it; 0: none of the terms is there. */
  block(block: number): Float64Array {
    let scores = this.#blocks.get(block)
    if (scores === undefined) {
      scores = new Float64Array(BLOCK_DOCS)
      this.#blocks.set(block, scores)
    }
    return scores
  }

  /** The `count` best documents. */
  async best(count: number, slicer: Slicer): Promise<Ranked[]> {
    const best = new Best(count)
    for (const [block, scores] of this.#blocks) {
      if (slicer.due) await slicer.pause()
      const first = block * BLOCK_DOCS
      for (let n = 0; n < BLOCK_DOCS; n++) {
        const score = scores[n]!
        if (score > 0) best.offer(first + n, score)
      }
    }
    return best.ranked()
  }
}

/** Scores the documents that have any of the terms. `frequencies`: query term to how often the query says it. */
export async function searchWords(
  tenant: Tenant,
  frequencies: ReadonlyMap<string, number>,
  allowed: ReadonlySet<number> | undefined,
  slicer: Slicer,
): Promise<WordSearch> {
  const { documents: total, termTotal } = tenant.state
  const averageLength = total === 0 ? 1 : Math.max(1, termTotal / total)
  const scores = new WordScores()
  const postings = new PostingColumns()
  const terms: TermMatch[] = []
  for (const [term, queryFrequency] of frequencies) {
    slicer.throwIfEnded()
    const blocks = await readBlocks(tenant, term)
    let documents = 0
    for (const { bytes } of blocks) documents += countPostings(bytes)
    const idf = inverseDocumentFrequency(documents, Math.max(total, documents))
    terms.push({ term, documents, idf })
    const weight = idf * (K1 + 1) * Math.min(queryFrequency, 3)
    for (const { block, bytes } of blocks) {
      if (slicer.due) await slicer.pause()
      postings.read(bytes)
      const { places, frequencies: counts, lengths } = postings
      const first = block * BLOCK_DOCS
      const sums = scores.block(block)
      for (let n = 0; n < postings.count; n++) {
        const place = places[n]!
        if (allowed && !allowed.has(first + place)) continue
        const frequency = counts[n]!
        sums[place]! += (weight * frequency) / (frequency + K1 * (1 - B + (B * lengths[n]!) / averageLength))
      }
    }
  }
  return { scores, terms }
}

async function readBlocks(tenant: Tenant, term: string): Promise<{ block: number; bytes: Buffer }[]> {
  const blocks: { block: number; bytes: Buffer }[] = []
  const prefix = prefixes.postings(postingField.text, term)
  for await (const chunk of tenant.chunks(prefixRange(prefix))) {
    for (const [key, bytes] of chunk) blocks.push({ block: new KeyReader(key, prefix.length).u32(), bytes })
  }
  return blocks
}
