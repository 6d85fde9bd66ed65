import { readFile } from 'node:fs/promises'
import { read, utils, type WorkSheet } from '@e965/xlsx'
import { PercolateError } from '../../src/base/errors.ts'
import type { Block, ParsedDocument, ParseInput } from './document.ts'
import { checkZip } from './zip.ts'

const ROWS_MAX = 200_000
const MERGES_MAX = 10_000
/** Rows among which the header is looked for, and from which the usual width of the table is taken. */
const HEADER_ROWS_MAX = 20
const TYPICAL_ROWS = 50

/** Every sheet a table; its first row that looks like one is the header. Formulas count as their stored results. */
export async function parseXlsx(input: ParseInput): Promise<ParsedDocument> {
  await checkZip(input.path, input.name, input.outputBytesMax)
  let workbook: ReturnType<typeof read>
  try {
    workbook = read(await readFile(input.path), {
      type: 'buffer',
      dense: true,
      cellHTML: false,
      cellFormula: false,
      cellDates: true,
      sheetRows: ROWS_MAX,
    })
  } catch (cause) {
    if (/password/i.test(String(cause)))
      throw new PercolateError(
        'DOCUMENT_ENCRYPTED',
        `${input.name} is protected by a password; save it without one and upload it again.`,
      )
    throw new PercolateError(
      'DOCUMENT_DAMAGED',
      `${input.name} is not a readable XLSX file; it is corrupt or incomplete.`,
      { cause },
    )
  }
  const blocks: Block[] = []
  for (const name of workbook.SheetNames) {
    const sheet = workbook.Sheets[name]!
    const rows = utils.sheet_to_json<unknown[]>(sheet, {
      header: 1,
      raw: false,
      blankrows: true,
      defval: '',
      dateNF: 'yyyy-mm-dd',
    })
    const place = { sheet: name }
    const { captions, header, body } = toTable(
      rows.map(row => row.map(cell => String(cell ?? '').trim())),
      mergesOf(sheet),
    )
    if (captions.length === 0 && body.length === 0 && header.length === 0) continue
    blocks.push({ kind: 'heading', level: 1, text: name, place })
    for (const caption of captions) blocks.push({ kind: 'paragraph', text: caption, place })
    if (header.length > 0 || body.length > 0) blocks.push({ kind: 'table', header, rows: body, place })
  }
  return { blocks }
}

/** A merged range, in rows and columns of the table, both ends included. */
interface Merge {
  readonly top: number
  readonly bottom: number
  readonly left: number
  readonly right: number
}

function mergesOf(sheet: WorkSheet): Merge[] {
  const start = sheet['!ref'] ? utils.decode_range(sheet['!ref']).s : { r: 0, c: 0 }
  return (sheet['!merges'] ?? []).slice(0, MERGES_MAX).map(({ s, e }) => ({
    top: s.r - start.r,
    bottom: e.r - start.r,
    left: s.c - start.c,
    right: e.c - start.c,
  }))
}

/** What stands above the header is a caption; a merged cell counts for every row, and in a header of groups for every column, that it spans. */
function toTable(
  rows: string[][],
  merges: readonly Merge[],
): { captions: string[]; header: readonly string[]; body: string[][] } {
  const wide = new Set(merges.filter(({ left, right }) => right > left).map(({ top }) => top))
  for (const { top, bottom, left, right } of merges) {
    const value = rows[top]?.[left]
    if (!value || right > left) continue
    for (let at = top + 1; at <= Math.min(bottom, rows.length - 1); at++) rows[at]![left] ||= value
  }
  const filled = rows.flatMap((row, n) => (row.some(Boolean) ? [n] : []))
  const at = headerRow(
    filled.map(n => rows[n]!),
    filled.map(n => wide.has(n)),
  )
  if (at === undefined) return { captions: filled.map(n => lineOf(rows[n]!)), header: [], body: [] }
  const above = filled.slice(0, at)
  const names = rows[filled[at]!]!
  const groups = above.at(-1)
  const repeats = new Set(names.filter(Boolean)).size < names.filter(Boolean).length
  const isGrouped = groups !== undefined && repeats && wide.has(groups)
  return {
    captions: (isGrouped ? above.slice(0, -1) : above).map(n => lineOf(rows[n]!)),
    header: isGrouped ? withGroups(names, rows[groups]!, groups, merges) : names,
    body: filled.slice(at + 1).map(n => rows[n]!),
  }
}

const lineOf = (row: readonly string[]): string => row.filter(Boolean).join(' ')

function withGroups(names: readonly string[], groups: readonly string[], row: number, merges: readonly Merge[]) {
  return names.map((name, column) => {
    const merge = merges.find(({ top, left, right }) => top === row && left <= column && column <= right)
    return [groups[merge?.left ?? column] ?? '', name].filter(Boolean).join(' ')
  })
}

const isWord = (cell: string): boolean => cell !== '' && !/^[-+]?[\d.,\s%€$£]+$|^\d{4}-\d{2}-\d{2}/.test(cell)

/**
 * Which of the upper rows names the columns: words, as many as the rows have cells (an empty corner does not count against it), no two alike, no cell
 * merged over columns, and better still with other things than words below. Of equals the first. Undefined: there is no table.
 */
function headerRow(rows: readonly (readonly string[])[], isMerged: readonly boolean[]): number | undefined {
  const counts = rows.slice(0, TYPICAL_ROWS).map(row => row.filter(Boolean).length)
  const typical = [...counts].sort((a, b) => a - b)[Math.floor(counts.length / 2)] ?? 0
  if (typical === 0) return undefined
  let best: { at: number; score: number } | undefined
  for (let at = 0; at < Math.min(rows.length, HEADER_ROWS_MAX); at++) {
    const row = rows[at]!
    const below = rows[at + 1] ?? []
    const words = row.filter(isWord)
    const count = counts[at]! + (row[0] === '' && (below[0] ?? '') !== '' ? 1 : 0)
    if (isMerged[at] || words.length === 0 || words.length < counts[at]! / 2 || count < typical * 0.6) continue
    const score =
      Math.min(1, count / typical) +
      (new Set(words).size === words.length ? 0.5 : 0) +
      (row.some((cell, n) => isWord(cell) && (below[n] ?? '') !== '' && !isWord(below[n]!)) ? 0.5 : 0)
    if (!best || score > best.score + 0.01) best = { at, score }
  }
  return best?.at ?? 0
}
