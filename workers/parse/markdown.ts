import { Lexer, type Token, type Tokens, type TokensList } from 'marked'
import { PercolateError } from '../../src/base/errors.ts'
import type { Block, ParsedDocument, ParseInput } from './document.ts'
import { htmlBlocks } from './html.ts'
import { readText } from './text.ts'

/** Quotes and lists within each other; each level of them is read again by the one around it. */
const NESTING_MAX = 100
/** The lexer looks from each sign of emphasis through all those behind it: a run of text with more of them is read in parts. */
const EMPHASIS_SIGNS_MAX = 256
const EMPHASIS_SIGN = /[*_~]/g

/** marked's lexer, in time that grows with the document and not with its square, and to a bounded depth. */
class BoundedLexer extends Lexer {
  readonly #name: string
  #depth = 0

  constructor(name: string) {
    super()
    this.#name = name
  }

  override blockTokens(source: string, tokens?: Token[] | TokensList, isClipped?: boolean): TokensList {
    if (this.#depth > NESTING_MAX)
      throw new PercolateError(
        'DOCUMENT_TOO_COSTLY',
        `${this.#name} has quotes or lists that lie more than ${NESTING_MAX} deep in each other; make it flatter.`,
      )
    this.#depth++
    try {
      return super.blockTokens(source, tokens as TokensList, isClipped) as TokensList
    } finally {
      this.#depth--
    }
  }

  override inlineTokens(source: string, tokens: Token[] = []): Token[] {
    for (const part of inlineParts(source)) super.inlineTokens(part, tokens)
    return tokens
  }
}

/** Parts with a bounded number of signs of emphasis, cut at a space where there is one; only emphasis that reaches over a cut is lost. */
function* inlineParts(source: string): Generator<string> {
  let start = 0
  let signs = 0
  for (const { index } of source.matchAll(EMPHASIS_SIGN)) {
    if (++signs <= EMPHASIS_SIGNS_MAX) continue
    const space = source.lastIndexOf(' ', index)
    const end = space > start ? space + 1 : index
    yield source.slice(start, end)
    start = end
    signs = 1
  }
  if (start < source.length || start === 0) yield source.slice(start)
}

/** CommonMark and GitHub's tables, by marked's lexer; inline markup becomes its text. */
export async function parseMarkdown(input: ParseInput): Promise<ParsedDocument> {
  const source = (await readText(input.path)).replace(/^---\n[\s\S]*?\n---\n/, '')
  const blocks: Block[] = []
  for (const token of new BoundedLexer(input.name).lex(source)) addToken(token, blocks)
  const title = blocks.find(block => block.kind === 'heading')
  return { blocks, ...(title?.kind === 'heading' ? { title: title.text } : {}) }
}

function addToken(token: Token, blocks: Block[]): void {
  switch (token.type) {
    case 'heading':
      blocks.push({ kind: 'heading', level: (token as Tokens.Heading).depth, text: inlineText(token) })
      break
    case 'table': {
      const table = token as Tokens.Table
      blocks.push({
        kind: 'table',
        header: table.header.map(inlineText),
        rows: table.rows.map(row => row.map(inlineText)),
      })
      break
    }
    case 'list':
      for (const item of (token as Tokens.List).items) {
        const text = inlineText(item).trim()
        if (text !== '') blocks.push({ kind: 'paragraph', text: `• ${text}` })
      }
      break
    case 'code':
      blocks.push({ kind: 'paragraph', text: (token as Tokens.Code).text })
      break
    case 'blockquote':
      for (const inner of (token as Tokens.Blockquote).tokens) addToken(inner, blocks)
      break
    case 'html':
      blocks.push(...htmlBlocks((token as Tokens.HTML).text).blocks)
      break
    case 'space':
    case 'hr':
    case 'def':
      break
    default: {
      const text = inlineText(token).trim()
      if (text !== '') blocks.push({ kind: 'paragraph', text })
    }
  }
}

function inlineText(token: Token | Tokens.TableCell): string {
  const { type, tokens, text, items } = token as { type?: string; tokens?: Token[]; text?: string; items?: Token[] }
  if (type === 'br') return '\n'
  if (type === 'html') return ''
  if (items) return items.map(inlineText).join('\n')
  if (tokens && tokens.length > 0)
    return tokens.map(inlineText).join(tokens.some(inner => inner.type === 'list') ? '\n' : '')
  return unescapeEntities(text ?? '')
}

const unescapeEntities = (text: string): string =>
  text.replace(
    /&(amp|lt|gt|quot|#39);/g,
    (_, name: string) => ({ amp: '&', lt: '<', gt: '>', quot: '"', '#39': "'" })[name]!,
  )
