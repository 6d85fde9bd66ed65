import { randomBytes } from 'node:crypto'
import { access, mkdir, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { bootId } from '../base/boot-id.ts'
import { PercolateError } from '../base/errors.ts'
import { parseTenantId, type TenantId } from '../base/ids.ts'
import { BALLAST_BYTES } from '../base/limits.ts'
import { makeFolder } from '../base/make-folder.ts'
import { packValue, unpackValue } from '../storage/codec.ts'
import { prefixRange } from '../storage/keys.ts'
import { collect, type Kv } from '../storage/kv.ts'
import { RenewedKv } from '../storage/renewed.ts'
import { openRocksKv } from '../storage/rocksdb.ts'
import { Ballast } from './ballast.ts'
import { type DiskLife, nextLife, originOfLife } from './disk-life.ts'

/** Who this node is; made with its data directory. The disk incarnation tells a node with a fresh disk from one that kept its data. */
export interface NodeIdentity {
  readonly node: string
  readonly disk: string
}

const IDENTITY_KEY = Buffer.from('node')
const MAKING = 'making.'
const LIFE = 'life'

/**
 * A node's data directory: `node/` (identity, and the lock that keeps a second process out: RocksDB holds it until the process ends, even
 * by kill -9), `tenants/<tenant>/`, one RocksDB each, and `ballast`.
 */
export class DataDir {
  readonly path: string
  readonly identity: NodeIdentity
  /** What is given up when the disk is full. */
  readonly ballast: Ballast
  readonly #kv: Kv
  readonly #life: DiskLife
  /** Tenants that this node is making, and their incarnations; as on disk. */
  readonly #making: Map<string, string>

  private constructor(
    path: string,
    identity: NodeIdentity,
    kv: Kv,
    ballast: Ballast,
    notes: { making: Map<string, string>; life: DiskLife },
  ) {
    this.#making = notes.making
    this.#life = notes.life
    this.path = path
    this.ballast = ballast
    this.identity = identity
    this.#kv = kv
  }

  /** `boot`: which start of the machine this is; see {@link bootId}. */
  static async open(path: string, nodeId: string | undefined, boot = bootId()): Promise<DataDir> {
    await makeFolder(join(path, 'tenants'), { setting: 'PERCOLATE_DATA_DIR' })
    const ballast = new Ballast(path)
    let kv: Kv
    try {
      kv = await RenewedKv.open(() =>
        ballast.lend(() =>
          openRocksKv(join(path, 'node'), {
            createIfMissing: true,
            writeBufferBytes: 64 * 1024,
            blockCacheBytes: 64 * 1024,
          }),
        ),
      )
    } catch (error) {
      if (error instanceof PercolateError && error.code === 'DISK_FULL') {
        throw new PercolateError(
          'DISK_FULL',
          `The disk of the data directory ${path} is full: no database opens, not even to be read. Free at least ${2 * BALLAST_BYTES} bytes there to read, and PERCOLATE_DISK_RESERVE_BYTES to write (or move the directory to a larger volume), then start again. Nothing is lost.`,
          { cause: error },
        )
      }
      if (error instanceof PercolateError && error.code === 'DATA_DIR_IN_USE') {
        throw new PercolateError(
          'DATA_DIR_IN_USE',
          `Another Percolate process uses the data directory ${path}; stop it, or choose another one with PERCOLATE_DATA_DIR.`,
          { cause: error },
        )
      }
      throw error
    }
    try {
      // What a crash left of tenants that were being deleted.
      await rm(join(path, 'removed'), { recursive: true, force: true })
      const making = (await collect(kv, prefixRange(noteKey(MAKING)))).map(([, value]) => unpackValue(value))
      const identity = await readOrMakeIdentity(kv, nodeId)
      const life = await beginLife(kv, await boot)
      return new DataDir(path, identity, kv, ballast, { making: new Map(making as [string, string][]), life })
    } catch (error) {
      await kv.close()
      throw error
    }
  }

  /** Under which tenants here are written; another one after the machine went down under the node ({@link nextLife}). */
  get origin(): string {
    return originOfLife(this.identity.node, this.identity.disk, this.#life.id)
  }

  tenantPath(id: TenantId): string {
    return join(this.path, 'tenants', id)
  }

  /** RocksDB writes CURRENT last when it makes a database. */
  async hasTenant(id: TenantId): Promise<boolean> {
    return access(join(this.tenantPath(id), 'CURRENT')).then(
      () => true,
      () => false,
    )
  }

  async tenants(): Promise<TenantId[]> {
    const names = await readdir(join(this.path, 'tenants'))
    return names.sort().map(name => parseTenantId(name))
  }

  /** Deletes a closed tenant's database. It leaves its place at once, so that a crash in between leaves no half of it. */
  async removeTenant(id: TenantId): Promise<void> {
    const doomed = join(this.path, 'removed')
    await mkdir(doomed, { recursive: true, mode: 0o700 })
    const target = join(doomed, `${id}.${randomBytes(6).toString('hex')}`)
    await rename(this.tenantPath(id), target).catch(error => {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    })
    await rm(target, { recursive: true, force: true })
  }

  /**
   * Moves the damaged database of a closed tenant to `damaged/<tenant>.<time>`, where an operator can look at it; of all tenants' the `keptMax` latest are kept. Its place then.
   */
  async setTenantAside(id: TenantId, keptMax: number, nowMs: number): Promise<string> {
    const folder = join(this.path, 'damaged')
    await mkdir(folder, { recursive: true, mode: 0o700 })
    const stamp = `${nowMs.toString(16).padStart(12, '0')}${randomBytes(3).toString('hex')}`
    const target = join(folder, `${id}.${stamp}`)
    await rename(this.tenantPath(id), target)
    const stampOf = (name: string) => name.slice(name.lastIndexOf('.') + 1)
    const names = (await readdir(folder)).sort((a, b) => (stampOf(a) < stampOf(b) ? 1 : -1))
    for (const name of names.slice(keptMax)) await rm(join(folder, name), { recursive: true, force: true })
    return target
  }

  /**
   * Moves the database of a closed tenant, which is of another incarnation than the cluster's, to `other-incarnations/<tenant>.<incarnation>.<random>`. Its place then. It may be all that there is of writes that were acknowledged: nothing
   * here ever deletes it, and disk space bounds how many there are.
   */
  async setOtherAside(id: TenantId, incarnation: string): Promise<string> {
    const folder = join(this.path, 'other-incarnations')
    await mkdir(folder, { recursive: true, mode: 0o700 })
    const target = join(folder, `${id}.${incarnation}.${randomBytes(3).toString('hex')}`)
    await rename(this.tenantPath(id), target)
    return target
  }

  /** What the node keeps beside its tenants, by a name such as `placement.acme`. */
  async note(name: string, value: unknown): Promise<void> {
    await this.#kv.write([{ type: 'put', key: noteKey(name), value: packValue(value) }], { sync: false })
  }

  async notes(prefix: string): Promise<unknown[]> {
    const found = await collect(this.#kv, prefixRange(noteKey(prefix)))
    return found.map(([, value]) => unpackValue(value))
  }

  /** Notes on disk that nothing of this incarnation was ever written here, and that this node is about to change that. */
  async makingTenant(id: TenantId, incarnation: string): Promise<void> {
    const value = packValue([id, incarnation])
    await this.#kv.write([{ type: 'put', key: noteKey(`${MAKING}${id}`), value }], { sync: true })
    this.#making.set(id, incarnation)
  }

  /** The incarnation that the note of {@link makingTenant} names. */
  makingOf(id: TenantId): string | undefined {
    return this.#making.get(id)
  }

  /** Takes the note of {@link makingTenant} back, on disk, before anything is written. */
  async madeTenant(id: TenantId): Promise<void> {
    if (!this.#making.has(id)) return
    await this.#kv.write([{ type: 'del', key: noteKey(`${MAKING}${id}`) }], { sync: true })
    this.#making.delete(id)
  }

  /** After everything else here was closed. */
  async close(): Promise<void> {
    // What cannot be noted, on a full disk say, costs another origin at the most.
    await noteLife(this.#kv, { ...this.#life, isClosed: true }).catch(() => {})
    await this.#kv.close()
  }
}

const noteKey = (name: string): Buffer => Buffer.from(`note.${name}`)

const noteLife = (kv: Kv, life: DiskLife): Promise<void> =>
  kv.write([{ type: 'put', key: noteKey(LIFE), value: packValue(life) }], { sync: true })

/** On disk before anything is written under it. Where there is no room to note it, it is one that no later start goes on with. */
async function beginLife(kv: Kv, boot: string | undefined): Promise<DiskLife> {
  const newId = () => randomBytes(4).toString('hex')
  const bytes = await kv.get(noteKey(LIFE))
  const life = nextLife(bytes && (unpackValue(bytes) as DiskLife), boot, newId)
  try {
    await noteLife(kv, life)
    return life
  } catch (error) {
    if (!(error instanceof PercolateError) || error.code !== 'DISK_FULL') throw error
    return { ...life, id: newId() }
  }
}

async function readOrMakeIdentity(kv: Kv, nodeId: string | undefined): Promise<NodeIdentity> {
  const bytes = await kv.get(IDENTITY_KEY)
  if (bytes !== undefined) {
    const identity = unpackValue(bytes) as NodeIdentity
    if (nodeId !== undefined && identity.node !== nodeId) {
      throw new PercolateError(
        'CONFIG_INVALID',
        `The data directory belongs to node "${identity.node}", but PERCOLATE_NODE_ID is "${nodeId}".`,
      )
    }
    return identity
  }
  const identity = { node: nodeId ?? `node-${randomBytes(4).toString('hex')}`, disk: randomBytes(4).toString('hex') }
  await kv.write([{ type: 'put', key: IDENTITY_KEY, value: packValue(identity) }], { sync: true })
  return identity
}
