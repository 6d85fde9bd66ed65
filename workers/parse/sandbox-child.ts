import { stat } from 'node:fs/promises'
import { text } from 'node:stream/consumers'
import { errorMessage, PercolateError } from '../../src/base/errors.ts'
import { MentionFinder } from '../extract/entities.ts'
import { chunkDocument } from './chunk.ts'
import { detectType } from './detect.ts'
import { parsers } from './parsers.ts'
import type { SandboxMessage, SandboxRequest } from './sandbox-protocol.ts'

/** The process that parses one hostile file: no secrets in its environment, bounded memory, killed when it takes too long. */
async function main(): Promise<void> {
  // Libraries that print would break the protocol.
  console.log = console.warn = console.info = () => {}
  const request = JSON.parse(await text(process.stdin)) as SandboxRequest
  try {
    await parse(request)
  } catch (error) {
    const known =
      error instanceof PercolateError
        ? error
        : new PercolateError('DOCUMENT_DAMAGED', `${request.name} cannot be read: ${errorMessage(error).slice(0, 300)}`)
    await send({ kind: 'error', code: known.code, detail: known.message })
  }
}

async function parse(request: SandboxRequest): Promise<void> {
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
  for (const chunk of chunkDocument(document, request.chunkChars)) {
    const content = chunk.content.toWellFormed().replaceAll('\u0000', '')
    if (content.trim() === '') continue
    if (++chunks > request.chunksMax)
      throw new PercolateError('DOCUMENT_TOO_COSTLY', `${name} makes more than ${request.chunksMax} chunks; split it.`)
    finder.add(chunk.ordinal, content)
    await send({ kind: 'chunk', chunk: { ...chunk, content } })
  }
  if (chunks === 0) {
    const hint = type === 'pdf' ? ' (scanned pages are pictures; run text recognition first)' : ''
    throw new PercolateError('DOCUMENT_EMPTY', `${name} contains no text${hint}.`)
  }
  await send({ kind: 'done', type, ...(document.title ? { title: document.title } : {}), mentions: finder.mentions() })
}

async function send(message: SandboxMessage): Promise<void> {
  if (!process.stdout.write(`${JSON.stringify(message)}\n`))
    await new Promise(resolve => process.stdout.once('drain', resolve))
}

await main()
