import { METADATA_INDEXED_BYTES_MAX, METADATA_INDEXED_KEYS_MAX } from '../base/limits.ts'
import type { LwwRecord, RecordRef, Value } from '../rem/record.ts'
import {
  type Entity,
  edgeView,
  entityView,
  type Moment,
  momentView,
  type Resource,
  resourceView,
  searchableText,
} from '../rem/views.ts'
import { keys, type PostingField, postingField } from '../storage/keys.ts'
import { analyze, normalizeName, trigrams } from '../text/analyze.ts'

/**
 * Secondary indexes as pure functions of a record: what a write adds and removes is the difference between the entries of the record
 * before and after, and `percolate check` compares the same functions with what is stored.
 */
export type IndexEntries = ReadonlyMap<string, Buffer>

const NOTHING = Buffer.alloc(0)

/** Keys (as latin1, so that they compare) of the plain indexes of a record; their values are empty. Postings and vectors are apart. */
export function indexEntries(
  ref: RecordRef,
  record: LwwRecord | undefined,
  embeddingModel: string | undefined,
): IndexEntries {
  const entries = new Map<string, Buffer>()
  const add = (key: Buffer) => entries.set(key.toString('latin1'), NOTHING)
  const id = ref.key[0]!
  if (ref.kind === 'resource') {
    const resource = resourceView(id, record)
    if (resource) resourceKeys(resource, embeddingModel).forEach(add)
  } else if (ref.kind === 'entity') {
    const entity = entityView(id, record)
    if (entity) entityKeys(entity).forEach(add)
  } else if (ref.kind === 'edge') {
    const edge = edgeView(ref.key, record)
    if (edge) add(keys.edgeIn(edge.to, edge.type, edge.from))
  } else if (ref.kind === 'moment') {
    const moment = momentView(id, record)
    if (moment) momentKeys(moment).forEach(add)
  }
  return entries
}

function resourceKeys(resource: Resource, embeddingModel: string | undefined): Buffer[] {
  const list = [keys.resourceByTime(resource.updatedAtMs, resource.id)]
  if (embeddingModel === undefined || !resource.embeddings.includes(embeddingModel))
    list.push(keys.embeddingPending(resource.id))
  return list
}

function entityKeys(entity: Entity): Buffer[] {
  const list: Buffer[] = []
  if (entity.type !== null) list.push(keys.entityByType(entity.type, entity.id))
  for (const name of entityNames(entity)) {
    list.push(keys.entityByName(name, entity.id))
    for (const gram of trigrams(name)) list.push(keys.entityByTrigram(gram, name, entity.id))
  }
  return list
}

/** The normalized names that an entity is found by: id, name, aliases. */
export function entityNames(entity: Pick<Entity, 'id' | 'name' | 'aliases'>): string[] {
  const names = [entity.id, ...(entity.name === null ? [] : [entity.name]), ...entity.aliases]
  return [...new Set(names.map(normalizeName).filter(name => name.length > 0))]
}

function momentKeys(moment: Moment): Buffer[] {
  const { id, timeMs } = moment
  return [
    keys.momentByTime(timeMs, id),
    ...(moment.type === null ? [] : [keys.momentByType(moment.type, timeMs, id)]),
    ...(moment.parent === null ? [] : [keys.momentByParent(moment.parent, timeMs, id)]),
    ...[...new Set(moment.resources)].map(target => keys.momentByReference('resource', target, timeMs, id)),
    ...[...new Set(moment.entities)].map(target => keys.momentByReference('entity', target, timeMs, id)),
  ]
}

/** A resource's postings: term keys `field + term`, each with frequency and document length. */
export interface DocumentTerms {
  /** Terms of the text, the length that BM25 normalizes by. */
  readonly length: number
  readonly terms: readonly DocumentTerm[]
}

export interface DocumentTerm {
  readonly field: PostingField
  readonly term: string
  readonly frequency: number
  readonly length: number
}

export function documentTerms(resource: Resource): DocumentTerms {
  const { frequencies, length } = analyze(searchableText(resource))
  const terms: DocumentTerm[] = []
  for (const [term, frequency] of frequencies) terms.push({ field: postingField.text, term, frequency, length })
  const exact = (field: PostingField, term: string) => terms.push({ field, term, frequency: 1, length: 1 })
  if (resource.category !== null) exact(postingField.category, resource.category)
  if (resource.uri !== '') exact(postingField.uri, resource.uri)
  for (const term of metadataTerms(resource.metadata)) exact(postingField.metadata, term)
  return { length, terms }
}

/** Carried by documents whose metadata is not wholly in the postings; filters then look at their records. */
export const METADATA_INCOMPLETE_TERM = '\u0000'

/** `path NUL value` for each scalar in the metadata (in lists, each element), so that equality filters are posting look-ups. */
function metadataTerms(metadata: { readonly [key: string]: Value }): Set<string> {
  const terms = new Set<string>()
  const visit = (path: string, value: Value) => {
    if (Array.isArray(value)) {
      for (const item of value) visit(path, item)
    } else if (value !== null && typeof value === 'object') {
      for (const [key, item] of Object.entries(value)) visit(`${path}.${key}`, item as Value)
    } else if (value !== null) {
      const term = metadataTerm(path, value)
      terms.add(term === undefined || terms.size >= METADATA_INDEXED_KEYS_MAX ? METADATA_INCOMPLETE_TERM : term)
    }
  }
  for (const [key, value] of Object.entries(metadata)) visit(key, value)
  return terms
}

/** The posting term of `metadata.<path> = value`, or undefined when such values are not indexed. */
export function metadataTerm(path: string, value: Value): string | undefined {
  if (value === null || typeof value === 'object') return undefined
  const text = JSON.stringify(value)
  if (Buffer.byteLength(path) + Buffer.byteLength(text) > METADATA_INDEXED_BYTES_MAX) return undefined
  return `${path}\u0000${text}`
}
