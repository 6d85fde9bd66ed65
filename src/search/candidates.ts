import { KeyReader, type PostingField, postingField, prefixes, prefixRange } from '../storage/keys.ts'
import { BLOCK_DOCS, PostingColumns } from '../storage/postings.ts'
import { METADATA_INCOMPLETE_TERM, metadataTerm } from '../tenant/indexes.ts'
import type { Tenant } from '../tenant/tenant.ts'
import type { Filter } from './filter.ts'

/**
 * The documents that may meet a filter, from postings of exact values; undefined: any may. A superset of the answer: ranges and
 * negations are left to the check on the record. `throwIfEnded` is called now and then, to stop when nobody waits any more.
 */
export async function candidates(
  tenant: Tenant,
  filter: Filter,
  throwIfEnded: () => void = () => {},
): Promise<Set<number> | undefined> {
  switch (filter.op) {
    case 'and': {
      let result: Set<number> | undefined
      for (const clause of filter.clauses) {
        const part = await candidates(tenant, clause, throwIfEnded)
        if (part) result = result === undefined ? part : intersect(result, part)
      }
      return result
    }
    case 'or': {
      const result = new Set<number>()
      for (const clause of filter.clauses) {
        const part = await candidates(tenant, clause, throwIfEnded)
        if (!part) return undefined
        for (const docNo of part) result.add(docNo)
      }
      return result
    }
    case 'eq':
      return equal(tenant, filter.field, [filter.value], throwIfEnded)
    case 'in':
      return equal(tenant, filter.field, filter.value as readonly unknown[], throwIfEnded)
    case 'prefix':
      return filter.field === 'uri' ? uriPrefix(tenant, filter.value as string) : undefined
    default:
      return undefined
  }
}

async function equal(
  tenant: Tenant,
  field: string,
  values: readonly unknown[],
  throwIfEnded: () => void,
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
    throwIfEnded()
    await addDocuments(tenant, prefixes.postings(termField, term), result)
  }
  return result
}

async function uriPrefix(tenant: Tenant, start: string): Promise<Set<number>> {
  const result = new Set<number>()
  await addDocuments(tenant, prefixes.postingsStarting(postingField.uri, start), result)
  return result
}

async function addDocuments(tenant: Tenant, prefix: Buffer, into: Set<number>): Promise<void> {
  const postings = new PostingColumns()
  for await (const chunk of tenant.chunks(prefixRange(prefix))) {
    for (const [key, value] of chunk) {
      const first = new KeyReader(key, key.length - 4).u32() * BLOCK_DOCS
      postings.read(value)
      for (let n = 0; n < postings.count; n++) into.add(first + postings.places[n]!)
    }
  }
}

const intersect = (a: Set<number>, b: Set<number>): Set<number> => {
  const [small, large] = a.size <= b.size ? [a, b] : [b, a]
  return new Set([...small].filter(docNo => large.has(docNo)))
}
