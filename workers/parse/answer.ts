import { PercolateError } from '../../src/base/errors.ts'
import type { Chunk } from './chunk.ts'
import type { SandboxMessage } from './sandbox-protocol.ts'

const MIB = 1024 * 1024
/** Chunks of one document. */
export const CHUNKS_MAX = 50_000
/** Text that the chunks of one document have together, UTF-8 bytes: about what {@link CHUNKS_MAX} of the default size have. A worker keeps it until it is written, in up to twice that of memory. */
const TEXT_BYTES_MAX = 64 * MIB
/** What a document makes of itself is in proportion to its file, above what the smallest may make: packed text is a tenth of itself, and names of columns come again with each row. */
const TEXT_BYTES_BASE = 4 * MIB
const TEXT_BYTES_PER_BYTE = 64
/** What is said of a chunk beside its texts. */
const CHUNK_FRAME_BYTES = 256
/** The most that a byte of text takes in JSON, control characters aside. */
const JSON_FACTOR = 2
/** One line: a chunk, or all that a document mentions. */
export const LINE_BYTES_MAX = 4 * MIB

/** UTF-8 bytes of text that the chunks of a file of this size may have together. */
export const textBytesMax = (fileBytes: number): number =>
  Math.min(TEXT_BYTES_MAX, TEXT_BYTES_BASE + TEXT_BYTES_PER_BYTE * fileBytes)

/** UTF-8 bytes of all texts of a chunk. */
export const textBytes = ({ content, headings, place }: Chunk): number =>
  [content, ...headings, place.sheet ?? ''].reduce((sum, text) => sum + Buffer.byteLength(text), 0)

export const tooManyChunks = (name: string, max: number): PercolateError =>
  new PercolateError('DOCUMENT_TOO_COSTLY', `${name} makes more than ${max} chunks; split it.`)

export const tooMuchText = (name: string, max: number): PercolateError =>
  new PercolateError(
    'DOCUMENT_TOO_COSTLY',
    `${name} makes chunks of more than ${max} bytes of text together, what one of its size may; split it, or shorten the names of its columns.`,
  )

/**
 * Counts what a parser says, as it comes and before anything is made of it: a parser that a document has taken over must not fill its worker. Until its document is known it may say a line; {@link allow} adds to that.
 */
export class AnswerBytes {
  #left = LINE_BYTES_MAX
  #ofLine = 0

  /** For a document whose chunks have so much text. */
  allow(textBytes: number): void {
    this.#left += JSON_FACTOR * textBytes + CHUNKS_MAX * CHUNK_FRAME_BYTES
  }

  /** False: it says too much. */
  add(piece: Buffer): boolean {
    this.#left -= piece.length
    for (let from = 0; from < piece.length; ) {
      const end = piece.indexOf('\n', from)
      this.#ofLine += (end < 0 ? piece.length : end) - from
      if (this.#ofLine > LINE_BYTES_MAX) return false
      if (end < 0) break
      this.#ofLine = 0
      from = end + 1
    }
    return this.#left >= 0
  }
}

export type Ending = Extract<SandboxMessage, { kind: 'done' | 'error' }>

/** The chunks that come in lines, until the parser says how it ended (undefined: it did not). Throws DOCUMENT_TOO_COSTLY for more than there may be, whatever the parser has counted. */
export async function readAnswer(
  lines: AsyncIterable<string>,
  { name, textBytesMax: bytesMax, chunksMax }: { name: string; textBytesMax: number; chunksMax: number },
): Promise<{ chunks: Chunk[]; ending: Ending | undefined }> {
  const chunks: Chunk[] = []
  let bytes = 0
  for await (const line of lines) {
    const message = JSON.parse(line) as SandboxMessage
    if (message.kind === 'chunk') {
      bytes += textBytes(message.chunk)
      if (bytes > bytesMax) throw tooMuchText(name, bytesMax)
      if (chunks.length >= chunksMax) throw tooManyChunks(name, chunksMax)
      chunks.push(message.chunk)
    }
    // Nothing comes after it; how long the process takes to end is not waited for.
    else if (message.kind !== 'ready') return { chunks, ending: message }
  }
  return { chunks, ending: undefined }
}
