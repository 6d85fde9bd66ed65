import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Clock } from '../clock/hlc.ts'
import { joinVectors, type VersionVector } from '../clock/vector.ts'
import { decodeEntry } from '../storage/codec.ts'
import { keys } from '../storage/keys.ts'
import type { TenantPool } from '../tenant/pool.ts'
import type { Tenant } from '../tenant/tenant.ts'
import type { ActiveTenants } from './active-tenants.ts'
import type { Applier } from './applier.ts'
import type { Copies } from './copies.ts'
import { exportCopy, exportRecords, readSkipped } from './export.ts'
import type { Follower } from './follower.ts'
import { hasGivenUp } from './given-up.ts'
import type { Homes } from './homes.ts'
import { countLate, lateEntries } from './late.ts'
import { readLost, readStreams } from './lived.ts'
import { type ParkedPosition, parkedEntries, summarizeParked } from './parked.ts'
import type { CopyStatus, Digests, PeerHandlers, TransferPart, TransferRecords, WholeFrom } from './peer.ts'
import type { Reconciler } from './reconciler.ts'
import { digestBucket, digestTenant } from './transfer.ts'
import { type UseCopy, withCopy } from './with-copy.ts'

/** Longest wait that a peer may ask for. */
const AWAIT_MS_MAX = 60_000
/** Copies that are sent at once. */
const TRANSFERS_MAX = 4

const otherIncarnation = () =>
  new PercolateError('TENANT_UNAVAILABLE', 'This node has another incarnation of the tenant.')

export interface PeerServiceOptions {
  readonly node: string
  readonly pool: TenantPool
  readonly reconciler: Reconciler
  readonly copies: Copies
  readonly applier: Applier
  readonly homes: Homes
  readonly active: ActiveTenants
  readonly follower: Follower
  /** Records in one part of a transfer; default: as many as make half a megabyte, 256 at most. */
  readonly partRecordsMax?: number | undefined
}

/** What this node does when other nodes of the cluster ask. */
export class PeerService implements PeerHandlers {
  readonly node: string
  readonly #options: PeerServiceOptions
  #transfers = 0

  constructor(options: PeerServiceOptions) {
    this.#options = options
    this.node = options.node
  }

