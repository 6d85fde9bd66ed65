import type { Slicer } from '../base/slice.ts'
import type { Moment, Resource } from '../rem/views.ts'
import { analyze } from '../text/analyze.ts'
import { piecesOf } from '../text/pieces.ts'
import type { ChatContext, EntityFact } from './context.ts'
import { isTemporal } from './context.ts'

/** Where a statement comes from. `n` is its number in the text, as `[n]`. */
export interface Citation {
  readonly n: number
  readonly kind: 'resource' | 'entity' | 'moment'
  readonly id: string
  readonly resource_id?: string
  readonly document: string | null
  readonly page?: number
  readonly sheet?: string
  readonly uri?: string
  readonly quote: string
}

export interface Answer {
  readonly text: string
  readonly citations: readonly Citation[]
}

export const NOTHING_RELEVANT = 'Nothing relevant to this question is stored for this tenant.'
const NO_MODEL = 'No chat model is set, so this answer is quoted from what is stored:'
const SENTENCES_MAX = 4
const SENTENCE_CHARS_MAX = 600

const segmenter = new Intl.Segmenter('en', { granularity: 'sentence' })

/** An answer without a model: the sentences that cover most of the question, quoted, each with its source. */
export async function extractiveAnswer(context: ChatContext, slicer: Slicer): Promise<Answer> {
  const citations = new Citations()
  const lines = (await pickSentences(context, slicer)).map(
    ({ text, resource }) => `“${text}” [${citations.resource(resource, text)}]`,
  )
  for (const fact of context.entities.slice(0, 3)) {
    const text = describeEntity(fact)
    if (text !== undefined) lines.push(`${text} [${citations.entity(fact, text)}]`)
  }
  if (isTemporal(context.question)) {
    for (const moment of context.moments.slice(0, 3)) {
      const text = describeMoment(moment)
      lines.push(`${text} [${citations.moment(moment, text)}]`)
    }
  }
  if (lines.length === 0) return { text: `${NOTHING_RELEVANT} (No chat model is set.)`, citations: [] }
  return {
    text: [NO_MODEL, '', ...lines, '', 'Sources:', ...citations.list.map(describeSource)].join('\n'),
    citations: citations.list,
  }
}

/** The context as a model sees it, numbered like the citations that go with its answer. */
export function contextForModel(context: ChatContext): Answer {
  const citations = new Citations()
  const lines: string[] = []
  for (const { resource } of context.passages) {
    const n = citations.resource(resource, resource.content.slice(0, 200))
    lines.push(`[${n}] ${describeSource(citations.list.at(-1)!)}\n${resource.content}`)
  }
  for (const fact of context.entities) {
    const text = describeEntity(fact) ?? fact.entity.name ?? fact.entity.id
    lines.push(`[${citations.entity(fact, text)}] ${text}`)
  }
  for (const moment of context.moments) {
    const text = describeMoment(moment)
    lines.push(`[${citations.moment(moment, text)}] ${text}`)
  }
  return { text: lines.join('\n\n'), citations: citations.list }
}

interface Sentence {
  readonly text: string
  readonly resource: Resource
  readonly terms: ReadonlySet<string>
  readonly score: number
}

/** Greedy: the sentence that adds most to what is covered so far, until nothing is added. */
async function pickSentences({ passages, weights }: ChatContext, slicer: Slicer): Promise<Sentence[]> {
  const sentences: Sentence[] = []
  for (const { resource, coverage } of passages) {
    for (const text of splitSentences(resource.content)) {
      if (slicer.due) await slicer.pause()
      const sentence = scoreSentence(text, resource, coverage, weights)
      // What has no word of the question adds nothing.
      if (sentence.terms.size > 0) sentences.push(sentence)
    }
  }
  const picked: Sentence[] = []
  const covered = new Map<string, number>()
  while (picked.length < SENTENCES_MAX) {
    let bestGain = 0
    let best: Sentence | undefined
    for (const sentence of sentences) {
      if (slicer.due) await slicer.pause()
      if (picked.some(other => other.text === sentence.text)) continue
      const fresh = [...sentence.terms].reduce(
        (sum, term) => sum + (weights.get(term) ?? 0) / (1 + 2 * (covered.get(term) ?? 0)),
        0,
      )
      const gain = fresh * sentence.score
      if (gain > bestGain) {
        bestGain = gain
        best = sentence
      }
    }
    // A later sentence must bring a good part of what the first one did.
    if (!best || (picked.length > 0 && bestGain < 0.3 * gainOfFirst(picked[0]!, weights))) break
    picked.push(best)
    for (const term of best.terms) covered.set(term, (covered.get(term) ?? 0) + 1)
  }
  return picked
}

