import { Slicer } from '../base/slice.ts'
import type { Embedder } from '../embedding/port.ts'
import type { Edge, Entity, Moment, Resource } from '../rem/views.ts'
import { entitiesMentioned, readEntities } from '../search/entities.ts'
import { search } from '../search/search.ts'
import { traverse } from '../search/traverse.ts'
import { inverseDocumentFrequency } from '../search/words.ts'
import type { Tenant } from '../tenant/tenant.ts'
import { termsOf } from '../text/analyze.ts'

/** What a tenant knows that bears on a question. */
export interface ChatContext {
  readonly question: string
  /** Best first. */
  readonly passages: readonly Passage[]
  readonly entities: readonly EntityFact[]
  /** Newest first. */
  readonly moments: readonly Moment[]
  /** Question terms with their weights (inverse document frequency). */
  readonly weights: ReadonlyMap<string, number>
}

export interface Passage {
  readonly resource: Resource
  /** Share of the question's weighted terms that the passage has, 0 to 1. */
  readonly coverage: number
}

export interface EntityFact {
  readonly entity: Entity
  readonly edges: readonly Edge[]
  readonly neighbours: ReadonlyMap<string, Entity>
}

const PASSAGES_MAX = 8
const ENTITIES_MAX = 5
const NEIGHBOURS_MAX = 12
const MOMENTS_MAX = 5
/** Below this share of the question's terms a passage is not quoted as an answer; a model judges for itself. */
export const COVERAGE_MIN = 0.45
/** Rarity is judged as if there were at least this many documents: in a small tenant one word more or less must not decide. */
const DOCUMENTS_MIN = 100
const TEMPORAL =
  /\b(when|recent(ly)?|latest|last|today|yesterday|week|month|happened|history|timeline|since|ago|new)\b/i

export async function gatherContext(
  tenant: Tenant,
  embedder: Embedder,
  question: string,
  recentMoments: (max: number) => Promise<readonly Moment[]>,
  options: { readonly coverageMin: number; readonly signal: AbortSignal },
): Promise<ChatContext> {
  const answer = await search(tenant, embedder, {
    query: question,
    mode: 'hybrid',
    offset: 0,
    limit: PASSAGES_MAX * 2,
    signal: options.signal,
  })
  const total = Math.max(DOCUMENTS_MIN, tenant.state.documents)
  const weights = new Map(
    answer.terms.map(({ term, documents }) => [term, inverseDocumentFrequency(Math.min(documents, total), total)]),
  )
  const sum = [...weights.values()].reduce((all, weight) => all + weight, 0)
  const throwIfEnded = () => options.signal.throwIfAborted()
  const slicer = new Slicer(throwIfEnded)
  const found: Passage[] = []
  for (const { resource } of answer.hits) {
    const terms = await termsOf(`${resource.name ?? ''}\n${resource.content}`, slicer)
    const matched = [...weights].reduce((all, [term, weight]) => all + (terms.has(term) ? weight : 0), 0)
    found.push({ resource, coverage: sum === 0 ? 0 : matched / sum })
  }
  const passages = found
    .filter(({ coverage }) => coverage >= options.coverageMin)
    .sort((a, b) => b.coverage - a.coverage)
    .slice(0, PASSAGES_MAX)
  const entities = await gatherEntities(tenant, question, throwIfEnded)
  const moments =
    passages.length > 0 || entities.length > 0 || TEMPORAL.test(question) ? await recentMoments(MOMENTS_MAX) : []
  return { question, passages, entities, moments, weights }
}

async function gatherEntities(tenant: Tenant, question: string, throwIfEnded: () => void): Promise<EntityFact[]> {
  const facts: EntityFact[] = []
  for (const entity of await entitiesMentioned(tenant, question, ENTITIES_MAX, throwIfEnded)) {
    const walk = await traverse(tenant, {
      start: entity.id,
      depth: 1,
      direction: 'both',
      limit: NEIGHBOURS_MAX,
      throwIfEnded,
    })
    const neighbours = await readEntities(
      tenant,
      (walk?.reached ?? []).map(({ entity: { id } }) => id),
    )
    facts.push({ entity, edges: walk?.edges ?? [], neighbours })
  }
  return facts
}

export const isTemporal = (question: string): boolean => TEMPORAL.test(question)

export const isEmptyContext = (context: ChatContext): boolean =>
  context.passages.length === 0 &&
  context.entities.length === 0 &&
  !(isTemporal(context.question) && context.moments.length > 0)
