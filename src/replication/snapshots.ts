import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { PercolateError } from '../base/errors.ts'
import type { TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import type { Time } from '../base/time.ts'
import { vectorToObject } from '../clock/vector.ts'
import type { ObjectStore } from '../objects/port.ts'
import { isSameFloor } from '../rem/floor.ts'
import { decodeEntry } from '../storage/codec.ts'
import type { Tenant } from '../tenant/tenant.ts'
import { exportCopy } from './export.ts'
import { latePage } from './late.ts'
import {
  byCoverage,
  type Holdings,
  holdingsOf,
  holdsAll,
  holdsLate,
  latestOfDisks,
  type Manifest,
  type Positions,
  parseManifest,
  positionsOf,
  type StoredEntries,
  type StoredObject,
} from './manifest.ts'
import { type ParkedPosition, parkedEntries } from './parked.ts'
import type { TransferHead, TransferPart } from './peer.ts'
import { decodePart, encodePart } from './transfer.ts'
import { sameCopy, type UseCopy } from './with-copy.ts'

export interface SnapshotInfo extends Holdings {
  readonly id: string
  readonly incarnation: string
  readonly madeAtMs: number
  readonly node: string
  readonly records: number
  readonly bytes: number
  /** See {@link Manifest.disk}. */
  readonly disk: string | undefined
  readonly late: Positions
}

/** A copy that a set is made of. */
export interface Snapshotted {
  readonly tenant: TenantId
  readonly incarnation: string
  readonly use: UseCopy
}

/** What a copy can be made from, or brought up to date with, when no other node has one. */
export interface StoredCopy {
  /** The newest set; every object is checked against the manifest before any of its records is given out. */
  readonly parts: AsyncIterable<TransferPart>
  /** What the stored copies kept until its clock was due, whatever has become of it since; pages of bytes of entries, each entry once. */
  readonly parked: AsyncIterable<readonly Buffer[]>
  /** What was set aside in the copies as late, and is not decided as far as the sets say; pages of bytes of entries, each entry once. */
  readonly late: AsyncIterable<readonly Buffer[]>
}

const ROOT = 'snapshots'
const PART_BYTES_MAX = 64 * 1024 * 1024
const MANIFEST_BYTES_MAX = 16 * 1024 * 1024
/** Sets of a tenant that are kept at least: the newest, and one to fall back on when that is found damaged. */
const KEPT = 2
const DAMAGED_MAX = 1000
/** Hex digits of the time that the name of a set begins with; the node's name follows. */
const ID_TIME_CHARS = 12
/** Parts of a transfer in one object, about: fewer requests than one each. */
const OBJECT_BYTES = 4 * 1024 * 1024

/**
 * Snapshots in the object store: under `snapshots/<tenant>/<incarnation>/<id>/` numbered part objects, those of what is parked, and of what was set aside, in objects of their own, then `manifest.json` with their sizes and SHA-256,
 * written last. A set without a manifest is none; an object that does not agree with the manifest makes the set unusable.
 */
export class SnapshotStore {
  readonly #objects: ObjectStore
  readonly #time: Time
  readonly #logger: Logger
  /** Sets that were found damaged: they are tried last. */
  readonly #damaged = new Set<string>()
  /** Sets that this process is storing. */
  readonly #saving = new Set<string>()

  constructor(objects: ObjectStore, time: Time, logger: Logger) {
    this.#objects = objects
    this.#time = time
    this.#logger = logger
  }

  /** Stores a set of what `use` gives access to; no lease is held while the object store is waited for. */
  async save({ tenant, incarnation, use }: Snapshotted, node: string, tier: string): Promise<SnapshotInfo> {
    const madeAtMs = this.#time.now()
    const id = `${madeAtMs.toString(16).padStart(12, '0')}-${node}`
    const seen = await this.#manifests(tenant, incarnation)
    const generation = 1 + Math.max(0, ...seen.map(manifest => manifest.generation ?? 0))
    this.#saving.add(id)
    try {
      const manifest = await this.#store({ tenant, incarnation, use }, { id, node, tier, madeAtMs, generation })
      await this.#prune(tenant, incarnation, node)
      return infoOf(manifest)
    } finally {
      this.#saving.delete(id)
    }
  }

  async #store(
    { tenant, incarnation, use }: Snapshotted,
    made: Pick<Manifest, 'id' | 'node' | 'madeAtMs'> & { readonly tier: string; readonly generation: number },
  ): Promise<Manifest> {
    const { id, node } = made
    const folder = `${ROOT}/${tenant}/${incarnation}/${id}`
    const same = sameCopy(use)
    // First what is parked: what is applied meanwhile is there twice, and not in neither place.
    const parked = await this.#storeEntries(same, folder, 'parked', parkedEntries)
    const late = await this.#storeEntries(same, folder, 'late', latePage)
    const disk = await same(async open => diskOf(open.origin))
    const writer = this.#writer(folder, 'part')
    let head: TransferHead | undefined
    let records = 0
    for await (const part of exportCopy(same, node, undefined)) {
      if ('head' in part) head = part.head
      else if ('records' in part) records += part.records.length
      // A set with records from before and after a floor would be no copy when it is restored.
      else if (!isSameFloor(head?.floor, part.end.floor))
        throw new PercolateError('TENANT_UNAVAILABLE', 'Garbage was collected while the snapshot was read; try again.')
      await writer.add(encodePart(part))
    }
    const parts = await writer.end()
    const manifest: Manifest = {
      version: 1,
      tenant,
      incarnation,
      ...made,
      vector: vectorToObject(head?.vector ?? new Map()),
      records,
      parts,
      ...(parked ? { parked } : {}),
      disk,
      ...(late ? { late } : {}),
    }
    await this.#put(`${folder}/manifest.json`, Buffer.from(JSON.stringify(manifest)))
    return manifest
  }

  async #storeEntries(
    use: UseCopy,
    folder: string,
    prefix: string,
    pageOf: (open: Tenant, after?: ParkedPosition) => Promise<Buffer[]>,
  ): Promise<StoredEntries | undefined> {
    const writer = this.#writer(folder, prefix)
    const stored: ParkedPosition[] = []
    for (let after: ParkedPosition | undefined; ; after = stored.at(-1)) {
      const page = await use(open => pageOf(open, after))
      if (page.length === 0) break
      for (const bytes of page) {
        const { origin, sequence } = decodeEntry(bytes)
        stored.push({ origin, sequence })
        await writer.add(bytes)
      }
    }
    const parts = await writer.end()
    return stored.length > 0 ? { positions: positionsOf(stored), parts } : undefined
  }

  /** Writes pieces, each behind its length, into numbered objects of about {@link OBJECT_BYTES}. */
  #writer(folder: string, prefix: string) {
    const objects: StoredObject[] = []
    let pending: Buffer[] = []
    let pendingBytes = 0
    const flush = async () => {
      if (pending.length === 0) return
      const body = Buffer.concat(pending)
      const name = `${prefix}-${String(objects.length).padStart(6, '0')}`
      await this.#put(`${folder}/${name}`, body)
      objects.push({ name, bytes: body.length, sha256: sha256(body) })
      pending = []
      pendingBytes = 0
    }
    return {
      add: async (piece: Buffer): Promise<void> => {
        const length = Buffer.alloc(4)
        length.writeUInt32BE(piece.length)
        pending.push(length, piece)
        pendingBytes += piece.length
        if (pendingBytes >= OBJECT_BYTES) await flush()
      },
      end: async (): Promise<readonly StoredObject[]> => {
        await flush()
        return objects
      },
    }
  }

  /** The newest complete set, or undefined. Newest is what has everything that others have ({@link byCoverage}); no clock has a say in it. */
  async newest(tenant: TenantId, incarnation: string): Promise<Manifest | undefined> {
    return (await this.#manifests(tenant, incarnation))[0]
  }

  async info(tenant: TenantId, incarnation: string): Promise<SnapshotInfo | undefined> {
    const manifest = await this.newest(tenant, incarnation)
    return manifest && infoOf(manifest)
  }

  /** What is stored of the tenant, or undefined. A set that was found damaged before is taken last. */
  async stored(tenant: TenantId, incarnation: string): Promise<StoredCopy | undefined> {
    const [newest, ...others] = await this.#manifests(tenant, incarnation)
    if (!newest) return undefined
    const sets = [newest, ...others.filter(({ id }) => !this.#damaged.has(id))]
    return {
      parts: this.#noting(newest, this.#read(newest, newest.parts, decodePart)),
      // The others may have something parked that the newest, of another node's copy, has not.
      parked: this.#readEntries(sets, manifest => manifest.parked),
      late: this.#readEntries(latestOfDisks(sets), manifest => manifest.late),
    }
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

  async *#readEntries(
    manifests: readonly Manifest[],
    of: (manifest: Manifest) => StoredEntries | undefined,
  ): AsyncGenerator<readonly Buffer[]> {
    const seen = new Set<string>()
    for (const manifest of manifests)
      for (const object of of(manifest)?.parts ?? []) {
        const page: Buffer[] = []
        for await (const bytes of this.#noting(
          manifest,
          this.#read(manifest, [object], piece => piece),
        )) {
          const { origin, sequence } = decodeEntry(bytes)
          const position = `${origin} ${sequence}`
          if (!seen.has(position)) page.push(bytes)
          seen.add(position)
        }
        yield page
      }
  }

  /** Remembers that a set is damaged when it is found so. */
  async *#noting<T>(manifest: Manifest, read: AsyncGenerator<T>): AsyncGenerator<T> {
    try {
      yield* read
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

  /** The pieces in those objects of a set, each object checked as a whole before the first of them. */
  async *#read<T>(
    manifest: Manifest,
    objects: readonly StoredObject[],
    decode: (piece: Buffer) => T,
  ): AsyncGenerator<T> {
    const folder = `${ROOT}/${manifest.tenant}/${manifest.incarnation}/${manifest.id}`
    for (const { name, bytes, sha256: expected } of objects) {
      if (bytes > PART_BYTES_MAX) throw damaged(manifest, name)
      const body = await this.#get(`${folder}/${name}`, bytes)
      if (body.length !== bytes || sha256(body) !== expected) throw damaged(manifest, name)
      for (let at = 0; at < body.length; ) {
        const length = body.readUInt32BE(at)
        yield decode(body.subarray(at + 4, at + 4 + length))
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
    const manifest = parseManifest(body, tenant, incarnation)
    if (manifest) return manifest
    this.#logger.error(
      { tenant, folder },
      'the manifest of a snapshot is damaged; an older one is used if there is one',
    )
    return undefined
  }

  /**
   * Deletes sets that a kept one has all of. What no kept set has all of stays. Of what has no manifest only what this node left unfinished goes: another may be storing its own just now.
   */
  async #prune(tenant: string, incarnation: string, node: string): Promise<void> {
    const root = `${ROOT}/${tenant}/${incarnation}`
    const manifests = await this.#manifests(tenant, incarnation)
    const complete = new Set(manifests.map(({ id }) => id))
    for await (const id of this.#objects.folders(`${root}/`)) {
      const isUnfinished = !complete.has(id) && !this.#saving.has(id) && id.slice(ID_TIME_CHARS) === `-${node}`
      // One whose manifest is damaged has all its parts still.
      if (isUnfinished && !(await this.#objects.head(`${root}/${id}/manifest.json`)))
        await this.#deleteAll(`${root}/${id}/`)
    }
    // Of a disk only the latest set says what is set aside there still.
    const telling = new Set(latestOfDisks(manifests.filter(({ id: set }) => !this.#damaged.has(set))))
    const kept: Manifest[] = []
    const covered: Manifest[] = []
    for (const manifest of manifests) {
      const isCovered = kept.some(
        other =>
          !this.#damaged.has(other.id) &&
          holdsAll(holdingsOf(other), holdingsOf(manifest)) &&
          (!telling.has(manifest) || holdsLate(other, manifest)),
      )
      if (kept.length < KEPT || !isCovered) kept.push(manifest)
      else covered.push(manifest)
    }
    // The earlier ones first: what was decided since must not seem to be set aside still when this is cut short.
    for (const manifest of covered.sort((a, b) => (a.generation ?? 0) - (b.generation ?? 0))) {
      // The manifest goes first: what is left of a set without one is none.
      await this.#objects.delete(`${root}/${manifest.id}/manifest.json`)
      await this.#deleteAll(`${root}/${manifest.id}/`)
    }
  }

  async #deleteAll(folder: string): Promise<void> {
    for await (const { key } of this.#objects.list(folder)) await this.#objects.delete(key)
  }

  /** The complete sets, newest first, those that were found damaged last. */
  async #manifests(tenant: string, incarnation: string): Promise<Manifest[]> {
    const ids: string[] = []
    for await (const id of this.#objects.folders(`${ROOT}/${tenant}/${incarnation}/`)) ids.push(id)
    const found: Manifest[] = []
    for (const id of ids) {
      const manifest = await this.#manifest(`${ROOT}/${tenant}/${incarnation}/${id}`, tenant, incarnation)
      if (manifest) found.push(manifest)
    }
    const sorted = byCoverage(found)
    return [...sorted.filter(({ id }) => !this.#damaged.has(id)), ...sorted.filter(({ id }) => this.#damaged.has(id))]
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
  ...holdingsOf(manifest),
  madeAtMs: manifest.madeAtMs,
  node: manifest.node,
  records: manifest.records,
  disk: manifest.disk,
  late: manifest.late?.positions ?? {},
  bytes: [...manifest.parts, ...(manifest.parked?.parts ?? []), ...(manifest.late?.parts ?? [])].reduce(
    (sum, { bytes }) => sum + bytes,
    0,
  ),
})

/** `node.disk` of an origin: a copy that is made anew on the same disk keeps what was set aside. */
const diskOf = (origin: string): string => origin.split('.').slice(0, 2).join('.')