  async status(tenant: TenantId): Promise<CopyStatus | undefined> {
    const { node, pool, copies } = this.#options
    const state = copies.state(tenant)
    if (state === 'absent') return undefined
    // "It lacks that" would be no answer: nobody knows what can still be read.
    if (state === 'corrupt') throw damaged()
    const describe = async (open: Tenant): Promise<CopyStatus> => ({
      node,
      state,
      incarnation: open.identity.incarnation,
      origin: open.origin,
      vector: new Map(open.vector),
      known: joinVectors(open.reach, this.#options.applier.waitingFor(tenant)),
      floor: open.floor,
      collected: open.isCollected,
      outboxEntries: open.outbox.entries,
      streamSequence: open.cursor?.sequence,
      late: await countLate(open),
      skipped: (await readSkipped(open)).length,
      parked: await summarizeParked(open),
      streams: await readStreams(open),
      lost: this.#options.follower.lossOf(tenant)?.stream ?? (await readLost(open)),
    })
    // A tenant that was entered here and never written has a copy too: an empty one, from which others are made.
    return pool.use(tenant, describe, { create: state === 'current' })
  }

  async awaitVector(
    tenant: TenantId,
    incarnation: string,
    vector: VersionVector,
    timeoutMs: number,
    whole: WholeFrom = new Map(),
  ): Promise<boolean> {
    if (this.#options.copies.state(tenant) === 'corrupt') throw damaged()
    const covers = (open: Tenant) => {
      if (open.identity.incarnation !== incarnation) throw otherIncarnation()
      return open.covers(vector)
    }
    const reached = await this.#options.pool.waitFor(tenant, covers, { timeoutMs: Math.min(timeoutMs, AWAIT_MS_MAX) })
    if (reached === undefined) throw new PercolateError('TENANT_UNAVAILABLE', 'This node has no copy of the tenant.')
    if (!reached || whole.size === 0) return reached
    const has = async (open: Tenant) => covers(open) && !(await hasGivenUp(open, whole, vector))
    return (await this.#options.pool.use(tenant, has)) ?? false
  }

  async *transfer(tenant: TenantId, incarnation: string, from: Buffer | undefined): AsyncGenerator<TransferPart> {
    const { pool, copies, node, partRecordsMax } = this.#options
    const assertComplete = () => {
      if (['absent', 'joining', 'corrupt'].includes(copies.state(tenant)))
        throw new PercolateError('TENANT_UNAVAILABLE', 'This node has no complete copy of the tenant.')
    }
    assertComplete()
    if (this.#transfers >= TRANSFERS_MAX)
      throw new PercolateError('TOO_BUSY', `${TRANSFERS_MAX} copies are being sent; retry in a moment.`)
    this.#transfers++
    try {
      const use: UseCopy = work =>
        withCopy(pool, tenant, incarnation, open => {
          assertComplete()
          return work(open)
        })
      yield* exportCopy(use, node, from, partRecordsMax)
    } finally {
      this.#transfers--
    }
  }

  digests(tenant: TenantId, incarnation: string): Promise<Digests> {
    return withCopy(this.#options.pool, tenant, incarnation, digestTenant)
  }

  bucket(tenant: TenantId, incarnation: string, bucket: number): Promise<{ key: Buffer; digest: Buffer }[]> {
    return withCopy(this.#options.pool, tenant, incarnation, open => digestBucket(open, bucket))
  }

  records(tenant: TenantId, incarnation: string, keys: readonly Buffer[]): Promise<TransferRecords> {
    return withCopy(this.#options.pool, tenant, incarnation, async open => ({
      records: await exportRecords(open, keys),
      upTo: new Map(open.reach),
    }))
  }

  promiseFloor(tenant: TenantId, incarnation: string, clock: Clock): Promise<VersionVector> {
    const { pool, copies } = this.#options
    return withCopy(pool, tenant, incarnation, open => {
      copies.assertCurrent(tenant)
      return open.promiseFloor(clock)
    })
  }

  async hasRead(tenant: TenantId, stream: string, sequence: number): Promise<VersionVector | undefined> {
    const { copies, follower, pool } = this.#options
    if (!copies.isCurrent(tenant)) return undefined
    if (sequence > 0 && !follower.hasRead(tenant, stream, sequence)) {
      if (!(await follower.catchUp(tenant)) || !follower.hasRead(tenant, stream, sequence)) return undefined
    }
    return pool.use(tenant, async open => (copies.isCurrent(tenant) ? new Map(open.vector) : undefined))
  }

  requestHome(tenant: TenantId, successor: string): Promise<boolean> {
    return this.#options.homes.yieldTo(tenant, successor)
  }

  async noteActive(tenant: TenantId): Promise<boolean> {
    return this.#options.active.heard(tenant)
  }

  async offer(tenant: TenantId, from: string): Promise<boolean> {
    if (!this.#options.copies.takesEntries(tenant)) return false
    return this.#options.reconciler.takeSkipped(tenant, from)
  }

  late(tenant: TenantId): Promise<Buffer[]> {
    return withCopy(this.#options.pool, tenant, undefined, lateEntries, { mayBeJoining: true })
  }

  async keepLate(tenant: TenantId, entries: readonly Buffer[]): Promise<void> {
    const { pool, copies } = this.#options
    await withCopy(pool, tenant, undefined, open => {
      // One that is to go, or to be made anew, is no place to keep anything.
      copies.assertCurrent(tenant)
      return open.change(async staging => {
        for (const bytes of entries) {
          const { origin, sequence } = decodeEntry(bytes)
          staging.put(keys.quarantine(origin, sequence), bytes)
        }
      })
    })
  }

  parked(tenant: TenantId, after: ParkedPosition | undefined): Promise<Buffer[]> {
    return withCopy(this.#options.pool, tenant, undefined, open => parkedEntries(open, after), { mayBeJoining: true })
  }

  async keepParked(tenant: TenantId, entries: readonly Buffer[]): Promise<void> {
    const { pool, copies, applier } = this.#options
    await withCopy(pool, tenant, undefined, async open => {
      copies.assertCurrent(tenant)
      for (const bytes of entries) {
        if ((await applier.keep(open, bytes)) !== 'full') continue
        // Where an operator finds it: the copy that had it is about to go.
        const { origin, sequence } = decodeEntry(bytes)
        await open.change(async staging => staging.put(keys.quarantine(origin, sequence), bytes))
      }
    })
  }

  async dismissLate(tenant: TenantId, origin: string, sequence: number): Promise<void> {
    await withCopy(
      this.#options.pool,
      tenant,
      undefined,
      open => open.change(async staging => staging.del(keys.quarantine(origin, sequence))),
      { mayBeJoining: true },
    )
  }

  /** Entries that could not go through the stream; merged by the same rules as the stream's. All are looked at before any is applied. */
  async push(tenant: TenantId, entries: readonly Buffer[]): Promise<VersionVector> {
    const { pool, applier, copies } = this.#options
    return withCopy(pool, tenant, undefined, async open => {
      // The sender may go when they are here: a copy that is to go itself, or to be made anew, takes nothing over.
      if (!copies.takesEntries(tenant))
        throw new PercolateError('TENANT_UNAVAILABLE', "This node's copy of the tenant takes nothing over now.")
      for (const [n, bytes] of entries.entries()) {
        try {
          const entry = decodeEntry(bytes)
          if (entry.tenant !== tenant) throw new Error('it is of another tenant')
          if (entry.incarnation !== open.identity.incarnation) throw new Error('it is of another incarnation')
        } catch (error) {
          applier.refuse(tenant, error)
          const why = error instanceof Error ? error.message.replace(/\.$/, '') : 'it does not decode'
          throw new PercolateError('ENTRY_REFUSED', `entries[${n}] is refused, and none is applied: ${why}.`, {
            field: `entries[${n}]`,
            cause: error,
          })
        }
      }
      for (const bytes of entries) await applier.offer(open, bytes)
      return new Map(open.vector)
    })
  }
}

const damaged = () => new PercolateError('TENANT_UNAVAILABLE', "The database of this node's copy is damaged.")
