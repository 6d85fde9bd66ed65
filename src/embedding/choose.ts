import type { Time } from '../base/time.ts'
import type { Config } from '../config/settings.ts'
import { HashingEmbedder } from './hashing.ts'
import { OpenAiEmbedder } from './openai.ts'
import type { Embedder } from './port.ts'

const BATCH_MAX = 64

/** The embedder that the settings ask for. `attemptsMax`: 1 where a job can catch up, more where it is the job. */
export function chooseEmbedder(config: Config, time: Time, attemptsMax: number): Embedder {
  if (config.embeddingUrl === undefined) return new HashingEmbedder()
  return new OpenAiEmbedder({
    time,
    url: config.embeddingUrl,
    model: config.embeddingModel!,
    apiKey: config.embeddingApiKey,
    dimensions: config.embeddingDimensions,
    timeoutMs: config.embeddingTimeoutMs,
    batchMax: BATCH_MAX,
    attemptsMax,
    cacheBytesMax: config.embeddingCacheBytes,
  })
}
