import { PercolateError } from '../base/errors.ts'
import type { Embedder } from './port.ts'

/**
 * An embedder whose answer is there already: a provider is asked while nobody's tenant is open, and what is done with the tenant afterwards waits for nobody. A provider that failed fails where the
 * vector is asked for, so that a search that can do without goes on. `isWanted`: the tenant has vectors of this model.
 */
export async function embedAhead(
  embedder: Embedder,
  text: string,
  isWanted: boolean,
  options: Parameters<Embedder['embed']>[1],
): Promise<Embedder> {
  let vectors: Float32Array[] | undefined
  let failure: unknown = new PercolateError('EMBEDDING_UNAVAILABLE', 'The first vectors came a moment ago; ask again.')
  if (isWanted) {
    try {
      vectors = await embedder.embed([text], options)
    } catch (error) {
      failure = error
    }
  }
  const { model, noiseFloor, fusionWeight, dimensions } = embedder
  return {
    model,
    noiseFloor,
    fusionWeight,
    dimensions,
    embed: async () => {
      if (vectors) return vectors
      throw failure
    },
  }
}
