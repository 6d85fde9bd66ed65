import { parse } from 'csv-parse/sync'
import { PercolateError } from '../../src/base/errors.ts'
import type { ParsedDocument, ParseInput } from './document.ts'
import { readText } from './text.ts'

const SEPARATORS = [',', ';', '\t', '|']

/** Comma, semicolon, tab or bar separated values (RFC 4180, taken leniently); the first row is the header. */
export async function parseCsv(input: ParseInput): Promise<ParsedDocument> {
  const text = await readText(input.path)
  const delimiter = separatorOf(text)
  try {
    const rows = parse(text, {
      delimiter,
      bom: true,
      relax_column_count: true,
      relax_quotes: true,
      skip_empty_lines: true,
      trim: true,
    }) as string[][]
    const [header = [], ...body] = rows
    return { blocks: rows.length === 0 ? [] : [{ kind: 'table', header, rows: body }] }
  } catch (cause) {
    throw new PercolateError('DOCUMENT_DAMAGED', `${input.name} is not readable CSV: ${(cause as Error).message}.`, {
      cause,
    })
  }
}

/** The separator that cuts the first lines into the most, and equally many, columns. */
function separatorOf(text: string): string {
  const lines = text
    .slice(0, 64 * 1024)
    .split(/\r?\n/)
    .filter(Boolean)
    .slice(0, 20)
  const score = (separator: string) => {
    const counts = lines.map(line => line.split(separator).length)
    const first = counts[0] ?? 1
    return first <= 1 ? 0 : first * (counts.filter(count => count === first).length / counts.length)
  }
  return SEPARATORS.map(separator => [separator, score(separator)] as const).sort((a, b) => b[1] - a[1])[0]![0]
}
