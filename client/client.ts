import { setTimeout as sleep } from 'node:timers/promises'
import type {
  ChatInput,
  EmbeddingsInput,
  EntityInput,
  EntityOutput,
  MomentInput,
  MomentOutput,
  ResourceInput,
  ResourceOutput,
  RetractionInput,
  RetractionOutput,
} from '../src/api/schemas.ts'
import { PercolateClientError } from './errors.ts'

export interface ClientOptions {
  /** Base URL of a database node, or of the router in front of nodes. */
  readonly url: string
  readonly tenant: string
  /** Longest wait for one answer. Default: 30 s. */
  readonly timeoutMs?: number
  /** Attempts at most, when the server can't be reached or is busy. Default: 4. */
  readonly attemptsMax?: number
}

export interface CallOptions {
  /** Write with this clock instead of now (`X-Percolate-As-Of`), so that a retry can't overtake what happened meanwhile. */
  readonly asOf?: string | undefined
  /** See what this position has (`X-Percolate-Bookmark`): that of a write, or of a feed that ended with `CHANGES_EXPIRED`. */
  readonly bookmark?: string | undefined
  /** The ETag that an answer gave (or `*`): 412 PRECONDITION_FAILED when the one record has changed since. */
  readonly ifMatch?: string | undefined
  /** `*`: make the one entity only when it is not there, else 412. */
  readonly ifNoneMatch?: '*' | undefined
  readonly signal?: AbortSignal
}

export interface Page<T> {
  readonly results: T[]
  readonly cursor?: string
  readonly warnings?: string[]
}

type Query = Record<string, string | number | undefined>

/** The typed way into a database node for one tenant; workers, the command line and the benchmarks use nothing else. */
export class PercolateClient {
  readonly #options: ClientOptions

  constructor(options: ClientOptions) {
    this.#options = options
  }

  putResources(
    resources: readonly ResourceInput[],
    options?: CallOptions,
  ): Promise<{ ids: string[]; pending?: number }> {
    return this.request('POST', '/api/v1/resources', { body: { resources }, ...options })
  }

  getResource(id: string, options?: CallOptions): Promise<ResourceOutput> {
    return this.request('GET', `/api/v1/resources/${encodeURIComponent(id)}`, options)
  }

  deleteResource(id: string, options?: CallOptions): Promise<void> {
    return this.request('DELETE', `/api/v1/resources/${encodeURIComponent(id)}`, options)
  }

  listResources(query: Query = {}, options?: CallOptions): Promise<Page<ResourceOutput>> {
    return this.request('GET', '/api/v1/resources', { query, ...options })
  }

  search(query: Query & { query: string }, options?: CallOptions): Promise<Page<ResourceOutput>> {
    return this.request('GET', '/api/v1/resources', { query, ...options })
  }

  putEmbeddings(embeddings: EmbeddingsInput['embeddings'], options?: CallOptions): Promise<{ ids: string[] }> {
    return this.request('POST', '/api/v1/resources/embeddings', { body: { embeddings }, ...options })
  }

  putEntities(entities: readonly EntityInput[], options?: CallOptions): Promise<{ ids: string[] }> {
    return this.request('POST', '/api/v1/entities', { body: { entities }, ...options })
  }

  getEntity(id: string, options?: CallOptions): Promise<EntityOutput> {
    return this.request('GET', `/api/v1/entities/${encodeURIComponent(id)}`, options)
  }

  findEntities(query: Query = {}, options?: CallOptions): Promise<Page<EntityOutput>> {
    return this.request('GET', '/api/v1/entities', { query, ...options })
  }

  putMoments(moments: readonly MomentInput[], options?: CallOptions): Promise<{ ids: string[] }> {
    return this.request('POST', '/api/v1/moments', { body: { moments }, ...options })
  }

  listMoments(query: Query = {}, options?: CallOptions): Promise<Page<MomentOutput>> {
    return this.request('GET', '/api/v1/moments', { query, ...options })
  }

  /**
   * Takes back records that were made with the clock `asOf`: later writes stay, and one of that clock which arrives afterwards comes to nothing. `kept`: those that have something earlier, which are
   * left as they are.
   */
  retract(records: RetractionInput, options: CallOptions & { readonly asOf: string }): Promise<RetractionOutput> {
    return this.request('POST', '/api/v1/retractions', { body: records, ...options })
  }

