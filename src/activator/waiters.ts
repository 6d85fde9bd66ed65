import type { TenantId } from '../base/ids.ts'
import type { Time } from '../base/time.ts'
import { Turns } from '../base/turns.ts'

/** A ready database node, where requests can be sent. */
export interface Backend {
  readonly node: string
  readonly http: string
  readonly grpc: string
}

export interface WaitersOptions {
  readonly time: Time
  /** What says where a tenant's requests go, by the nodes that are ready now; undefined while none is. */
  readonly picker: () => ((tenant: TenantId) => Backend | undefined) | undefined
  /** A look has found no node for a tenant whose requests wait. */
  readonly missed: (tenant: TenantId) => void
}

interface Waiter {
  /** It wants no node before, nor is held for longer; monotonic, ms. */
  readonly fromMs: number
  readonly untilMs: number
  readonly resolve: (backend: Backend | undefined) => void
  readonly reject: (reason: unknown) => void
}

/** How often somebody looks for a node, while any request waits for one. */
const LOOK_MS = 20

/** The requests of a tier that wait for a node: one look for all of them, and those that have found one go on in turns. */
export class Waiters {
  readonly #options: WaitersOptions
  readonly #byTenant = new Map<TenantId, Set<Waiter>>()
  readonly #turns = new Turns()
  #isLooking = false

  constructor(options: WaitersOptions) {
    this.#options = options
  }

  /** The node that a tenant's requests go to, as soon as there is one, and not before `fromMs`; undefined when `untilMs` comes first. Rejects with the signal's reason. */
  async wait(tenant: TenantId, fromMs: number, untilMs: number, signal: AbortSignal): Promise<Backend | undefined> {
    signal.throwIfAborted()
    let leave = () => {}
    try {
      return await new Promise((resolve, reject) => {
        const waiter = { fromMs, untilMs, resolve, reject }
        const gone = () => reject(signal.reason)
        signal.addEventListener('abort', gone)
        leave = () => {
          signal.removeEventListener('abort', gone)
          this.#remove(tenant, waiter)
        }
        this.#add(tenant, waiter)
      })
    } finally {
      leave()
    }
  }

  /** Nobody waits any longer. */
  rejectAll(reason: unknown): void {
    for (const waiters of this.#byTenant.values()) for (const { reject } of waiters) reject(reason)
    this.#byTenant.clear()
  }

  #add(tenant: TenantId, waiter: Waiter): void {
    const waiters = this.#byTenant.get(tenant) ?? new Set()
    this.#byTenant.set(tenant, waiters.add(waiter))
    if (!this.#isLooking) void this.#run()
  }

  #remove(tenant: TenantId, waiter: Waiter): void {
    const waiters = this.#byTenant.get(tenant)
    if (waiters?.delete(waiter) && waiters.size === 0) this.#byTenant.delete(tenant)
  }

  async #run(): Promise<void> {
    this.#isLooking = true
    while (this.#byTenant.size > 0) {
      await this.#options.time.sleep(LOOK_MS)
      try {
        this.#look()
      } catch (error) {
        this.rejectAll(error)
      }
    }
    this.#isLooking = false
  }

  #look(): void {
    const { time, picker, missed } = this.#options
    const pick = picker()
    const nowMs = time.monotonic()
    for (const [tenant, waiters] of this.#byTenant) {
      const backend = pick?.(tenant)
      if (!backend) missed(tenant)
      for (const waiter of waiters) {
        const isFound = backend !== undefined && waiter.fromMs <= nowMs
        if (!isFound && waiter.untilMs > nowMs) continue
        this.#remove(tenant, waiter)
        if (isFound) this.#turns.wait(() => waiter.resolve(backend))
        else waiter.resolve(undefined)
      }
    }
  }
}
