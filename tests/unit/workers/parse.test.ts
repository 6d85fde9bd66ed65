import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { type Chunk, chunkDocument } from '../../../workers/parse/chunk.ts'
import { parseFile } from '../../../workers/parse/parse-file.ts'
import type { ParsedFile } from '../../../workers/parse/sandbox.ts'
import { makeDocx, makePdf, makeSheet, makeXlsx, makeZip } from '../../support/documents.ts'
import { tempFolder } from '../../support/running.ts'

const MIB = 1024 * 1024
let folder: string
beforeAll(async () => {
  folder = await tempFolder()
})

/** In this process; what a process of its own adds is tested with the pool. */
async function parse(name: string, content: string | Buffer, contentType: string | null = null): Promise<ParsedFile> {
  const path = join(folder, 'document')
  await writeFile(path, content)
  const chunks: Chunk[] = []
  let file: ParsedFile | undefined
  await parseFile(
    { path, name, contentType, outputBytesMax: 20 * MIB, chunkChars: 1200, chunksMax: 10_000, textBytesMax: 20 * MIB },
    async message => {
      if (message.kind === 'chunk') chunks.push(message.chunk)
      if (message.kind === 'done')
        file = { type: message.type, title: message.title, chunks, mentions: message.mentions }
    },
  )
  return file!
}
const textOf = (file: ParsedFile) => file.chunks.map(({ content }) => content).join('\n')

