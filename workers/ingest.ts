import { createWriteStream } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { PercolateClient } from '../client/client.ts'
import { PercolateClientError } from '../client/errors.ts'
import type { EntityInput, ResourceInput } from '../src/api/schemas.ts'
import { PercolateError } from '../src/base/errors.ts'
import { derivedId } from '../src/base/ids.ts'
import { parseClock } from '../src/clock/hlc.ts'
import type { Embedder } from '../src/embedding/port.ts'
import type { JobRecord, UploadedFile } from '../src/jobs/model.ts'
import type { ObjectStore } from '../src/objects/port.ts'
import { normalizeName } from '../src/text/analyze.ts'
import type { Mention } from './extract/entities.ts'
import type { Chunk } from './parse/chunk.ts'
import { type ParsedFile, parseInSandbox, type SandboxOptions } from './parse/sandbox.ts'
import type { JobProgress } from './progress.ts'

export interface IngestOptions {
  readonly objects: ObjectStore
  readonly nodeUrl: string
  readonly embedder: Embedder
  readonly sandbox: SandboxOptions
}

const BATCH_CHUNKS = 64
const BATCH_ENTITIES = 100
const MENTIONING_CHUNKS_SHOWN = 20

/**
 * The way of an uploaded document: download, parse and chunk in the sandbox, embed, write chunks, entities and a moment through the API. Ids are
 * derived and everything carries the upload's clock, so doing it again changes nothing and brings nothing back that was deleted meanwhile.
 */
export async function ingest(
  options: IngestOptions,
  job: JobRecord,
  progress: JobProgress,
): Promise<{ done: number; total: number }> {
  const file = job.file!
  if (file.bytes > options.sandbox.parseBytesMax) {
    throw new PercolateError(
      'DOCUMENT_TOO_COSTLY',
      `${file.name} has ${file.bytes} bytes; at most ${options.sandbox.parseBytesMax} are parsed (PERCOLATE_PARSE_BYTES_MAX).`,
    )
  }
  const client = new PercolateClient({ url: options.nodeUrl, tenant: job.tenant })
  const folder = await mkdtemp(join(tmpdir(), 'percolate-'))
  try {
    await progress.report('download', 0, 0)
    const path = join(folder, 'document')
    await download(options.objects, file, path, progress.signal)
    await progress.report('parse', 0, 0)
    const parsed = await parseInSandbox(
      path,
      { name: file.name, contentType: file.contentType },
      options.sandbox,
      progress.signal,
    )
    const ids = await writeChunks(options, client, job, parsed, progress)
    if (job.replaces) await removeOldChunks(client, job, new Set(ids), progress)
    await writeEntities(client, job, parsed, ids, progress)
    await writeMoment(client, job, parsed, ids)
    return { done: ids.length, total: ids.length }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
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
    name: clip([parsed.title ?? file.name, heading].filter(Boolean).join(' › '), 500),
    ...(job.category === undefined ? {} : { category: job.category }),
    metadata: {
      ...job.metadata,
      document: file.name,
      type: parsed.type,
      job_id: job.job_id,
      ...(parsed.title ? { title: parsed.title } : {}),
      ...(heading === '' ? {} : { heading: clip(heading, 200) }),
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
  let cursor: string | undefined
  const old: string[] = []
  do {
    const page = await client.listResources({ uri: job.uri, limit: 500, cursor })
    old.push(...page.results.filter(({ id }) => !kept.has(id)).map(({ id }) => id))
    cursor = page.cursor
  } while (cursor !== undefined)
  for (const id of old) {
    await client.deleteResource(id, { asOf: job.clock, signal: progress.signal }).catch(error => {
      if (!(error instanceof PercolateClientError) || error.code !== 'NOT_FOUND') throw error
    })
  }
}

export const documentEntityId = (uri: string): string => `document:${derivedId(uri)}`
export const mentionEntityId = ({ type, name }: Pick<Mention, 'type' | 'name'>): string =>
  `${type}:${(type === 'email' || type === 'url' ? name : normalizeName(name).replaceAll(' ', '-')).slice(0, 200)}`

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
    name: mention.name,
  }))
  const idOfOrdinal = new Map(parsed.chunks.map(({ ordinal }, n) => [ordinal, ids[n]!]))
  entities.push({
    id: documentEntityId(job.uri!),
    type: 'document',
    name: file.name,
    ...(parsed.title && parsed.title !== file.name ? { aliases: [clip(parsed.title, 300)] } : {}),
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
        name: `Ingested ${file.name}`,
        content: `${file.name}: ${ids.length} chunks, ${parsed.mentions.length} entities.`,
        resources: ids.slice(0, 100),
        entities: [documentEntityId(job.uri!)],
        metadata: { job_id: job.job_id, uri: job.uri!, bytes: file.bytes, format: parsed.type },
      },
    ],
    { asOf: job.clock },
  )
}

const clip = (text: string, max: number): string => (text.length <= max ? text : text.slice(0, max)).toWellFormed()
