import { PercolateError } from '../base/errors.ts'
import { QUERY_TERMS_MAX, SEARCH_DEPTH_MAX } from '../base/limits.ts'
import { PageBytes } from '../base/page-bytes.ts'
import { Slicer } from '../base/slice.ts'
import type { Embedder } from '../embedding/port.ts'
import { type Resource, resourceView } from '../rem/views.ts'
import { keys } from '../storage/keys.ts'
import type { Tenant } from '../tenant/tenant.ts'
import { analyze } from '../text/analyze.ts'
import { Snippets } from '../text/snippet.ts'
import { Best, type Ranked } from './best.ts'
import { candidates } from './candidates.ts'
import { type Filter, matches } from './filter.ts'
import { fuse } from './fuse.ts'
import { VectorIndex } from './vector-index.ts'
import { searchWords, type TermMatch, WordScores, type WordSearch } from './words.ts'

export type SearchMode = 'hybrid' | 'text' | 'vector'

export interface SearchRequest {
  readonly query: string
  readonly mode: SearchMode
  readonly filter?: Filter | undefined
  /** A query vector of the tenant's model, in place of embedding `query`. */
  readonly embedding?: Float32Array | undefined
  readonly offset: number
  readonly limit: number
  readonly signal?: AbortSignal
}

export interface SearchHit {
  readonly resource: Resource
  /** Comparable within one answer only: BM25 in text mode, cosine in vector mode, fused reciprocal ranks in hybrid mode. */
  readonly score: number
  readonly snippet: string
}

export interface SearchAnswer {
  readonly hits: SearchHit[]
  readonly more: boolean
  /** Why an answer is weaker than what was asked for, for people. */
  readonly warnings: string[]
  /** How rare each query word is here, for relevance judgements. */
  readonly terms: readonly TermMatch[]
}

/** Documents that each ranking contributes to the fusion at least; deeper paging takes more. */
const FUSED_DEPTH = 200
/** Records that are read at a time while results are checked against a filter. */
const CHECKED_AT_ONCE = 64
/** Rows of a scan that are ranked between two looks at the time. */
const ROWS_A_SLICE = 4096

/** Plan: candidates by filter → words and vectors → fuse → records, checked and cut to the page. */
export async function search(tenant: Tenant, embedder: Embedder, request: SearchRequest): Promise<SearchAnswer> {
  const slicer = new Slicer(() => request.signal?.throwIfAborted())
  const warnings: string[] = []
  const frequencies = queryTerms(request, warnings)
  const allowed = request.filter ? await candidates(tenant, request.filter, slicer) : undefined
  const depth = Math.max(FUSED_DEPTH, request.offset + request.limit + 1)
  const wanted = request.filter ? tenant.state.documents : depth

  let words: WordSearch = { scores: new WordScores(), terms: [] }
  if (request.mode !== 'vector') words = await searchWords(tenant, frequencies, allowed, slicer)
  const near =
    request.mode === 'text' ? undefined : await searchVectors(tenant, embedder, request, allowed, warnings, slicer)
  const ranked = await rank(request.mode, words, near, wanted, embedder.fusionWeight, slicer)

  const page = await readPage(tenant, ranked, request, slicer)
  const snippets = new Snippets(new Set(frequencies.keys()), slicer)
  const hits: SearchHit[] = []
  for (const { resource, score } of page.hits)
    hits.push({ resource, score, snippet: (await snippets.of(resource.content)).html })
  return { hits, more: page.more, warnings, terms: words.terms }
}

/** The terms of the query that are looked up. */
function queryTerms({ query, mode }: SearchRequest, warnings: string[]): ReadonlyMap<string, number> {
  const { frequencies } = analyze(query)
  if (frequencies.size <= QUERY_TERMS_MAX) return frequencies
  if (mode !== 'vector')
    warnings.push(
      `Searched for the first ${QUERY_TERMS_MAX} different words of the query; it has ${frequencies.size} (in text without spaces each pair of characters is a word). Ask a shorter question for all of it to count.`,
    )
  return new Map([...frequencies].slice(0, QUERY_TERMS_MAX))
}

async function rank(
  mode: SearchMode,
  words: WordSearch,
  near: readonly Ranked[] | undefined,
  wanted: number,
  vectorWeight: number,
  slicer: Slicer,
): Promise<Ranked[]> {
  const byWords = await words.scores.best(wanted, slicer)
  await slicer.pause()
  if (mode === 'text') return byWords
  if (mode === 'vector') return (near ?? []).slice(0, wanted)
  if (near === undefined) return byWords
  return fuse(
    [
      { ranking: byWords, weight: 1 },
      { ranking: near.slice(0, wanted), weight: vectorWeight },
    ],
    wanted,
  )
}

