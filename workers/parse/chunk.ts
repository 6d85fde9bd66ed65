import type { Block, ParsedDocument, Place } from './document.ts'

export interface Chunk {
  /** Position in the document, from 0. */
  readonly ordinal: number
  readonly content: string
  /** The headings above, outermost first. */
  readonly headings: readonly string[]
  readonly place: Place
  /** Rows of a table, from 1, when the chunk is part of one. */
  readonly rows?: readonly [first: number, last: number]
}

const ROW_CHARS_MAX = 8000
const CELL_CHARS_MAX = 2000
/** Characters of a column's name that stand before each of its values: a name says what a value is, and what is longer is text. */
const COLUMN_CHARS_MAX = 200
/** Text that is looked at together for sentences, at least. */
const SENTENCES_CHARS_MIN = 4096
const segmenter = new Intl.Segmenter('en', { granularity: 'sentence' })

/**
 * Cuts a document along its own structure: a heading starts a chunk when the one before has some substance, paragraphs stay whole unless one alone
 * is too long, and every row of a table is written with its column names.
 */
export function* chunkDocument(document: ParsedDocument, chunkChars: number): Generator<Chunk> {
  const headings: { level: number; text: string }[] = []
  let ordinal = 0
  let pending: { parts: string[]; length: number; bodies: number; headings: string[]; place: Place } | undefined

  const take = (): Chunk[] => {
    const chunk = pending
    pending = undefined
    if (!chunk || chunk.parts.length === 0) return []
    return [{ ordinal: ordinal++, content: chunk.parts.join('\n\n'), headings: chunk.headings, place: chunk.place }]
  }
  const add = (text: string, place: Place) => {
    pending ??= { parts: [], length: 0, bodies: 0, headings: headings.map(heading => heading.text), place }
    pending.parts.push(text)
    pending.length += text.length
  }

  for (const block of document.blocks) {
    const place = block.place ?? {}
    if (block.kind === 'heading') {
      if (pending && pending.bodies > 0 && (pending.length > chunkChars * 0.25 || pending.place.page !== place.page))
        yield* take()
      while (headings.length > 0 && headings.at(-1)!.level >= block.level) headings.pop()
      headings.push({ level: block.level, text: block.text.slice(0, 200) })
      for (const text of splitLong(block.text, chunkChars)) {
        if (pending && pending.length + text.length > chunkChars) yield* take()
        add(text, place)
      }
    } else if (block.kind === 'paragraph') {
      for (const text of splitLong(block.text, chunkChars)) {
        // A chunk lies on one page, so that a citation names the right one.
        if (
          pending &&
          pending.bodies > 0 &&
          (pending.length + text.length > chunkChars || place.page !== pending.place.page)
        )
          yield* take()
        add(text, place)
        if (pending) pending.bodies++
      }
    } else {
      yield* take()
      for (const part of tableParts(block, chunkChars)) {
        yield {
          ordinal: ordinal++,
          content: part.content,
          headings: headings.map(heading => heading.text),
          place,
          rows: part.rows,
        }
      }
    }
  }
  yield* take()
}

function* tableParts(
  block: Extract<Block, { kind: 'table' }>,
  chunkChars: number,
): Generator<{ content: string; rows: [number, number] }> {
  const columns = block.header.map(name => name.slice(0, COLUMN_CHARS_MAX))
  const names = block.header.filter(Boolean).join('; ')
  const isSaid = block.header.some(name => name.length > COLUMN_CHARS_MAX)
  // What is cut off where it names values is said once.
  if (isSaid) yield* headerParts(names, chunkChars)
  let lines: string[] = []
  let length = 0
  let first = 1
  let row = 0
  for (const cells of block.rows) {
    row++
    const line = rowText(columns, cells)
    if (lines.length > 0 && length + line.length > chunkChars) {
      yield { content: lines.join('\n'), rows: [first, row - 1] }
      lines = []
      length = 0
      first = row
    }
    lines.push(line)
    length += line.length
  }
  if (lines.length > 0) yield { content: lines.join('\n'), rows: [first, row] }
  else if (row === 0 && names !== '' && !isSaid) yield* headerParts(names, chunkChars)
}

function* headerParts(names: string, chunkChars: number): Generator<{ content: string; rows: [number, number] }> {
  for (const content of splitLong(names, chunkChars)) yield { content, rows: [0, 0] }
}

/** `Column: value; Column: value`: a row that means something by itself. */
function rowText(columns: readonly string[], cells: readonly string[]): string {
  return cells
    .map((cell, n) => {
      const value = cell.slice(0, CELL_CHARS_MAX)
      return value === '' ? '' : columns[n] ? `${columns[n]}: ${value}` : value
    })
    .filter(Boolean)
    .join('; ')
    .slice(0, ROW_CHARS_MAX)
}

/** Whole sentences up to the limit; a sentence longer than that is cut at a space. */
export function* splitLong(text: string, charsMax: number): Generator<string> {
  if (text.length <= charsMax * 1.25) {
    yield text
    return
  }
  let part = ''
  for (const segment of sentences(text, Math.max(SENTENCES_CHARS_MIN, charsMax * 4))) {
    if (part !== '' && part.length + segment.length > charsMax) {
      yield part.trim()
      part = ''
    }
    part += segment
    while (part.length > charsMax * 1.25) {
      const space = part.lastIndexOf(' ', charsMax)
      const cut = space > charsMax / 2 ? space : wholeCharacter(part, charsMax)
      yield part.slice(0, cut).trim()
      part = part.slice(cut)
    }
  }
  if (part.trim() !== '') yield part.trim()
}

/** The segmenter looks ahead through abbreviations, again at each of them: it gets windows of `windowChars`, and the sentence that one ends in begins the next. */
function* sentences(text: string, windowChars: number): Generator<string> {
  let start = 0
  while (start < text.length) {
    const end = text.length - start > windowChars ? windowEnd(text, start, windowChars) : text.length
    const segments = Array.from(segmenter.segment(text.slice(start, end)), ({ segment }) => segment)
    if (end < text.length && segments.length > 1) segments.pop()
    for (const segment of segments) {
      start += segment.length
      yield segment
    }
  }
}

/** Behind a space, in text that has some, so that no word is cut when no sentence ends in the window. */
function windowEnd(text: string, start: number, windowChars: number): number {
  const space = text.lastIndexOf(' ', start + windowChars - 1)
  return space > start + windowChars / 2 ? space + 1 : wholeCharacter(text, start + windowChars)
}

const wholeCharacter = (text: string, at: number): number => {
  const code = text.charCodeAt(at)
  return code >= 0xdc00 && code <= 0xdfff ? at - 1 : at
}
