import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Gathered, gather } from '../../../src/api/http/gathered.ts'

const MIB = 1024 * 1024
const streamed = (chunks: Iterable<Buffer>) => Readable.from(chunks, { objectMode: false })

describe('a body in pieces', () => {
  it('has the same bytes, whatever its chunks are', async () => {
    const lengths = fc.array(fc.oneof(fc.integer({ min: 1, max: 10 }), fc.integer({ min: 1, max: 40_000 })))
    await fc.assert(
      fc.asyncProperty(lengths, async of => {
        const chunks = of.map((length, n) => Buffer.alloc(length, n))
        const pieces = gather(
          streamed(chunks),
          () => {},
          () => {},
        )
        expect((await buffer(pieces)).equals(Buffer.concat(chunks))).toBe(true)
      }),
    )
  })

  it('has few of them for many chunks', () => {
    const gathered = new Gathered()
    let pieces = 0
    for (let n = 0; n < MIB / 100; n++) pieces += gathered.add(Buffer.alloc(100)).length
    pieces += gathered.end().length
    expect(pieces).toBeLessThan(100)
    expect(gathered.isTiny).toBe(false)
  })

  it('is refused when it has many chunks of a few bytes, and not for a few of those', async () => {
    const tiny = (count: number) => streamed(Array.from({ length: count }, () => Buffer.alloc(1)))
    let told: Error | undefined
    const read = (count: number) =>
      buffer(
        gather(
          tiny(count),
          () => {},
          error => (told = error),
        ),
      )
    expect(await read(4000)).toHaveLength(4000)
    await expect(read(5000)).rejects.toMatchObject({ code: 'REQUEST_MALFORMED', field: 'Transfer-Encoding' })
    expect(told).toMatchObject({ code: 'REQUEST_MALFORMED' })
  })

  it('is refused for its bytes by who counts them', async () => {
    const refuse = () => {
      throw new Error('no room')
    }
    await expect(buffer(gather(streamed([Buffer.alloc(10)]), refuse, () => {}))).rejects.toThrow('no room')
  })
})
