import { parseCsv } from './csv.ts'
import type { DocumentType, Parser } from './document.ts'
import { parseDocx } from './docx.ts'
import { parseHtml } from './html.ts'
import { parseJson } from './json.ts'
import { parseMarkdown } from './markdown.ts'
import { parsePdf } from './pdf.ts'
import { parseText } from './text.ts'
import { parseXlsx } from './xlsx.ts'

export const parsers: Record<DocumentType, Parser> = {
  pdf: parsePdf,
  docx: parseDocx,
  xlsx: parseXlsx,
  csv: parseCsv,
  html: parseHtml,
  markdown: parseMarkdown,
  text: parseText,
  json: parseJson,
}
