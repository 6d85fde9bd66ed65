import { checkObject } from '../../base/check-object.ts'
import { PercolateError } from '../../base/errors.ts'
import {
  CATEGORY_BYTES_MAX,
  LIST_LIMIT_DEFAULT,
  SEARCH_DEPTH_MAX,
  SEARCH_LIMIT_DEFAULT,
  URI_BYTES_MAX,
} from '../../base/limits.ts'
import { inPlaceOf, PageBytes } from '../../base/page-bytes.ts'
import { Slicer } from '../../base/slice.ts'
import { embedAhead } from '../../embedding/ahead.ts'
import { planDelete, planEmbedding, planResource, type ResourceCommand, resourceId, vectorOf } from '../../rem/plan.ts'
import { type Resource, resourceView } from '../../rem/views.ts'
import { candidateIds } from '../../search/candidates.ts'
import { type Filter, matches, parseFilter } from '../../search/filter.ts'
import { type SearchMode, search } from '../../search/search.ts'
import { readByWeight, readInTurn } from '../../session/heavy-reads.ts'
import { read } from '../../session/read.ts'
import type { Session } from '../../session/session.ts'
import { write, writeExisting } from '../../session/write.ts'
import { KeyReader, keyAfter, keys, prefixes, prefixRange, space } from '../../storage/keys.ts'
import { eachRecord } from '../../tenant/reading.ts'
import type { EmbeddingSpec } from '../../tenant/state.ts'
import type { Tenant } from '../../tenant/tenant.ts'
import { decodeCursor, encodeCursor } from '../cursor.ts'
import type { EmbeddingsInput, ResourceInput, ResourceOutput, ResourcesQuery, SearchInput } from '../schemas.ts'
import { checkContent, checkEmbedding, checkName, checkTitle } from './check-fields.ts'
import { checkConditions, etagWith } from './conditions.ts'
import { isoTime, notFound, type OperationsContext } from './context.ts'

/** After the provider failed, writes store without asking it again for this long; an `embed` job catches up. */
const PROVIDER_PAUSE_MS = 10_000
/** Resources of a listing that are read at once: a page with much text ends after some tens of them. */
const READ_AT_ONCE = 32

export interface ResourcePage {
  readonly results: ResourceOutput[]
  readonly cursor?: string
  readonly warnings?: string[]
}

export class ResourceOperations {
  readonly #context: OperationsContext
  #providerDownUntilMs = 0

  constructor(context: OperationsContext) {
    this.#context = context
  }

