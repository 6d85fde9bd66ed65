import { setTimeout as sleep } from 'node:timers/promises'
import { ask } from './ask.ts'

export interface Document {
  readonly name: string
  readonly content: string | Uint8Array<ArrayBuffer>
}
export interface JobState {
  readonly job_id: string
  readonly status: string
  readonly done: number
  readonly total: number
  readonly uri: string
}

const POLL_MS = 200
const RETRY_MS = 300
const UPLOAD_MS_MAX = 30_000

/** Texts long enough that parsing and storing one takes a while. */
export function documents(count: number, paragraphs = 80): Document[] {
  return Array.from({ length: count }, (_, n) => ({
    name: `document-${n}.txt`,
    content: Array.from({ length: paragraphs }, (_, p) =>
      `Paragraph ${p} of document ${n} is about matter ${n * paragraphs + p}, and says little more than that. `.repeat(
        5,
      ),
    ).join('\n\n'),
  }))
}

/** Uploads through the gateway, again when it is busy; the job's id. */
export async function upload(gateway: string, tenant: string, { name, content }: Document): Promise<string> {
  const form = new FormData()
  form.append('uri', `test:${name}`)
  form.append('file', new Blob([content]), name)
  for (const until = Date.now() + UPLOAD_MS_MAX; ; await sleep(RETRY_MS)) {
    const answer = await fetch(`${gateway}/upload`, { method: 'POST', headers: { 'x-tenant-id': tenant }, body: form })
    const body = (await answer.json()) as { job_id?: string; code?: string }
    if (answer.status === 202 && body.job_id) return body.job_id
    if (answer.status < 500 && answer.status !== 429)
      throw new Error(`the upload of ${name} was refused: ${answer.status} ${body.code}`)
    if (Date.now() > until) throw new Error(`the gateway does not take ${name}: ${answer.status} ${body.code}`)
  }
}

/** Polls until every job has ended, one way or another. */
export async function waitForJobs(
  gateway: string,
  tenant: string,
  ids: readonly string[],
  msMax: number,
  onProgress: (ended: number) => void = () => {},
): Promise<JobState[]> {
  const ended = new Map<string, JobState>()
  for (const until = Date.now() + msMax; ; await sleep(POLL_MS)) {
    for (const id of ids) {
      if (ended.has(id)) continue
      const { status, body } = await ask(`${gateway}/jobs/${id}`, 'GET', { 'x-tenant-id': tenant })
      if (status === 200 && !['queued', 'running'].includes(body.status)) ended.set(id, body)
    }
    onProgress(ended.size)
    if (ended.size === ids.length) return ids.map(id => ended.get(id)!)
    if (Date.now() > until) throw new Error(`${ids.length - ended.size} of ${ids.length} jobs have not ended in time`)
  }
}
