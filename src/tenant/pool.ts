import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import { Semaphore } from '../base/semaphore.ts'
import type { Time } from '../base/time.ts'
import { Places, type Wanted } from './places.ts'
import type { Tenant } from './tenant.ts'

export interface PoolOptions {
  readonly time: Time
  readonly logger: Logger
  /** Databases open at once. */
  readonly openMax: number
  /** Estimated bytes of all open databases and their caches. */
  readonly memoryBytesMax: number
  /** Estimated bytes of an open database without caches. */
  readonly tenantBytes: number
  /** An unused database closes after this long. */
  readonly idleMs: number
  /** How long a request waits for a place before TOO_BUSY. */
  readonly waitMsMax: number
  /** Whether a tenant's database exists on disk. */
  readonly exists: (id: TenantId) => Promise<boolean>
  readonly open: (id: TenantId) => Promise<Tenant>
  /** Told of every DATA_CORRUPT that an opening or a use ends with. */
  readonly onCorrupt?: (id: TenantId, error: PercolateError, when: 'open' | 'use') => void
}

/** How long the uses of a tenant may take to end for one that wants it alone. */
const EXCLUSIVE_MS_MAX = 30_000
/** Databases that open at the same moment. */
const OPENING_MAX = 4
/** Who waits for a turn to open one, and for room or a tenant's last use, at once. */
export const WAITERS_MAX = 10_000

interface Slot {
  readonly id: TenantId
  readonly opening: Promise<Tenant>
  tenant: Tenant | undefined
  leases: number
  usedAtMs: number
}

/** Waits for something of a tenant, without keeping it open. */
export interface Watch {
  /** Whether it held, or may hold now (the tenant was closed for a change of its files); false after `timeoutMs` without, or when the signal fires. */
  wait(timeoutMs: number, signal?: AbortSignal): Promise<boolean>
  /** To be called always, and once. */
  stop(): void
}

interface Watcher {
  readonly met: (tenant: Tenant) => boolean
  readonly wake: () => void
}

export interface PoolStats {
  readonly open: number
  readonly leases: number
  readonly memoryBytes: number
  readonly opened: number
  readonly evicted: number
  readonly idleClosed: number
  /** Who waits to open a tenant, for room, or for a tenant's last use; at most twice {@link WAITERS_MAX}. */
  readonly waiting: number
}

/**
 * Open tenants, used through leases. A slot is *opening*, *open* (leased or idle) or *closing*; only an idle one is closed, so a
 * handle in use never is. Least recently used ones close first when the count or the memory budget is exceeded; a tenant that
 * is closing is opened again only after its close has finished.
 */
export class TenantPool {
  readonly #options: PoolOptions
  readonly #slots = new Map<TenantId, Slot>()
  readonly #closing = new Map<TenantId, Promise<void>>()
  /** At most this many databases open at the same moment, so that a burst of cold tenants does not take every I/O thread. */
  readonly #opens = new Semaphore({ permits: OPENING_MAX, waitersMax: WAITERS_MAX, name: 'opening tenants' })
  /** Tenants that {@link exclusive} keeps closed. */
  readonly #held = new Map<TenantId, Promise<void>>()
  readonly #watchers = new Map<TenantId, Set<Watcher>>()
  readonly #places: Places
  /** Who holds a tenant, and waits for its last use to end. */
  readonly #unused = new Map<TenantId, () => void>()
  #stopped = false
  #opened = 0
  #evicted = 0
  #idleClosed = 0

