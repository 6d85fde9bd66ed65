import { marked, type Token, type Tokens } from 'marked'
import type { Block, ParsedDocument, ParseInput } from './document.ts'
import { htmlBlocks } from './html.ts'
import { readText } from './text.ts'

/** CommonMark and GitHub's tables, by marked's lexer; inline markup becomes its text. */
export async function parseMarkdown(input: ParseInput): Promise<ParsedDocument> {
  const source = (await readText(input.path)).replace(/^---\n[\s\S]*?\n---\n/, '')
  const blocks: Block[] = []
  for (const token of marked.lexer(source)) addToken(token, blocks)
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
