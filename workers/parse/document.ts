/** What every parser makes of a document: its own structure, as a run of blocks. */
export type Block =
  | { readonly kind: 'heading'; readonly level: number; readonly text: string; readonly place?: Place }
  | { readonly kind: 'paragraph'; readonly text: string; readonly place?: Place }
  /** `header` may be empty. */
  | {
      readonly kind: 'table'
      readonly header: readonly string[]
      readonly rows: Iterable<readonly string[]>
      readonly place?: Place
    }

export interface Place {
  /** 1 is the first. */
  readonly page?: number
  readonly sheet?: string
}

export interface ParsedDocument {
  readonly title?: string
  readonly blocks: readonly Block[]
}

export const documentTypes = ['pdf', 'docx', 'xlsx', 'csv', 'html', 'markdown', 'text', 'json'] as const
export type DocumentType = (typeof documentTypes)[number]

/** What a parser gets: a file on disk, known to be of its type. */
export interface ParseInput {
  readonly path: string
  readonly name: string
  /** Bytes of text or cells that a parser may make of the file. */
  readonly outputBytesMax: number
}

export type Parser = (input: ParseInput) => Promise<ParsedDocument>
