import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import type { Time } from '../base/time.ts'
import { type VersionVector, vectorFromObject, vectorToObject } from '../clock/vector.ts'
import type { ObjectStore } from '../objects/port.ts'
import type { Tenant } from '../tenant/tenant.ts'
import type { TransferPart } from './peer.ts'
import { decodePart, encodePart, exportTenant } from './transfer.ts'

export interface SnapshotInfo {
  readonly id: string
  readonly incarnation: string
  readonly vector: VersionVector
  readonly madeAtMs: number
  readonly node: string
  readonly records: number
  readonly bytes: number
}

export interface Manifest {
  readonly version: 1
  readonly tenant: string
  readonly incarnation: string
  readonly id: string
  readonly node: string
  /** Absent in the sets of the first builds. */
  readonly tier?: string
  readonly madeAtMs: number
  readonly vector: Record<string, number>
  readonly records: number
  readonly parts: readonly { readonly name: string; readonly bytes: number; readonly sha256: string }[]
}

const ROOT = 'snapshots'
const PART_BYTES_MAX = 64 * 1024 * 1024
const MANIFEST_BYTES_MAX = 16 * 1024 * 1024
/** Newest sets of a tenant that are kept. */
const KEPT = 2
const DAMAGED_MAX = 1000
/** Parts of a transfer in one object, about: fewer requests than one each. */
const OBJECT_BYTES = 4 * 1024 * 1024

/**
 * Snapshots in the object store: under `snapshots/<tenant>/<incarnation>/<id>/` numbered part objects, then `manifest.json` with their sizes and SHA-256, written last. A set
 * without a manifest is none; a part that does not agree with the manifest makes the set unusable.
 */
export class SnapshotStore {
  readonly #objects: ObjectStore
  readonly #time: Time
  readonly #logger: Logger
  /** Sets that were found damaged: they are tried last. */
  readonly #damaged = new Set<string>()

  constructor(objects: ObjectStore, time: Time, logger: Logger) {
    this.#objects = objects
    this.#time = time
    this.#logger = logger
  }

  async save(tenant: Tenant, node: string, tier: string): Promise<SnapshotInfo> {
    const madeAtMs = this.#time.now()
    const { incarnation } = tenant.identity
    const id = `${madeAtMs.toString(16).padStart(12, '0')}-${node}`
    const folder = `${ROOT}/${tenant.id}/${incarnation}/${id}`
    const parts: { name: string; bytes: number; sha256: string }[] = []
    let vector: VersionVector = new Map()
    let records = 0
    let pending: Buffer[] = []
    let pendingBytes = 0
    const flush = async () => {
      if (pending.length === 0) return
      const body = Buffer.concat(pending)
      const name = `part-${String(parts.length).padStart(6, '0')}`
      await this.#put(`${folder}/${name}`, body)
      parts.push({ name, bytes: body.length, sha256: sha256(body) })
      pending = []
      pendingBytes = 0
    }
    for await (const part of exportTenant(tenant, node, undefined)) {
      if ('head' in part) vector = part.head.vector
      if ('records' in part) records += part.records.length
      const bytes = encodePart(part)
      const length = Buffer.alloc(4)
      length.writeUInt32BE(bytes.length)
      pending.push(length, bytes)
      pendingBytes += bytes.length
      if (pendingBytes >= OBJECT_BYTES) await flush()
    }
    await flush()
    const manifest: Manifest = {
      version: 1,
      tenant: tenant.id,
      incarnation,
      id,
      node,
      tier,
      madeAtMs,
      vector: vectorToObject(vector),
      records,
      parts,
    }
    await this.#put(`${folder}/manifest.json`, Buffer.from(JSON.stringify(manifest)))
    await this.#prune(tenant.id, incarnation)
    return infoOf(manifest)
  }

  /** The newest complete set, or undefined. */
  async newest(tenant: TenantId, incarnation: string): Promise<Manifest | undefined> {
    for (const id of await this.#ids(tenant, incarnation)) {
      const manifest = await this.#manifest(`${ROOT}/${tenant}/${incarnation}/${id}`, tenant, incarnation)
      if (manifest) return manifest
    }
    return undefined
  }

  async info(tenant: TenantId, incarnation: string): Promise<SnapshotInfo | undefined> {
    const manifest = await this.newest(tenant, incarnation)
    return manifest && infoOf(manifest)
  }

  /** The parts of the newest set that was not found damaged before; every object is checked against the manifest before any of its records is given out. */
  async parts(tenant: TenantId, incarnation: string): Promise<AsyncIterable<TransferPart> | undefined> {
    const manifest = await this.newest(tenant, incarnation)
    return manifest && this.#readOrNote(manifest)
  }

  /** Tenants that may have a snapshot: what is left when every disk and the directory are gone. */
  tenants(): AsyncIterable<string> {
    return this.#objects.folders(`${ROOT}/`)
  }

