import { describe, expect, it } from 'vitest'
import { VectorArena } from '../../../src/search/arena.ts'

function random(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32 - 0.5
  }
}
const cosine = (a: Float32Array, b: Float32Array) => {
  let dot = 0
  let aa = 0
  let bb = 0
  for (let n = 0; n < a.length; n++) {
    dot += a[n]! * b[n]!
    aa += a[n]! ** 2
    bb += b[n]! ** 2
  }
  return dot / Math.sqrt(aa * bb)
}

describe('vector arena', () => {
  it.each([1, 3, 16, 17, 384])(
    'scores like plain arithmetic in %i dimensions, through sets, replacements and removals',
    async dimensions => {
      const next = random(dimensions)
      const vector = () => Float32Array.from({ length: dimensions }, next)
      const arena = new VectorArena(dimensions)
      const kept = new Map<number, Float32Array>()
      for (let n = 0; n < 500; n++) {
        const docNo = Math.floor((next() + 0.5) * 300)
        if (next() < -0.2) {
          arena.remove(docNo)
          kept.delete(docNo)
        } else {
          const value = vector()
          arena.set(docNo, value)
          kept.set(docNo, value)
        }
      }
      const query = vector()
      const { rows, scores, docNos } = await arena.scan(query)
      expect(rows).toBe(kept.size)
      expect(new Set(docNos)).toEqual(new Set(kept.keys()))
      for (let row = 0; row < rows; row++) expect(scores[row]).toBeCloseTo(cosine(query, kept.get(docNos[row]!)!), 4)
    },
  )

  it('scans more rows than one call of the kernel takes, while rows are removed', async () => {
    const next = random(7)
    const arena = new VectorArena(16)
    for (let n = 0; n < 40_000; n++) arena.set(n, Float32Array.from({ length: 16 }, next))
    const query = Float32Array.from({ length: 16 }, next)
    const before = await arena.scan(query)
    const expected = new Map([...before.docNos].map((docNo, row) => [docNo, before.scores[row]!]))
    const scanning = arena.scan(query)
    for (let n = 0; n < 100; n++) arena.remove(n * 7)
    const { rows, scores, docNos } = await scanning
    for (let row = 0; row < rows; row++) expect(scores[row]).toBeCloseTo(expected.get(docNos[row]!)!, 5)
  })

  it('scores a zero vector zero', async () => {
    const arena = new VectorArena(4)
    arena.set(1, new Float32Array(4))
    expect([...(await arena.scan(new Float32Array([1, 0, 0, 0]))).scores]).toEqual([0])
  })
})
