import { Slicer } from '../base/slice.ts'
import { fold, isStopWord, stem } from '../text/analyze.ts'
import type { Embedder } from './port.ts'

export const HASHING_DIMENSIONS = 384
export const HASHING_MODEL = 'percolate-hash-v1'

const WORD = /[\p{L}\p{N}]+/gu

/**
 * The built-in embedder: signed feature hashing (Weinberger et al., 2009) of word stems, pairs of neighbouring stems and character
 * trigrams. Deterministic and local. It knows no meaning: texts are near when they share words, word parts or near-misspellings; synonyms are not near.
 */
export class HashingEmbedder implements Embedder {
  readonly model = HASHING_MODEL
  readonly dimensions = HASHING_DIMENSIONS
  /** Three standard deviations of the cosine of unrelated texts, 1/√384: what collisions of hashes give by chance. */
  readonly noiseFloor = 0.15
  /** It sees words as BM25 does, but weighs them less well: its say is for word parts and misspellings. */
  readonly fusionWeight = 0.3

  async embed(texts: readonly string[]): Promise<Float32Array[]> {
    const slicer = new Slicer()
    const vectors: Float32Array[] = []
    for (const text of texts) {
      vectors.push(await embedText(text, slicer))
      await slicer.pause()
    }
    return vectors
  }
}

async function embedText(text: string, slicer: Slicer): Promise<Float32Array> {
  const counts = new Map<string, number>()
  const count = (feature: string, weight: number) => counts.set(feature, (counts.get(feature) ?? 0) + weight)
  let previous: string | undefined
  let words = 0
  for (const [word] of text.matchAll(WORD)) {
    if (++words % 512 === 0) await slicer.pause()
    const folded = fold(word)
    if (isStopWord(folded)) continue
    const stemmed = stem(folded)
    count(`w:${stemmed}`, 1)
    if (previous !== undefined) count(`p:${previous} ${stemmed}`, 0.5)
    previous = stemmed
    const padded = `<${folded.slice(0, 32)}>`
    for (let n = 0; n + 3 <= padded.length; n++) count(`c:${padded.slice(n, n + 3)}`, 0.25)
  }
  const vector = new Float32Array(HASHING_DIMENSIONS)
  for (const [feature, frequency] of counts) {
    const hash = fnv1a(feature)
    const sign = hash & 0x8000_0000 ? -1 : 1
    // Dampened frequency: a word said ten times is not ten times as telling.
    vector[(hash & 0x7fff_ffff) % HASHING_DIMENSIONS]! += sign * Math.log1p(frequency)
  }
  return normalized(vector)
}

function normalized(vector: Float32Array): Float32Array {
  let squares = 0
  for (const component of vector) squares += component * component
  if (squares === 0) {
    vector[0] = 1
    return vector
  }
  const length = Math.sqrt(squares)
  for (let n = 0; n < vector.length; n++) vector[n]! /= length
  return vector
}

/** 32-bit FNV-1a over UTF-16 code units (http://www.isthe.com/chongo/tech/comp/fnv/), with a final mix. */
function fnv1a(text: string): number {
  let hash = 0x811c9dc5
  for (let n = 0; n < text.length; n++) {
    hash ^= text.charCodeAt(n)
    hash = Math.imul(hash, 0x01000193)
  }
  hash ^= hash >>> 16
  hash = Math.imul(hash, 0x85ebca6b)
  hash ^= hash >>> 13
  return hash >>> 0
}
