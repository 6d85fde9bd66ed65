import type { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import type { Time } from '../base/time.ts'
import type { Kv } from '../storage/kv.ts'
import { type PoolOptions, TenantPool } from './pool.ts'
import { type Salvage, salvage } from './scan.ts'
import type { StagedBatch } from './staging.ts'
import type { StagingRoom } from './staging-room.ts'
import { wipeCopy } from './state.ts'
import { Tenant, type TenantOptions } from './tenant.ts'

/** The databases of a node: folders of RocksDB, or those of the simulator. */
export interface TenantStore {
  tenants(): Promise<TenantId[]>
  has(id: TenantId): Promise<boolean>
  /** Makes it when there is none. `isSuspect`: it is known to be damaged, and opening it may end a process: another one tries first. */
  open(id: TenantId, isSuspect?: boolean): Promise<Kv>
  /** Deletes what is on disk of it; it is closed. */
  remove(id: TenantId): Promise<void>
  /** Moves what is on disk of it to where an operator finds it; that place. It is closed. */
  setAside(id: TenantId): Promise<string>
  /** Moves what is on disk of it, which is of that incarnation, to where an operator finds it and nothing deletes it; that place. It is closed. */
  setOtherAside(id: TenantId, incarnation: string): Promise<string>
  /** Notes durably that this node is about to enter the tenant as a new one: until {@link made} nothing of this incarnation was ever written on this disk. */
  making(id: TenantId, incarnation: string): Promise<void>
  /** The incarnation that the note of {@link making} names. */
  makingOf(id: TenantId): string | undefined
  /** Takes the note back durably, if there is one. */
  made(id: TenantId): Promise<void>
}

/** What a node's part in a cluster says about the tenants that it opens; a node alone has none. */
export interface TenantHooks {
  /** Throws unless a database may be made for the tenant: nobody else's data is answered for by an empty one. */
  assertMayCreate(id: TenantId): void
  /** How the database is to be made when there is none. */
  openOptions(id: TenantId): Pick<TenantOptions, 'incarnation' | 'copy'>
  opened(tenant: Tenant): void
  admitWrite(tenant: Tenant): void
  committed(tenant: Tenant, batch: StagedBatch): void
  /** A use of the tenant's database, or its opening, ended with DATA_CORRUPT. */
  corrupt(id: TenantId, error: PercolateError, when: 'open' | 'use'): void
}

export interface OpenPoolOptions {
  readonly time: Time
  readonly logger: Logger
  readonly store: TenantStore
  readonly limits: Omit<PoolOptions, 'time' | 'logger' | 'exists' | 'open' | 'onCorrupt'>
  readonly tenant: Pick<
    TenantOptions,
    | 'origin'
    | 'outboxEnabled'
    | 'outboxBytesMax'
    | 'recordCacheBytes'
    | 'changesMax'
    | 'stagedBytesMax'
    | 'writeWaitMsMax'
  >
  /** Where large batches take turns; without one they don't. */
  readonly room?: StagingRoom
  /** Each throws while the disk has no room: for writes, and for copies of other holders. */
  readonly disk?: { admit(): void; admitCopy(): void }
}

/** The pool of a node's tenants. Nodes and the simulator make theirs here. */
export function openPool({ time, logger, store, limits, tenant, room, disk }: OpenPoolOptions, hooks?: TenantHooks) {
  return new TenantPool({
    ...limits,
    time,
    logger,
    exists: id => store.has(id),
    onCorrupt: (id, error, when) => hooks?.corrupt(id, error, when),
    open: async id => {
      if (hooks && !(await store.has(id))) hooks.assertMayCreate(id)
      const kv = await store.open(id)
      const opened = await Tenant.open(id, kv, {
        ...tenant,
        time,
        room,
        admitWrite: changed => {
          disk?.admit()
          hooks?.admitWrite(changed)
        },
        admitCopy: () => disk?.admitCopy(),
        ...hooks?.openOptions(id),
        onCommit: (changed, batch) => hooks?.committed(changed, batch),
      }).catch(async error => {
        await kv.close()
        throw error
      })
      // Before anything is written. A copy that is being made has nothing yet that was acknowledged.
      if (!opened.isJoining)
        await store.made(id).catch(async error => {
          await opened.close()
          throw error
        })
      hooks?.opened(opened)
      return opened
    },
  })
}

/** Empties a tenant's database, to be made anew from another copy; what was set aside stays. The tenant is closed. */
export async function wipeTenant(store: TenantStore, id: TenantId, time: Time): Promise<void> {
  const kv = await store.open(id)
  try {
    await wipeCopy(kv, time)
  } finally {
    await kv.close()
  }
}

/** What a tenant's damaged database had of its own. One that does not open any more has nothing that can be read. The tenant is closed. */
export async function salvageTenant(store: TenantStore, id: TenantId): Promise<Salvage> {
  const kv = await store.open(id, true).catch(() => undefined)
  if (!kv) return { outbox: [], late: [], parked: [], isWhole: false }
  try {
    return await salvage(kv)
  } finally {
    await kv.close()
  }
}
