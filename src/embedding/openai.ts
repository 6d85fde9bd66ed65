import { createHash } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import { PercolateError } from '../base/errors.ts'
import { DIMENSIONS_MAX } from '../base/limits.ts'
import { retry } from '../base/retry.ts'
import type { Time } from '../base/time.ts'
import { timeoutSignal } from '../base/timeout.ts'
import type { Embedder } from './port.ts'

export interface OpenAiEmbedderOptions {
  readonly time: Time
  /** Base URL, such as `https://api.openai.com/v1`; `/embeddings` is added. */
  readonly url: string
  readonly model: string
  readonly apiKey: string | undefined
  /** Asked of the endpoint when set; else learned from its first answer. */
  readonly dimensions: number | undefined
  readonly timeoutMs: number
  readonly batchMax: number
  readonly attemptsMax: number
  readonly cacheBytesMax: number
}

/** Any endpoint that speaks OpenAI's `POST /v1/embeddings` (https://platform.openai.com/docs/api-reference/embeddings). */
export class OpenAiEmbedder implements Embedder {
  readonly model: string
  readonly noiseFloor = 0
  readonly fusionWeight = 1
  readonly #options: OpenAiEmbedderOptions
  readonly #cache: LRUCache<string, Float32Array>
  #dimensions: number | undefined

  constructor(options: OpenAiEmbedderOptions) {
    this.#options = options
    this.model = `openai:${options.model}`
    this.#dimensions = options.dimensions
    this.#cache = new LRUCache({ maxSize: options.cacheBytesMax, sizeCalculation: vector => vector.byteLength + 64 })
  }

  get dimensions(): number | undefined {
    return this.#dimensions
  }

  async embed(texts: readonly string[], options: { tenant: string; signal?: AbortSignal }): Promise<Float32Array[]> {
    const cacheKeys = texts.map(text => createHash('sha256').update(`${options.tenant}\0${text}`).digest('base64'))
    const vectors = cacheKeys.map(key => this.#cache.get(key))
    const missing = [...vectors.keys()].filter(n => vectors[n] === undefined)
    for (let at = 0; at < missing.length; at += this.#options.batchMax) {
      const part = missing.slice(at, at + this.#options.batchMax)
      const answers = await retry(
        {
          time: this.#options.time,
          attemptsMax: this.#options.attemptsMax,
          delayMs: 200,
          delayMsMax: 5000,
          ...(options.signal ? { signal: options.signal } : {}),
        },
        () =>
          this.#request(
            part.map(n => texts[n]!),
            options.signal,
          ),
      )
      for (const [k, n] of part.entries()) {
        vectors[n] = answers[k]!
        this.#cache.set(cacheKeys[n]!, answers[k]!)
      }
    }
    return vectors as Float32Array[]
  }

  async #request(input: readonly string[], signal: AbortSignal | undefined): Promise<Float32Array[]> {
    const { url, model, apiKey, dimensions, timeoutMs } = this.#options
    let response: Response
    let body: unknown
    try {
      response = await fetch(`${url.replace(/\/+$/, '')}/embeddings`, {
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          ...(apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }),
        },
        body: JSON.stringify({
          model,
          input,
          encoding_format: 'float',
          ...(dimensions === undefined ? {} : { dimensions }),
        }),
        signal: AbortSignal.any([timeoutSignal(timeoutMs), ...(signal ? [signal] : [])]),
      })
      body = response.ok ? await response.json() : await response.arrayBuffer()
    } catch (cause) {
      throw new PercolateError('EMBEDDING_UNAVAILABLE', 'The embedding provider does not answer.', { cause })
    }
    if (!response.ok) {
      const retryAfterS = Number(response.headers.get('retry-after')) || undefined
      throw new PercolateError(
        'EMBEDDING_UNAVAILABLE',
        `The embedding provider answered with status ${response.status}.`,
        retryAfterS ? { retryAfterS } : {},
      )
    }
    return this.#read(body, input.length)
  }

  #read(body: unknown, expected: number): Float32Array[] {
    const bad = (why: string) =>
      new PercolateError('EMBEDDING_UNAVAILABLE', `The embedding provider's answer is unusable: ${why}.`)
    const data = (body as { data?: { index?: number; embedding?: unknown }[] } | null)?.data
    if (!Array.isArray(data) || data.length !== expected)
      throw bad(`it has ${Array.isArray(data) ? data.length : 'no'} embeddings for ${expected} inputs`)
    const vectors = new Array<Float32Array>(expected)
    for (const [position, { index = position, embedding }] of data.entries()) {
      if (!Array.isArray(embedding) || embedding.length === 0 || embedding.length > DIMENSIONS_MAX)
        throw bad('an embedding is not a list of numbers')
      if (!embedding.every(component => typeof component === 'number' && Number.isFinite(component)))
        throw bad('an embedding has a component that is not a number')
      this.#dimensions ??= embedding.length
      if (embedding.length !== this.#dimensions)
        throw bad(`an embedding has ${embedding.length} dimensions instead of ${this.#dimensions}`)
      vectors[index] = Float32Array.from(embedding as number[])
    }
    if (vectors.includes(undefined as never)) throw bad('an index is missing')
    return vectors
  }
}
