import { open, readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import type { TextItem } from 'pdfjs-dist/types/src/display/api.js'
import { PercolateError } from '../../src/base/errors.ts'
import type { Block, ParsedDocument, ParseInput } from './document.ts'

const PAGES_MAX = 20_000
const TAIL_BYTES = 2048

/** pdf.js makes these when it loads, for drawing; we only read text, and load no native canvas. */
class NotDrawn {}
for (const name of ['DOMMatrix', 'Path2D', 'ImageData']) {
  if (!(name in globalThis))
    Object.defineProperty(globalThis, name, { value: NotDrawn, configurable: true, writable: true })
}

/** pdf.js, once what it looks for when it loads is there. */
export const loadPdf = () => import('pdfjs-dist/legacy/build/pdf.mjs')

/** PDF by pdf.js: words are put back into lines and paragraphs by their places, large ones are headings. Scanned pages have no text to find. */
export async function parsePdf(input: ParseInput): Promise<ParsedDocument> {
  await checkEnd(input)
  const { getDocument, VerbosityLevel } = await loadPdf()
  const assets = dirname(createRequire(import.meta.url).resolve('pdfjs-dist/package.json'))
  const task = getDocument({
    data: new Uint8Array(await readFile(input.path)),
    verbosity: VerbosityLevel.ERRORS,
    isEvalSupported: false,
    disableFontFace: true,
    useSystemFonts: false,
    stopAtErrors: false,
    cMapUrl: `${join(assets, 'cmaps')}/`,
    cMapPacked: true,
    standardFontDataUrl: `${join(assets, 'standard_fonts')}/`,
  })
  try {
    const document = await task.promise
    if (document.numPages > PAGES_MAX)
      throw new PercolateError(
        'DOCUMENT_TOO_COSTLY',
        `${input.name} has ${document.numPages} pages; at most ${PAGES_MAX} are parsed.`,
      )
    const pages: Line[][] = []
    for (let number = 1; number <= document.numPages; number++) {
      const page = await document.getPage(number)
      const { items } = await page.getTextContent()
      pages.push(toLines(items.filter((item): item is TextItem => 'str' in item)))
      page.cleanup()
    }
    const info = (await document.getMetadata().catch(() => undefined))?.info as { Title?: unknown } | undefined
    const title =
      typeof info?.Title === 'string' && info.Title.trim() !== '' ? info.Title.trim().slice(0, 500) : undefined
    return { blocks: toBlocks(pages), ...(title ? { title } : {}) }
  } catch (error) {
    throw explain(error, input.name)
  } finally {
    await task.destroy()
  }
}

/** pdf.js repairs what it can, and would take half a document for a whole one: the end must be there. */
async function checkEnd(input: ParseInput): Promise<void> {
  const file = await open(input.path)
  try {
    const { size } = await file.stat()
    const tail = Buffer.alloc(Math.min(TAIL_BYTES, size))
    await file.read(tail, 0, tail.length, size - tail.length)
    if (!tail.includes('%%EOF') && !tail.includes('startxref')) {
      throw new PercolateError(
        'DOCUMENT_DAMAGED',
        `${input.name} is truncated: the end of the PDF is missing. Upload it again, whole.`,
      )
    }
  } finally {
    await file.close()
  }
}

function explain(error: unknown, name: string): PercolateError {
  if (error instanceof PercolateError) return error
  const kind = (error as { name?: string }).name
  if (kind === 'PasswordException')
    return new PercolateError(
      'DOCUMENT_ENCRYPTED',
      `${name} is protected by a password; save it without one and upload it again.`,
    )
  return new PercolateError('DOCUMENT_DAMAGED', `${name} is not a readable PDF; it is corrupt or incomplete.`, {
    cause: error,
  })
}

interface Line {
  readonly text: string
  readonly x: number
  readonly y: number
  readonly height: number
}

/** Items in reading order of the file, joined while they stay on a line; a gap wider than a quarter of the height is a space. */
function toLines(items: readonly TextItem[]): Line[] {
  const lines: Line[] = []
  let text = ''
  let start: { x: number; y: number; height: number } | undefined
  let end = 0
  const flush = () => {
    if (start && text.trim() !== '') lines.push({ text: text.replace(/\s+/g, ' ').trim(), ...start })
    text = ''
    start = undefined
  }
  for (const item of items) {
    const [, , , , x = 0, y = 0] = item.transform as number[]
    const height = item.height || Math.abs((item.transform as number[])[3] ?? 0) || 1
    if (start && Math.abs(y - start.y) > Math.max(height, start.height) * 0.5) flush()
    if (item.str !== '') {
      if (!start) start = { x, y, height }
      else if (x - end > height * 0.2 && !text.endsWith(' ')) text += ' '
      text += item.str
      end = x + item.width
      if (item.str.trim() !== '') start = { ...start, height: Math.max(start.height, height) }
    }
    if (item.hasEOL) flush()
  }
  flush()
  return lines
}

function toBlocks(pages: readonly Line[][]): Block[] {
  const heights = pages.flat().map(line => Math.round(line.height * 2) / 2)
  const body = mostCommon(heights)
  const running = runningLines(pages)
  const blocks: Block[] = []
  for (const [n, lines] of pages.entries()) {
    const place = { page: n + 1 }
    let paragraph: string[] = []
    let previous: Line | undefined
    const flush = () => {
      if (paragraph.length > 0) blocks.push({ kind: 'paragraph', text: joinLines(paragraph), place })
      paragraph = []
    }
    for (const line of lines) {
      if (running.has(fingerprint(line.text))) continue
      if (line.height > body * 1.15 && line.text.length <= 150 && /\p{L}/u.test(line.text)) {
        flush()
        blocks.push({
          kind: 'heading',
          level: line.height > body * 1.6 ? 1 : line.height > body * 1.3 ? 2 : 3,
          text: line.text,
          place,
        })
      } else {
        const gap = previous ? previous.y - line.y : 0
        if (previous && (gap > previous.height * 1.9 || gap < -previous.height)) flush()
        paragraph.push(line.text)
      }
      previous = line
    }
    flush()
  }
  return blocks
}

/** Headers and footers: lines at the edge of at least half the pages that differ in digits only. */
function runningLines(pages: readonly Line[][]): Set<string> {
  if (pages.length < 4) return new Set()
  const counts = new Map<string, number>()
  for (const lines of pages) {
    for (const print of new Set(
      [lines[0], lines[1], lines.at(-2), lines.at(-1)].flatMap(line => (line ? [fingerprint(line.text)] : [])),
    )) {
      counts.set(print, (counts.get(print) ?? 0) + 1)
    }
  }
  return new Set([...counts].filter(([, count]) => count >= pages.length / 2).map(([print]) => print))
}

const fingerprint = (text: string): string => text.replace(/\d+/g, '#').trim()

/** A word that was hyphenated at a line's end is put together again. */
const joinLines = (lines: readonly string[]): string =>
  lines.reduce(
    (text, line) =>
      text === ''
        ? line
        : /\p{Ll}-$/u.test(text) && /^\p{Ll}/u.test(line)
          ? text.slice(0, -1) + line
          : `${text} ${line}`,
    '',
  )

function mostCommon(values: readonly number[]): number {
  const counts = new Map<number, number>()
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1)
  return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0] ?? 10
}
