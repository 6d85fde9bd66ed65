import { PercolateError } from '../../base/errors.ts'
import { systemTime, type Time } from '../../base/time.ts'
import { YieldingShares } from '../yielding-shares.ts'

export interface HeldCallsOptions {
  readonly time?: Pick<Time, 'monotonic'>
  /** A call of which neither side has sent anything for so long gives way to another, ms. Default: never. */
  readonly patienceMs?: number
}

/** How long a call that has not come whole, or no message of a stream, keeps its place while nothing of it comes, when others need it: longer than what a client sends with the head of its call is under way. */
const BEGINNING_MS = 250
/**
 * And for how long what comes of it counts: a byte now and then would hold it for ever. What a client sends with the head of its call is there by then, also when some of that was lost under way and sent again (after a second at first,
 * https://www.rfc-editor.org/rfc/rfc6298#section-2). A large message on a slow line takes longer, and goes on for as long as there are places.
 */
const BEGINNING_MS_MAX = 1500

/** The place of a call. */
export interface HeldCall {
  /** Something was sent, by either side. Of a call that has been beginning for too long that is no news. */
  heard(): void
  /** It came whole, or the first message of its stream did. */
  begun(): void
  /** It is held no more; calling that again does nothing. */
  release(): void
}

/**
 * The calls that a node has open, from their heads until their streams are closed, each service by itself: nobody who floods one of them keeps another from being answered. Of one tenant they are half at most. When one more does not
 * fit, calls that were silent for too long give way, the longest silent first, and before them those that ask nothing for too long: who opens calls and sends no message keeps nobody else out.
 */
export class HeldCalls {
  /** See `PERCOLATE_GRPC_CALLS_MAX`. */
  readonly max: number
  readonly #options: HeldCallsOptions
  readonly #services = new Map<string, ServiceCalls>()

  constructor(max: number, options: HeldCallsOptions = {}) {
    this.max = max
    this.#options = options
  }

  get held(): number {
    return this.#sum(({ held }) => held)
  }

  get refused(): number {
    return this.#sum(({ refused }) => refused)
  }

  /** Counts a call of a method (`/service/method`). TOO_BUSY when there are too many. `giveWay`: ends it, with the error that its client is told. */
  hold(path: string, tenant?: string, giveWay: (error: PercolateError) => void = () => {}): HeldCall {
    const service = path.slice(1, path.lastIndexOf('/'))
    const known = this.#services.get(service)
    const calls = known ?? new ServiceCalls(this.max, this.#options)
    if (!known) this.#services.set(service, calls)
    return calls.call(tenant, giveWay)
  }

  #sum(of: (calls: ServiceCalls) => number): number {
    return [...this.#services.values()].reduce((sum, calls) => sum + of(calls), 0)
  }
}

class ServiceCalls extends YieldingShares {
  readonly #now: () => number

  constructor(max: number, options: HeldCallsOptions) {
    const { time = systemTime } = options
    super({
      ...options,
      beginningMs: BEGINNING_MS,
      max,
      smallMax: 0,
      refuse: (held, ofTenant) =>
        new PercolateError(
          'TOO_BUSY',
          `This node has ${held} calls ${ofTenant ? 'of this tenant, which may have half of the places,' : 'of this service'} open (PERCOLATE_GRPC_CALLS_MAX); take their answers, or retry in a moment.`,
        ),
    })
    this.#now = () => time.monotonic()
  }

  call(tenant: string | undefined, giveWay: (error: PercolateError) => void): HeldCall {
    this.checkOrMakeRoom(1, 0, tenant, 0)
    const share = this.begin(tenant)
    share.count(1)
    const sinceMs = this.#now()
    let isBeginning = true
    const note = () => this.heard(share, tenant, () => giveWay(isBeginning ? withoutMessage() : silent()), isBeginning)
    note()
    return {
      heard: () => {
        if (!isBeginning || this.#now() - sinceMs < BEGINNING_MS_MAX) note()
      },
      begun: () => {
        isBeginning = false
        note()
      },
      release: () => {
        this.forget(share)
        share.release()
      },
    }
  }
}

const withoutMessage = () =>
  new PercolateError(
    'TOO_BUSY',
    "This call did not come whole, and others need its place (PERCOLATE_GRPC_CALLS_MAX); make it again when there is something to send, and end the client's side behind the message of a call that takes one.",
  )

const silent = () =>
  new PercolateError(
    'TOO_BUSY',
    'Nothing was sent in this call for PERCOLATE_REQUEST_READ_MS, and others need its place (PERCOLATE_GRPC_CALLS_MAX); make it again when there is something to send.',
  )
