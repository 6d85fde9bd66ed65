import { readFile } from 'node:fs/promises'
import { isUtf16 } from './detect.ts'
import type { Block, ParsedDocument, ParseInput } from './document.ts'

/** Text of a file: UTF-8, UTF-16 with a byte-order mark, else Windows-1252, which knows every byte. */
export async function readText(path: string): Promise<string> {
  const bytes = await readFile(path)
  if (isUtf16(bytes)) return new TextDecoder(bytes[0] === 0xff ? 'utf-16le' : 'utf-16be').decode(bytes)
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    return new TextDecoder('windows-1252').decode(bytes)
  }
}

/** Paragraphs are what empty lines part; a short line in capitals, or underlined with === or ---, is a heading. */
export async function parseText(input: ParseInput): Promise<ParsedDocument> {
  const text = (await readText(input.path)).replace(/\r\n?/g, '\n')
  const blocks: Block[] = []
  for (const part of text.split(/\n[ \t]*\n/)) {
    const lines = part.split('\n').map(line => line.trimEnd())
    while (lines.length > 0 && lines[0]!.trim() === '') lines.shift()
    const underlined = lines.length >= 2 && /^\s*([=~-])\1{2,}\s*$/.test(lines[1]!)
    if (underlined || isHeading(lines)) {
      blocks.push({
        kind: 'heading',
        level: underlined && lines[1]!.trim().startsWith('=') ? 1 : 2,
        text: lines[0]!.trim(),
      })
      lines.splice(0, underlined ? 2 : 1)
    }
    const body = lines.join('\n').trim()
    if (body !== '') blocks.push({ kind: 'paragraph', text: body })
  }
  return { blocks }
}

const isHeading = (lines: readonly string[]): boolean => {
  const line = lines[0]?.trim() ?? ''
  return (
    lines.length === 1 &&
    line.length >= 3 &&
    line.length <= 80 &&
    line === line.toUpperCase() &&
    /\p{Lu}{3}/u.test(line) &&
    !/[.;,]$/.test(line)
  )
}
