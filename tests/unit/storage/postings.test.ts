import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { PercolateError } from '../../../src/base/errors.ts'
import { BLOCK_DOCS, countPostings, decodeBlock, encodeBlock, PostingColumns } from '../../../src/storage/postings.ts'

const number = fc.oneof(fc.nat(200), fc.nat(2 ** 32 - 1))
const postings = (block: number) =>
  fc
    .uniqueArray(fc.tuple(fc.nat(BLOCK_DOCS - 1), number, number), {
      selector: ([place]) => place,
      maxLength: BLOCK_DOCS,
    })
    .map(all =>
      all
        .toSorted(([a], [b]) => a - b)
        .map(([place, frequency, length]) => ({ docNo: block * BLOCK_DOCS + place, frequency, length })),
    )

describe('a block of postings', () => {
  it('decodes to what was encoded, and is counted without being decoded', () => {
    fc.assert(
      fc.property(
        fc.nat(1_000_000).chain(block => fc.tuple(fc.constant(block), postings(block))),
        ([block, all]) => {
          const bytes = encodeBlock(block, all)
          expect(decodeBlock(block, bytes)).toEqual(all)
          expect(countPostings(bytes)).toBe(all.length)
        },
      ),
    )
  })

  it('is refused when it is cut or names a document beyond it; columns that held another block do not show it', () => {
    const columns = new PostingColumns()
    columns.read(
      encodeBlock(
        0,
        [3, 4, 200].map(docNo => ({ docNo, frequency: 1, length: 500 })),
      ),
    )
    expect(columns.count).toBe(3)
    columns.read(encodeBlock(0, [{ docNo: 7, frequency: 2, length: 9 }]))
    expect([columns.count, columns.places[0], columns.frequencies[0], columns.lengths[0]]).toEqual([1, 7, 2, 9])
    const whole = encodeBlock(0, [{ docNo: 7, frequency: 2, length: 300 }])
    for (let end = 1; end < whole.length; end++)
      expect(() => decodeBlock(0, whole.subarray(0, end))).toThrow(PercolateError)
    expect(() => decodeBlock(0, Buffer.from([0x80, 0x02, 1, 1]))).toThrow(/beyond/)
  })
})
