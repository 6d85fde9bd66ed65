import fc from 'fast-check'
import { expect, it } from 'vitest'
import { Http2Frames } from '../../../src/api/grpc/http2-frames.ts'
import { CONTINUATION, DATA, frame, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM } from '../../support/http2-frames.ts'

const MAX = 5
const endsPart = (type: number): boolean => [HEADERS, CONTINUATION, GOAWAY].includes(type)

/** The parts into which it divides pieces of any size. */
function partsOf(pieces: readonly Buffer[]): Buffer[] {
  const frames = new Http2Frames()
  return pieces.flatMap(piece => {
    const parts: Buffer[] = []
    for (let at = 0; at < piece.length; ) {
      const end = frames.take(piece, at, MAX)
      expect(end).toBeGreaterThan(at)
      parts.push(piece.subarray(at, end))
      at = end
    }
    return parts
  })
}

it('divides behind each frame that may begin a call or ends them all, and after so many others, wherever the pieces end', () => {
  const frames = fc.array(
    fc.record({
      type: fc.constantFrom(DATA, HEADERS, RST_STREAM, PING, CONTINUATION, GOAWAY),
      length: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 40 }), fc.constant(70_000)),
    }),
    { maxLength: 40 },
  )
  fc.assert(
    fc.property(frames, fc.array(fc.nat(), { maxLength: 30 }), (given, cuts) => {
      const sent = given.map(({ type, length }, n) => frame(type, 0, n, Buffer.alloc(length, n)))
      const bytes = Buffer.concat([PREFACE, ...sent])
      const at = [...new Set(cuts.map(cut => cut % bytes.length)), 0, bytes.length].sort((a, b) => a - b)
      const parts = partsOf(at.slice(1).map((end, n) => bytes.subarray(at[n]!, end)))
      expect(Buffer.concat(parts).equals(bytes)).toBe(true)
      // Of a part, the frames that end in it, but for its last, end no part; and there are not too many.
      const ends: { at: number; type: number }[] = []
      let end = PREFACE.length
      for (const [n, { type }] of given.entries()) {
        end += sent[n]!.length
        ends.push({ at: end, type })
      }
      let from = 0
      for (const part of parts) {
        const to = from + part.length
        const within = ends.filter(({ at }) => at > from && at <= to)
        expect(within.length).toBeLessThanOrEqual(MAX + 1)
        for (const { at, type } of within) if (endsPart(type)) expect(at).toBe(to)
        from = to
      }
    }),
  )
})

it('lets one byte at a time through', () => {
  const bytes = Buffer.concat([PREFACE, frame(HEADERS, 0, 1, Buffer.alloc(3)), frame(DATA, 0, 1, Buffer.alloc(2))])
  const parts = partsOf([...bytes].map(byte => Buffer.from([byte])))
  expect(parts).toHaveLength(bytes.length)
})
