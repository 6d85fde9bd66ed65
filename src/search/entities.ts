import { Slicer } from '../base/slice.ts'
import type { RecordRef } from '../rem/record.ts'
import { type Entity, entityView } from '../rem/views.ts'
import { KeyReader, keyAfter, prefixes, prefixRange, textPart } from '../storage/keys.ts'
import type { KvRange } from '../storage/kv.ts'
import { eachRecord, Reading } from '../tenant/reading.ts'
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
/** Trigrams of a name that are looked up, the first ones: names that are near share nearly all of them, however many there are. */
const TRIGRAMS_READ_MAX = 64
/** Entries of the trigram index that one lookup reads, about. */
const TRIGRAM_ENTRIES_MAX = 100_000

export async function readEntities(tenant: Tenant, ids: readonly string[]): Promise<Map<string, Entity>> {
  const records = await tenant.records(ids.map(id => ({ kind: 'entity', key: [id] })))
  const found = new Map<string, Entity>()
  for (const [n, id] of ids.entries()) {
    const entity = entityView(id, records[n])
    if (entity) found.set(id, entity)
  }
  return found
}

/** Entities by key, alias or name: exact, then by prefix, then (when those are fewer than `enough`) fuzzy with typos tolerated. Best first; read for as long as they are asked for. */
export async function* matchEntities(
  tenant: Tenant,
  name: string,
  options: { type?: string | undefined; enough: number },
  reading: Reading,
): AsyncGenerator<EntityMatch> {
  const wanted = normalizeName(name)
  if (wanted === '') return
  const scores = new Map<string, { score: number; match: EntityMatch['match'] }>()
  const note = (id: string, score: number, match: EntityMatch['match']) => {
    if ((scores.get(id)?.score ?? 0) < score) scores.set(id, { score, match })
  }
  const names = await namesIn(tenant, { ...prefixRange(prefixes.entityNames(wanted)), limit: NAMES_READ_MAX }, reading)
  for (const [found, id] of names) {
    if (found === wanted) note(id, 1, 'exact')
    else note(id, 0.9 * (wanted.length / found.length) ** 0.25, 'prefix')
  }
  if (scores.size < options.enough) {
    for (const { id, similarity } of await fuzzyNames(tenant, wanted, reading)) note(id, 0.8 * similarity, 'fuzzy')
  }
  const ordered = [...scores].sort(([idA, a], [idB, b]) => b.score - a.score || (idA < idB ? -1 : 1))
  let n = 0
  for await (const record of eachRecord(
    tenant,
    ordered.map(([id]) => entityRef(id)),
    reading,
  )) {
    const [id, found] = ordered[n++]!
    const entity = entityView(id, record)
    if (entity && (options.type === undefined || entity.type === options.type)) yield { entity, ...found }
  }
}

/** The best of {@link matchEntities}, at most `limit`. */
export async function findEntities(
  tenant: Tenant,
  name: string,
  options: { type?: string | undefined; limit: number; throwIfEnded?: () => void },
): Promise<EntityMatch[]> {
  const { type, limit } = options
  const matches: EntityMatch[] = []
  for await (const match of matchEntities(tenant, name, { type, enough: limit }, new Reading(options.throwIfEnded))) {
    matches.push(match)
    if (matches.length === limit) break
  }
  return matches
}

/** Entities that have exactly this normalized name. */
export async function entitiesNamed(tenant: Tenant, normalized: string): Promise<string[]> {
  const range = { ...prefixRange(prefixes.entityName(normalized)), limit: 100 }
  return (await namesIn(tenant, range, new Slicer())).map(([, id]) => id)
}

async function namesIn(tenant: Tenant, range: KvRange, slicer: Slicer): Promise<[name: string, id: string][]> {
  const names: [string, string][] = []
  for await (const chunk of tenant.chunks({ ...range, values: false })) {
    for (const [key] of chunk) {
      const reader = new KeyReader(key)
      names.push([reader.text(), reader.text()])
      if (slicer.due) await slicer.pause()
    }
  }
  return names
}

