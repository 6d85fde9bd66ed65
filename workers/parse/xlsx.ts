import { readFile } from 'node:fs/promises'
import { read, utils } from '@e965/xlsx'
import { PercolateError } from '../../src/base/errors.ts'
import type { Block, ParsedDocument, ParseInput } from './document.ts'
import { checkZip } from './zip.ts'

const ROWS_MAX = 200_000

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
  for (const sheet of workbook.SheetNames) {
    const rows = utils.sheet_to_json<unknown[]>(workbook.Sheets[sheet]!, {
      header: 1,
      raw: false,
      blankrows: false,
      defval: '',
      dateNF: 'yyyy-mm-dd',
    })
    const texts = rows
      .map(row => row.map(cell => String(cell ?? '').trim()))
      .filter(row => row.some(cell => cell !== ''))
    if (texts.length === 0) continue
    const place = { sheet }
    blocks.push({ kind: 'heading', level: 1, text: sheet, place })
    const at = headerRow(texts)
    // What stands above the header is a caption.
    for (const row of texts.slice(0, at)) blocks.push({ kind: 'paragraph', text: row.filter(Boolean).join(' '), place })
    blocks.push({ kind: 'table', header: texts[at]!, rows: texts.slice(at + 1), place })
  }
  return { blocks }
}

/** The first of the upper rows that fills as many cells as the rows do at most, with words rather than numbers. */
function headerRow(rows: readonly (readonly string[])[]): number {
  const filled = rows.slice(0, 20).map(row => row.filter(Boolean).length)
  const most = Math.max(...filled)
  const at = rows
    .slice(0, 20)
    .findIndex(
      (row, n) =>
        filled[n]! >= Math.max(2, most * 0.6) &&
        row.filter(cell => cell !== '' && Number.isNaN(Number(cell))).length >= filled[n]! / 2,
    )
  return Math.max(0, at)
}
