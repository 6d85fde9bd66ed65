import { vectorOf } from '../rem/plan.ts'
import { EMBEDDING_FIELD_PREFIX, type LwwRecord, type RecordKind, type RecordRef } from '../rem/record.ts'
import { resourceView } from '../rem/views.ts'
import { decodeEntry, decodeRecord, encodeRecord } from '../storage/codec.ts'
import { KeyReader, keys, parseRecordKey, prefixes, prefixRange, space } from '../storage/keys.ts'
import { decodeBlock } from '../storage/postings.ts'
import { documentTerms, indexEntries } from './indexes.ts'
import type { Tenant } from './tenant.ts'
import { digestOf } from './vectors.ts'

export interface CheckReport {
  readonly tenant: string
  readonly counts: Record<RecordKind | 'postings' | 'vectors' | 'outbox', number>
  readonly problems: string[]
}

const PROBLEMS_MAX = 1000
/** Where the entries stand that are made of records. */
export const INDEX_SPACES = [
  space.resourceByTime,
  space.embeddingPending,
  space.entityByName,
  space.entityByType,
  space.entityByTrigram,
  space.edgeIn,
  space.momentByTime,
  space.momentByType,
  space.momentByParent,
  space.momentByReference,
]

/**
 * Verifies a tenant that nobody writes to: from the records alone it computes what every index, posting, vector and counter must
 * be, and compares both ways. Memory grows with the tenant's postings.
 */
export async function checkTenant(tenant: Tenant): Promise<CheckReport> {
  const check = new Check(tenant)
  await check.records()
  await check.indexes()
  await check.postings()
  await check.vectors()
  await check.outbox()
  return { tenant: tenant.id, counts: check.counts, problems: check.problems }
}

class Check {
  readonly counts = { resource: 0, entity: 0, edge: 0, moment: 0, setting: 0, postings: 0, vectors: 0, outbox: 0 }
  readonly problems: string[] = []
  readonly #tenant: Tenant
  readonly #indexKeys = new Set<string>()
  readonly #postings = new Map<string, string>()
  readonly #vectors = new Map<string, Buffer>()

  constructor(tenant: Tenant) {
    this.#tenant = tenant
  }

  async records(): Promise<void> {
    const model = this.#tenant.embedding?.model
    let documents = 0
    let termTotal = 0
    for await (const chunk of this.#tenant.chunks({ ...prefixRange(prefixes.space(space.record)), verified: true })) {
      for (const [key, value] of chunk) {
        const ref = parseRecordKey(key)
        const record = this.#decode(ref, value)
        if (!record) continue
        for (const index of indexEntries(ref, record, model).keys()) this.#indexKeys.add(index)
        if (ref.kind === 'resource') {
          const terms = await this.#resource(ref.key[0]!, record)
          if (terms !== undefined) {
            documents++
            termTotal += terms
          }
        } else if (record.put) this.counts[ref.kind]++
      }
    }
    this.counts.resource = documents
    const { state } = this.#tenant
    this.#expect(state.documents === documents, `the counter says ${state.documents} resources, there are ${documents}`)
    this.#expect(state.termTotal === termTotal, `the counter says ${state.termTotal} terms, there are ${termTotal}`)
  }