/** Names that share trigrams, kept when few enough edits away: one edit for each 4 characters, at least 1, at most 3. */
async function fuzzyNames(
  tenant: Tenant,
  wanted: string,
  slicer: Slicer,
): Promise<{ id: string; similarity: number }[]> {
  const shared = new Map<string, { name: string; id: string; count: number }>()
  let gramsRead = 0
  let entriesRead = 0
  for (const gram of trigrams(wanted).slice(0, TRIGRAMS_READ_MAX)) {
    if (entriesRead >= TRIGRAM_ENTRIES_MAX) break
    gramsRead++
    for await (const chunk of tenant.chunks({
      ...prefixRange(prefixes.trigram(gram)),
      limit: TRIGRAM_NAMES_MAX,
      values: false,
    })) {
      entriesRead += chunk.length
      for (const [key] of chunk) {
        if (slicer.due) await slicer.pause()
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
    if (count < gramsRead - edits * 4) continue
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

/** Optimal string alignment distance (insert, delete, replace, swap of neighbours); gives up above `max`. Takes (2 · max + 1) steps a character: farther from the diagonal every alignment has more edits. */
export function editDistance(a: string, b: string, max: number): number {
  const past = max + 1
  if (Math.abs(a.length - b.length) > max) return past
  // Row i holds the distances of a's first i characters from b's first j, for j from i - max to i + max, at j - i + max; one place more on either side is past.
  const width = 2 * max + 3
  let twoBack: number[] = []
  let previous = Array.from({ length: width }, (_, n) => (n - 1 < max ? past : Math.min(past, n - 1 - max)))
  for (let i = 1; i <= a.length; i++) {
    const row = new Array<number>(width).fill(past)
    let least = past
    for (let n = 1; n <= 2 * max + 1; n++) {
      const j = i + n - 1 - max
      if (j < 0 || j > b.length) continue
      let value = i
      if (j > 0) {
        const cost = a[i - 1] === b[j - 1] ? 0 : 1
        value = Math.min(previous[n + 1]! + 1, row[n - 1]! + 1, previous[n]! + cost)
        // Two rows back the same column less two stands at the same place.
        if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) value = Math.min(value, twoBack[n]! + 1)
      }
      row[n] = value
      least = Math.min(least, value)
    }
    if (least > max) return past
    twoBack = previous
    previous = row
  }
  return Math.min(past, previous[b.length - a.length + max + 1]!)
}

/** All entities, or those of one type, by id, from behind `after` on; read for as long as they are asked for. `wanted` as of {@link eachRecord}. */
export async function* entitiesById(
  tenant: Tenant,
  options: { type?: string | undefined; after?: string | undefined; wanted: () => number },
  reading: Reading,
): AsyncGenerator<Entity> {
  const prefix = options.type === undefined ? prefixes.kind('entity') : prefixes.entityType(options.type)
  const range = prefixRange(prefix)
  const gte = options.after === undefined ? range.gte : keyAfter(Buffer.concat([prefix, textPart(options.after)]))
  for await (const chunk of tenant.chunks({ gte, lt: range.lt, values: false })) {
    const ids = chunk.map(([key]) => new KeyReader(key, prefix.length).text())
    let n = 0
    for await (const record of eachRecord(tenant, ids.map(entityRef), reading, options.wanted)) {
      const entity = entityView(ids[n++]!, record)
      if (entity) yield entity
    }
  }
}

const entityRef = (id: string): RecordRef => ({ kind: 'entity', key: [id] })

/** Names that a text may mention: every run of 1 to 5 words, longest first, that is an entity's exact name. */
export async function entitiesMentioned(
  tenant: Tenant,
  text: string,
  max: number,
  throwIfEnded: () => void = () => {},
): Promise<Entity[]> {
  const words = normalizeName(text).split(' ').slice(0, 200)
  const ids = new Set<string>()
  const taken = new Set<number>()
  for (let length = Math.min(5, words.length); length >= 1; length--) {
    for (let at = 0; at + length <= words.length && ids.size < max; at++) {
      if (taken.has(at)) continue
      const name = words.slice(at, at + length).join(' ')
      if (name.length < 2) continue
      throwIfEnded()
      const named = await entitiesNamed(tenant, name)
      if (named.length === 0) continue
      for (const id of named) ids.add(id)
      for (let n = at; n < at + length; n++) taken.add(n)
    }
  }
  return [...(await readEntities(tenant, [...ids].slice(0, max))).values()]
}
