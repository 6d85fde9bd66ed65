import { vectorOf } from '../rem/plan.ts'
import { KeyReader, prefixes, prefixRange } from '../storage/keys.ts'
import type { StagedBatch, VectorChange } from '../tenant/staging.ts'
import type { EmbeddingSpec } from '../tenant/state.ts'
import type { Attachment, Tenant } from '../tenant/tenant.ts'
import { type Scan, VectorArena } from './arena.ts'

/**
 * The in-memory vectors of an open tenant: loaded by the first vector search, then kept in step by commits. Commits that
 * land while it loads are kept and applied after, in order; setting a vector twice is harmless.
 */
export class VectorIndex implements Attachment {
  readonly #spec: EmbeddingSpec
  readonly #arena: VectorArena
  #loading: Promise<void> | undefined
  #missed: VectorChange[] | undefined = []

  private constructor(spec: EmbeddingSpec) {
    this.#spec = spec
    this.#arena = new VectorArena(spec.dimensions)
  }

  static of(tenant: Tenant, spec: EmbeddingSpec): VectorIndex {
    return tenant.attach(`vectors:${spec.model}`, () => new VectorIndex(spec))
  }

  get bytes(): number {
    return this.#loading === undefined ? 0 : this.#arena.bytes
  }

  get rows(): number {
    return this.#arena.rows
  }

  onCommit(batch: StagedBatch): void {
    if (this.#loading === undefined) return
    for (const change of batch.vectors) {
      if (change.model !== this.#spec.model) continue
      if (this.#missed) this.#missed.push(change)
      else this.#apply(change)
    }
  }

  async scan(tenant: Tenant, query: Float32Array): Promise<Scan> {
    this.#loading ??= this.#load(tenant)
    try {
      await this.#loading
    } catch (error) {
      this.#loading = undefined
      throw error
    }
    return this.#arena.scan(query)
  }

  async #load(tenant: Tenant): Promise<void> {
    this.#missed = []
    const prefix = prefixes.vectors(this.#spec.model)
    for await (const chunk of tenant.chunks(prefixRange(prefix))) {
      for (const [key, value] of chunk) this.#arena.set(new KeyReader(key, prefix.length).u32(), vectorOf(value))
    }
    for (const change of this.#missed) this.#apply(change)
    this.#missed = undefined
  }

  #apply(change: VectorChange): void {
    if (change.vector === undefined) this.#arena.remove(change.docNo)
    else this.#arena.set(change.docNo, vectorOf(change.vector))
  }
}
