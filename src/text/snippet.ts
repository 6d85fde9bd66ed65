import type { Slicer } from '../base/slice.ts'
import { type Token, tokenizePieces } from './analyze.ts'
import { PIECE_CHARS, wholeCharacter } from './pieces.ts'

export interface Snippet {
  /** An excerpt in which matched words stand between `<mark>` and `</mark>`; everything else is HTML-escaped. */
  readonly html: string
}

const SNIPPET_CHARS = 240
/** Characters that are looked through for the best stretch; beyond them the first stretch that has any of the words will do. */
const BEST_WITHIN_CHARS = 16 * 1024
/** Characters that are looked through for the snippets of one answer. When they are used up, only the first piece of each further text is. */
const ANSWER_CHARS_MAX = 1024 * 1024

/** Makes the snippets of one answer, best result first: a bounded piece of work, in slices. */
export class Snippets {
  readonly #terms: ReadonlySet<string>
  readonly #slicer: Slicer
  #charsLeft: number

  /** `terms`: those of the query, analyzed. `charsMax`: characters to look through, about. */
  constructor(terms: ReadonlySet<string>, slicer: Slicer, charsMax = ANSWER_CHARS_MAX) {
    this.#terms = terms
    this.#slicer = slicer
    this.#charsLeft = charsMax
  }

  /** Characters that have been looked through, beyond which only the beginning of a text is. */
  get charsLeft(): number {
    return this.#charsLeft
  }

  async of(text: string): Promise<Snippet> {
    const hits: Token[] = []
    const charsMax = Math.max(PIECE_CHARS, this.#charsLeft)
    let at = 0
    for (const { tokens, end } of tokenizePieces(text)) {
      for (const token of tokens) if (this.#terms.has(token.term)) hits.push(token)
      at = end
      await this.#slicer.pause()
      // As long as there is room for another whole piece.
      if (at > charsMax - PIECE_CHARS || (at > BEST_WITHIN_CHARS - PIECE_CHARS && hits.length > 0)) break
    }
    this.#charsLeft -= at
    return excerpt(text, hits)
  }
}

/** The stretch of the text with the most different query terms, cut at word boundaries. `hits`: where they stand, ascending. */
function excerpt(text: string, hits: readonly Token[]): Snippet {
  const [start, end] = widen(text, bestWindow(hits))
  let html = start > 0 ? '…' : ''
  let at = start
  for (const hit of hits) {
    if (hit.start < at || hit.end > end) continue
    html += `${escapeHtml(text.slice(at, hit.start))}<mark>${escapeHtml(text.slice(hit.start, hit.end))}</mark>`
    at = hit.end
  }
  html += escapeHtml(text.slice(at, end))
  return { html: html.replace(/\s+/g, ' ').trim() + (end < text.length ? '…' : '') }
}

function bestWindow(hits: readonly Token[]): [number, number] {
  let bestStart = 0
  let bestCount = 0
  /** Of the hits from the one at hand to the one before `next`: how often each term is there. */
  const seen = new Map<string, number>()
  let next = 0
  for (const [n, first] of hits.entries()) {
    for (; next < hits.length && (next <= n || hits[next]!.end - first.start <= SNIPPET_CHARS); next++)
      seen.set(hits[next]!.term, (seen.get(hits[next]!.term) ?? 0) + 1)
    if (seen.size > bestCount) {
      bestCount = seen.size
      bestStart = first.start
    }
    const count = seen.get(first.term)!
    if (count === 1) seen.delete(first.term)
    else seen.set(first.term, count - 1)
  }
  return [bestStart, bestStart + SNIPPET_CHARS]
}

function widen(text: string, [start, end]: [number, number]): [number, number] {
  if (text.length <= SNIPPET_CHARS * 1.25) return [0, text.length]
  let from = Math.max(0, start - 60)
  if (from > 0) {
    const space = text.indexOf(' ', from)
    from = space >= 0 && space < start ? space + 1 : wholeCharacter(text, from)
  }
  let to = Math.min(text.length, Math.max(end - 60, from + SNIPPET_CHARS))
  if (to < text.length) {
    const space = text.lastIndexOf(' ', to)
    to = space > from + SNIPPET_CHARS / 2 ? space : wholeCharacter(text, to)
  }
  return [from, to]
}

const escapeHtml = (text: string): string =>
  text.replace(
    /[&<>"']/g,
    character => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' })[character]!,
  )
