import { PercolateError } from '../../src/base/errors.ts'
import type { Block, ParsedDocument, ParseInput } from './document.ts'
import { readText } from './text.ts'

const DEPTH_MAX = 50

/** Lists of objects become tables with flattened columns, everything else lines of `path: value`. Also JSON lines. */
export async function parseJson(input: ParseInput): Promise<ParsedDocument> {
  const text = (await readText(input.path)).replace(/^\ufeff/, '')
  const blocks: Block[] = []
  addValue(readJson(text, input.name), '', 1, blocks)
  return { blocks }
}

function readJson(text: string, name: string): unknown {
  try {
    return JSON.parse(text)
  } catch (whole) {
    const lines = text.split('\n').filter(line => line.trim() !== '')
    try {
      if (lines.length > 1) return lines.map(line => JSON.parse(line) as unknown)
    } catch {
      // Neither; the first error is the telling one.
    }
    throw new PercolateError('DOCUMENT_DAMAGED', `${name} is not valid JSON: ${(whole as Error).message}.`)
  }
}

function addValue(value: unknown, path: string, level: number, blocks: Block[]): void {
  if (Array.isArray(value) && value.length > 0 && value.every(isObject)) {
    const flat = value.map(item => flatten(item, '', new Map(), 0))
    const columns = [...new Set(flat.flatMap(row => [...row.keys()]))]
    blocks.push({ kind: 'table', header: columns, rows: flat.map(row => columns.map(column => row.get(column) ?? '')) })
  } else if (isObject(value) && level <= 3) {
    const scalars = Object.entries(value).filter(
      ([, item]) => !isObject(item) && !(Array.isArray(item) && item.some(isObject)),
    )
    const lines = scalars.map(
      ([key, item]) => `${key}: ${Array.isArray(item) ? item.map(String).join(', ') : String(item)}`,
    )
    if (lines.length > 0) blocks.push({ kind: 'paragraph', text: lines.join('\n') })
    for (const [key, item] of Object.entries(value)) {
      if (scalars.some(([name]) => name === key)) continue
      blocks.push({ kind: 'heading', level, text: path === '' ? key : `${path}.${key}` })
      addValue(item, path === '' ? key : `${path}.${key}`, level + 1, blocks)
    }
  } else {
    const lines = [...flatten(value, path, new Map(), 0)].map(([key, text]) => (key === '' ? text : `${key}: ${text}`))
    for (const line of lines) blocks.push({ kind: 'paragraph', text: line })
  }
}

function flatten(value: unknown, path: string, into: Map<string, string>, depth: number): Map<string, string> {
  if (depth > DEPTH_MAX) into.set(path, '…')
  else if (isObject(value))
    for (const [key, item] of Object.entries(value))
      flatten(item, path === '' ? key : `${path}.${key}`, into, depth + 1)
  else if (Array.isArray(value)) {
    if (value.some(item => isObject(item) || Array.isArray(item)))
      for (const [n, item] of value.entries()) flatten(item, `${path}[${n}]`, into, depth + 1)
    else into.set(path, value.map(String).join(', '))
  } else if (value !== null) into.set(path, String(value))
  return into
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  value !== null && typeof value === 'object' && !Array.isArray(value)
