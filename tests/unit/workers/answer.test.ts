import { describe, expect, it } from 'vitest'
import { AnswerBytes, LINE_BYTES_MAX, readAnswer, textBytesMax } from '../../../workers/parse/answer.ts'

const MIB = 1024 * 1024
const limits = { name: 'a.csv', textBytesMax: 1000, chunksMax: 10 }
const chunk = (content: string, headings: string[] = []) =>
  JSON.stringify({ kind: 'chunk', chunk: { ordinal: 0, content, headings, place: {} } })

/** What a parser says, and how much of it was read. */
function said(lines: Iterable<string>) {
  const seen = { lines: 0 }
  async function* read() {
    for (const line of lines) {
      seen.lines++
      yield line
    }
  }
  return { seen, answer: readAnswer(read(), limits) }
}
function* endless(line: string): Generator<string> {
  for (;;) yield line
}

describe('what a parser answers', () => {
  it('is its chunks, until it says how it ended', async () => {
    const done = JSON.stringify({ kind: 'done', type: 'csv', mentions: [] })
    const { answer } = said([chunk('a'), chunk('b'), done, 'no JSON'])
    expect(await answer).toMatchObject({ chunks: [{ content: 'a' }, { content: 'b' }], ending: { kind: 'done' } })
    expect((await said([chunk('a')]).answer).ending).toBeUndefined()
  })

  it.each([
    ['text', chunk('x'.repeat(300)), 4],
    ['text in headings', chunk('x', ['y'.repeat(300)]), 4],
    ['chunks', chunk('x'), 11],
  ])('more %s than there may be is not kept', async (_, line, read) => {
    const { answer, seen } = said(endless(line))
    await expect(answer).rejects.toMatchObject({ code: 'DOCUMENT_TOO_COSTLY' })
    expect(seen.lines).toBe(read)
  })

  it('is in proportion to its file, up to a bound', () => {
    expect(textBytesMax(0)).toBeGreaterThan(MIB)
    expect(textBytesMax(100_000)).toBeLessThan(12 * MIB)
    expect(textBytesMax(1024 * MIB)).toBe(64 * MIB)
  })

  it('is counted as it comes: a line without an end, and lines without number, are too much', () => {
    const piece = Buffer.alloc(64 * 1024, 'x')
    const counted = (of: Buffer, allowed: number): number => {
      const bytes = new AnswerBytes()
      if (allowed > 0) bytes.allow(allowed)
      let taken = 0
      while (bytes.add(of)) taken += of.length
      return taken
    }
    expect(counted(piece, 64 * MIB)).toBe(LINE_BYTES_MAX)
    const lines = Buffer.from(`${'x'.repeat(99)}\n`.repeat(600))
    expect(counted(lines, 0)).toBeLessThanOrEqual(LINE_BYTES_MAX)
    expect(counted(lines, MIB)).toBeGreaterThan(2 * MIB)
    expect(counted(lines, MIB)).toBeLessThan(20 * MIB)
  })
})
