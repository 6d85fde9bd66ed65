import { PercolateError } from '../../base/errors.ts'
import { HalfShares } from '../half-shares.ts'

/** The calls that a node has open, from their heads until their streams are closed, each service by itself: nobody who floods one of them keeps another from being answered. Of one tenant they are half at most. */
export class HeldCalls {
  /** See `PERCOLATE_GRPC_CALLS_MAX`. */
  readonly max: number
  readonly #services = new Map<string, HalfShares>()

  constructor(max: number) {
    this.max = max
  }

  get held(): number {
    return this.#sum(({ held }) => held)
  }

  get refused(): number {
    return this.#sum(({ refused }) => refused)
  }

  /** Counts a call of a method (`/service/method`) until what is returned is called. TOO_BUSY when there are too many. */
  hold(path: string, tenant?: string): () => void {
    const service = path.slice(1, path.lastIndexOf('/'))
    const known = this.#services.get(service)
    const calls = known ?? this.#begin()
    if (!known) this.#services.set(service, calls)
    return calls.hold(1, tenant)
  }

  #begin(): HalfShares {
    return new HalfShares({
      max: this.max,
      smallMax: 0,
      refuse: (held, ofTenant) =>
        new PercolateError(
          'TOO_BUSY',
          `This node has ${held} calls ${ofTenant ? 'of this tenant, which may have half of the places,' : 'of this service'} open (PERCOLATE_GRPC_CALLS_MAX); take their answers, or retry in a moment.`,
        ),
    })
  }

  #sum(of: (calls: HalfShares) => number): number {
    return [...this.#services.values()].reduce((sum, calls) => sum + of(calls), 0)
  }
}
