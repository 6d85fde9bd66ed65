import { stemmer } from 'stemmer'
import { eng } from 'stopword'
import type { Slicer } from '../base/slice.ts'
import { piecesOf } from './pieces.ts'

/**
 * Text analysis for word search: Unicode words, folded (compatibility form, lower case, no diacritics), English stop words dropped, ASCII words
 * stemmed (Porter 1980). Scripts written without spaces are cut into overlapping pairs of characters, as Lucene's CJK analyzer does.
 */
export interface Token {
  /** Character offsets in the text that was analyzed. */
  readonly start: number
  readonly end: number
  readonly term: string
}

const WORD = /[\p{L}\p{N}][\p{L}\p{N}\p{M}]*(?:['’][\p{L}\p{M}]+)*/gu
const UNSPACED =
  /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]/u
const ASCII_WORD = /^[a-z]+$/
/** Han characters that {@link fold} leaves as they are: those that Unicode keeps unified have no case, no marks and no other form. */
const UNIFIED_HAN = /^[\u3400-\u4dbf\u4e00-\u9fff]+$/
const TERM_CHARS_MAX = 64
const STEMS_CACHED_MAX = 50_000

/** Words of questions and pronouns that the package's English list lacks. */
const MORE_STOP_WORDS =
  'when why does doing its whose whom please tell there their then them these those than shall should would could may might being been were yours ours hers'
const stopWords = new Set<string>([...eng, ...MORE_STOP_WORDS.split(' ')])
const stems = new Map<string, string>()

/** Lower case, compatibility-composed, without diacritics. */
export function fold(text: string): string {
  if (/^[\u0000-\u007f]*$/.test(text)) return text.toLowerCase()
  if (UNIFIED_HAN.test(text)) return text
  return text
    .normalize('NFKD')
    .replace(/\p{M}+/gu, '')
    .toLowerCase()
    .normalize('NFC')
}

export function stem(word: string): string {
  if (!ASCII_WORD.test(word)) return word
  let stemmed = stems.get(word)
  if (stemmed === undefined) {
    stemmed = stemmer(word)
    if (stems.size >= STEMS_CACHED_MAX) stems.clear()
    stems.set(word, stemmed)
  }
  return stemmed
}

export const isStopWord = (folded: string): boolean => stopWords.has(folded)

/** Every searchable token with its place. */
export function tokenize(text: string): Token[] {
  const tokens: Token[] = []
  visitTokens(text, (term, start, end) => tokens.push({ start, end, term }))
  return tokens
}

type TokenVisitor = (term: string, start: number, end: number) => void

function visitTokens(text: string, visit: TokenVisitor): void {
  for (const match of text.matchAll(WORD)) {
    const start = match.index
    const raw = match[0]
    if (UNSPACED.test(raw)) {
      visitPairs(raw, start, visit)
      continue
    }
    const folded = fold(raw)
      .replace(/['’]s$/, '')
      .replace(/['’]/g, '')
    if (folded.length === 0 || stopWords.has(folded)) continue
    visit(stem(folded.slice(0, TERM_CHARS_MAX)), start, start + raw.length)
  }
}

function visitPairs(run: string, start: number, visit: TokenVisitor): void {
  let previous: string | undefined
  let at = start
  let pairs = 0
  // Most runs are of such characters throughout; asking once is half of the work.
  const isFolded = UNIFIED_HAN.test(run)
  for (const character of run) {
    if (previous !== undefined) {
      const pair = previous + character
      visit(isFolded ? pair : fold(pair), at, at + pair.length)
      at += previous.length
      pairs++
    }
    previous = character
  }
  if (pairs === 0 && previous !== undefined) visit(fold(previous), at, at + previous.length)
}

export interface Terms {
  /** Term to frequency. */
  readonly frequencies: ReadonlyMap<string, number>
  /** All occurrences, the document length of BM25. */
  readonly length: number
}

/** As {@link tokenize}, in pieces that the caller may pause between: the tokens of each, and where it ends in the text. A token at the edge of two pieces may be cut, or come twice. */
export function* tokenizePieces(text: string): Generator<{ readonly tokens: Token[]; readonly end: number }> {
  for (const { start: from, end: to } of piecesOf(text)) {
    const tokens: Token[] = []
    visitTokens(text.slice(from, to), (term, start, end) => tokens.push({ start: from + start, end: from + end, term }))
    yield { tokens, end: to }
  }
}

/** The different terms of a long text, about: the last of a piece may be cut. */
export async function termsOf(text: string, slicer: Slicer): Promise<Set<string>> {
  const terms = new Set<string>()
  for (const { start, end } of piecesOf(text)) {
    visitTokens(text.slice(start, end), term => terms.add(term))
    await slicer.pause()
  }
  return terms
}

export function analyze(text: string): Terms {
  const frequencies = new Map<string, number>()
  let length = 0
  visitTokens(text, term => {
    frequencies.set(term, (frequencies.get(term) ?? 0) + 1)
    length++
  })
  return { frequencies, length }
}

/** How names of entities are compared: folded, punctuation and runs of spaces as one space. */
export const normalizeName = (name: string): string =>
  fold(name)
    .replace(/[^\p{L}\p{N}]+/gu, ' ')
    .trim() || fold(name).trim()

/** Trigrams of a normalized name, padded, for fuzzy lookup. */
export function trigrams(normalized: string): string[] {
  const padded = [...` ${normalized} `]
  const grams = new Set<string>()
  for (let n = 0; n + 3 <= padded.length; n++) grams.add(padded.slice(n, n + 3).join(''))
  if (grams.size === 0) grams.add(padded.join(''))
  return [...grams]
}
