import { text } from 'node:stream/consumers'
import { errorMessage, PercolateError } from '../../src/base/errors.ts'
import { MentionFinder } from '../extract/entities.ts'
import { parseFile } from './parse-file.ts'
import { loadPdf } from './pdf.ts'
import type { SandboxMessage, SandboxRequest } from './sandbox-protocol.ts'

/**
 * The process that parses one hostile file: no secrets in its environment, bounded memory, killed when it takes too long. It loads its parsers
 * before it knows the file, waits for the one request of its life, and ends when its parent goes away.
 */
async function main(): Promise<void> {
  // Libraries that print would break the protocol.
  console.log = console.warn = console.info = () => {}
  new MentionFinder().add(0, 'Ada Lovelace met Charles Babbage in London.')
  await loadPdf()
  await send({ kind: 'ready' })
  const line = await text(process.stdin)
  if (line === '') return
  const request = JSON.parse(line) as SandboxRequest
  try {
    await parseFile(request, send)
  } catch (error) {
    const known =
      error instanceof PercolateError
        ? error
        : new PercolateError('DOCUMENT_DAMAGED', `${request.name} cannot be read: ${errorMessage(error).slice(0, 300)}`)
    await send({ kind: 'error', code: known.code, detail: known.message })
  }
}

async function send(message: SandboxMessage): Promise<void> {
  if (!process.stdout.write(`${JSON.stringify(message)}\n`))
    await new Promise(resolve => process.stdout.once('drain', resolve))
}

await main()
