import { Slicer } from '../base/slice.ts'
import { KeyReader, keys, type PostingField, postingField, prefixes, prefixRange } from '../storage/keys.ts'
import { BLOCK_DOCS, PostingColumns } from '../storage/postings.ts'
import { METADATA_INCOMPLETE_TERM, metadataTerm } from '../tenant/indexes.ts'
import type { Tenant } from '../tenant/tenant.ts'
import type { Filter } from './filter.ts'

/** Documents that are put together between two looks at the time. */
const DOCUMENTS_A_SLICE = 1024
/** Ids that are fetched at once. */
const IDS_AT_ONCE = 512

/**
 * The documents that may meet a filter, from postings of exact values; undefined: any may. A superset of the answer: ranges and
 * negations are left to the check on the record.
 */
export async function candidates(
  tenant: Tenant,
  filter: Filter,
  slicer: Slicer = new Slicer(),
): Promise<Set<number> | undefined> {
  switch (filter.op) {
    case 'and': {
      let result: Set<number> | undefined
      for (const clause of filter.clauses) {
        const part = await candidates(tenant, clause, slicer)
        if (part) result = result === undefined ? part : await intersect(result, part, slicer)
      }
      return result
    }
    case 'or': {
      const result = new Set<number>()
      for (const clause of filter.clauses) {
        const part = await candidates(tenant, clause, slicer)
        if (!part) return undefined
        let added = 0
        for (const docNo of part) {
          result.add(docNo)
          if (++added % DOCUMENTS_A_SLICE === 0) await slicer.pause()
        }
      }
      return result
    }
    case 'eq':
      return equal(tenant, filter.field, [filter.value], slicer)
    case 'in':
      return equal(tenant, filter.field, filter.value as readonly unknown[], slicer)
    case 'prefix':
      return filter.field === 'uri' ? uriPrefix(tenant, filter.value as string, slicer) : undefined
    default:
      return undefined
  }
}

/** As {@link candidates}, by the ids of the resources. */
export async function candidateIds(tenant: Tenant, filter: Filter, slicer: Slicer): Promise<Set<string> | undefined> {
  const docNos = await candidates(tenant, filter, slicer)
  if (!docNos) return undefined
  const ids = new Set<string>()
  let part: Buffer[] = []
  const fetchPart = async () => {
    slicer.throwIfEnded()
    for (const id of await tenant.getMany(part)) if (id) ids.add(id.toString())
    part = []
    await slicer.pause()
  }
  for (const docNo of docNos) if (part.push(keys.idByDocNo(docNo)) === IDS_AT_ONCE) await fetchPart()
  await fetchPart()
  return ids
}

async function equal(
  tenant: Tenant,
  field: string,
  values: readonly unknown[],
  slicer: Slicer,
): Promise<Set<number> | undefined> {
  const terms: [PostingField, string][] = []
  for (const value of values) {
    if (field === 'category' || field === 'uri') {
      if (typeof value !== 'string') return undefined
      terms.push([postingField[field], value])
    } else if (field.startsWith('metadata.')) {
      const term = metadataTerm(field.slice('metadata.'.length), value as string)
      if (term === undefined) return undefined
      terms.push([postingField.metadata, term])
    } else return undefined
  }
  if (field.startsWith('metadata.')) terms.push([postingField.metadata, METADATA_INCOMPLETE_TERM])
  const result = new Set<number>()
  for (const [termField, term] of terms) {
    slicer.throwIfEnded()
    await addDocuments(tenant, prefixes.postings(termField, term), result, slicer)
  }
  return result
}

async function uriPrefix(tenant: Tenant, start: string, slicer: Slicer): Promise<Set<number>> {
  const result = new Set<number>()
  await addDocuments(tenant, prefixes.postingsStarting(postingField.uri, start), result, slicer)
  return result
}

async function addDocuments(tenant: Tenant, prefix: Buffer, into: Set<number>, slicer: Slicer): Promise<void> {
  const postings = new PostingColumns()
  for await (const chunk of tenant.chunks(prefixRange(prefix))) {
    for (const [key, value] of chunk) {
      if (slicer.due) await slicer.pause()
      const first = new KeyReader(key, key.length - 4).u32() * BLOCK_DOCS
      postings.read(value)
      for (let n = 0; n < postings.count; n++) into.add(first + postings.places[n]!)
    }
  }
}

async function intersect(a: Set<number>, b: Set<number>, slicer: Slicer): Promise<Set<number>> {
  const [small, large] = a.size <= b.size ? [a, b] : [b, a]
  const both = new Set<number>()
  let looked = 0
  for (const docNo of small) {
    if (large.has(docNo)) both.add(docNo)
    if (++looked % DOCUMENTS_A_SLICE === 0) await slicer.pause()
  }
  return both
}