  /** The newest set of the tenant's newest incarnation that has one. */
  async latest(tenant: TenantId): Promise<Manifest | undefined> {
    const incarnations: string[] = []
    for await (const incarnation of this.#objects.folders(`${ROOT}/${tenant}/`)) incarnations.push(incarnation)
    for (const incarnation of incarnations.sort().reverse()) {
      const manifest = await this.newest(tenant, incarnation)
      if (manifest) return manifest
    }
    return undefined
  }

  async *#readOrNote(manifest: Manifest): AsyncGenerator<TransferPart> {
    try {
      yield* this.#read(manifest)
    } catch (error) {
      if (error instanceof PercolateError && (error.code === 'SNAPSHOT_INVALID' || error.code === 'NOT_FOUND')) {
        this.#logger.error(
          { tenant: manifest.tenant, snapshot: manifest.id, reason: error.message },
          'a snapshot cannot be used; the next attempt takes an older one if there is one',
        )
        if (this.#damaged.size >= DAMAGED_MAX) this.#damaged.clear()
        this.#damaged.add(manifest.id)
      }
      throw error
    }
  }

  async *#read(manifest: Manifest): AsyncGenerator<TransferPart> {
    const folder = `${ROOT}/${manifest.tenant}/${manifest.incarnation}/${manifest.id}`
    for (const { name, bytes, sha256: expected } of manifest.parts) {
      if (bytes > PART_BYTES_MAX) throw damaged(manifest, name)
      const body = await this.#get(`${folder}/${name}`, bytes)
      if (body.length !== bytes || sha256(body) !== expected) throw damaged(manifest, name)
      for (let at = 0; at < body.length; ) {
        const length = body.readUInt32BE(at)
        yield decodePart(body.subarray(at + 4, at + 4 + length))
        at += 4 + length
      }
    }
  }

  async #manifest(folder: string, tenant: string, incarnation: string): Promise<Manifest | undefined> {
    const body = await this.#get(`${folder}/manifest.json`, MANIFEST_BYTES_MAX).catch(error => {
      if (error instanceof PercolateError && error.code === 'NOT_FOUND') return undefined
      throw error
    })
    if (!body) return undefined
    try {
      const manifest = JSON.parse(body.toString()) as Manifest
      const valid =
        manifest.version === 1 &&
        manifest.tenant === tenant &&
        manifest.incarnation === incarnation &&
        Array.isArray(manifest.parts) &&
        vectorFromObject(manifest.vector) !== undefined
      if (valid) return manifest
    } catch {
      // Reported below like every other damage.
    }
    this.#logger.error(
      { tenant, folder },
      'the manifest of a snapshot is damaged; an older one is used if there is one',
    )
    return undefined
  }

  async #prune(tenant: string, incarnation: string): Promise<void> {
    const ids = (await this.#ids(tenant, incarnation)).sort().reverse()
    for (const id of ids.slice(KEPT)) {
      const folder = `${ROOT}/${tenant}/${incarnation}/${id}`
      // The manifest goes first: what is left of a set without one is none.
      await this.#objects.delete(`${folder}/manifest.json`)
      for await (const { key } of this.#objects.list(`${folder}/`)) await this.#objects.delete(key)
    }
  }

  /** Newest first; those that were found damaged last. */
  async #ids(tenant: string, incarnation: string): Promise<string[]> {
    const ids: string[] = []
    for await (const id of this.#objects.folders(`${ROOT}/${tenant}/${incarnation}/`)) ids.push(id)
    const rank = (id: string) => Number(this.#damaged.has(id))
    return ids
      .sort()
      .reverse()
      .sort((a, b) => rank(a) - rank(b))
  }

  async #put(key: string, body: Buffer): Promise<void> {
    await this.#objects.put(key, Readable.from([body]), { contentType: 'application/octet-stream' })
  }

  async #get(key: string, bytesMax: number): Promise<Buffer> {
    const { body } = await this.#objects.get(key)
    const chunks: Buffer[] = []
    let bytes = 0
    for await (const chunk of body) {
      bytes += (chunk as Buffer).length
      if (bytes > bytesMax) {
        body.destroy()
        throw new PercolateError('SNAPSHOT_INVALID', `${key} is larger than its manifest says.`)
      }
      chunks.push(chunk as Buffer)
    }
    return Buffer.concat(chunks)
  }
}

const sha256 = (body: Buffer) => createHash('sha256').update(body).digest('hex')

const damaged = (manifest: Manifest, part: string) =>
  new PercolateError(
    'SNAPSHOT_INVALID',
    `The snapshot ${manifest.id} of ${manifest.tenant} is cut short or altered (${part}); it is not used.`,
  )

const infoOf = (manifest: Manifest): SnapshotInfo => ({
  id: manifest.id,
  incarnation: manifest.incarnation,
  vector: vectorFromObject(manifest.vector) ?? new Map(),
  madeAtMs: manifest.madeAtMs,
  node: manifest.node,
  records: manifest.records,
  bytes: manifest.parts.reduce((sum, { bytes }) => sum + bytes, 0),
})