  constructor(options: PoolOptions) {
    this.#options = options
    this.#places = new Places({
      time: options.time,
      waitersMax: WAITERS_MAX,
      placesMax: options.openMax,
      taken: () => this.#slots.size + this.#closing.size,
      closing: () => this.#closing.size,
      evict: () => {
        const victim = this.#idleSlot()
        if (!victim) return false
        this.#evicted++
        void this.#close(victim)
        return true
      },
    })
  }

  /** Runs `work` with the tenant open. Without `create`, an unknown tenant gives undefined and nothing is made on disk. */
  async use<T>(id: TenantId, work: (tenant: Tenant) => Promise<T>, options: { create: true }): Promise<T>
  async use<T>(
    id: TenantId,
    work: (tenant: Tenant) => Promise<T>,
    options?: { create?: boolean },
  ): Promise<T | undefined>
  async use<T>(
    id: TenantId,
    work: (tenant: Tenant) => Promise<T>,
    options: { create?: boolean } = {},
  ): Promise<T | undefined> {
    const slot = await this.#lease(id, options.create ?? false)
    if (slot === undefined) return undefined
    try {
      return await work(slot.tenant!)
    } catch (error) {
      this.#report(id, error, 'use')
      throw error
    } finally {
      this.#release(slot)
    }
  }

  /**
   * Waits until `met` holds, looking after every commit and publication; false when it does not in time, undefined when there is no such tenant. The tenant is in use only while it is looked at, so
   * that waiting keeps nobody else out: what held may hold no more when this resolves.
   */
  async waitFor(
    id: TenantId,
    met: (tenant: Tenant) => boolean,
    { timeoutMs, signal }: { timeoutMs: number; signal?: AbortSignal },
  ): Promise<boolean | undefined> {
    const { time } = this.#options
    const until = time.monotonic() + timeoutMs
    for (let isWoken = true; ; ) {
      const watch = this.watch(id, met)
      try {
        const isMet = isWoken ? await this.use(id, async tenant => met(tenant)) : false
        if (isMet !== false) return isMet
        isWoken = await watch.wait(until - time.monotonic(), signal)
        if (!isWoken) return false
      } finally {
        watch.stop()
      }
    }
  }

  /** Begins to look for `met` after every commit and publication of a tenant; begin before you look yourself, and nothing is missed in between. */
  watch(id: TenantId, met: (tenant: Tenant) => boolean): Watch {
    const woken = new AbortController()
    const watcher: Watcher = { met, wake: () => woken.abort() }
    const watchers = this.#watchers.get(id) ?? new Set()
    this.#watchers.set(id, watchers.add(watcher))
    return {
      wait: async (timeoutMs, signal) => {
        const stop = () => woken.abort()
        if (!woken.signal.aborted && !signal?.aborted && timeoutMs > 0) {
          signal?.addEventListener('abort', stop, { once: true })
          await this.#options.time.sleep(timeoutMs, { signal: woken.signal, ref: false }).catch(() => {})
          signal?.removeEventListener('abort', stop)
        }
        return woken.signal.aborted && !signal?.aborted
      },
      stop: () => {
        watchers.delete(watcher)
        if (watchers.size === 0 && this.#watchers.get(id) === watchers) this.#watchers.delete(id)
      },
    }
  }

  /**
   * Waits for the uses of a tenant to end, closes it, and keeps it closed while `work` runs: for what changes its files. What was true before may not be true any more when the last use has ended:
   * `may` looks at the open tenant then, when nobody else can, and without its word nothing is done (it is not asked when there is no database). Whether `work` was done. TOO_BUSY when the uses
   * do not end within {@link EXCLUSIVE_MS_MAX}.
   */
  async exclusive(
    id: TenantId,
    work: () => Promise<void>,
    may?: (tenant: Tenant) => Promise<boolean>,
  ): Promise<boolean> {
    return this.#whileHeld(id, async untilMs => {
      if (may && !((await this.#lookAlone(id, untilMs, may)) ?? true)) return false
      while (this.#slots.has(id)) {
        await this.#whenUnused(id, untilMs)
        const slot = this.#unusedSlot(id)
        if (slot) await this.#close(slot)
      }
      await this.#closing.get(id)
      await work()
      return true
    })
  }

  /** Waits for the uses of a tenant to end, and runs `look` on it, open, while new ones wait; undefined when there is no database. TOO_BUSY as for {@link exclusive}. */
  async alone<T>(id: TenantId, look: (tenant: Tenant) => Promise<T>): Promise<T | undefined> {
    return this.#whileHeld(id, untilMs => this.#lookAlone(id, untilMs, look))
  }

  async #whileHeld<T>(id: TenantId, work: (untilMs: number) => Promise<T>): Promise<T> {
    const untilMs = this.#options.time.monotonic() + EXCLUSIVE_MS_MAX
    while (this.#held.has(id)) {
      await this.#whenReleased(id, untilMs)
      if (this.#options.time.monotonic() >= untilMs) throw inUse(id)
    }
    let done = () => {}
    this.#held.set(
      id,
      new Promise<void>(resolve => {
        done = resolve
      }),
    )
    try {
      return await work(untilMs)
    } finally {
      this.#held.delete(id)
      done()
      // Another tenant may be there now, or none.
      this.#wakeAll(id)
    }
  }

  async #lookAlone<T>(id: TenantId, untilMs: number, look: (tenant: Tenant) => Promise<T>): Promise<T | undefined> {
    for (;;) {
      await this.#whenUnused(id, untilMs)
      const slot = this.#unusedSlot(id)
      if (slot) {
        slot.leases++
        try {
          return await look(slot.tenant!)
        } finally {
          this.#release(slot)
        }
      }
      if (this.#slots.has(id)) continue
      await this.#closing.get(id)
      if (!(await this.#options.exists(id))) return undefined
      if (this.#places.isFull && !(await this.#places.wait(id, untilMs))) continue
      // Nobody else opens it while it is held.
      await this.#open(id).opening
    }
  }

  /** The open slot of a tenant that nobody uses: to be taken in one go with asking, or somebody else closes it. */
  #unusedSlot(id: TenantId): Slot | undefined {
    const slot = this.#slots.get(id)
    return slot?.tenant && slot.leases === 0 ? slot : undefined
  }

  /** Waits until nobody uses a tenant that the caller holds, or it is not open. TOO_BUSY: not until then. */
  async #whenUnused(id: TenantId, untilMs: number): Promise<void> {
    while (this.#slots.has(id) && !this.#unusedSlot(id)) {
      const leftMs = untilMs - this.#options.time.monotonic()
      if (leftMs <= 0) throw inUse(id)
      const unused = new AbortController()
      this.#unused.set(id, () => unused.abort())
      await this.#options.time.sleep(leftMs, { signal: unused.signal, ref: false }).catch(() => {})
      this.#unused.delete(id)
    }
  }

  /** Waits until a tenant is not held any more, at most until then. */
  async #whenReleased(id: TenantId, untilMs: number): Promise<void> {
    const released = new AbortController()
    void this.#held.get(id)?.then(() => released.abort())
    const leftMs = Math.max(0, untilMs - this.#options.time.monotonic())
    await this.#options.time.sleep(leftMs, { signal: released.signal, ref: false }).catch(() => {})
  }

  /** The open tenants; for metrics and background work, not for reading data (no lease is held). */
  openTenants(): Tenant[] {
    return [...this.#slots.values()].flatMap(slot => slot.tenant ?? [])
  }

  /** Whether the tenant has a database on this node. */
  async has(id: TenantId): Promise<boolean> {
    return this.isOpen(id) || (await this.#options.exists(id))
  }

  isOpen(id: TenantId): boolean {
    return this.#slots.has(id)
  }

  /** Whether a use that is begun at once gets the tenant without a wait: it is open, and nobody wants it alone. */
  isReady(id: TenantId): boolean {
    return !this.#stopped && !this.#held.has(id) && this.#slots.get(id)?.tenant !== undefined
  }

  stats(): PoolStats {
    let leases = 0
    for (const slot of this.#slots.values()) leases += slot.leases
    return {
      open: this.#slots.size,
      leases,
      memoryBytes: this.#memoryBytes(),
      opened: this.#opened,
      evicted: this.#evicted,
      idleClosed: this.#idleClosed,
      waiting: this.#opens.waiting + this.#places.waiting + this.#unused.size,
    }
  }

  /** How long all places have been in use with somebody waiting for one, milliseconds; 0: they are not. */
  get exhaustedMs(): number {
    return this.#places.exhaustedMs
  }

  /** Closes what has been idle for longer than the setting; called from time to time. */
  closeIdle(): void {
    const before = this.#options.time.monotonic() - this.#options.idleMs
    for (const slot of [...this.#slots.values()]) {
      if (slot.leases === 0 && slot.tenant && slot.usedAtMs <= before) {
        this.#idleClosed++
        void this.#close(slot)
      }
    }
    this.#shrink()
  }

  /** Waits for every lease to end (bounded by the caller), then closes everything. New leases are refused at once. */
  async stop(): Promise<void> {
    this.#stopped = true
    for (const id of [...this.#watchers.keys()]) this.#wakeAll(id)
    this.#places.wakeAll()
    while ([...this.#slots.values()].some(slot => slot.leases > 0 || !slot.tenant)) {
      await this.#options.time.sleep(5)
    }
    for (const slot of [...this.#slots.values()]) void this.#close(slot)
    await Promise.all(this.#closing.values())
  }

  async #lease(id: TenantId, create: boolean): Promise<Slot | undefined> {
    const giveUpAt = this.#options.time.monotonic() + this.#options.waitMsMax
    let place: Wanted | undefined
    try {
      for (;;) {
        if (this.#stopped) throw new PercolateError('SHUTTING_DOWN', 'This node is draining; retry on another.')
        if (place && (this.#held.has(id) || this.#slots.has(id))) {
          this.#places.giveBack(place)
          place = undefined
        }
        if (this.#held.has(id)) {
          await this.#whenReleased(id, giveUpAt)
          if (this.#held.has(id) && this.#options.time.monotonic() >= giveUpAt) throw inUse(id)
          continue
        }
        const slot = this.#slots.get(id)
        if (slot) return await this.#use(slot)
        const closing = this.#closing.get(id)
        if (closing) {
          await closing
          continue
        }
        if (!create && !(await this.#options.exists(id))) return undefined
        // Checked and opened in one go: what was waited for above may have changed.
        if (this.#stopped || this.#slots.has(id) || this.#closing.has(id) || this.#held.has(id)) continue
        if (place?.isServed || !this.#places.isFull) this.#open(id)
        else place = await this.#places.wait(id, giveUpAt)
      }
    } finally {
      if (place) this.#places.giveBack(place)
    }
  }

  async #use(slot: Slot): Promise<Slot> {
    slot.leases++
    try {
      await slot.opening
    } catch (error) {
      slot.leases--
      throw error
    }
    slot.usedAtMs = this.#options.time.monotonic()
    // Map order is the LRU order.
    this.#slots.delete(slot.id)
    this.#slots.set(slot.id, slot)
    return slot
  }

  #open(id: TenantId): Slot {
    const slot: Slot = {
      id,
      opening: this.#openLimited(id),
      tenant: undefined,
      leases: 0,
      usedAtMs: this.#options.time.monotonic(),
    }
    this.#slots.set(id, slot)
    this.#places.opened(id)
    slot.opening.then(
      tenant => {
        slot.tenant = tenant
        tenant.listen(
          () => this.#changed(id, tenant),
          () => this.#shrink(),
        )
        this.#opened++
        this.#unused.get(id)?.()
      },
      () => {
        this.#slots.delete(id)
        this.#unused.get(id)?.()
        this.#places.assign()
      },
    )
    return slot
  }

  #changed(id: TenantId, tenant: Tenant): void {
    for (const { met, wake } of this.#watchers.get(id) ?? []) if (holds(met, tenant)) wake()
  }

  #wakeAll(id: TenantId): void {
    for (const { wake } of this.#watchers.get(id) ?? []) wake()
  }

  async #openLimited(id: TenantId): Promise<Tenant> {
    const release = await this.#opens.acquire()
    try {
      return await this.#options.open(id)
    } catch (error) {
      this.#report(id, error, 'open')
      throw error
    } finally {
      release()
    }
  }

  #report(id: TenantId, error: unknown, when: 'open' | 'use'): void {
    if (error instanceof PercolateError && error.code === 'DATA_CORRUPT') this.#options.onCorrupt?.(id, error, when)
  }

  #release(slot: Slot): void {
    slot.leases--
    slot.usedAtMs = this.#options.time.monotonic()
    if (slot.leases > 0) {
      // Else a tenant that is always in use would take no write any more: those who come now wait. When its uses do not end in time it is tried again at the next one.
      if (slot.tenant?.broken && !this.#held.has(slot.id)) void this.exclusive(slot.id, async () => {}).catch(() => {})
      return
    }
    if (slot.tenant?.broken) void this.#close(slot)
    else this.#shrink()
    this.#unused.get(slot.id)?.()
    this.#places.freed()
  }

  #shrink(): void {
    while (this.#memoryBytes() > this.#options.memoryBytesMax) {
      const victim = this.#idleSlot()
      // One tenant that alone exceeds the budget stays: closing it would only make the next request open it again.
      if (!victim || this.#slots.size === 1) return
      this.#evicted++
      void this.#close(victim)
    }
  }

  #idleSlot(): Slot | undefined {
    for (const slot of this.#slots.values()) if (slot.leases === 0 && slot.tenant) return slot
    return undefined
  }

  #close(slot: Slot): Promise<void> {
    this.#slots.delete(slot.id)
    const closing = slot
      .tenant!.close()
      .catch(error => this.#options.logger.error({ tenant: slot.id, err: String(error) }, 'tenant failed to close'))
      .finally(() => {
        this.#closing.delete(slot.id)
        this.#places.assign()
      })
    this.#closing.set(slot.id, closing)
    return closing
  }

  #memoryBytes(): number {
    let bytes = 0
    for (const slot of this.#slots.values()) bytes += this.#options.tenantBytes + (slot.tenant?.heldBytes ?? 0)
    return bytes
  }
}

const inUse = (id: TenantId) =>
  new PercolateError('TOO_BUSY', `The database of ${id} is being changed or is in use for long; retry in a moment.`)

/** Who cannot say looks for itself, where it can be told what is wrong. */
function holds(met: (tenant: Tenant) => boolean, tenant: Tenant): boolean {
  try {
    return met(tenant)
  } catch {
    return true
  }
}
