import { parseCsv } from './csv.ts'
import type { DocumentType, Parser } from './document.ts'
import { parseHtml } from './html.ts'
import { parseJson } from './json.ts'
import { parseMarkdown } from './markdown.ts'
import { parsePdf } from './pdf.ts'
import { parseText } from './text.ts'

export const parsers: Record<DocumentType, Parser> = {
  pdf: parsePdf,
  // Their libraries are loaded by the documents that need them: every parser process would pay for them, most for nothing.
  docx: async input => (await import('./docx.ts')).parseDocx(input),
  xlsx: async input => (await import('./xlsx.ts')).parseXlsx(input),
  csv: parseCsv,
  html: parseHtml,
  markdown: parseMarkdown,
  text: parseText,
  json: parseJson,
}
