import { PercolateClient } from '../client/client.ts'
import type { Embedder } from '../src/embedding/port.ts'
import type { JobRecord } from '../src/jobs/model.ts'
import type { JobProgress } from './progress.ts'

const BATCH = 64

/** Embeds what a tenant stored while the provider was away, until nothing is pending. EMBEDDING_UNAVAILABLE makes the job wait. */
export async function embedPending(
  options: { readonly nodeUrl: string; readonly embedder: Embedder },
  job: JobRecord,
  progress: JobProgress,
): Promise<{ done: number; total: number }> {
  const client = new PercolateClient({ url: options.nodeUrl, tenant: job.tenant })
  const tried = new Set<string>()
  let done = 0
  for (;;) {
    const { results } = await client.listResources({ embedding: 'pending', limit: BATCH })
    const fresh = results.filter(({ id }) => !tried.has(id))
    if (fresh.length === 0) return { done, total: done }
    await progress.report('embed', done, done + fresh.length)
    const vectors = await options.embedder.embed(
      fresh.map(({ name, content }) => (name ? `${name}\n${content}` : content)),
      { tenant: job.tenant, signal: progress.signal },
    )
    const { ids } = await client.putEmbeddings(
      fresh.map(({ id }, n) => ({ id, embedding: Array.from(vectors[n]!), embedding_model: options.embedder.model })),
      { signal: progress.signal },
    )
    for (const { id } of fresh) tried.add(id)
    done += ids.length
  }
}
