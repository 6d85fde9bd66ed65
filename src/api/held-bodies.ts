import { PercolateError } from '../base/errors.ts'

/** Bodies up to this size are counted, and never refused. */
export const SMALL_BODY_BYTES = 64 * 1024

/** A body that is still coming. */
export interface ArrivingBody {
  /** Counts what came of it. TOO_BUSY when the bodies beside it leave no room. */
  add(bytes: number): void
  /** So much of what came as a body of its own, all of it when less came: held until what is returned is called; calling that again does nothing. */
  split(bytes: number): () => void
  /** What came of it is held no more; calling that again does nothing. */
  release(): void
}

/**
 * The bodies of requests that a node is working on, or that wait in it: what is parsed of one is held until its answer, so all of them together are bounded, and those of one tenant to half of that. What has not
 * come yet is not held: who announces a large body and sends none takes no room from others.
 */
export class HeldBodies {
  readonly #bytesMax: number
  readonly #byTenant = new Map<string, number>()
  #bytes = 0
  #refused = 0

  /** `bytesMax`: see `PERCOLATE_HELD_BODY_BYTES_MAX`. */
  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax
  }

  get bytes(): number {
    return this.#bytes
  }

  get refused(): number {
    return this.#refused
  }

  /** Throws TOO_BUSY when there is no room for that much beside what is held; alone every body is taken. `tenant`: whose share is looked at, too. */
  check(bytes: number, tenant?: string): void {
    this.#check(bytes, 0, tenant)
  }

  /** Counts a body until what it returns is called; calling that again does nothing. TOO_BUSY as {@link check}. */
  hold(bytes: number, tenant?: string): () => void {
    this.#check(bytes, 0, tenant)
    const body = this.#begin(tenant)
    body.count(bytes)
    return body.release
  }

  /** Counts a body as it comes. */
  arriving(tenant?: string): ArrivingBody {
    const body = this.#begin(tenant)
    return {
      add: bytes => {
        this.#check(bytes, body.bytes(), tenant)
        body.count(bytes)
      },
      split: bytes => {
        const part = this.#begin(tenant)
        part.count(Math.min(bytes, body.bytes()))
        body.count(-part.bytes())
        return part.release
      },
      release: body.release,
    }
  }

  #begin(tenant: string | undefined) {
    let held = 0
    let isOver = false
    const count = (bytes: number) => {
      if (isOver) return
      held += bytes
      this.#bytes += bytes
      if (tenant === undefined) return
      const left = (this.#byTenant.get(tenant) ?? 0) + bytes
      if (left > 0) this.#byTenant.set(tenant, left)
      else this.#byTenant.delete(tenant)
    }
    const release = () => {
      count(-held)
      isOver = true
    }
    return { bytes: () => held, count, release }
  }

  /** `own`: what is held of the same body already. */
  #check(bytes: number, own: number, tenant: string | undefined): void {
    if (own + bytes <= SMALL_BODY_BYTES) return
    const isFull = (held: number, max: number) => held > own && held + bytes > max
    const ofTenant = tenant === undefined ? 0 : (this.#byTenant.get(tenant) ?? 0)
    const [held, whose] = isFull(this.#bytes, this.#bytesMax)
      ? [this.#bytes, 'The requests']
      : isFull(ofTenant, this.#bytesMax / 2)
        ? [ofTenant, 'The requests of this tenant, which may have half of the room,']
        : []
    if (held === undefined) return
    this.#refused++
    throw new PercolateError(
      'TOO_BUSY',
      `${whose} that this node is working on have ${held} bytes of bodies (PERCOLATE_HELD_BODY_BYTES_MAX); retry in a moment, or send fewer large requests at once.`,
    )
  }
}
