import type { Mention } from '../extract/entities.ts'
import type { Chunk } from './chunk.ts'

/** What the parent asks of the child, as one line of JSON on its standard input; the child parses one document in its life. */
export interface SandboxRequest {
  readonly path: string
  readonly name: string
  readonly contentType: string | null
  readonly outputBytesMax: number
  readonly chunkChars: number
  readonly chunksMax: number
  /** UTF-8 bytes of text that the chunks may have together. */
  readonly textBytesMax: number
}

/** What the child says, a line of JSON each on its standard output: `ready` when it has loaded its parsers; `done` or `error` is the last. */
export type SandboxMessage =
  | { readonly kind: 'ready' }
  | { readonly kind: 'chunk'; readonly chunk: Chunk }
  | { readonly kind: 'done'; readonly type: string; readonly title?: string; readonly mentions: readonly Mention[] }
  | { readonly kind: 'error'; readonly code: string; readonly detail: string }
