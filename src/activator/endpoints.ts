import { errorMessage } from '../base/errors.ts'
import type { Logger } from '../base/logger.ts'
import type { Time } from '../base/time.ts'

/** Where a router may send the requests of a tier. */
export interface Destination {
  /** The node's name, or {@link ACTIVATOR}. */
  readonly name: string
  /** `host:port` of the HTTP API and of the gRPC API. */
  readonly http: string
  readonly grpc: string
  readonly zone?: string
  /** Its pod in Kubernetes. */
  readonly pod?: string | undefined
}

/** The list that a router reads: an EndpointSlice in Kubernetes, HAProxy's servers on one machine. */
export interface RouterPort {
  /** Makes `destinations` the only ones of the tier. Writing the same again is harmless. */
  write(tier: string, destinations: readonly Destination[]): Promise<void>
  /** Whether the tier's requests may still be sent to this destination, by the list as it stands. */
  has(tier: string, destination: Destination): Promise<boolean>
}

/** Name under which the activator stands in a router's list. */
export const ACTIVATOR = 'activator'

export interface EndpointsKeeperOptions {
  readonly time: Time
  readonly logger: Logger
  readonly router: RouterPort
  readonly tiers: readonly string[]
  /** The ready nodes of a tier. */
  readonly ready: (tier: string) => readonly Destination[]
  readonly activator: (tier: string) => Destination
  /** One of several controllers writes, while it knows the nodes: that none is known is no evidence that there is none. */
  readonly isLeading: () => boolean
  /** After this long the list is written again, whoever changed it meanwhile. */
  readonly resyncMs: number
}

/** How often the wanted list is compared with the one that was written. */
const LOOK_MS = 50
const FAILED_MS = 1000

/** Keeps a router's list of each tier: its ready nodes, or the activator when there are none. */
export class EndpointsKeeper {
  readonly counts = { writes: 0, failures: 0 }
  readonly #options: EndpointsKeeperOptions
  readonly #written = new Map<string, { readonly text: string; readonly atMs: number }>()
  readonly #stop = new AbortController()
  #running: Promise<void> | undefined

  constructor(options: EndpointsKeeperOptions) {
    this.#options = options
  }

  start(): void {
    this.#running = this.#run()
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#running
  }

  /**
   * Resolves when no list names this process any more: whoever leads next has written its own, or nodes are ready. Until then it has to answer. False when that takes longer than `msMax`, as when
   * there is no other controller.
   */
  async released(msMax: number): Promise<boolean> {
    const { time, tiers, router, activator } = this.#options
    const untilMs = time.monotonic() + msMax
    for (const left = new Set(tiers); ; await time.sleep(LOOK_MS)) {
      for (const tier of left) {
        // What cannot be asked is not known to be released.
        const isNamed = await router.has(tier, activator(tier)).catch(() => true)
        if (!isNamed) left.delete(tier)
      }
      if (left.size === 0) return true
      if (time.monotonic() >= untilMs) return false
    }
  }

  async #run(): Promise<void> {
    const { time, tiers, isLeading } = this.#options
    const { signal } = this.#stop
    while (!signal.aborted) {
      let hasFailed = false
      if (isLeading()) for (const tier of tiers) hasFailed = !(await this.#keep(tier)) || hasFailed
      // Somebody else writes now: what this one wrote is not what stands.
      else this.#written.clear()
      await time.sleep(hasFailed ? FAILED_MS : LOOK_MS, { signal, ref: false }).catch(() => {})
    }
  }

  async #keep(tier: string): Promise<boolean> {
    const { time, logger, router, ready, activator, resyncMs } = this.#options
    const nodes = [...ready(tier)].sort((a, b) => (a.name < b.name ? -1 : 1))
    const destinations = nodes.length > 0 ? nodes : [activator(tier)]
    const text = JSON.stringify(destinations)
    const written = this.#written.get(tier)
    if (written?.text === text && time.monotonic() - written.atMs < resyncMs) return true
    try {
      await router.write(tier, destinations)
      if (written?.text !== text)
        logger.info({ tier, destinations: destinations.map(({ name }) => name) }, 'the router has a new list')
      this.#written.set(tier, { text, atMs: time.monotonic() })
      this.counts.writes++
      return true
    } catch (error) {
      if (this.counts.failures++ % 30 === 0)
        logger.warn({ tier, reason: errorMessage(error) }, 'the router cannot be told where requests go; trying on')
      return false
    }
  }
}