describe('parsers', () => {
  it('PDF: text by page, headings by size', async () => {
    const file = await parse(
      'a.pdf',
      await makePdf([
        { heading: 'Warranty terms', lines: ['The warranty lasts 24 months', 'from the day of delivery.'] },
        { heading: 'Returns', lines: ['Goods go back within 14 days.'.padEnd(40)] },
      ]),
    )
    expect(file.type).toBe('pdf')
    expect(textOf(file)).toContain('The warranty lasts 24 months from the day of delivery.')
    const last = file.chunks.find(({ content }) => content.includes('14 days'))!
    expect(last.headings.at(-1)).toBe('Returns')
    expect(file.chunks[0]!.place.page).toBe(1)
  })

  it('DOCX: headings, paragraphs, tables with their header, people', async () => {
    const file = await parse('a.docx', await makeDocx())
    expect(textOf(file)).toContain('thirty days of vacation')
    expect(textOf(file)).toContain('Office: South; City: Lisbon')
    expect(file.chunks.at(-1)!.headings).toEqual(['Onboarding handbook', 'Vacation'])
    expect(file.mentions).toContainEqual(expect.objectContaining({ type: 'person', name: 'Grace Hopper' }))
  })

  it('XLSX: sheets as tables, rows with column names', async () => {
    const file = await parse('a.xlsx', makeXlsx())
    const chunk = file.chunks.find(({ content }) => content.includes('Rocket'))!
    expect(chunk.content).toContain('Product: Rocket skates; Price: 349.5; Stock: 11')
    expect(chunk.place.sheet).toBe('Catalogue')
    expect(textOf(file)).toContain('Supplier: Acme; Country: Norway')
  })

  it.each<[string, unknown[][], string[], string[], string]>([
    [
      'a title',
      [['Prices of 2026'], ['Product', 'Price'], ['Anvil', 120]],
      [],
      ['Prices of 2026'],
      'Product: Anvil; Price: 120',
    ],
    [
      'a title in two cells, all words',
      [
        ['Our staff', '', 'confidential'],
        ['Name', 'City', 'Team'],
        ['Ann', 'Oslo', 'Blue'],
        ['Bob', 'Rome', 'Red'],
      ],
      [],
      ['Our staff confidential'],
      'Name: Ann; City: Oslo; Team: Blue',
    ],
    [
      'empty leading rows, a merged title and a note',
      [[], [], ['Stock list', '', ''], ['as of March'], [], ['Product', 'Shelf', 'Stock'], ['Anvil', 'A', 4]],
      ['A3:C3'],
      ['Stock list', 'as of March'],
      'Product: Anvil; Shelf: A; Stock: 4',
    ],
    [
      'groups over columns',
      [
        ['', 'North', '', 'South', ''],
        ['Year', 'Sales', 'Costs', 'Sales', 'Costs'],
        [2026, 5, 3, 4, 2],
      ],
      ['B1:C1', 'D1:E1'],
      [],
      'Year: 2026; North Sales: 5; North Costs: 3; South Sales: 4; South Costs: 2',
    ],
    [
      'cells merged over rows',
      [
        ['Office', 'Desk'],
        ['North', 'one'],
        ['', 'two'],
      ],
      ['A2:A3'],
      [],
      'Office: North; Desk: two',
    ],
    [
      'an empty corner',
      [
        ['', 'Mon', 'Tue'],
        ['Ann', 'early', 'late'],
        ['Bob', 'late', 'early'],
      ],
      [],
      [],
      'Ann; Mon: early; Tue: late',
    ],
  ])('XLSX: the row that names the columns is found under %s', async (_, rows, merged, captions, expected) => {
    const file = await parse('t.xlsx', makeSheet(rows, merged))
    const text = textOf(file)
    expect(text).toContain(expected)
    for (const caption of captions) {
      expect(text).toContain(caption)
      expect(text).not.toContain(`${caption}:`)
    }
  })

  it.each([
    ['a.csv', 'name;city\n"Smith, J";Oslo\nLee;Rome', 'name: Smith, J; city: Oslo'],
    ['a.tsv', 'name\tcity\nLee\tRome', 'name: Lee; city: Rome'],
    [
      'a.html',
      '<html><head><title>T</title><script>bad()</script></head><body><nav>menu</nav><h1>Head</h1><p>Some <b>bold</b> text &amp; more<ul><li>one</ul><table><tr><th>a<th>b<tr><td>1<td>2</table>',
      'a: 1; b: 2',
    ],
    ['a.md', '# Head\n\nSome *bold* text\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n- item one\n- item two', 'a: 1; b: 2'],
    ['a.txt', 'TITLE LINE\n\nFirst paragraph.\n\nSecond paragraph.', 'Second paragraph.'],
    ['a.json', '{"title":"x","rows":[{"a":1,"b":{"c":2}},{"a":3}]}', 'a: 1; b.c: 2'],
    ['a.jsonl', '{"a":1}\n{"a":2}', 'a: 2'],
    ['noextension', '<!DOCTYPE html><p>sniffed', 'sniffed'],
    ['latin1.txt', Buffer.from('caf\xe9 cr\xe8me', 'latin1'), 'café crème'],
    ['utf16.txt', Buffer.from('\ufeffzwölf Boxkämpfer', 'utf16le'), 'zwölf Boxkämpfer'],
  ])('%s', async (name, content, expected) => {
    const file = await parse(name, content)
    expect(textOf(file)).toContain(expected)
    expect(textOf(file)).not.toMatch(/bad\(\)|menu|\*bold\*/)
  })

  it.each([
    ['empty.txt', '   \n ', 'DOCUMENT_EMPTY'],
    ['report.pdf', 'I am no PDF', 'DOCUMENT_UNSUPPORTED'],
    ['report.txt', '%PDF-1.7 but called text', 'DOCUMENT_UNSUPPORTED'],
    ['report.docx', makeXlsx(), 'DOCUMENT_UNSUPPORTED'],
    ['report.xlsx', makeZip('readme.txt', Buffer.from('hi')), 'DOCUMENT_UNSUPPORTED'],
    ['secret.docx', makeZip('word/document.xml', Buffer.from('hi'), { encrypted: true }), 'DOCUMENT_ENCRYPTED'],
    ['photo.pdf', Buffer.from('\x89PNG\r\n\x1a\n0000', 'latin1'), 'DOCUMENT_UNSUPPORTED'],
    ['data.bin', Buffer.from([0, 1, 2, 3]), 'DOCUMENT_UNSUPPORTED'],
    ['bad.json', '{"a":', 'DOCUMENT_DAMAGED'],
    ['bad.docx', makeZip('word/document.xml', Buffer.from('<not-a-document/>')), 'DOCUMENT_'],
    ['cut.docx', Buffer.from('PK\x03\x04cut off', 'latin1'), 'DOCUMENT_DAMAGED'],
    ['fake.pdf', Buffer.from('%PDF-1.4\ngarbage\n%%EOF'), 'DOCUMENT_DAMAGED'],
  ])('%s is refused for what it is', async (name, content, code) => {
    const error = await parse(name, content).then(
      () => undefined,
      reason => reason as { code: string; message: string },
    )
    expect(error?.code).toMatch(code)
    expect(error?.message).toContain(name)
  })

  it.each([
    ['a.pdf', '<html><body>I am a page', 'says that it is PDF, but its content is HTML; give it its right name'],
    ['a.docx', '\ufeff<?xml version="1.0"?>\n<!DOCTYPE html><html/>', 'says that it is DOCX, but its content is HTML'],
    ['a.xlsx', 'name,price', 'says that it is XLSX, but its content is plain text'],
  ])('%s is told what its content is', async (name, content, message) => {
    await expect(parse(name, content)).rejects.toThrow(message)
  })

  it('Markdown that begins with HTML stays Markdown', async () => {
    expect(textOf(await parse('a.md', '<html>\n\n# A *title*\n\ntext'))).toContain('A title')
  })

  it('a truncated PDF is refused, not half read', async () => {
    const whole = await makePdf(Array.from({ length: 20 }, (_, n) => ({ lines: [`page ${n}`] })))
    await expect(parse('cut.pdf', whole.subarray(0, whole.length * 0.6))).rejects.toMatchObject({
      code: 'DOCUMENT_DAMAGED',
    })
  })

  it('an encrypted PDF is refused as such', async () => {
    await expect(parse('locked.pdf', Buffer.from(ENCRYPTED_PDF))).rejects.toMatchObject({ code: 'DOCUMENT_ENCRYPTED' })
  })

  it('a zip bomb costs little, whether it declares its size or lies', async () => {
    const bomb = Buffer.alloc(64 * 1024 * 1024)
    await expect(parse('bomb.docx', makeZip('word/document.xml', bomb))).rejects.toMatchObject({
      code: 'DOCUMENT_TOO_COSTLY',
    })
    await expect(parse('liar.docx', makeZip('word/document.xml', bomb, { declared: 1000 }))).rejects.toMatchObject({
      code: expect.stringMatching(/DOCUMENT_(DAMAGED|TOO_COSTLY)/),
    })
    await expect(parse('bomb.xlsx', makeZip('xl/workbook.xml', bomb))).rejects.toMatchObject({
      code: 'DOCUMENT_TOO_COSTLY',
    })
  })

  it('titles, headings and addresses come out as clean lines, whatever the document holds', async () => {
    const dirty = 'Ti\u0008t\u0007le\u0085'
    const file = await parse(
      'a.html',
      `<title>${dirty}</title><h1>${dirty}</h1><p>See https://example.org/a\u0001b now.${' Plain words.'.repeat(100)}`,
    )
    const lines = [
      file.title,
      ...file.chunks.flatMap(({ headings }) => headings),
      ...file.mentions.map(({ name }) => name),
    ]
    expect(lines).toContain('https://example.org/a')
    for (const line of lines) {
      expect(line).not.toMatch(/[\u0000-\u001f\u007f-\u009f]/)
      expect(line!.isWellFormed()).toBe(true)
    }
    const { title } = await parse('b.html', `<title>${'漢'.repeat(2000)}</title><p>text`)
    expect(Buffer.byteLength(title!)).toBeLessThanOrEqual(500)
  })
})