/** Undefined when hybrid search has to do without vectors. */
async function searchVectors(
  tenant: Tenant,
  embedder: Embedder,
  request: SearchRequest,
  allowed: ReadonlySet<number> | undefined,
  warnings: string[],
  slicer: Slicer,
): Promise<Ranked[] | undefined> {
  const spec = tenant.embedding
  if (spec === undefined) return []
  let query = request.embedding
  try {
    if (query === undefined) {
      if (spec.model !== embedder.model) {
        throw new PercolateError(
          'EMBEDDING_MODEL_MISMATCH',
          `This tenant's vectors come from "${spec.model}" (${spec.dimensions} dimensions) and the configured model is "${embedder.model}"; search with mode=text, or send a query embedding.`,
        )
      }
      ;[query] = await embedder.embed([request.query], {
        tenant: tenant.id,
        ...(request.signal ? { signal: request.signal } : {}),
      })
    }
  } catch (error) {
    if (request.mode === 'vector' || !(error instanceof PercolateError)) throw error
    warnings.push(`Searched by words only. ${error.message}`)
    return undefined
  }
  if (query!.length !== spec.dimensions) {
    throw new PercolateError(
      'EMBEDDING_INVALID',
      `The query embedding has ${query!.length} components; this tenant's model "${spec.model}" has ${spec.dimensions}.`,
      {
        field: 'embedding',
      },
    )
  }
  const floor = spec.model === embedder.model ? embedder.noiseFloor : 0
  const scan = await VectorIndex.of(tenant, spec).scan(tenant, query!)
  return nearest(
    scan,
    allowed,
    Math.max(SEARCH_DEPTH_MAX, request.offset + request.limit + 1),
    request.filter !== undefined,
    floor,
    slicer,
  )
}

/** The best rows of a scan, above the model's noise; all of them when a filter may drop many. */
async function nearest(
  scan: { rows: number; scores: Float32Array; docNos: Uint32Array },
  allowed: ReadonlySet<number> | undefined,
  depth: number,
  filtered: boolean,
  floor: number,
  slicer: Slicer,
): Promise<Ranked[]> {
  const best = new Best(filtered ? scan.rows : depth)
  for (let row = 0; row < scan.rows; row++) {
    if (row % ROWS_A_SLICE === 0 && slicer.due) await slicer.pause()
    const score = scan.scores[row]!
    if (score <= floor) continue
    const docNo = scan.docNos[row]!
    if (!allowed || allowed.has(docNo)) best.offer(docNo, score)
  }
  return best.ranked()
}

async function readPage(
  tenant: Tenant,
  ranked: readonly Ranked[],
  request: SearchRequest,
  slicer: Slicer,
): Promise<{ hits: { resource: Resource; score: number }[]; more: boolean }> {
  const hits: { resource: Resource; score: number }[] = []
  let skipped = 0
  const page = new PageBytes()
  for (let at = 0; at < ranked.length; at += CHECKED_AT_ONCE) {
    slicer.throwIfEnded()
    const wantedHere = request.filter ? CHECKED_AT_ONCE : request.offset + request.limit + 1 - at
    if (wantedHere <= 0) break
    const part = ranked.slice(at, at + Math.min(CHECKED_AT_ONCE, wantedHere))
    const resources = await readResources(
      tenant,
      part.map(({ docNo }) => docNo),
    )
    for (const [n, { score }] of part.entries()) {
      if (slicer.due) await slicer.pause()
      const resource = resources[n]
      if (!resource || (request.filter && !matches(request.filter, resource))) continue
      if (skipped < request.offset) skipped++
      else if (hits.length === request.limit || !page.takeLike(resource)) return { hits, more: true }
      else hits.push({ resource, score })
    }
  }
  return { hits, more: false }
}

async function readResources(tenant: Tenant, docNos: readonly number[]): Promise<(Resource | undefined)[]> {
  const ids = await tenant.getMany(docNos.map(docNo => keys.idByDocNo(docNo)))
  const refs = ids.map(id => ({ kind: 'resource' as const, key: [id?.toString() ?? ''] }))
  const records = await tenant.records(refs)
  return records.map((record, n) => resourceView(refs[n]!.key[0]!, record))
}