const gainOfFirst = (sentence: Sentence, weights: ReadonlyMap<string, number>): number =>
  [...sentence.terms].reduce((sum, term) => sum + (weights.get(term) ?? 0), 0) * sentence.score

function scoreSentence(
  text: string,
  resource: Resource,
  coverage: number,
  weights: ReadonlyMap<string, number>,
): Sentence {
  const { frequencies, length } = analyze(text)
  const terms = new Set([...frequencies.keys()].filter(term => weights.has(term)))
  // Short sentences say little, very long ones bury it; a good passage lends its sentences some weight.
  const shape = length < 3 ? 0.5 : length > 60 ? 0.7 : 1
  return { text, resource, terms, score: shape * (0.5 + coverage / 2) }
}

/** The sentences of a text, found as they are asked for. A line that is longer than a piece is cut into such. */
function* splitSentences(text: string): Generator<string> {
  for (const line of linesOf(text)) {
    for (const { start, end } of piecesOf(line)) {
      for (const { segment } of segmenter.segment(line.slice(start, end))) {
        const sentence = segment.replace(/\s+/g, ' ').trim()
        if (sentence.length > 0)
          yield sentence.length > SENTENCE_CHARS_MAX ? `${sentence.slice(0, SENTENCE_CHARS_MAX)}…` : sentence
      }
    }
  }
}

function* linesOf(text: string): Generator<string> {
  for (let at = 0; at < text.length; ) {
    const end = text.indexOf('\n', at)
    yield text.slice(at, end < 0 ? text.length : end)
    at = end < 0 ? text.length : end + 1
  }
}

function describeEntity({ entity, edges, neighbours }: EntityFact): string | undefined {
  const properties = Object.entries(entity.properties)
    .filter(([, value]) => value === null || typeof value !== 'object')
    .slice(0, 8)
    .map(([name, value]) => `${name}: ${String(value)}`)
  const nameOf = (id: string) => (id === entity.id ? (entity.name ?? id) : (neighbours.get(id)?.name ?? id))
  // That a document mentions it says nothing about it.
  const told = edges.filter(({ type }) => type !== 'mentions')
  const links = told.slice(0, 6).map(edge => `${nameOf(edge.from)} —${edge.type}→ ${nameOf(edge.to)}`)
  if (properties.length === 0 && links.length === 0) return undefined
  return `${entity.name ?? entity.id}${entity.type ? ` (${entity.type})` : ''}: ${[...properties, ...links].join('; ')}`
}

const describeMoment = (moment: Moment): string =>
  `${new Date(moment.timeMs).toISOString().slice(0, 16).replace('T', ' ')} ${[moment.name ?? moment.type ?? 'moment', moment.content].filter(Boolean).join(': ')}`

function describeSource({ n, kind, document, page, sheet, id }: Citation): string {
  const place = [
    document ?? (kind === 'resource' ? 'resource' : kind),
    page === undefined ? '' : `page ${page}`,
    sheet === undefined ? '' : `sheet ${sheet}`,
  ]
    .filter(Boolean)
    .join(', ')
  return `[${n}] ${place} (${kind} ${id})`
}

/** Numbers sources in the order in which they are first used. */
class Citations {
  readonly list: Citation[] = []

  resource(resource: Resource, quote: string): number {
    const { metadata } = resource
    const document =
      typeof metadata.document === 'string'
        ? metadata.document
        : (resource.name ?? (resource.uri === '' ? null : resource.uri))
    return this.#add({
      kind: 'resource',
      id: resource.id,
      resource_id: resource.id,
      document,
      ...(typeof metadata.page === 'number' ? { page: metadata.page } : {}),
      ...(typeof metadata.sheet === 'string' ? { sheet: metadata.sheet } : {}),
      ...(resource.uri === '' ? {} : { uri: resource.uri }),
      quote,
    })
  }

  entity({ entity }: EntityFact, quote: string): number {
    return this.#add({ kind: 'entity', id: entity.id, document: null, quote })
  }

  moment(moment: Moment, quote: string): number {
    return this.#add({ kind: 'moment', id: moment.id, document: null, quote })
  }

  #add(citation: Omit<Citation, 'n'>): number {
    const known = this.list.find(
      other => other.kind === citation.kind && other.id === citation.id && other.quote === citation.quote,
    )
    if (known) return known.n
    this.list.push({ n: this.list.length + 1, ...citation })
    return this.list.length
  }
}
