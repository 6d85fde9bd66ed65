import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import type { Time } from '../base/time.ts'
import type { VersionVector } from '../clock/vector.ts'
import { decodeEntry, type Entry, encodeEntry } from '../storage/codec.ts'
import { keys, prefixes, prefixRange, space } from '../storage/keys.ts'
import type { Tenant } from '../tenant/tenant.ts'
import { firstParked } from './parked.ts'
import { PassedOver } from './passed-over.ts'
import { WaitingRoom } from './waiting-room.ts'

export interface ApplierOptions {
  readonly time: Time
  readonly logger: Logger
  /** How far ahead of this node's wall clock an entry may be before it is parked. */
  readonly clockSkewMsMax: number
  /** Entries of a tenant that wait in memory for one that is missing before them; default: 1,024. */
  readonly waitingEntriesMax?: number | undefined
  /** Encoded bytes of entries of all tenants that wait so; default: 256 MiB. */
  readonly waitingBytesMax?: number | undefined
  /** Entries from the future that are kept on disk, a tenant; default: 10,000. */
  readonly parkedEntriesMax?: number | undefined
  readonly onParked: (tenant: TenantId) => void
}

/** Encoded bytes of an entry that is looked at, at most. */
export const ENTRY_BYTES_ACCEPTED_MAX = 8 * 1024 * 1024
/** Entries that wait in memory for one that is missing before them, a tenant, and their encoded bytes. */
const WAITING_ENTRIES_MAX = 1024
const WAITING_BYTES_MAX = 32 * 1024 * 1024
const NODE_WAITING_BYTES_MAX = 256 * 1024 * 1024
/** Entries from the future that are kept, a tenant, and their encoded bytes. */
const PARKED_ENTRIES_MAX = 10_000
const PARKED_BYTES_MAX = 256 * 1024 * 1024
/** Entries that are given up at once. */
const SKIPPED_MAX = 100_000
/** Kinds of refusal that are logged once each. */
const LOGGED_MAX = 1000

export type Offered =
  /** Applied now, or known already. */
  | 'applied'
  /** Kept in memory until what is missing before it has come; the cursor must not pass it. */
  | 'waiting'
  /** Kept on disk until its clock is due. */
  | 'parked'
  /** Not an entry of this tenant, or not one at all; passed over. */
  | 'refused'
  /** There is no room to keep it: the reader must come back to it, and says so by {@link Applier.passedOver}. */
  | 'full'

interface Amount {
  readonly entries: number
  readonly bytes: number
}

export interface ApplierCounts {
  applied: number
  known: number
  refused: number
  parked: number
  holes: number
  rolledBack: number
}

/**
 * Takes entries of other origins into a copy, each exactly once in effect: the version vector says what was applied, and is written in the same batch. Entries of one
 * origin are applied in the order of their sequences, whatever the order they come in.
 */
export class Applier {
  readonly counts: ApplierCounts = { applied: 0, known: 0, refused: 0, parked: 0, holes: 0, rolledBack: 0 }
  readonly #options: ApplierOptions
  readonly #waiting: WaitingRoom
  readonly #logged = new Set<string>()
  /** Copies of which the reader passed something over that it has to come back to. */
  readonly #behind = new Set<TenantId>()
  readonly #passed = new PassedOver()
  /** What is parked on disk, once it has been counted. */
  readonly #parked = new Map<TenantId, Amount>()
  /** Copies with parked entries that are due and lack the one before them: the first of each origin. */
  readonly #blocked = new Map<TenantId, ReadonlyMap<string, number>>()

