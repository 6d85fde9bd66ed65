import { Parser } from 'htmlparser2'
import type { Block, ParsedDocument, ParseInput } from './document.ts'
import { readText } from './text.ts'

const SKIPPED = new Set([
  'script',
  'style',
  'noscript',
  'template',
  'svg',
  'math',
  'head',
  'nav',
  'iframe',
  'object',
  'select',
  'button',
])
const BREAKING = new Set([
  'address',
  'article',
  'aside',
  'blockquote',
  'body',
  'dd',
  'details',
  'div',
  'dl',
  'dt',
  'fieldset',
  'figcaption',
  'figure',
  'footer',
  'form',
  'header',
  'hr',
  'li',
  'main',
  'ol',
  'p',
  'pre',
  'section',
  'summary',
  'ul',
  'table',
  'caption',
  'tr',
  'td',
  'th',
  'thead',
  'tbody',
  'h1',
  'h2',
  'h3',
  'h4',
  'h5',
  'h6',
])
const DEPTH_MAX = 2000

export async function parseHtml(input: ParseInput): Promise<ParsedDocument> {
  return htmlBlocks(await readText(input.path))
}

interface Table {
  header: string[]
  rows: string[][]
  row: { cells: string[]; allHeaders: boolean } | undefined
}

/** Headings, paragraphs, list items and tables of an HTML text; what is not content (scripts, navigation) is left out. */
export function htmlBlocks(html: string): ParsedDocument {
  const blocks: Block[] = []
  const tables: Table[] = []
  let title: string | undefined
  let text = ''
  let skipping = 0
  let depth = 0
  let inTitle = false
  let preformatted = 0
  let heading: number | undefined
  let bullet = false

  const flush = () => {
    const clean = preformatted > 0 ? text.replace(/\n{3,}/g, '\n\n').trim() : text.replace(/\s+/g, ' ').trim()
    text = ''
    if (clean === '') return
    const row = tables.at(-1)?.row
    if (row && row.cells.length > 0) {
      const last = row.cells.length - 1
      row.cells[last] = row.cells[last] ? `${row.cells[last]} ${clean}` : clean
    } else if (heading !== undefined) blocks.push({ kind: 'heading', level: heading, text: clean })
    else blocks.push({ kind: 'paragraph', text: bullet ? `• ${clean}` : clean })
    bullet = false
  }

  const parser = new Parser(
    {
      onopentag: name => {
        depth++
        if (depth > DEPTH_MAX) return
        if (name === 'title' && title === undefined) inTitle = true
        if (SKIPPED.has(name)) skipping++
        if (skipping > 0) return
        if (BREAKING.has(name)) flush()
        if (name === 'br') text += preformatted > 0 ? '\n' : ' '
        else if (name === 'pre') preformatted++
        else if (/^h[1-6]$/.test(name)) heading = Number(name[1])
        else if (name === 'li') bullet = true
        else if (name === 'table') tables.push({ header: [], rows: [], row: undefined })
        else if (name === 'tr' && tables.length > 0) tables.at(-1)!.row = { cells: [], allHeaders: true }
        else if ((name === 'td' || name === 'th') && tables.at(-1)?.row) {
          const { row } = tables.at(-1)!
          row!.cells.push('')
          if (name === 'td') row!.allHeaders = false
        }
      },
      ontext: piece => {
        if (inTitle) title = ((title ?? '') + piece).slice(0, 1000)
        else if (skipping === 0) text += piece
      },
      onclosetag: name => {
        depth--
        if (name === 'title') inTitle = false
        if (SKIPPED.has(name)) {
          skipping = Math.max(0, skipping - 1)
          return
        }
        if (skipping > 0) return
        if (BREAKING.has(name)) flush()
        if (name === 'pre') preformatted = Math.max(0, preformatted - 1)
        else if (/^h[1-6]$/.test(name)) heading = undefined
        else if (name === 'li') bullet = false
        else if (name === 'tr') endRow(tables.at(-1))
        else if (name === 'table') endTable(tables, blocks)
      },
    },
    { decodeEntities: true, lowerCaseTags: true },
  )
  parser.end(html)
  flush()
  while (tables.length > 0) endTable(tables, blocks)
  const named = title?.replace(/\s+/g, ' ').trim()
  return { blocks, ...(named ? { title: named } : {}) }
}

function endRow(table: Table | undefined): void {
  if (!table?.row) return
  const { cells, allHeaders } = table.row
  table.row = undefined
  if (cells.every(cell => cell === '')) return
  if (allHeaders && table.header.length === 0 && table.rows.length === 0) table.header = cells
  else table.rows.push(cells)
}

/** A table of one column, or one row, is layout: its cells are paragraphs. A table in a table joins the outer cell as text. */
function endTable(tables: Table[], blocks: Block[]): void {
  const table = tables.pop()
  if (!table) return
  endRow(table)
  const outer = tables.at(-1)?.row
  if (outer && outer.cells.length > 0) {
    outer.cells[outer.cells.length - 1] += ` ${table.rows.map(row => row.join(' ')).join(' ')}`
    return
  }
  const columns = Math.max(table.header.length, ...table.rows.map(row => row.length), 0)
  if (columns <= 1 || (table.header.length === 0 && table.rows.length === 1)) {
    for (const cell of [table.header, ...table.rows].flat())
      if (cell !== '') blocks.push({ kind: 'paragraph', text: cell })
    return
  }
  // Word's tables mark no header: their first row is one.
  const [header, rows] =
    table.header.length > 0 || table.rows.length < 2
      ? [table.header, table.rows]
      : [table.rows[0]!, table.rows.slice(1)]
  blocks.push({ kind: 'table', header, rows })
}
