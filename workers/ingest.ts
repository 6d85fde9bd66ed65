import { createWriteStream } from 'node:fs'
import { pipeline } from 'node:stream/promises'
import { PercolateClient } from '../client/client.ts'
import { PercolateClientError } from '../client/errors.ts'
import type { EntityInput, ResourceInput } from '../src/api/schemas.ts'
import { cleanLine } from '../src/base/clean-text.ts'
import { PercolateError } from '../src/base/errors.ts'
import { derivedId } from '../src/base/ids.ts'
import { ID_BYTES_MAX, NAME_BYTES_MAX } from '../src/base/limits.ts'
import { parseClock } from '../src/clock/hlc.ts'
import type { Embedder } from '../src/embedding/port.ts'
import type { JobRecord, UploadedFile } from '../src/jobs/model.ts'
import type { ObjectStore } from '../src/objects/port.ts'
import { resourceId } from '../src/rem/plan.ts'
import { normalizeName } from '../src/text/analyze.ts'
import type { Mention } from './extract/entities.ts'
import { documentEntityId, momentId } from './ids.ts'
import type { Chunk } from './parse/chunk.ts'
import type { ParserPool } from './parse/pool.ts'
import type { ParsedFile } from './parse/sandbox.ts'
import type { JobProgress } from './progress.ts'
import { chunksOf, entityOwner, everything, type IngestTrace } from './take-back.ts'

export interface IngestOptions {
  readonly objects: ObjectStore
  readonly nodeUrl: string
  readonly embedder: Embedder
  readonly parsers: ParserPool
  readonly parseLimits: ParseLimits
}

export interface ParseLimits {
  readonly bytesMax: number
  /** Longest time of a processor that any document may take. */
  readonly timeoutMs: number
  /** What the smallest may take, and what each MiB adds. */
  readonly timeoutBaseMs: number
  readonly timeoutPerMibMs: number
}

/** A small document has a small part of the time; one that took its worker down before has half of that. */
export function parseTimeoutMs(limits: ParseLimits, bytes: number, attempt: number): number {
  const bySize = limits.timeoutBaseMs + limits.timeoutPerMibMs * (bytes / 1024 / 1024)
  return Math.round(Math.min(limits.timeoutMs, bySize) / (attempt > 1 ? 2 : 1))
}

/** The settings that {@link parseTimeoutMs} was reached by, as an operator sets them. */
export function parseTimeoutSettings(limits: ParseLimits, bytes: number): string {
  const bySize = parseTimeoutMs({ ...limits, timeoutMs: Number.POSITIVE_INFINITY }, bytes, 1)
  return bySize < limits.timeoutMs
    ? 'PERCOLATE_PARSE_TIMEOUT_BASE_MS and PERCOLATE_PARSE_TIMEOUT_PER_MIB_MS'
    : 'PERCOLATE_PARSE_TIMEOUT_MS'
}

const BATCH_CHUNKS = 64
const BATCH_ENTITIES = 100
const MENTIONING_CHUNKS_SHOWN = 20
const HEADING_BYTES_MAX = 400

/**
 * The way of an uploaded document: download, parse and chunk in the sandbox, embed, write chunks, entities and a moment through the API. Ids are
 * derived and everything carries the upload's clock, so doing it again changes nothing and brings nothing back that was deleted meanwhile.
 */
export async function ingest(
  options: IngestOptions,
  job: JobRecord,
  progress: JobProgress,
  trace: IngestTrace,
): Promise<{ done: number; total: number }> {
  const file = job.file!
  const { bytesMax } = options.parseLimits
  if (file.bytes > bytesMax) {
    throw new PercolateError(
      'DOCUMENT_TOO_COSTLY',
      `${file.name} has ${file.bytes} bytes; at most ${bytesMax} are parsed (PERCOLATE_PARSE_BYTES_MAX).`,
    )
  }
  const client = new PercolateClient({ url: options.nodeUrl, tenant: job.tenant })
  const sandbox = options.parsers.take()
  let parsed: ParsedFile
  try {
    await progress.report('download', 0, 0)
    await download(options.objects, file, sandbox.path, progress.signal)
    await progress.report('parse', 0, 0)
    parsed = await sandbox.parse({
      name: file.name,
      contentType: file.contentType,
      timeoutMs: parseTimeoutMs(options.parseLimits, file.bytes, job.error ? 1 : job.attempts),
      timeoutSettings: parseTimeoutSettings(options.parseLimits, file.bytes),
      signal: progress.signal,
    })
  } finally {
    await sandbox.close()
  }
  const standing = await readStanding(client, job)
  const ids = await writeChunks(options, client, job, parsed, standing, progress, trace)
  await writeEntities(client, job, parsed, ids, standing, progress, trace)
  trace.hasMoment = true
  await writeMoment(client, job, parsed, ids)
  if (job.replaces) {
    // From here on it stands: an earlier version that is gone in part cannot be had back.
    await progress.settle()
    await removeOldChunks(client, job, new Set(ids), progress)
    await removeOldMentions(client, job, new Set(parsed.mentions.map(mentionEntityId)), progress)
  }
  return { done: ids.length, total: ids.length }
}