describe('chunks', () => {
  it('follow headings, keep paragraphs whole, and cut long ones at sentences', () => {
    const long = 'This is one sentence of some length, said again. '.repeat(100)
    const chunks = [
      ...chunkDocument(
        {
          blocks: [
            { kind: 'heading', level: 1, text: 'One' },
            { kind: 'paragraph', text: 'x'.repeat(500) },
            { kind: 'heading', level: 2, text: 'Two' },
            { kind: 'paragraph', text: long },
          ],
        },
        1000,
      ),
    ]
    expect(chunks.map(({ ordinal }) => ordinal)).toEqual(chunks.map((_, n) => n))
    expect(chunks[1]!.headings).toEqual(['One', 'Two'])
    for (const { content } of chunks) expect(content.length).toBeLessThanOrEqual(1300)
    for (const { content } of chunks.slice(2)) expect(content).toMatch(/^This is one/)
  })

  it('a long name of a column stands before each value in short, and once as a whole', async () => {
    const name = `About ${'the weather and the tides '.repeat(200)}, told at last.`
    const file = await parse('a.csv', `${name};city\n1;Oslo\n2;Rome\n`)
    expect(textOf(file).replaceAll(/\s+/g, ' ')).toContain('told at last')
    const rows = file.chunks.find(({ content }) => content.includes('Oslo'))!
    expect(rows.content).toMatch(
      /^About the weather.{180,200}: 1; city: Oslo\nAbout the weather.{180,200}: 2; city: Rome$/,
    )
    for (const { content } of file.chunks) expect(content.length).toBeLessThanOrEqual(1200 * 1.25)
  })

  it('a document of headings alone is cut, too, and so is a heading that goes on and on', async () => {
    const headings = Array.from({ length: 3000 }, (_, n) => `# Heading number ${n} of very many`).join('\n\n')
    const file = await parse('a.md', `${headings}\n\n# ${'word '.repeat(3000)}`)
    expect(textOf(file)).toContain('Heading number 2999 of')
    for (const { content } of file.chunks) expect(content.length).toBeLessThanOrEqual(1200 * 1.25)
  })

  it('a table that makes far more text than it has is refused', async () => {
    const names = Array.from({ length: 40 }, (_, n) => `${n}${'n'.repeat(190)}`).join(';')
    const rows = `${Array.from({ length: 40 }, () => '1').join(';')}\n`.repeat(5000)
    await expect(parse('a.csv', `${names}\n${rows}`)).rejects.toMatchObject({
      code: 'DOCUMENT_TOO_COSTLY',
      message: expect.stringMatching(/names of its columns/),
    })
  })

  it('cut text without spaces between whole characters', () => {
    const chunks = [...chunkDocument({ blocks: [{ kind: 'paragraph', text: '😀'.repeat(3000) }] }, 1001)]
    for (const { content } of chunks) expect(content.isWellFormed()).toBe(true)
  })
})

/** A PDF with a standard security handler, whose password nobody knows. */
const ENCRYPTED_PDF = `%PDF-1.4
1 0 obj
<< /Type /Catalog /Pages 2 0 R >>
endobj
2 0 obj
<< /Type /Pages /Kids [] /Count 0 >>
endobj
3 0 obj
<< /Filter /Standard /V 1 /R 2 /Length 40 /P -44 /O <0123456789012345678901234567890123456789012345678901234567890123> /U <0123456789012345678901234567890123456789012345678901234567890123> >>
endobj
xref
0 4
0000000000 65535 f 
0000000009 00000 n 
0000000058 00000 n 
0000000110 00000 n 
trailer
<< /Size 4 /Root 1 0 R /Encrypt 3 0 R /ID [<00> <00>] >>
startxref
320
%%EOF
`
