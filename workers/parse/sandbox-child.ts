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
    const known = knownError(request.name, error)
    await send({ kind: 'error', code: known.code, detail: known.message })
  }
}

function knownError(name: string, error: unknown): PercolateError {
  if (error instanceof PercolateError) return error
  // How V8 says that its stack is used up, in whichever parser.
  if (error instanceof RangeError && /call stack/.test(error.message))
    return new PercolateError(
      'DOCUMENT_TOO_COSTLY',
      `${name} has parts that lie too deep in each other to be read; make it flatter.`,
    )
  return new PercolateError('DOCUMENT_DAMAGED', `${name} cannot be read: ${errorMessage(error).slice(0, 300)}`)
}

async function send(message: SandboxMessage): Promise<void> {
  if (!process.stdout.write(`${JSON.stringify(message)}\n`))
    await new Promise(resolve => process.stdout.once('drain', resolve))
}

await main()