  /** Stores resources, all or none; with embeddings when they can be had now. */
  async put(call: Session, inputs: readonly ResourceInput[]): Promise<{ ids: string[]; pending?: number }> {
    const commands = inputs.map((input, n) =>
      toCommand(input, inputs.length === 1 ? '' : `resources[${n}].`, this.#context.embedder.model),
    )
    const spec = await read(
      this.#context,
      call,
      async tenant => tenant.embedding,
      () => undefined,
    )
    const checkSpecs = (spec: EmbeddingSpec | undefined, commands: readonly ResourceCommand[]) => {
      const first = commands.find(({ embedding }) => embedding)?.embedding
      for (const [n, { embedding }] of commands.entries())
        if (embedding)
          checkSpec(spec ?? first, embedding, inputs.length === 1 ? 'embedding' : `resources[${n}].embedding`)
    }
    // Before others are computed, and before it waits in line.
    checkSpecs(spec, commands)
    // No lease is held meanwhile: a provider may take long. The tenant's vectors may have got another model since; the plan looks again.
    const embedded = await this.#embed(call, spec, commands)
    const pending = embedded.filter(command => !command.embedding).length
    try {
      const ids = await write(
        this.#context,
        call,
        context => {
          checkSpecs(context.embedding, embedded)
          const ops = embedded.map(command => planResource(command, context.clock))
          return { ops, result: ops.map(op => op.key[0]!) }
        },
        {
          weight: embedded.length,
          textBytes: embedded.reduce((bytes, { content }) => bytes + Buffer.byteLength(content), 0),
          touches: embedded.map(command => ({ kind: 'resource', key: [resourceId(command)] })),
        },
      )
      return pending > 0 ? { ids, pending } : { ids }
    } finally {
      // Also when it stands without being as durable as was asked for.
      if (pending > 0 && call.outcome) this.#context.onPending(call.tenant)
    }
  }

  /** Adds vectors to resources that exist; the others are passed over. */
  async putEmbeddings(call: Session, input: EmbeddingsInput): Promise<{ ids: string[] }> {
    const vectors = input.embeddings.map(({ id, embedding, embedding_model }, n) => ({
      id,
      model: embedding_model ?? this.#context.embedder.model,
      vector: checkEmbedding(embedding, `embeddings[${n}].embedding`),
    }))
    const checkSpecs = (spec: EmbeddingSpec | undefined) => {
      for (const [n, embedding] of vectors.entries())
        checkSpec(spec ?? vectors[0], embedding, `embeddings[${n}].embedding`)
    }
    checkSpecs(undefined)
    return write(
      this.#context,
      call,
      async context => {
        checkSpecs(context.embedding)
        const ops = []
        for (const { id, model, vector } of vectors) {
          if (resourceView(id, await context.read({ kind: 'resource', key: [id] })))
            ops.push(planEmbedding(id, model, vector, context.clock))
        }
        return { ops, result: { ids: ops.map(op => op.key[0]!) } }
      },
      { weight: vectors.length, asOf: undefined },
    )
  }

  async get(call: Session, id: string): Promise<{ resource: ResourceOutput; etag: string }> {
    return read(
      this.#context,
      call,
      async tenant => {
        const record = await tenant.record({ kind: 'resource', key: [id] })
        const resource = resourceView(id, record)
        if (!resource) throw notFound('resource', id)
        const output = toOutput(resource, tenant.embedding)
        // Of vectors of other models than the tenant has here another holder may say something else.
        const isPlain = resource.embeddings.every(model => model === output.embedding_model)
        return { resource: output, etag: etagWith(record!, isPlain ? [] : [String(output.embedding_model)]) }
      },
      () => {
        throw notFound('resource', id)
      },
    )
  }

  /** The vector of a resource, or undefined when it has none yet. */
  async vector(call: Session, id: string): Promise<Float32Array | undefined> {
    return read(
      this.#context,
      call,
      async tenant => {
        const docNo = await tenant.get(keys.docNoById(id))
        const spec = tenant.embedding
        if (!docNo || !spec) return undefined
        const bytes = await tenant.get(keys.vector(spec.model, docNo.readUInt32BE(0)))
        return bytes && vectorOf(bytes)
      },
      () => undefined,
    )
  }

  async delete(call: Session, id: string, ifMatch?: string): Promise<void> {
    await writeExisting(this.#context, call, notFound('resource', id), async context => {
      const record = await context.read({ kind: 'resource', key: [id] })
      if (!resourceView(id, record)) throw notFound('resource', id)
      checkConditions(record, true, { ifMatch }, call.asOf)
      return { ops: [planDelete('resource', id, context.clock)], result: undefined }
    })
  }

  /** Search when there is a query, list when there is none. */
  async query(call: Session, query: ResourcesQuery): Promise<ResourcePage> {
    const { embedding, ...rest } = query
    if (query.query !== undefined && query.query.trim() !== '') return this.search(call, rest)
    if (query.query !== undefined)
      throw new PercolateError('INVALID_ARGUMENT', 'query must not be empty; leave it out to list resources.', {
        field: 'query',
      })
    if (query.mode !== undefined) throw new PercolateError('INVALID_ARGUMENT', 'mode needs a query.', { field: 'mode' })
    return embedding === 'pending' ? this.#listPending(call, query) : this.#list(call, query)
  }