async function deleted(deleting: Promise<void>): Promise<void> {
  await deleting.catch(error => {
    if (!(error instanceof PercolateClientError) || error.code !== 'NOT_FOUND') throw error
  })
}

async function download(objects: ObjectStore, file: UploadedFile, path: string, signal: AbortSignal): Promise<void> {
  const { body } = await objects.get(file.objectKey, { signal })
  try {
    await pipeline(body, createWriteStream(path, { mode: 0o600 }), { signal })
  } catch (cause) {
    if (signal.aborted) throw signal.reason
    throw new PercolateError('OBJECT_STORE_UNAVAILABLE', 'The download of the document broke off.', { cause })
  }
}

/** What others have under the document's uri before this job writes: it keeps their names, so that it is not taken back with what the job brought, however often the job begins anew. */
interface Standing {
  /** By chunk, who brought it; undefined: no job did. */
  readonly chunks: ReadonlyMap<string, string | undefined>
  /** Who made the document's entity, when it is not this job's; null: no job did; undefined: it is this job's to make. */
  readonly entityOwner: string | null | undefined
}

async function readStanding(client: PercolateClient, job: JobRecord): Promise<Standing> {
  const bookmark = await everything(client)
  const chunks = (await chunksOf(client, job, bookmark)).filter(({ owner }) => owner !== job.job_id)
  const owner = await entityOwner(client, job, bookmark)
  return {
    chunks: new Map(chunks.map(({ id, owner }) => [id, owner])),
    entityOwner: owner === job.job_id ? undefined : owner,
  }
}

async function writeChunks(
  options: IngestOptions,
  client: PercolateClient,
  job: JobRecord,
  parsed: ParsedFile,
  standing: Standing,
  progress: JobProgress,
  trace: IngestTrace,
): Promise<string[]> {
  const ids: string[] = []
  const total = parsed.chunks.length
  for (let at = 0; at < total; at += BATCH_CHUNKS) {
    await progress.report(at === 0 ? 'embed' : 'write', at, total)
    const resources = parsed.chunks.slice(at, at + BATCH_CHUNKS).map(chunk => toResource(job, parsed, chunk, standing))
    const embedded = await embed(options.embedder, job, resources, progress.signal)
    for (const id of resources.map(idOf)) if (!standing.chunks.has(id)) trace.chunks.add(id)
    const written = await client.putResources(embedded, { asOf: job.clock, signal: progress.signal })
    ids.push(...written.ids)
  }
  await progress.report('write', total, total)
  return ids
}

/** Without a provider chunks are stored all the same; the node queues an `embed` job for them. */
async function embed(
  embedder: Embedder,
  job: JobRecord,
  resources: readonly ResourceInput[],
  signal: AbortSignal,
): Promise<ResourceInput[]> {
  try {
    const vectors = await embedder.embed(
      resources.map(({ name, content }) => (name ? `${name}\n${content}` : content)),
      { tenant: job.tenant, signal },
    )
    return resources.map((resource, n) => ({
      ...resource,
      embedding: Array.from(vectors[n]!),
      embedding_model: embedder.model,
    }))
  } catch (error) {
    if (error instanceof PercolateError && error.code === 'EMBEDDING_UNAVAILABLE') return [...resources]
    throw error
  }
}

const idOf = ({ uri, ordinal, content }: ResourceInput): string =>
  resourceId({ uri: uri ?? '', ordinal: ordinal ?? 0, content })

function toResource(job: JobRecord, parsed: ParsedFile, chunk: Chunk, { chunks }: Standing): ResourceInput {
  const file = job.file!
  const id = resourceId({ uri: job.uri!, ordinal: chunk.ordinal, content: chunk.content })
  const owner = chunks.has(id) ? chunks.get(id) : job.job_id
  const { job_id: _none, ...metadata } = job.metadata ?? {}
  const heading = chunk.headings.join(' › ')
  return {
    uri: job.uri!,
    ordinal: chunk.ordinal,
    content: chunk.content,
    name: cleanLine([parsed.title ?? file.name, heading].filter(Boolean).join(' › '), NAME_BYTES_MAX),
    ...(job.category === undefined ? {} : { category: job.category }),
    metadata: {
      ...metadata,
      document: file.name,
      type: parsed.type,
      ...(owner === undefined ? {} : { job_id: owner }),
      ...(parsed.title ? { title: parsed.title } : {}),
      ...(heading === '' ? {} : { heading: cleanLine(heading, HEADING_BYTES_MAX) }),
      ...(chunk.place.page === undefined ? {} : { page: chunk.place.page }),
      ...(chunk.place.sheet === undefined ? {} : { sheet: chunk.place.sheet }),
      ...(chunk.rows === undefined ? {} : { first_row: chunk.rows[0], last_row: chunk.rows[1] }),
    },
  }
}

