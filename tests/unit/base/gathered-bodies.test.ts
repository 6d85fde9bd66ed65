import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Gathered } from '../../../src/base/gathered-bodies.ts'

const MIB = 1024 * 1024
const lengths = fc.array(
  fc.oneof(fc.integer({ min: 0, max: 10 }), fc.integer({ min: 1, max: 40_000 }), fc.constant(undefined)),
)

describe('chunks that are gathered', () => {
  it('have the same bytes, whatever they are and whenever what there is goes on', () => {
    fc.assert(
      fc.property(lengths, of => {
        const gathered = new Gathered()
        const chunks: Buffer[] = []
        const pieces: Buffer[] = []
        for (const [n, length] of of.entries()) {
          if (length === undefined) {
            pieces.push(...gathered.end())
            expect(gathered.held).toBe(0)
            continue
          }
          const chunk = Buffer.alloc(length, n)
          chunks.push(chunk)
          pieces.push(...gathered.add(chunk))
        }
        const heldBytes = gathered.held
        const rest = gathered.end()
        expect(Buffer.concat(rest)).toHaveLength(heldBytes)
        pieces.push(...rest)
        expect(Buffer.concat(pieces).equals(Buffer.concat(chunks))).toBe(true)
      }),
    )
  })

  it('are few pieces, none of which holds on to much more than it has', () => {
    const gathered = new Gathered()
    const pieces: Buffer[] = []
    for (let n = 0; n < MIB / 100; n++) pieces.push(...gathered.add(Buffer.alloc(100)))
    expect(pieces.length).toBeLessThan(100)
    pieces.push(...gathered.end())
    for (const bytes of [1, 2, 3]) {
      for (let n = 0; n < bytes; n++) gathered.add(Buffer.alloc(1))
      pieces.push(...gathered.end())
    }
    const rooms = new Set(pieces.map(({ buffer }) => buffer))
    const heldBytes = [...rooms].reduce((sum, { byteLength }) => sum + byteLength, 0)
    expect(heldBytes).toBeLessThan(2 * MIB)
    expect(gathered.isTiny).toBe(false)
  })

  it('are tiny when there are many of a few bytes', () => {
    const tiny = (count: number, bytes: number) => {
      const gathered = new Gathered()
      for (let n = 0; n < count; n++) gathered.add(Buffer.alloc(bytes))
      return gathered.isTiny
    }
    expect(tiny(4000, 1)).toBe(false)
    expect(tiny(5000, 1)).toBe(true)
    expect(tiny(5000, 63)).toBe(true)
    expect(tiny(5000, 64)).toBe(false)
  })
})
