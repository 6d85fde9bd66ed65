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
import { normalizeName } from '../src/text/analyze.ts'
import type { Mention } from './extract/entities.ts'
import type { Chunk } from './parse/chunk.ts'
import type { ParserPool } from './parse/pool.ts'
import type { ParsedFile } from './parse/sandbox.ts'
import type { JobProgress } from './progress.ts'

export interface IngestOptions {
  readonly objects: ObjectStore
  readonly nodeUrl: string
  readonly embedder: Embedder
  readonly parsers: ParserPool
  readonly parseLimits: ParseLimits
}

export interface ParseLimits {
  readonly bytesMax: number
  /** Longest time that any document may take. */
  readonly timeoutMs: number
  /** What the smallest may take, and what each MiB adds. */
  readonly timeoutBaseMs: number
  readonly timeoutPerMibMs: number
}

/** What has to be known to take an ingestion back. */
export interface IngestTrace {
  /** Chunks under the document's uri that other jobs (or nobody's) had written before this one began to write. */
  before?: ReadonlySet<string>
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
      timeoutMs: parseTimeoutMs(options.parseLimits, file.bytes, job.attempts),
      timeoutSettings: parseTimeoutSettings(options.parseLimits, file.bytes),
      signal: progress.signal,
    })
  } finally {
    await sandbox.close()
  }
  trace.before = new Set((await chunksOf(client, job)).filter(({ own }) => !own).map(({ id }) => id))
  const ids = await writeChunks(options, client, job, parsed, progress)
  if (job.replaces) await removeOldChunks(client, job, new Set(ids), progress)
  await writeEntities(client, job, parsed, ids, progress)
  await writeMoment(client, job, parsed, ids)
  return { done: ids.length, total: ids.length }
}

/**
 * Takes back what a job that failed for good (or was cancelled) has written: a document is in as a whole or not at all. Chunks that were there
 * before stay.
 */
export async function undoIngest(
  options: { readonly nodeUrl: string },
  job: JobRecord,
  { before }: IngestTrace,
): Promise<void> {
  if (!before) return
  const client = new PercolateClient({ url: options.nodeUrl, tenant: job.tenant })
  for (const { id, own } of await chunksOf(client, job)) {
    if (own && !before.has(id)) await deleted(client.deleteResource(id))
  }
  if (before.size === 0)
    await deleted(client.request('DELETE', `/api/v1/entities/${encodeURIComponent(documentEntityId(job.uri!))}`))
}

async function deleted(deleting: Promise<void>): Promise<void> {
  await deleting.catch(error => {
    if (!(error instanceof PercolateClientError) || error.code !== 'NOT_FOUND') throw error
  })
}

/** The chunks under the job's uri; `own`: this job wrote them last. */
async function chunksOf(client: PercolateClient, job: JobRecord): Promise<{ id: string; own: boolean }[]> {
  const chunks: { id: string; own: boolean }[] = []
  let cursor: string | undefined
  do {
    const page = await client.listResources({ uri: job.uri, limit: 500, cursor })
    chunks.push(...page.results.map(({ id, metadata }) => ({ id, own: metadata?.job_id === job.job_id })))
    cursor = page.cursor
  } while (cursor !== undefined)
  return chunks
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

async function writeChunks(
  options: IngestOptions,
  client: PercolateClient,
  job: JobRecord,
  parsed: ParsedFile,
  progress: JobProgress,
): Promise<string[]> {
  const ids: string[] = []
  const total = parsed.chunks.length
  for (let at = 0; at < total; at += BATCH_CHUNKS) {
    await progress.report(at === 0 ? 'embed' : 'write', at, total)
    const resources = parsed.chunks.slice(at, at + BATCH_CHUNKS).map(chunk => toResource(job, parsed, chunk))
    const embedded = await embed(options.embedder, job, resources, progress.signal)
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

function toResource(job: JobRecord, parsed: ParsedFile, chunk: Chunk): ResourceInput {
  const file = job.file!
  const heading = chunk.headings.join(' › ')
  return {
    uri: job.uri!,
    ordinal: chunk.ordinal,
    content: chunk.content,
    name: cleanLine([parsed.title ?? file.name, heading].filter(Boolean).join(' › '), NAME_BYTES_MAX),
    ...(job.category === undefined ? {} : { category: job.category }),
    metadata: {
      ...job.metadata,
      document: file.name,
      type: parsed.type,
      job_id: job.job_id,
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
  for (const { id } of await chunksOf(client, job)) {
    if (!kept.has(id)) await deleted(client.deleteResource(id, { asOf: job.clock, signal: progress.signal }))
  }
}

export const documentEntityId = (uri: string): string => `document:${derivedId(uri)}`
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
  progress: JobProgress,
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
    properties: { uri: job.uri!, bytes: file.bytes, format: parsed.type, chunks: ids.length },
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
        id: `ingest:${job.job_id}`,
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