  constructor(options: ApplierOptions) {
    this.#options = options
    this.#waiting = new WaitingRoom({
      entriesMax: options.waitingEntriesMax ?? WAITING_ENTRIES_MAX,
      bytesMax: WAITING_BYTES_MAX,
      nodeBytesMax: options.waitingBytesMax ?? NODE_WAITING_BYTES_MAX,
    })
  }

  /**
   * Whether entries wait for one that is missing (in memory, or parked and due by now), or were passed over and are to be read again: the copy has not all that its reader has seen.
   */
  hasHole(tenant: TenantId): boolean {
    return this.#waiting.has(tenant) || this.#behind.has(tenant) || this.#blocked.has(tenant)
  }

  /** The last entry of each origin that is here, and waits for one before it: the vector says nothing of them. */
  waitingFor(tenant: TenantId): VersionVector {
    return this.#waiting.latest(tenant)
  }

  /** The reader of the tenant's stream went past an entry that is not in the copy; until it has read it again there is a hole. `full`: the bytes of one for which there was no room. */
  passedOver(tenant: TenantId, full?: Buffer): void {
    this.#behind.add(tenant)
    if (!full) return
    const { origin, sequence } = decodeEntry(full)
    this.#passed.note(tenant, origin, sequence)
  }

  /** The reader offers again, from now on, all that it passed over before. */
  comingBack(tenant: TenantId): void {
    this.#passed.beginPass(tenant)
  }

  /** All that was passed over when {@link comingBack} was called has been offered again. `isAll`: and nothing was passed over meanwhile: each is in the copy or waits. */
  cameBack(tenant: TenantId, isAll: boolean): void {
    this.#passed.endPass(tenant)
    if (!isAll) return
    this.#behind.delete(tenant)
    this.#passed.forget(tenant)
  }

  /** What waits in memory, over all copies. */
  get waiting(): { readonly entries: number; readonly bytes: number } {
    return this.#waiting.total
  }

  /** Entries that wait on disk until they are due, over all copies. */
  get parked(): number {
    let entries = 0
    for (const amount of this.#parked.values()) entries += amount.entries
    return entries
  }

  /** Forgets what waits in memory: the copy is gone, or is made anew. */
  forget(tenant: TenantId): void {
    this.#waiting.forget(tenant)
    this.#parked.delete(tenant)
    this.#blocked.delete(tenant)
  }

  /** Takes the bytes of an entry. */
  async offer(tenant: Tenant, bytes: Buffer): Promise<Offered> {
    const entry = this.#read(tenant, bytes)
    return entry ? this.#take(tenant, entry, bytes) : 'refused'
  }

  /** As {@link offer}, for an entry that may be in no stream any more and in no copy but the one that hands it over: it is applied or on disk when this returns, or there was no room. Never `waiting`. */
  async keep(tenant: Tenant, bytes: Buffer): Promise<Exclude<Offered, 'waiting'>> {
    const entry = this.#read(tenant, bytes)
    if (!entry) return 'refused'
    const offered = await this.#take(tenant, entry, bytes)
    if (offered !== 'waiting') return offered
    const kept = await this.#park(tenant, entry, bytes)
    if (kept === 'parked') this.#waiting.remove(tenant.id, entry.origin, entry.sequence)
    return kept
  }

  /** Keeps an entry in a copy that is only being made, and takes nothing yet: {@link applyDue} looks at it when the copy is whole, also one that is due by now, or known then. */
  async keepForLater(tenant: Tenant, bytes: Buffer): Promise<'parked' | 'refused' | 'full'> {
    const entry = this.#read(tenant, bytes)
    return entry ? this.#park(tenant, entry, bytes) : 'refused'
  }

  /** Applies what was parked and is due, in order, and what waits behind it. What is due and lacks the one before it is a hole from then on. Returns how many are left. */
  async applyDue(tenant: Tenant): Promise<number> {
    let entries = 0
    let bytes = 0
    // The first of each origin that stays: those behind it wait for that one, which is no hole while it is not due.
    const left = new Map<string, number | undefined>()
    for await (const chunk of tenant.chunks(prefixRange(prefixes.space(space.parked)))) {
      for (const [key, value] of chunk) {
        const entry = decodeEntry(value)
        const { origin, sequence } = entry
        const result = this.#isAhead(entry) ? undefined : await tenant.apply(entry)
        if (result === 'applied') {
          await this.#applyWaiting(tenant, origin)
          continue
        }
        if (result === 'known') {
          await tenant.change(async staging => staging.del(key))
          continue
        }
        entries++
        bytes += value.length
        if (!left.has(origin)) left.set(origin, result === 'hole' ? sequence : undefined)
      }
    }
    this.#noteBlocked(tenant, left)
    if (entries === 0) this.#parked.delete(tenant.id)
    else this.#parked.set(tenant.id, { entries, bytes })
    return entries
  }

  #noteBlocked(tenant: Tenant, left: ReadonlyMap<string, number | undefined>): void {
    const blocked = new Map<string, number>()
    // One that another has applied since it was looked at is no hole.
    for (const [origin, sequence] of left)
      if (sequence !== undefined && sequence > (tenant.vector.get(origin) ?? 0)) blocked.set(origin, sequence)
    if (blocked.size === 0) this.#blocked.delete(tenant.id)
    else {
      if (!this.#blocked.has(tenant.id)) this.counts.holes++
      this.#blocked.set(tenant.id, blocked)
    }
  }

  /** After the vector moved otherwise (a transfer): what waited, or was parked and is due, and fits now is applied, the rest of it is known. */
  async settle(tenant: Tenant): Promise<void> {
    if (this.#blocked.has(tenant.id)) await this.applyDue(tenant)
    for (const origin of this.#waiting.origins(tenant.id)) await this.#applyWaiting(tenant, origin)
  }

  /**
   * Gives up what is missing from the origins that `isGone` names, and applies what waits behind it. Returns what was given up: nothing that the reader has seen and had no room for, and nothing before an
   * entry that is not due, which needs it only then.
   */
  async skipHoles(
    tenant: Tenant,
    isGone: (origin: string) => boolean,
  ): Promise<{ origin: string; from: number; to: number }[]> {
    const skipped: { origin: string; from: number; to: number }[] = []
    const passed = this.#passed.lowest(tenant.id)
    if (!passed) return skipped
    const firsts = new Map(this.#blocked.get(tenant.id))
    const note = (origin: string, sequence: number) =>
      firsts.set(origin, Math.min(sequence, firsts.get(origin) ?? Number.POSITIVE_INFINITY))
    for (const origin of this.#waiting.origins(tenant.id)) note(origin, this.#waiting.sequences(tenant.id, origin)[0]!)
    // When the lowest has come another way, the next one that was passed over is known only when all of it has been offered again: until then it may be any.
    for (const [origin, sequence] of passed) note(origin, Math.max(sequence, (tenant.vector.get(origin) ?? 0) + 1))
    for (const [origin, next] of firsts) {
      if (!isGone(origin)) continue
      const last = tenant.vector.get(origin) ?? 0
      if (next <= last + 1 || next - last > SKIPPED_MAX) continue
      const parked = await firstParked(tenant, origin, last)
      if (parked !== undefined && parked < next) continue
      // Should one of them turn up after all, it is applied. One that has come since is not missing.
      const from = await tenant.change(async staging => {
        const first = (staging.vector.get(origin) ?? 0) + 1
        const lost = Array.from({ length: Math.max(0, next - first) }, (_, n) => [origin, first + n] as const)
        staging.joinVector(new Map([[origin, next - 1]]), lost)
        return first
      })
      if (from < next) skipped.push({ origin, from, to: next - 1 })
    }
    await this.settle(tenant)
    return skipped
  }

  #read(tenant: Tenant, bytes: Buffer): Entry | undefined {
    try {
      if (bytes.length > ENTRY_BYTES_ACCEPTED_MAX)
        throw new PercolateError('ENTRY_REFUSED', `An entry has ${bytes.length} bytes.`)
      const entry = decodeEntry(bytes)
      if (entry.tenant !== tenant.id) throw new PercolateError('ENTRY_REFUSED', 'An entry is of another tenant.')
      if (entry.incarnation !== tenant.identity.incarnation)
        throw new PercolateError('ENTRY_REFUSED', 'An entry is of another incarnation of the tenant.')
      return entry
    } catch (error) {
      this.refuse(tenant.id, error)
      return undefined
    }
  }

  /** Counts a refusal, and logs it the first time that it happens to this tenant in this way. */
  refuse(tenant: TenantId, error: unknown): void {
    this.counts.refused++
    const reason = error instanceof PercolateError ? error.message : 'it does not decode'
    const name = `${tenant} ${reason}`
    if (this.#logged.has(name) || this.#logged.size >= LOGGED_MAX) return
    this.#logged.add(name)
    this.#options.logger.warn({ tenant, reason }, 'refused a replication entry; it is passed over')
  }

  async #take(tenant: Tenant, entry: Entry, bytes: Buffer): Promise<Offered> {
    const { origin, sequence } = entry
    if (origin === tenant.origin && sequence > tenant.state.sequence) {
      // This copy's own entries are known elsewhere that it lacks: its disk went back in time. It must not give out their sequences again.
      await tenant.changeOrigin()
      this.counts.rolledBack++
      this.#options.logger.warn(
        { tenant: tenant.id, origin: tenant.origin },
        'this disk went back in time: the copy writes under a new origin',
      )
    }
    if (this.#isAhead(entry) && (await this.#isNew(tenant, entry))) return this.#park(tenant, entry, bytes)
    const result = await tenant.apply(entry)
    if (result === 'hole') {
      if (await this.#isBehindParked(tenant, entry)) return this.#park(tenant, entry, bytes)
      return this.#wait(tenant.id, entry, bytes)
    }
    this.counts[result]++
    await this.#applyWaiting(tenant, origin)
    return 'applied'
  }

  #isAhead(entry: Entry): boolean {
    const latestMs = this.#options.time.now() + this.#options.clockSkewMsMax
    return entry.ops.some(({ clock }) => clock.wall > latestMs)
  }

  /** Not applied yet: also one that was given up for lost, and comes after all. */
  async #isNew(tenant: Tenant, { origin, sequence }: Entry): Promise<boolean> {
    if (sequence > (tenant.vector.get(origin) ?? 0)) return true
    return (await tenant.get(keys.skipped(origin, sequence))) !== undefined
  }

  async #isBehindParked(tenant: Tenant, { origin, sequence }: Entry): Promise<boolean> {
    const first = await firstParked(tenant, origin, tenant.vector.get(origin) ?? 0)
    return first !== undefined && first < sequence
  }

  /** On disk, so that it outlives its stream; those behind it from the same origin wait there too, since none of them can be applied before it. */
  async #park(tenant: Tenant, { origin, sequence }: Entry, bytes: Buffer): Promise<'parked' | 'full'> {
    const key = keys.parked(origin, sequence)
    if ((await tenant.get(key)) !== undefined) return 'parked'
    const { parkedEntriesMax = PARKED_ENTRIES_MAX, onParked } = this.#options
    if (!this.#parked.has(tenant.id)) this.#parked.set(tenant.id, await measureParked(tenant))
    const parked = this.#parked.get(tenant.id) ?? { entries: 0, bytes: 0 }
    if (parked.entries >= parkedEntriesMax || parked.bytes + bytes.length > PARKED_BYTES_MAX) return 'full'
    this.#parked.set(tenant.id, { entries: parked.entries + 1, bytes: parked.bytes + bytes.length })
    await tenant.change(async staging => staging.put(key, bytes))
    this.counts.parked++
    onParked(tenant.id)
    for (const next of this.#waiting.sequences(tenant.id, origin)) {
      const entry = next > sequence ? this.#waiting.get(tenant.id, origin, next) : undefined
      if (entry && (await this.#park(tenant, entry, encodeEntry(entry))) === 'parked')
        this.#waiting.remove(tenant.id, origin, next)
    }
    return 'parked'
  }

  #wait(id: TenantId, entry: Entry, bytes: Buffer): Offered {
    const isFirst = !this.#waiting.has(id)
    if (!this.#waiting.add(id, entry, bytes.length)) return 'full'
    if (isFirst) this.counts.holes++
    return 'waiting'
  }

  async #applyWaiting(tenant: Tenant, origin: string): Promise<void> {
    for (;;) {
      const last = tenant.vector.get(origin) ?? 0
      for (const sequence of this.#waiting.sequences(tenant.id, origin))
        if (sequence <= last) this.#waiting.remove(tenant.id, origin, sequence)
      const next = this.#waiting.get(tenant.id, origin, last + 1)
      if (!next || (await tenant.apply(next)) === 'hole') return
      this.counts.applied++
    }
  }
}

async function measureParked(tenant: Tenant): Promise<Amount> {
  let entries = 0
  let bytes = 0
  for await (const chunk of tenant.chunks(prefixRange(prefixes.space(space.parked))))
    for (const [, value] of chunk) {
      entries++
      bytes += value.length
    }
  return { entries, bytes }
}
