import type { TenantId } from '../base/ids.ts'
import type { VersionVector } from '../clock/vector.ts'
import type { Entry } from '../storage/codec.ts'

export interface WaitingRoomOptions {
  /** Entries and encoded bytes of one tenant, at most. */
  readonly entriesMax: number
  readonly bytesMax: number
  /** Encoded bytes of all tenants together, at most. */
  readonly nodeBytesMax: number
}

interface Waiting {
  readonly entry: Entry
  readonly bytes: number
}

interface TenantRoom {
  readonly byOrigin: Map<string, Map<number, Waiting>>
  entries: number
  bytes: number
}

/** Entries that wait in memory for one that is missing before them. */
export class WaitingRoom {
  readonly #options: WaitingRoomOptions
  readonly #rooms = new Map<TenantId, TenantRoom>()
  #entries = 0
  #bytes = 0

  constructor(options: WaitingRoomOptions) {
    this.#options = options
  }

  /** What waits, over all tenants. */
  get total(): { readonly entries: number; readonly bytes: number } {
    return { entries: this.#entries, bytes: this.#bytes }
  }

  has(tenant: TenantId): boolean {
    return this.#rooms.has(tenant)
  }

  /** False: there is no room. */
  add(tenant: TenantId, entry: Entry, bytes: number): boolean {
    const { entriesMax, bytesMax, nodeBytesMax } = this.#options
    const known = this.#rooms.get(tenant)
    if (known?.byOrigin.get(entry.origin)?.has(entry.sequence)) return true
    if (known && (known.entries >= entriesMax || known.bytes + bytes > bytesMax)) return false
    if (this.#bytes + bytes > nodeBytesMax) return false
    const room = known ?? { byOrigin: new Map(), entries: 0, bytes: 0 }
    const entries = room.byOrigin.get(entry.origin) ?? new Map<number, Waiting>()
    this.#rooms.set(tenant, room)
    room.byOrigin.set(entry.origin, entries.set(entry.sequence, { entry, bytes }))
    room.entries++
    room.bytes += bytes
    this.#entries++
    this.#bytes += bytes
    return true
  }

  get(tenant: TenantId, origin: string, sequence: number): Entry | undefined {
    return this.#rooms.get(tenant)?.byOrigin.get(origin)?.get(sequence)?.entry
  }

  origins(tenant: TenantId): string[] {
    return [...(this.#rooms.get(tenant)?.byOrigin.keys() ?? [])]
  }

  /** The last that waits of each origin. */
  latest(tenant: TenantId): VersionVector {
    const latest = new Map<string, number>()
    for (const [origin, entries] of this.#rooms.get(tenant)?.byOrigin ?? [])
      latest.set(
        origin,
        [...entries.keys()].reduce((a, b) => Math.max(a, b)),
      )
    return latest
  }

  /** Ascending. */
  sequences(tenant: TenantId, origin: string): number[] {
    return [...(this.#rooms.get(tenant)?.byOrigin.get(origin)?.keys() ?? [])].sort((a, b) => a - b)
  }

  remove(tenant: TenantId, origin: string, sequence: number): void {
    const room = this.#rooms.get(tenant)
    const entries = room?.byOrigin.get(origin)
    const waiting = entries?.get(sequence)
    if (!room || !entries || !waiting) return
    entries.delete(sequence)
    room.entries--
    room.bytes -= waiting.bytes
    this.#entries--
    this.#bytes -= waiting.bytes
    if (entries.size === 0) room.byOrigin.delete(origin)
    if (room.byOrigin.size === 0) this.#rooms.delete(tenant)
  }

  forget(tenant: TenantId): void {
    const room = this.#rooms.get(tenant)
    if (!room) return
    this.#rooms.delete(tenant)
    this.#entries -= room.entries
    this.#bytes -= room.bytes
  }
}
