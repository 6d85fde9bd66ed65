import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { type Chunk, splitLong } from '../../../workers/parse/chunk.ts'
import { parseFile } from '../../../workers/parse/parse-file.ts'
import { tempFolder } from '../../support/running.ts'

let folder: string
beforeAll(async () => {
  folder = await tempFolder()
})

async function textOf(name: string, content: string): Promise<string> {
  const path = join(folder, name)
  await writeFile(path, content)
  const chunks: Chunk[] = []
  await parseFile(
    {
      path,
      name,
      contentType: null,
      outputBytesMax: 20_000_000,
      chunkChars: 1200,
      chunksMax: 10_000,
      textBytesMax: 20_000_000,
    },
    async message => {
      if (message.kind === 'chunk') chunks.push(message.chunk)
    },
  )
  return chunks.map(chunk => chunk.content).join('\n')
}

/** Microseconds of this process's own time, which other processes do not lengthen. */
async function work(run: () => Promise<unknown>): Promise<number> {
  const before = process.cpuUsage()
  await run()
  const { user, system } = process.cpuUsage(before)
  return user + system
}

describe('text that is made to be read slowly', () => {
  it.each([
    ['emphasis', 'a.md', (n: number) => '*a_'.repeat(n)],
    ['strong emphasis', 'a.md', (n: number) => '**a '.repeat(n)],
  ])('%s: four times as much takes about four times as long', async (_, name, make) => {
    await textOf(name, make(500))
    const small = await work(() => textOf(name, make(2000)))
    const large = await work(() => textOf(name, make(8000)))
    expect(large / small).toBeLessThan(8)
  })

  it('abbreviations: four times as much takes about four times as long to cut', async () => {
    const cut = (n: number) => work(async () => [...splitLong(`Mr. ${'A. '.repeat(n)}Aa Bb Cc `.repeat(3), 1200)])
    await cut(500)
    const small = await cut(4000)
    expect((await cut(16_000)) / small).toBeLessThan(8)
  })

  it('keeps emphasis that lies within a part, and all of the text', async () => {
    const words = Array.from({ length: 1000 }, (_, n) => `*word${n}*`)
    const text = await textOf('a.md', words.join(' '))
    for (let n = 0; n < 1000; n++) expect(text).toMatch(new RegExp(`word${n}\\b`))
    expect(text.split('*').length - 1).toBeLessThan(20)
  })

  it.each([
    ['quotes', '>'.repeat(100_000)],
    ['lists', '- '.repeat(100_000)],
  ])('%s that lie deep in each other: says so, names the document and what to do', async (_, content) => {
    await expect(textOf('deep.md', `${content} x`)).rejects.toMatchObject({
      code: 'DOCUMENT_TOO_COSTLY',
      message: expect.stringMatching(/deep\.md.*more than 100 deep.*flatter/),
    })
  })

  it('sentences stay whole over the windows in which they are looked for', () => {
    const sentence = (n: number) => `Sentence ${n} has a few words of its own.`
    const text = Array.from({ length: 1000 }, (_, n) => sentence(n)).join(' ')
    const parts = [...splitLong(text, 1200)]
    expect(parts.join(' ')).toBe(text)
    for (const part of parts) expect(part).toMatch(/^Sentence .*own\.$/s)
  })
})