  /** Terms of a visible resource; undefined for one that is not. */
  async #resource(id: string, record: LwwRecord): Promise<number | undefined> {
    const resource = resourceView(id, record)
    const docNoBytes = await this.#tenant.get(keys.docNoById(id))
    const models = [...record.fields.keys()].filter(name => name.startsWith(EMBEDDING_FIELD_PREFIX))
    if (!resource && models.length === 0) return undefined
    if (!docNoBytes) {
      this.#report(`resource ${id} has no document number`)
      return undefined
    }
    const docNo = docNoBytes.readUInt32BE(0)
    this.#expect(
      (await this.#tenant.get(keys.idByDocNo(docNo)))?.toString() === id,
      `document number ${docNo} does not lead back to resource ${id}`,
    )
    for (const name of models) {
      const digest = Buffer.from(record.fields.get(name)!.value as Uint8Array)
      this.#vectors.set(`${name.slice(EMBEDDING_FIELD_PREFIX.length)}:${docNo}`, digest)
    }
    if (!resource) return undefined
    const { length, terms } = documentTerms(resource)
    for (const { field, term, frequency, length: postingLength } of terms)
      this.#postings.set(`${field}:${docNo}:${term}`, `${frequency}:${postingLength}`)
    return length
  }

  async indexes(): Promise<void> {
    for (const indexSpace of INDEX_SPACES) {
      for await (const chunk of this.#tenant.chunks({ ...prefixRange(prefixes.space(indexSpace)), values: false })) {
        for (const [key] of chunk)
          this.#expect(
            this.#indexKeys.delete(key.toString('latin1')),
            `index entry ${key.toString('hex')} belongs to no record`,
          )
      }
    }
    for (const missing of this.#indexKeys)
      this.#report(`index entry ${Buffer.from(missing, 'latin1').toString('hex')} is missing`)
  }

  async postings(): Promise<void> {
    for await (const chunk of this.#tenant.chunks({ ...prefixRange(prefixes.space(space.posting)), verified: true })) {
      for (const [key, value] of chunk) {
        const reader = new KeyReader(key)
        const field = reader.byte()
        const term = reader.text()
        const block = reader.u32()
        for (const { docNo, frequency, length } of decodeBlock(block, value)) {
          this.counts.postings++
          const name = `${field}:${docNo}:${term}`
          this.#expect(
            this.#postings.get(name) === `${frequency}:${length}`,
            `posting of ${JSON.stringify(term)} for document ${docNo} does not agree with its resource`,
          )
          this.#postings.delete(name)
        }
      }
    }
    for (const missing of this.#postings.keys()) this.#report(`posting ${JSON.stringify(missing)} is missing`)
  }

  async vectors(): Promise<void> {
    for await (const chunk of this.#tenant.chunks({ ...prefixRange(prefixes.space(space.vector)), verified: true })) {
      for (const [key, value] of chunk) {
        this.counts.vectors++
        const reader = new KeyReader(key)
        const model = reader.text()
        const name = `${model}:${reader.u32()}`
        const digest = this.#vectors.get(name)
        this.#vectors.delete(name)
        const agrees = digest?.equals(digestOf(value)) ?? false
        this.#expect(agrees, `vector ${name} does not agree with its resource`)
        const spec = this.#tenant.embedding
        this.#expect(
          spec !== undefined && (spec.model !== model || vectorOf(value).length === spec.dimensions),
          `vector ${name} has ${value.length / 4} components`,
        )
      }
    }
    for (const missing of this.#vectors.keys()) this.#report(`vector ${missing} is missing`)
  }

  async outbox(): Promise<void> {
    const { identity, state } = this.#tenant
    const previous = new Map<string, number>()
    for await (const chunk of this.#tenant.chunks({ ...prefixRange(prefixes.space(space.outbox)), verified: true })) {
      for (const [key, value] of chunk) {
        this.counts.outbox++
        const number = new KeyReader(key).u64()
        const entry = decodeEntry(value)
        const { origin, sequence } = entry
        this.#expect(number <= state.outbox, `outbox entry ${number} is above the counter ${state.outbox}`)
        this.#expect(
          entry.incarnation === identity.incarnation && entry.tenant === identity.tenant,
          `outbox entry ${number} names another tenant or incarnation`,
        )
        this.#expect(
          !previous.has(origin) || sequence === previous.get(origin)! + 1,
          `outbox entries ${previous.get(origin)} and ${sequence} of ${origin} have a hole between them`,
        )
        previous.set(origin, sequence)
      }
    }
    this.#expect(
      (this.#tenant.vector.get(this.#tenant.origin) ?? 0) === state.sequence,
      `the version vector says ${this.#tenant.vector.get(this.#tenant.origin)} for this copy, the counter ${state.sequence}`,
    )
    const last = previous.get(this.#tenant.origin)
    this.#expect(
      last === undefined || last === state.sequence,
      `the outbox ends at ${last}, the counter says ${state.sequence}`,
    )
  }

  #decode(ref: RecordRef, value: Buffer): LwwRecord | undefined {
    try {
      const record = decodeRecord(value)
      this.#expect(encodeRecord(record).equals(value), `${ref.kind} ${ref.key.join(' ')} is not in canonical form`)
      return record
    } catch (error) {
      this.#report(`${ref.kind} ${ref.key.join(' ')} does not decode: ${String(error)}`)
      return undefined
    }
  }

  #expect(holds: boolean, problem: string): void {
    if (!holds) this.#report(problem)
  }

  #report(problem: string): void {
    if (this.problems.length < PROBLEMS_MAX) this.problems.push(problem)
  }
}
