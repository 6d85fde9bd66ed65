import { Slicer } from '../base/slice.ts'
import { type Entity, entityView } from '../rem/views.ts'
import { KeyReader, keyAfter, prefixes, prefixRange, textPart } from '../storage/keys.ts'
import type { KvRange } from '../storage/kv.ts'
import type { Tenant } from '../tenant/tenant.ts'
import { normalizeName, trigrams } from '../text/analyze.ts'

export interface EntityMatch {
  readonly entity: Entity
  /** 1 for an exact name, less for a prefix, least for a fuzzy one. */
  readonly score: number
  readonly match: 'exact' | 'prefix' | 'fuzzy'
}

/** Names read for one lookup, at most; a shorter prefix of a bigger tenant is answered from the first of them. */
const NAMES_READ_MAX = 5000
const TRIGRAM_NAMES_MAX = 20_000

export async function readEntities(tenant: Tenant, ids: readonly string[]): Promise<Map<string, Entity>> {
  const records = await tenant.records(ids.map(id => ({ kind: 'entity', key: [id] })))
  const found = new Map<string, Entity>()
  for (const [n, id] of ids.entries()) {
    const entity = entityView(id, records[n])
    if (entity) found.set(id, entity)
  }
  return found
}

/** Finds entities by key, alias or name: exact, then by prefix, then fuzzy with typos tolerated. Best first, at most `limit`. */
export async function findEntities(
  tenant: Tenant,
  name: string,
  options: { type?: string | undefined; limit: number; fuzzy?: boolean },
): Promise<EntityMatch[]> {
  const wanted = normalizeName(name)
  if (wanted === '') return []
  const scores = new Map<string, { score: number; match: EntityMatch['match'] }>()
  const note = (id: string, score: number, match: EntityMatch['match']) => {
    if ((scores.get(id)?.score ?? 0) < score) scores.set(id, { score, match })
  }
  for (const [found, id] of await namesIn(tenant, {
    ...prefixRange(prefixes.entityNames(wanted)),
    limit: NAMES_READ_MAX,
  })) {
    if (found === wanted) note(id, 1, 'exact')
    else note(id, 0.9 * (wanted.length / found.length) ** 0.25, 'prefix')
  }
  if (options.fuzzy !== false && scores.size < options.limit) {
    for (const { id, similarity } of await fuzzyNames(tenant, wanted)) note(id, 0.8 * similarity, 'fuzzy')
  }
  const ordered = [...scores].sort(([idA, a], [idB, b]) => b.score - a.score || (idA < idB ? -1 : 1))
  const matches: EntityMatch[] = []
  for (let at = 0; at < ordered.length && matches.length < options.limit; at += 100) {
    const part = ordered.slice(at, at + 100)
    const entities = await readEntities(
      tenant,
      part.map(([id]) => id),
    )
    for (const [id, { score, match }] of part) {
      const entity = entities.get(id)
      if (entity && (options.type === undefined || entity.type === options.type)) matches.push({ entity, score, match })
    }
  }
  return matches.slice(0, options.limit)
}

/** Entities that have exactly this normalized name. */
export async function entitiesNamed(tenant: Tenant, normalized: string): Promise<string[]> {
  return (await namesIn(tenant, { ...prefixRange(prefixes.entityName(normalized)), limit: 100 })).map(([, id]) => id)
}

async function namesIn(tenant: Tenant, range: KvRange): Promise<[name: string, id: string][]> {
  const names: [string, string][] = []
  for await (const chunk of tenant.chunks({ ...range, values: false })) {
    for (const [key] of chunk) {
      const reader = new KeyReader(key)
      names.push([reader.text(), reader.text()])
    }
  }
  return names
}

