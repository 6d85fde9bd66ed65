import { stat } from 'node:fs/promises'
import { cleanLine } from '../../src/base/clean-text.ts'
import { PercolateError } from '../../src/base/errors.ts'
import { MentionFinder } from '../extract/entities.ts'
import { textBytes, tooManyChunks, tooMuchText } from './answer.ts'
import { type Chunk, chunkDocument } from './chunk.ts'
import { detectType } from './detect.ts'
import { parsers } from './parsers.ts'
import type { SandboxMessage, SandboxRequest } from './sandbox-protocol.ts'

const TITLE_BYTES_MAX = 500

/**
 * Parses a file, cuts it into chunks and finds what they mention; what it finds goes to `send` as it comes, `done` last. Titles, headings and names come
 * out as clean lines, whatever the document holds. Throws DOCUMENT_* errors.
 */
export async function parseFile(
  request: SandboxRequest,
  send: (message: SandboxMessage) => Promise<void>,
): Promise<void> {
  const { path, name, outputBytesMax } = request
  const { size } = await stat(path)
  if (size > outputBytesMax)
    throw new PercolateError(
      'DOCUMENT_TOO_COSTLY',
      `${name} has ${size} bytes; at most ${outputBytesMax} are parsed (PERCOLATE_PARSE_BYTES_MAX).`,
    )
  const type = await detectType(path, name, request.contentType)
  const document = await parsers[type]({ path, name, outputBytesMax })
  const finder = new MentionFinder()
  let chunks = 0
  let bytes = 0
  for (const chunk of chunkDocument(document, request.chunkChars)) {
    const content = chunk.content.toWellFormed().replaceAll('\u0000', '')
    if (content.trim() === '') continue
    if (++chunks > request.chunksMax) throw tooManyChunks(name, request.chunksMax)
    const headings = chunk.headings.map(heading => cleanLine(heading, TITLE_BYTES_MAX)).filter(Boolean)
    const { sheet } = chunk.place
    const place = sheet === undefined ? chunk.place : { ...chunk.place, sheet: cleanLine(sheet, TITLE_BYTES_MAX) }
    const clean: Chunk = { ...chunk, content, headings, place }
    bytes += textBytes(clean)
    if (bytes > request.textBytesMax) throw tooMuchText(name, request.textBytesMax)
    finder.add(chunk.ordinal, content)
    await send({ kind: 'chunk', chunk: clean })
  }
  if (chunks === 0) {
    const hint = type === 'pdf' ? ' (scanned pages are pictures; run text recognition first)' : ''
    throw new PercolateError('DOCUMENT_EMPTY', `${name} contains no text${hint}.`)
  }
  const title = cleanLine(document.title ?? '', TITLE_BYTES_MAX)
  await send({ kind: 'done', type, ...(title ? { title } : {}), mentions: finder.mentions() })
}