  /** The tenant's holders; `bookmark` is of everything that any of them has. 404: the tenant was never written, or its node replicates nothing. */
  replication(): Promise<{ bookmark: string }> {
    return this.request('GET', '/api/v1/replication')
  }

  chat(input: ChatInput): Promise<{
    model: string
    choices: { message: { content: string } }[]
    citations: { n: number; id: string; document: string | null; page?: number; quote: string }[]
  }> {
    return this.request('POST', '/api/v1/chat', { body: input })
  }

  /**
   * One request, tried again while the server is away or busy. Writes are safe to repeat: ids are derived, registers merge. One with a condition is sent once: when an answer is lost, what was done
   * makes the second attempt fail, as if somebody else had done it. Its caller reads, and decides.
   */
  async request<T>(
    method: string,
    path: string,
    options: { body?: unknown; query?: Query } & CallOptions = {},
  ): Promise<T> {
    const isConditionalWrite = method !== 'GET' && (options.ifMatch ?? options.ifNoneMatch) !== undefined
    const attemptsMax = isConditionalWrite ? 1 : (this.#options.attemptsMax ?? 4)
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#once<T>(method, path, options)
      } catch (error) {
        if (
          !(error instanceof PercolateClientError) ||
          !error.retryable ||
          attempt >= attemptsMax ||
          options.signal?.aborted
        )
          throw error
        await sleep(Math.min(3000, 100 * 3 ** attempt) * (0.5 + Math.random() / 2))
      }
    }
  }

  async #once<T>(method: string, path: string, options: { body?: unknown; query?: Query } & CallOptions): Promise<T> {
    const url = new URL(path, this.#options.url)
    for (const [name, value] of Object.entries(options.query ?? {}))
      if (value !== undefined) url.searchParams.set(name, String(value))
    let response: Response
    let text: string
    // biome-ignore lint/plugin: the client imports nothing of the server; the listener below does what timeoutSignal does
    const timeout = AbortSignal.timeout(this.#options.timeoutMs ?? 30_000)
    // One without a listener of its own is collected as garbage by Node 20, and never fires (https://github.com/nodejs/node/issues/57736).
    timeout.addEventListener('abort', () => {}, { once: true })
    try {
      response = await fetch(url, {
        method,
        headers: {
          'x-tenant-id': this.#options.tenant,
          ...(options.body === undefined ? {} : { 'content-type': 'application/json' }),
          ...(options.asOf === undefined ? {} : { 'x-percolate-as-of': options.asOf }),
          ...(options.bookmark === undefined ? {} : { 'x-percolate-bookmark': options.bookmark }),
          ...(options.ifMatch === undefined ? {} : { 'if-match': options.ifMatch }),
          ...(options.ifNoneMatch === undefined ? {} : { 'if-none-match': options.ifNoneMatch }),
        },
        ...(options.body === undefined ? {} : { body: JSON.stringify(options.body) }),
        signal: options.signal ? AbortSignal.any([timeout, options.signal]) : timeout,
      })
      text = await response.text()
    } catch (cause) {
      throw new PercolateClientError(`${url.origin} does not answer; is Percolate running there?`, {
        code: 'UNREACHABLE',
        retryable: true,
        cause,
      })
    }
    if (response.ok) return (text === '' ? undefined : JSON.parse(text)) as T
    throw problemOf(response.status, text)
  }
}

export function problemOf(status: number, text: string): PercolateClientError {
  let problem: { code?: string; detail?: string; field?: string; cursor?: string; bookmark?: string } = {}
  try {
    problem = JSON.parse(text) as typeof problem
  } catch {
    // A router in front may answer with something else.
  }
  const retryable = status === 503 || status === 502 || status === 504 || status === 429
  const isRouters = problem.code === undefined && retryable
  const message = isRouters
    ? `A router on the way has no answer of a database node (status ${status}); what the request did is not known.`
    : `The server answered with status ${status}.`
  return new PercolateClientError(problem.detail ?? message, {
    code: problem.code ?? (isRouters ? 'UNREACHABLE' : 'UNKNOWN'),
    status,
    field: problem.field,
    cursor: problem.cursor,
    bookmark: problem.bookmark,
    retryable,
  })
}