/** Names that share trigrams, kept when few enough edits away: one edit for each 4 characters, at least 1, at most 3. */
async function fuzzyNames(tenant: Tenant, wanted: string): Promise<{ id: string; similarity: number }[]> {
  const slicer = new Slicer()
  const shared = new Map<string, { name: string; id: string; count: number }>()
  const grams = trigrams(wanted)
  for (const gram of grams) {
    for await (const chunk of tenant.chunks({
      ...prefixRange(prefixes.trigram(gram)),
      limit: TRIGRAM_NAMES_MAX,
      values: false,
    })) {
      for (const [key] of chunk) {
        const reader = new KeyReader(key)
        reader.text()
        const name = reader.text()
        const id = reader.text()
        const entry = shared.get(`${name}\0${id}`)
        if (entry) entry.count++
        else if (shared.size < TRIGRAM_NAMES_MAX) shared.set(`${name}\0${id}`, { name, id, count: 1 })
      }
    }
  }
  const edits = Math.max(1, Math.min(3, Math.floor(wanted.length / 4)))
  const found: { id: string; similarity: number }[] = []
  for (const { name, id, count } of shared.values()) {
    // An edit destroys at most three trigrams (four when it swaps two characters).
    if (count < grams.length - edits * 4) continue
    const whole = editDistance(wanted, name, edits)
    const word = wordDistance(wanted, name, edits)
    // A single word of a longer name counts as one edit dearer than the whole name.
    const distance = Math.min(
      whole <= edits ? whole : Number.POSITIVE_INFINITY,
      word <= edits ? word + 1 : Number.POSITIVE_INFINITY,
    )
    if (Number.isFinite(distance)) found.push({ id, similarity: 1 - distance / (wanted.length + 1) })
    await slicer.pause()
  }
  return found
}

/** The distance to the best single word of a longer name, so that a misspelt surname finds the person. */
function wordDistance(wanted: string, name: string, edits: number): number {
  if (wanted.length < 4 || !name.includes(' ')) return Number.POSITIVE_INFINITY
  return Math.min(...name.split(' ').map(word => editDistance(wanted, word, edits)))
}

/** Optimal string alignment distance (insert, delete, replace, swap of neighbours); gives up above `max`. */
export function editDistance(a: string, b: string, max: number): number {
  if (Math.abs(a.length - b.length) > max) return max + 1
  let twoBack: number[] = []
  let previous = Array.from({ length: b.length + 1 }, (_, n) => n)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    let least = i
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1
      let value = Math.min(previous[j]! + 1, row[j - 1]! + 1, previous[j - 1]! + cost)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) value = Math.min(value, twoBack[j - 2]! + 1)
      row.push(value)
      least = Math.min(least, value)
    }
    if (least > max) return max + 1
    twoBack = previous
    previous = row
  }
  return previous[b.length]!
}

/** A page of all entities, or of those of one type, by id. */
export async function listEntities(
  tenant: Tenant,
  options: { type?: string | undefined; after?: string | undefined; limit: number },
): Promise<{ entities: Entity[]; more: boolean }> {
  const entities: Entity[] = []
  const prefix = options.type === undefined ? prefixes.kind('entity') : prefixes.entityType(options.type)
  const range = prefixRange(prefix)
  const gte = options.after === undefined ? range.gte : keyAfter(Buffer.concat([prefix, textPart(options.after)]))
  for await (const chunk of tenant.chunks({ gte, lt: range.lt, values: false })) {
    const ids = chunk.map(([key]) => new KeyReader(key, prefix.length).text())
    const found = await readEntities(tenant, ids)
    for (const id of ids) {
      const entity = found.get(id)
      if (!entity) continue
      if (entities.length === options.limit) return { entities, more: true }
      entities.push(entity)
    }
  }
  return { entities, more: false }
}

/** Names that a text may mention: every run of 1 to 5 words, longest first, that is an entity's exact name. */
export async function entitiesMentioned(tenant: Tenant, text: string, max: number): Promise<Entity[]> {
  const words = normalizeName(text).split(' ').slice(0, 200)
  const ids = new Set<string>()
  const taken = new Set<number>()
  for (let length = Math.min(5, words.length); length >= 1; length--) {
    for (let at = 0; at + length <= words.length && ids.size < max; at++) {
      if (taken.has(at)) continue
      const name = words.slice(at, at + length).join(' ')
      if (name.length < 2) continue
      const named = await entitiesNamed(tenant, name)
      if (named.length === 0) continue
      for (const id of named) ids.add(id)
      for (let n = at; n < at + length; n++) taken.add(n)
    }
  }
  return [...(await readEntities(tenant, [...ids].slice(0, max))).values()]
}
