import { createRequire } from 'node:module'
import { normalizeName } from '../../src/text/analyze.ts'

// As one file: the modules that `import` would load, two hundred, take twice the time, and every parser process loads them.
const nlp = createRequire(import.meta.url)('compromise') as typeof import('compromise').default

/** An entity that a document mentions. */
export interface Mention {
  readonly type: 'person' | 'organization' | 'place' | 'email' | 'url'
  readonly name: string
  /** Ordinals of the chunks that mention it, each as often as they do. */
  readonly chunks: readonly number[]
}

const MENTIONS_MAX = 100
/** Text that is read for names; the rest of a long document still gets addresses found. */
const NAMED_CHARS_MAX = 400_000
const NAME_CHARS_MAX = 80
const EMAIL = /[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,24}/g
const URL_PATTERN = /\bhttps?:\/\/[^\s<>"')\]\u0000-\u001f\u007f-\u009f]{3,300}/g
const ORGANIZATION =
  /\b(?:[A-Z][\p{L}&.-]*\s+){1,4}(?:Inc|Corp|Corporation|Ltd|LLC|GmbH|AG|Foundation|University|Institute|Association|Consortium|Committee|Agency|Bank)\b\.?/gu

/** Finds people, organizations, places and addresses by rules (compromise, and patterns): quick, local, and as often wrong as rules are. */
export class MentionFinder {
  readonly #found = new Map<string, { type: Mention['type']; names: Map<string, number>; chunks: number[] }>()
  #characters = 0

  add(ordinal: number, text: string): void {
    for (const [email] of text.matchAll(EMAIL)) this.#note('email', email.toLowerCase(), ordinal)
    for (const [url] of text.matchAll(URL_PATTERN)) this.#note('url', url.replace(/[.,;:]+$/, ''), ordinal)
    if (this.#characters > NAMED_CHARS_MAX) return
    this.#characters += text.length
    const prose = text.replace(URL_PATTERN, ' ').replace(EMAIL, ' ')
    for (const [name] of prose.matchAll(ORGANIZATION)) this.#name('organization', name, ordinal)
    const read = nlp(prose)
    for (const name of read.people().out('array') as string[]) this.#name('person', name, ordinal)
    for (const name of read.organizations().out('array') as string[]) this.#name('organization', name, ordinal)
    for (const name of read.places().out('array') as string[]) this.#name('place', name, ordinal)
  }

  /** The most mentioned ones. */
  mentions(): Mention[] {
    return [...this.#found.values()]
      .map(({ type, names, chunks }) => ({ type, name: [...names].sort((a, b) => b[1] - a[1])[0]![0], chunks }))
      .sort((a, b) => b.chunks.length - a.chunks.length || (a.name < b.name ? -1 : 1))
      .slice(0, MENTIONS_MAX)
  }

  #name(type: Mention['type'], raw: string, ordinal: number): void {
    const name = raw
      .replace(/\s+/g, ' ')
      .replace(/['’]s$/, '')
      .replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}.]+$/gu, '')
      .replace(/(?<!\b(?:Inc|Corp|Ltd|[A-Z]))\.$/, '')
    // Rules take sentence beginnings and code for names: a name has capitals, letters, and few signs.
    if (
      name.length < 3 ||
      name.length > NAME_CHARS_MAX ||
      !/\p{Lu}/u.test(name) ||
      /[_{}()<>=/\\|@#$*]/.test(name) ||
      /\d{3}/.test(name)
    )
      return
    if (type === 'person' && !/\p{Lu}\S*\s+\p{Lu}/u.test(name)) return
    this.#note(type, name, ordinal)
  }

  #note(type: Mention['type'], name: string, ordinal: number): void {
    const normalized = normalizeName(name)
    if (normalized === '') return
    // The same name with another type stays what it was first taken for.
    const key = type === 'email' || type === 'url' ? `${type}:${name}` : normalized
    let entry = this.#found.get(key)
    if (!entry) {
      if (this.#found.size >= MENTIONS_MAX * 100) return
      entry = { type, names: new Map(), chunks: [] }
      this.#found.set(key, entry)
    }
    entry.names.set(name, (entry.names.get(name) ?? 0) + 1)
    entry.chunks.push(ordinal)
  }
}
