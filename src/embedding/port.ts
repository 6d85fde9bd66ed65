/** Turns texts into vectors. Adapters: `hashing.ts` (built in, no network) and `openai.ts` (any OpenAI-compatible endpoint). */
export interface Embedder {
  /** Names the model with everything that changes its vectors; stored with the data. */
  readonly model: string
  /** Cosines at or below this say nothing; 0 for models whose every order means something. */
  readonly noiseFloor: number
  /** What this model's ranking counts in hybrid search beside that of words, which counts 1. */
  readonly fusionWeight: number
  /** Components of a vector. Undefined until the endpoint has answered once, when no setting says. */
  readonly dimensions: number | undefined
  /**
   * One `Float32Array` of `dimensions` components a text, in order. `tenant` keeps cached vectors apart.
   * Throws EMBEDDING_UNAVAILABLE when the provider can't answer in time.
   */
  embed(
    texts: readonly string[],
    options: { readonly tenant: string; readonly signal?: AbortSignal },
  ): Promise<Float32Array[]>
}
