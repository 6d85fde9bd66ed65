import { PercolateClient } from '../client/client.ts'
import { PercolateClientError } from '../client/errors.ts'
import type { RetractionInput } from '../src/api/schemas.ts'
import { parseClock } from '../src/clock/hlc.ts'
import type { JobRecord } from '../src/jobs/model.ts'
import { documentEntityId, momentId } from './ids.ts'

/** What one attempt at a job has sent to the node, answered or not. */
export interface IngestTrace {
  /** Chunks that nobody else had written before. */
  readonly chunks: Set<string>
  /** The document's entity, which was not there before. */
  hasEntity: boolean
  hasMoment: boolean
}

export const newTrace = (): IngestTrace => ({ chunks: new Set(), hasEntity: false, hasMoment: false })

/** Records of one request. */
const BATCH = 500

/**
 * Takes back what a job has written: its chunks, the document's entity with its edges, the moment. It is deleted with the clock that the job writes with: what others wrote to the same records later
 * stays, also what no listing shows as yet, and a write of the job that is still on its way comes to nothing. What others had written before the job is not in the trace, and does not carry the
 * job's name. What has something from before the job all the same stays, with what the job set on it. Answers when a listing that knows of everything any holder has shows nothing else of the job.
 */
export async function takeBack(
  options: { readonly nodeUrl: string },
  job: JobRecord,
  trace: IngestTrace,
): Promise<void> {
  const client = new PercolateClient({ url: options.nodeUrl, tenant: job.tenant })
  const taken = new Set<string>()
  let left = new Set(trace.chunks)
  for (let isFirst = true; ; isFirst = false) {
    const bookmark = await everything(client)
    for (const { id, owner } of await chunksOf(client, job, bookmark))
      if (owner === job.job_id && !taken.has(id)) left.add(id)
    if (isFirst) {
      const entities =
        trace.hasEntity || (await entityOwner(client, job, bookmark)) === job.job_id ? [documentEntityId(job.uri!)] : []
      const moments = trace.hasMoment || (await hasMoment(client, job, bookmark)) ? [momentId(job)] : []
      if (entities.length + moments.length > 0) await retract(client, job, { entities, moments }, bookmark)
    } else if (left.size === 0) return
    const ids = [...left]
    for (let at = 0; at < ids.length; at += BATCH)
      await retract(client, job, { resources: ids.slice(at, at + BATCH) }, bookmark)
    for (const id of ids) taken.add(id)
    left = new Set()
  }
}

/** Retracts, and deletes of what is kept that which an earlier run of the same job wrote and none since: a job that is done over takes that for its own. */
async function retract(
  client: PercolateClient,
  job: JobRecord,
  records: RetractionInput,
  bookmark: string | undefined,
): Promise<void> {
  const { kept = [] } = await client.retract(records, { asOf: job.clock })
  const beganAtMs = parseClock(job.clock)?.wall ?? 0
  for (const { kind, id } of kept) {
    const path = `/api/v1/${kind === 'entity' ? 'entities' : `${kind}s`}/${encodeURIComponent(id)}`
    try {
      const record = await client.request<StandingRecord>('GET', path, { bookmark })
      const owner = nameOf((record.metadata ?? record.properties)?.job_id)
      if (owner === job.job_id && Date.parse(record.updated_at ?? record.time ?? '') < beganAtMs)
        await client.request('DELETE', path, { asOf: job.clock })
    } catch (error) {
      if (!(error instanceof PercolateClientError) || error.code !== 'NOT_FOUND') throw error
    }
  }
}

interface StandingRecord {
  readonly updated_at?: string
  /** Of a moment, which has no other: when the job began that wrote it. */
  readonly time?: string
  readonly metadata?: Readonly<Record<string, unknown>>
  readonly properties?: Readonly<Record<string, unknown>>
}

/**
 * What stands of a job that is too old to be taken back, in words for its record; undefined: nothing. Nothing of it can arrive any more: nodes refuse writes of that time.
 * It is not deleted as of now: that would hide what others write to the same records meanwhile, at whichever holder.
 */
export async function describeStanding(
  options: { readonly nodeUrl: string },
  job: JobRecord,
): Promise<string | undefined> {
  const client = new PercolateClient({ url: options.nodeUrl, tenant: job.tenant })
  const bookmark = await everything(client)
  const chunks = (await chunksOf(client, job, bookmark)).filter(({ owner }) => owner === job.job_id).length
  const parts = [
    ...(chunks > 0 ? [`${chunks} resources with metadata.job_id "${job.job_id}" under the uri ${job.uri}`] : []),
    ...((await entityOwner(client, job, bookmark)) === job.job_id ? [`the entity ${documentEntityId(job.uri!)}`] : []),
    ...((await hasMoment(client, job, bookmark)) ? [`the moment ${momentId(job)}`] : []),
  ]
  if (parts.length === 0) return undefined
  return `${parts.join(', ')} that the job wrote are still there: it is so old that deletes of its time are forgotten (PERCOLATE_TOMBSTONE_MS), so they could not be taken back. Delete them, or retry the job to have all of the document.`
}

/** A bookmark of all that any holder has; undefined when the tenant is on one node only, or not written as yet. */
export async function everything(client: PercolateClient): Promise<string | undefined> {
  try {
    return (await client.replication()).bookmark
  } catch (error) {
    if (error instanceof PercolateClientError && error.status === 404) return undefined
    throw error
  }
}

export interface StandingChunk {
  readonly id: string
  /** The job that brought it; undefined: none did. */
  readonly owner: string | undefined
}

/** The chunks under the job's uri. */
export async function chunksOf(
  client: PercolateClient,
  job: JobRecord,
  bookmark: string | undefined,
): Promise<StandingChunk[]> {
  const chunks: StandingChunk[] = []
  let cursor: string | undefined
  do {
    const page = await client.listResources({ uri: job.uri, limit: 500, cursor }, { bookmark })
    chunks.push(...page.results.map(({ id, metadata }) => ({ id, owner: nameOf(metadata?.job_id) })))
    cursor = page.cursor
  } while (cursor !== undefined)
  return chunks
}

/** The job that made the document's entity; null: it is there, and no job made it; undefined: it is not there. */
export async function entityOwner(
  client: PercolateClient,
  job: JobRecord,
  bookmark: string | undefined,
): Promise<string | null | undefined> {
  try {
    const { properties } = await client.getEntity(documentEntityId(job.uri!), { bookmark })
    return nameOf(properties.job_id) ?? null
  } catch (error) {
    if (error instanceof PercolateClientError && error.code === 'NOT_FOUND') return undefined
    throw error
  }
}

async function hasMoment(client: PercolateClient, job: JobRecord, bookmark: string | undefined): Promise<boolean> {
  try {
    await client.request('GET', `/api/v1/moments/${encodeURIComponent(momentId(job))}`, { bookmark })
    return true
  } catch (error) {
    if (error instanceof PercolateClientError && error.code === 'NOT_FOUND') return false
    throw error
  }
}

const nameOf = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined)