/** This version of the document takes the place of the one before: its chunks go, unless they were written after this upload. */
async function removeOldChunks(
  client: PercolateClient,
  job: JobRecord,
  kept: ReadonlySet<string>,
  progress: JobProgress,
): Promise<void> {
  for (const { id } of await chunksOf(client, job, await everything(client))) {
    if (!kept.has(id)) await deleted(client.deleteResource(id, { asOf: job.clock, signal: progress.signal }))
  }
}

/** Nor does it mention what only an earlier version did: those edges go, unless they were written after this upload. */
async function removeOldMentions(
  client: PercolateClient,
  job: JobRecord,
  kept: ReadonlySet<string>,
  progress: JobProgress,
): Promise<void> {
  const id = documentEntityId(job.uri!)
  const options = { asOf: job.clock, signal: progress.signal }
  // An entity lists so many edges at once; what was removed makes room for the rest.
  for (const seen = new Set<string>(); ; ) {
    const { edges } = await client.getEntity(id, { bookmark: await everything(client) }).catch(nothingThere)
    const old = edges
      .filter(({ type, to }) => type === 'mentions' && !kept.has(to) && !seen.has(to))
      // Only those that a job made say where.
      .filter(({ properties }) => Array.isArray(properties.resources))
      .map(({ to }) => to)
    if (old.length === 0) return
    for (const to of old) seen.add(to)
    for (let at = 0; at < old.length; at += BATCH_ENTITIES) {
      const gone = old.slice(at, at + BATCH_ENTITIES).map(to => ({ type: 'mentions', to, remove: true }))
      await client.putEntities([{ id, edges: gone }], options)
    }
  }
}

function nothingThere(error: unknown): { edges: [] } {
  if (error instanceof PercolateClientError && error.code === 'NOT_FOUND') return { edges: [] }
  throw error
}

export function mentionEntityId({ type, name }: Pick<Mention, 'type' | 'name'>): string {
  const key = type === 'email' || type === 'url' ? name : normalizeName(name).replaceAll(' ', '-')
  const id = cleanLine(`${type}:${key.slice(0, 200)}`, Number.MAX_SAFE_INTEGER)
  // What is too long to be an id is told apart by its hash.
  return Buffer.byteLength(id) <= ID_BYTES_MAX ? id : `${type}:${derivedId(key)}`
}

/** The document as an entity, with an edge to each entity that it mentions, as heavy as it mentions it often. */
async function writeEntities(
  client: PercolateClient,
  job: JobRecord,
  parsed: ParsedFile,
  ids: readonly string[],
  { entityOwner: owner }: Standing,
  progress: JobProgress,
  trace: IngestTrace,
): Promise<void> {
  const file = job.file!
  const entities: EntityInput[] = parsed.mentions.map(mention => ({
    id: mentionEntityId(mention),
    type: mention.type,
    name: cleanLine(mention.name, NAME_BYTES_MAX),
  }))
  const idOfOrdinal = new Map(parsed.chunks.map(({ ordinal }, n) => [ordinal, ids[n]!]))
  entities.push({
    id: documentEntityId(job.uri!),
    type: 'document',
    name: file.name,
    ...(parsed.title && parsed.title !== file.name ? { aliases: [cleanLine(parsed.title, NAME_BYTES_MAX)] } : {}),
    properties: {
      uri: job.uri!,
      bytes: file.bytes,
      format: parsed.type,
      chunks: ids.length,
      ...(owner === undefined ? { job_id: job.job_id } : {}),
    },
    edges: parsed.mentions.map(mention => ({
      type: 'mentions',
      to: mentionEntityId(mention),
      weight: mention.chunks.length,
      properties: {
        resources: [...new Set(mention.chunks)]
          .slice(0, MENTIONING_CHUNKS_SHOWN)
          .map(ordinal => idOfOrdinal.get(ordinal)!),
      },
    })),
  })
  if (owner === undefined) trace.hasEntity = true
  for (let at = 0; at < entities.length; at += BATCH_ENTITIES) {
    await client.putEntities(entities.slice(at, at + BATCH_ENTITIES), { asOf: job.clock, signal: progress.signal })
  }
}

async function writeMoment(
  client: PercolateClient,
  job: JobRecord,
  parsed: ParsedFile,
  ids: readonly string[],
): Promise<void> {
  const file = job.file!
  await client.putMoments(
    [
      {
        id: momentId(job),
        time: parseClock(job.clock)?.wall ?? Date.parse(job.created_at),
        type: 'ingestion',
        name: cleanLine(`Ingested ${file.name}`, NAME_BYTES_MAX),
        content: `${file.name}: ${ids.length} chunks, ${parsed.mentions.length} entities.`,
        resources: ids.slice(0, 100),
        entities: [documentEntityId(job.uri!)],
        metadata: { job_id: job.job_id, uri: job.uri!, bytes: file.bytes, format: parsed.type },
      },
    ],
    { asOf: job.clock },
  )
}