  async search(call: Session, input: SearchInput): Promise<ResourcePage> {
    const limit = input.limit ?? SEARCH_LIMIT_DEFAULT
    const embedding = input.embedding && checkEmbedding(input.embedding, 'embedding')
    const text = input.query?.trim() ?? ''
    if (text === '' && !embedding)
      throw new PercolateError('INVALID_ARGUMENT', 'query or embedding is missing.', { field: 'query' })
    const mode: SearchMode = input.mode ?? (text === '' ? 'vector' : 'hybrid')
    if (text === '' && mode !== 'vector')
      throw new PercolateError('INVALID_ARGUMENT', `mode=${mode} needs a query.`, { field: 'query' })
    const filter = toFilter(input)
    const scope = {
      tenant: call.tenant,
      listing: 'search',
      parameters: [text, input.embedding ?? null, mode, filter ?? null],
    }
    const offset = input.cursor === undefined ? 0 : (decodeCursor(scope, input.cursor, ['offset'])[0] as number)
    if (offset > SEARCH_DEPTH_MAX)
      throw new PercolateError('INVALID_CURSOR', 'cursor is not one that this API gave.', { field: 'cursor' })
    const spec = await read(
      this.#context,
      call,
      async tenant => tenant.embedding,
      () => undefined,
    )
    const isWanted = mode !== 'text' && !embedding && spec?.model === this.#context.embedder.model
    const embedder = await embedAhead(this.#context.embedder, text, isWanted, {
      tenant: call.tenant,
      signal: call.signal,
    })
    return readInTurn(
      this.#context,
      call,
      async tenant => {
        const answer = await search(tenant, embedder, {
          query: text,
          mode,
          filter,
          embedding,
          offset,
          limit,
          signal: call.signal,
        })
        const next = offset + answer.hits.length
        return {
          results: answer.hits.map(({ resource, score, snippet }) =>
            inPlaceOf({ ...toOutput(resource, tenant.embedding), score, snippet }, resource),
          ),
          ...(answer.more && next < SEARCH_DEPTH_MAX ? { cursor: encodeCursor(scope, [next]) } : {}),
          ...(answer.warnings.length > 0 ? { warnings: answer.warnings } : {}),
        }
      },
      () => ({ results: [] }),
    )
  }

  async #list(call: Session, query: ResourcesQuery): Promise<ResourcePage> {
    const limit = query.limit ?? LIST_LIMIT_DEFAULT
    const filter = toFilter(query)
    const scope = { tenant: call.tenant, listing: 'resources', parameters: filter ?? null }
    const position = query.cursor === undefined ? undefined : decodeCursor(scope, query.cursor, ['time', 'string'])
    const readPage = filter !== undefined || limit > LIST_LIMIT_DEFAULT ? readInTurn : read
    return readPage<ResourcePage>(
      this.#context,
      call,
      async tenant => {
        const slicer = new Slicer(() => call.throwIfEnded())
        const allowed = filter ? await candidateIds(tenant, filter, slicer) : undefined
        const range = prefixRange(prefixes.space(space.resourceByTime))
        const gte = position ? keyAfter(keys.resourceByTime(position[0] as number, position[1] as string)) : range.gte
        const results: ResourceOutput[] = []
        let last: Resource | undefined
        const page = new PageBytes()
        for await (const chunk of tenant.chunks({ gte, lt: range.lt, values: false })) {
          call.throwIfEnded()
          const ids = chunk.map(([key]) => new KeyReader(key, 7).text()).filter(id => !allowed || allowed.has(id))
          const step = Math.min(limit + 1, READ_AT_ONCE)
          for (let at = 0; at < ids.length; at += step) {
            call.throwIfEnded()
            for (const resource of await readResources(tenant, ids.slice(at, at + step))) {
              if (slicer.due) await slicer.pause()
              if (filter && !matches(filter, resource)) continue
              const output = toOutput(resource, tenant.embedding)
              if (results.length === limit || !page.take(output)) {
                return { results, cursor: encodeCursor(scope, [last!.updatedAtMs, last!.id]) }
              }
              results.push(output)
              last = resource
            }
          }
        }
        return { results }
      },
      () => ({ results: [] }),
    )
  }

  async #listPending(call: Session, query: ResourcesQuery): Promise<ResourcePage> {
    const limit = query.limit ?? LIST_LIMIT_DEFAULT
    const scope = { tenant: call.tenant, listing: 'pending', parameters: null }
    const position = query.cursor === undefined ? undefined : decodeCursor(scope, query.cursor, ['string'])
    return readByWeight<ResourcePage>(
      this.#context,
      call,
      async (tenant, reading) => {
        const range = prefixRange(prefixes.space(space.embeddingPending))
        const gte = position ? keyAfter(keys.embeddingPending(position[0] as string)) : range.gte
        const ids: string[] = []
        for await (const chunk of tenant.chunks({ gte, lt: range.lt, limit: limit + 1, values: false })) {
          ids.push(...chunk.map(([key]) => new KeyReader(key).text()))
        }
        const results: ResourceOutput[] = []
        const page = new PageBytes()
        const listed = ids.slice(0, limit)
        let n = 0
        for await (const record of eachRecord(
          tenant,
          listed.map(id => ({ kind: 'resource', key: [id] })),
          reading,
        )) {
          const at = n++
          const resource = resourceView(listed[at]!, record)
          if (!resource) continue
          const output = toOutput(resource, tenant.embedding)
          if (!page.take(output)) return { results, cursor: encodeCursor(scope, [ids[at - 1]!]) }
          results.push(output)
        }
        return { results, ...(ids.length > limit ? { cursor: encodeCursor(scope, [ids[limit - 1]!]) } : {}) }
      },
      () => ({ results: [] }),
    )
  }

  /** Fills in embeddings where there are none. When the provider is down they stay out: stored is better than refused. */
  async #embed(
    call: Session,
    spec: EmbeddingSpec | undefined,
    commands: readonly ResourceCommand[],
  ): Promise<ResourceCommand[]> {
    const { embedder, time, logger } = this.#context
    const missing = commands.filter(command => !command.embedding)
    if (missing.length === 0) return [...commands]
    if (spec && spec.model !== embedder.model) {
      throw new PercolateError(
        'EMBEDDING_MODEL_MISMATCH',
        `This tenant's vectors come from "${spec.model}" and the configured model is "${embedder.model}": send an embedding with embedding_model "${spec.model}", or configure that model again.`,
        { field: 'embedding' },
      )
    }
    if (time.monotonic() < this.#providerDownUntilMs) return [...commands]
    try {
      const vectors = await embedder.embed(
        missing.map(({ content, name }) => (name ? `${name}\n${content}` : content)),
        { tenant: call.tenant, signal: call.signal },
      )
      const byCommand = new Map(missing.map((command, n) => [command, vectors[n]!]))
      return commands.map(command => {
        const vector = byCommand.get(command)
        return vector ? { ...command, embedding: { model: embedder.model, vector } } : command
      })
    } catch (error) {
      if (!(error instanceof PercolateError) || error.code !== 'EMBEDDING_UNAVAILABLE') throw error
      this.#providerDownUntilMs = time.monotonic() + PROVIDER_PAUSE_MS
      logger.warn(
        { reason: error.message, resources: missing.length },
        'stored without embeddings; an embed job will add them',
      )
      return [...commands]
    }
  }
}

