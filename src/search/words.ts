import { KeyReader, postingField, prefixes, prefixRange } from '../storage/keys.ts'
import { visitBlock } from '../storage/postings.ts'
import type { Tenant } from '../tenant/tenant.ts'

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
  /** Document number to score, > 0. */
  readonly scores: Map<number, number>
  readonly terms: readonly TermMatch[]
}

export const inverseDocumentFrequency = (documents: number, total: number): number =>
  Math.log(1 + (total - documents + 0.5) / (documents + 0.5))

/** Scores the documents that have any of the terms. `frequencies`: query term to how often the query says it. */
export async function searchWords(
  tenant: Tenant,
  frequencies: ReadonlyMap<string, number>,
  allowed: ReadonlySet<number> | undefined,
): Promise<WordSearch> {
  const { documents: total, termTotal } = tenant.state
  const averageLength = total === 0 ? 1 : Math.max(1, termTotal / total)
  const scores = new Map<number, number>()
  const terms: TermMatch[] = []
  for (const [term, queryFrequency] of frequencies) {
    const blocks = await readBlocks(tenant, term)
    let documents = 0
    for (const { block, bytes } of blocks) visitBlock(block, bytes, () => documents++)
    const idf = inverseDocumentFrequency(documents, Math.max(total, documents))
    terms.push({ term, documents, idf })
    const weight = idf * (K1 + 1) * Math.min(queryFrequency, 3)
    for (const { block, bytes } of blocks) {
      visitBlock(block, bytes, (docNo, frequency, length) => {
        if (allowed && !allowed.has(docNo)) return
        const score = (weight * frequency) / (frequency + K1 * (1 - B + (B * length) / averageLength))
        scores.set(docNo, (scores.get(docNo) ?? 0) + score)
      })
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
