import type { TenantId } from '../base/ids.ts'

/** Origins of a tenant that are remembered; with more nothing is given up until all of it has been read again. */
const ORIGINS_MAX = 10_000

interface Passed {
  /** By origin the lowest sequence that was passed over since the last pass began, and before it. */
  since: Map<string, number>
  before: Map<string, number>
  isTooMuch: boolean
}

/**
 * What the reader of a stream saw and went past for lack of room. It is in the stream, so nothing from there on is lost, whatever higher sequences wait in memory. Known until all of the stream has been
 * offered again (a *pass*): what is passed over then is noted anew.
 */
export class PassedOver {
  readonly #passed = new Map<TenantId, Passed>()

  note(tenant: TenantId, origin: string, sequence: number): void {
    const passed = this.#passed.get(tenant) ?? { since: new Map(), before: new Map(), isTooMuch: false }
    this.#passed.set(tenant, passed)
    if (passed.since.size >= ORIGINS_MAX && !passed.since.has(origin)) passed.isTooMuch = true
    else lower(passed.since, origin, sequence)
  }

  /** All that was passed over is offered again from now on. */
  beginPass(tenant: TenantId): void {
    const passed = this.#passed.get(tenant)
    if (!passed) return
    for (const [origin, sequence] of passed.since) lower(passed.before, origin, sequence)
    passed.since = new Map()
  }

  /** The pass that began last has come to the end of the stream; what was passed over before it was offered again. */
  endPass(tenant: TenantId): void {
    const passed = this.#passed.get(tenant)
    if (!passed) return
    if (passed.since.size === 0) this.#passed.delete(tenant)
    else Object.assign(passed, { before: new Map(), isTooMuch: passed.since.size >= ORIGINS_MAX })
  }

  /** By origin the lowest sequence that the stream surely has; undefined: that is not known. */
  lowest(tenant: TenantId): ReadonlyMap<string, number> | undefined {
    const passed = this.#passed.get(tenant)
    if (!passed) return new Map()
    if (passed.isTooMuch) return undefined
    const lowest = new Map(passed.before)
    for (const [origin, sequence] of passed.since) lower(lowest, origin, sequence)
    return lowest
  }

  forget(tenant: TenantId): void {
    this.#passed.delete(tenant)
  }
}

function lower(sequences: Map<string, number>, origin: string, sequence: number): void {
  const known = sequences.get(origin)
  if (known === undefined || sequence < known) sequences.set(origin, sequence)
}
