import { type Token, tokenize } from './analyze.ts'

export interface Snippet {
  /** An excerpt in which matched words stand between `<mark>` and `</mark>`; everything else is HTML-escaped. */
  readonly html: string
}

const SNIPPET_CHARS = 240

/** The stretch of the text with the most different query terms, cut at word boundaries. */
export function snippet(text: string, terms: ReadonlySet<string>): Snippet {
  const hits = tokenize(text).filter(token => terms.has(token.term))
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
  for (const [n, first] of hits.entries()) {
    const seen = new Set<string>()
    for (let k = n; k < hits.length && hits[k]!.end - first.start <= SNIPPET_CHARS; k++) seen.add(hits[k]!.term)
    if (seen.size > bestCount) {
      bestCount = seen.size
      bestStart = first.start
    }
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

/** Moves off the second half of a surrogate pair. */
const wholeCharacter = (text: string, at: number): number => {
  const code = text.charCodeAt(at)
  return code >= 0xdc00 && code <= 0xdfff ? at - 1 : at
}

const escapeHtml = (text: string): string =>
  text.replace(
    /[&<>"']/g,
    character => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' })[character]!,
  )