function toCommand(input: ResourceInput, path: string, configuredModel: string): ResourceCommand {
  const vector = input.embedding && checkEmbedding(input.embedding, `${path}embedding`)
  if (input.embedding_model !== undefined && !vector) {
    throw new PercolateError('INVALID_ARGUMENT', `${path}embedding_model needs an embedding.`, {
      field: `${path}embedding_model`,
    })
  }
  return {
    uri: input.uri === undefined || input.uri === '' ? '' : checkName(input.uri, `${path}uri`, URI_BYTES_MAX),
    ordinal: input.ordinal ?? 0,
    content: checkContent(input.content, `${path}content`),
    name: input.name === undefined || input.name === null ? input.name : checkTitle(input.name, `${path}name`),
    category:
      input.category === undefined || input.category === null
        ? input.category
        : checkName(input.category, `${path}category`, CATEGORY_BYTES_MAX),
    metadata: input.metadata === undefined ? undefined : checkObject(input.metadata, `${path}metadata`),
    embedding: vector && { model: input.embedding_model ?? configuredModel, vector },
  }
}

/** One model and one length a tenant. `spec` is the tenant's, or that of the first vector when it has none yet. */
function checkSpec(
  spec: EmbeddingSpec | { model: string; vector: Float32Array } | undefined,
  embedding: { model: string; vector: Float32Array },
  field: string,
): void {
  if (spec === undefined) return
  if (spec.model !== embedding.model) {
    throw new PercolateError(
      'EMBEDDING_MODEL_MISMATCH',
      `${field} comes from model "${embedding.model}", but this tenant's vectors come from "${spec.model}"; the two cannot be mixed.`,
      { field },
    )
  }
  const dimensions = 'dimensions' in spec ? spec.dimensions : spec.vector.length
  if (embedding.vector.length !== dimensions) {
    throw new PercolateError(
      'EMBEDDING_INVALID',
      `${field} has ${embedding.vector.length} components; vectors of "${spec.model}" have ${dimensions} here.`,
      { field },
    )
  }
}

/** The `category` and `uri` parameters are filters too. */
function toFilter(query: {
  category?: string
  uri?: string
  filter?: string | Record<string, unknown>
}): Filter | undefined {
  const clauses: Filter[] = []
  if (query.category !== undefined) clauses.push({ op: 'eq', field: 'category', value: query.category })
  if (query.uri !== undefined) clauses.push({ op: 'eq', field: 'uri', value: query.uri })
  if (query.filter !== undefined && query.filter !== '') clauses.push(parseFilter(query.filter))
  return clauses.length > 1 ? { op: 'and', clauses } : clauses[0]
}

async function readResources(tenant: Tenant, ids: readonly string[]): Promise<Resource[]> {
  const records = await tenant.records(ids.map(id => ({ kind: 'resource', key: [id] })))
  return records.flatMap((record, n) => resourceView(ids[n]!, record) ?? [])
}

function toOutput(resource: Resource, spec: EmbeddingSpec | undefined): ResourceOutput {
  const stored = spec !== undefined && resource.embeddings.includes(spec.model)
  return {
    id: resource.id,
    uri: resource.uri === '' ? null : resource.uri,
    ordinal: resource.ordinal,
    name: resource.name,
    content: resource.content,
    category: resource.category,
    metadata: resource.metadata as Record<string, unknown>,
    embedding: stored ? 'stored' : 'pending',
    embedding_model: stored ? spec.model : null,
    updated_at: isoTime(resource.updatedAtMs),
  }
}
