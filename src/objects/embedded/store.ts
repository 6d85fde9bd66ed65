import { createHash, randomUUID } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { open, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { makeFolder } from '../../base/make-folder.ts'
import { packValue, unpackValue } from '../../storage/codec.ts'
import { KeyReader, prefixRange, textPart, textPrefix } from '../../storage/keys.ts'
import { collect, type Kv } from '../../storage/kv.ts'
import { RenewedKv } from '../../storage/renewed.ts'
import { openRocksKv } from '../../storage/rocksdb.ts'
import { S3Error } from './errors.ts'
import { isDiskFull, Room, storageFull } from './room.ts'

/** A stretch of an object's bytes: one file. A completed multipart object is its parts, not a copy of them. */
interface Extent {
  readonly file: string
  readonly bytes: number
}

export interface StoredObject {
  readonly etag: string
  readonly bytes: number
  readonly modifiedAtMs: number
  readonly headers: { readonly [name: string]: string }
  readonly extents: readonly Extent[]
}

export interface StoredPart {
  readonly etag: string
  readonly bytes: number
  readonly modifiedAtMs: number
  readonly file: string
}

export interface ListedUpload {
  readonly key: string
  readonly uploadId: string
  readonly startedAtMs: number
}

const BUCKET = 1
const OBJECT = 2
const UPLOAD = 3
const PART = 4
const PART_BYTES_MIN = 5 * 1024 * 1024

const key = (space: number, ...parts: Buffer[]): Buffer => Buffer.concat([Buffer.from([space]), ...parts])
const partNumber = (number: number): Buffer => {
  const bytes = Buffer.alloc(2)
  bytes.writeUInt16BE(number)
  return bytes
}

/**
 * Objects on disk: an index (bucket and key → what the object is) in RocksDB, bytes in files named at random, so that no key becomes a
 * path. An object appears when its index entry is written, after its bytes are fsynced; files that no entry names are removed at start.
 */
export class DiskStore {
  readonly #index: Kv
  readonly #files: string
  readonly #room: Room

  private constructor(index: Kv, files: string, room: Room) {
    this.#index = index
    this.#files = files
    this.#room = room
  }

  /** `reserveBytes`: what objects leave free on the disk. */
  static async open(folder: string, reserveBytes: number): Promise<DiskStore> {
    const files = join(folder, 'files')
    await makeFolder(files, { setting: 'PERCOLATE_DATA_DIR' })
    const index = await RenewedKv.open(() =>
      openRocksKv(join(folder, 'index'), {
        createIfMissing: true,
        writeBufferBytes: 1024 * 1024,
        blockCacheBytes: 1024 * 1024,
      }),
    )
    const store = new DiskStore(index, files, new Room(files, reserveBytes))
    await store.#sweep()
    return store
  }

  async createBucket(bucket: string): Promise<void> {
    if (await this.#index.get(key(BUCKET, textPart(bucket))))
      throw new S3Error('BucketAlreadyOwnedByYou', 'The bucket exists.')
    await this.#put(key(BUCKET, textPart(bucket)), { createdAtMs: Date.now() })
  }

  async checkBucket(bucket: string): Promise<void> {
    if (!(await this.#index.get(key(BUCKET, textPart(bucket)))))
      throw new S3Error('NoSuchBucket', 'The bucket does not exist.')
  }

  async deleteBucket(bucket: string): Promise<void> {
    await this.checkBucket(bucket)
    const objects = await collect(this.#index, { ...prefixRange(key(OBJECT, textPart(bucket))), limit: 1 })
    if (objects.length > 0) throw new S3Error('BucketNotEmpty', 'The bucket is not empty.')
    await this.#index.write([{ type: 'del', key: key(BUCKET, textPart(bucket)) }], { sync: true })
  }

  async buckets(): Promise<{ name: string; createdAtMs: number }[]> {
    const entries = await collect(this.#index, prefixRange(key(BUCKET)))
    return entries.map(([k, v]) => ({
      name: new KeyReader(k).text(),
      createdAtMs: (unpackValue(v) as { createdAtMs: number }).createdAtMs,
    }))
  }

  /** Streams bytes into a new file, fsynced; the caller names it in the index or drops it. `body` is made when it is read, so that no failure of it goes unheard. `expectedBytes`: as the client says, 0 when it does not. InsufficientStorage, and no file, when there is no room. */
  async writeFile(body: () => Readable, expectedBytes: number): Promise<{ file: string; bytes: number; md5: string }> {
    const place = await this.#room.enter(expectedBytes)
    const file = randomUUID()
    const md5 = createHash('md5')
    let bytes = 0
    try {
      await pipeline(
        body(),
        async function* (source: AsyncIterable<Buffer>) {
          for await (const chunk of source) {
            md5.update(chunk)
            bytes += chunk.length
            await place.wrote(chunk.length)
            yield chunk
          }
        },
        createWriteStream(this.#path(file), { flags: 'wx', mode: 0o600 }),
      )
      await this.#sync(file)
    } catch (error) {
      await this.#remove([file])
      throw isDiskFull(error) ? storageFull() : error
    } finally {
      place.leave()
    }
    return { file, bytes, md5: md5.digest('hex') }
  }

  async dropFile(file: string): Promise<void> {
    await this.#remove([file])
  }

  async putObject(bucket: string, name: string, object: StoredObject, onlyIfAbsent: boolean): Promise<void> {
    const objectKey = key(OBJECT, textPart(bucket), textPart(name))
    const old = await this.#index.get(objectKey)
    if (old && onlyIfAbsent) throw new S3Error('PreconditionFailed', 'The object exists.')
    await this.#put(objectKey, object)
    if (old) await this.#remove((unpackValue(old) as StoredObject).extents.map(({ file }) => file))
  }

  async object(bucket: string, name: string): Promise<StoredObject | undefined> {
    const bytes = await this.#index.get(key(OBJECT, textPart(bucket), textPart(name)))
    return bytes && (unpackValue(bytes) as StoredObject)
  }

  async deleteObject(bucket: string, name: string): Promise<void> {
    const object = await this.object(bucket, name)
    if (!object) return
    await this.#index.write([{ type: 'del', key: key(OBJECT, textPart(bucket), textPart(name)) }], { sync: true })
    await this.#remove(object.extents.map(({ file }) => file))
  }

  /** Bytes `start` to `end`, inclusive. */
  read(object: StoredObject, start: number, end: number): Readable {
    const path = (file: string) => this.#path(file)
    return Readable.from(
      (async function* () {
        let at = 0
        for (const { file, bytes } of object.extents) {
          const from = Math.max(start - at, 0)
          const to = Math.min(end - at, bytes - 1)
          if (from <= to) yield* createReadStream(path(file), { start: from, end: to, highWaterMark: 256 * 1024 })
          at += bytes
        }
      })(),
      { objectMode: false },
    )
  }

  /** Objects whose key starts with `prefix` and is above `after`, in order of their UTF-8 bytes. */
  async *objects(
    bucket: string,
    prefix: string,
    after: string | undefined,
  ): AsyncGenerator<[name: string, object: StoredObject]> {
    const bucketKey = key(OBJECT, textPart(bucket))
    const range = prefixRange(Buffer.concat([bucketKey, textPrefix(prefix)]))
    const from = after === undefined ? range.gte : Buffer.concat([bucketKey, textPart(after), Buffer.from([0])])
    const gte = Buffer.compare(from, range.gte) > 0 ? from : range.gte
    for await (const chunk of this.#index.chunks({ gte, lt: range.lt })) {
      for (const [k, v] of chunk) yield [new KeyReader(k, bucketKey.length).text(), unpackValue(v) as StoredObject]
    }
  }

  async createUpload(bucket: string, name: string, headers: { readonly [name: string]: string }): Promise<string> {
    const place = await this.#room.enter(0)
    place.leave()
    const uploadId = randomUUID()
    await this.#put(this.#uploadKey(bucket, name, uploadId), { headers, startedAtMs: Date.now() })
    return uploadId
  }

  async putPart(bucket: string, name: string, uploadId: string, number: number, part: StoredPart): Promise<void> {
    await this.#upload(bucket, name, uploadId)
    const partKey = key(PART, textPart(uploadId), partNumber(number))
    const old = await this.#index.get(partKey)
    await this.#put(partKey, part)
    if (old) await this.#remove([(unpackValue(old) as StoredPart).file])
  }

  async parts(bucket: string, name: string, uploadId: string): Promise<Map<number, StoredPart>> {
    await this.#upload(bucket, name, uploadId)
    return this.#parts(uploadId)
  }

  /** Completes in one batch: the object appears, the upload and its part entries go. */
  async completeUpload(
    bucket: string,
    name: string,
    uploadId: string,
    wanted: readonly { number: number; etag: string }[],
    onlyIfAbsent: boolean,
  ): Promise<StoredObject> {
    const upload = await this.#upload(bucket, name, uploadId)
    const stored = await this.#parts(uploadId)
    const extents: Extent[] = []
    const digests: Buffer[] = []
    for (const [n, { number, etag }] of wanted.entries()) {
      if (n > 0 && number <= wanted[n - 1]!.number)
        throw new S3Error('InvalidPartOrder', 'Parts must be listed in ascending order.')
      const part = stored.get(number)
      if (!part || part.etag !== etag.replaceAll('"', ''))
        throw new S3Error('InvalidPart', `Part ${number} was not uploaded, or its ETag differs.`)
      if (n < wanted.length - 1 && part.bytes < PART_BYTES_MIN)
        throw new S3Error('EntityTooSmall', `Part ${number} is smaller than 5 MiB and not the last.`)
      extents.push({ file: part.file, bytes: part.bytes })
      digests.push(Buffer.from(part.etag, 'hex'))
    }
    const object: StoredObject = {
      etag: `${createHash('md5').update(Buffer.concat(digests)).digest('hex')}-${wanted.length}`,
      bytes: extents.reduce((sum, { bytes }) => sum + bytes, 0),
      modifiedAtMs: Date.now(),
      headers: upload.headers,
      extents,
    }
    const objectKey = key(OBJECT, textPart(bucket), textPart(name))
    const old = await this.#index.get(objectKey)
    if (old && onlyIfAbsent) throw new S3Error('PreconditionFailed', 'The object exists.')
    await this.#index.write(
      [
        { type: 'put', key: objectKey, value: packValue(object) },
        { type: 'del', key: this.#uploadKey(bucket, name, uploadId) },
        ...[...stored.keys()].map(number => ({
          type: 'del' as const,
          key: key(PART, textPart(uploadId), partNumber(number)),
        })),
      ],
      { sync: true },
    )
    const used = new Set(extents.map(({ file }) => file))
    const unused = [...stored.values()].map(({ file }) => file).filter(file => !used.has(file))
    await this.#remove([...unused, ...(old ? (unpackValue(old) as StoredObject).extents.map(({ file }) => file) : [])])
    return object
  }

  async abortUpload(bucket: string, name: string, uploadId: string): Promise<void> {
    await this.#upload(bucket, name, uploadId)
    const stored = await this.#parts(uploadId)
    await this.#index.write(
      [
        { type: 'del', key: this.#uploadKey(bucket, name, uploadId) },
        ...[...stored.keys()].map(number => ({
          type: 'del' as const,
          key: key(PART, textPart(uploadId), partNumber(number)),
        })),
      ],
      { sync: true },
    )
    await this.#remove([...stored.values()].map(({ file }) => file))
  }

  async uploads(bucket: string): Promise<ListedUpload[]> {
    const prefix = key(UPLOAD, textPart(bucket))
    const entries = await collect(this.#index, { ...prefixRange(prefix), limit: 1000 })
    return entries.map(([k, v]) => {
      const reader = new KeyReader(k, prefix.length)
      return {
        key: reader.text(),
        uploadId: reader.text(),
        startedAtMs: (unpackValue(v) as { startedAtMs: number }).startedAtMs,
      }
    })
  }

  close(): Promise<void> {
    return this.#index.close()
  }

  #uploadKey(bucket: string, name: string, uploadId: string): Buffer {
    return key(UPLOAD, textPart(bucket), textPart(name), textPart(uploadId))
  }

  async #upload(bucket: string, name: string, uploadId: string): Promise<{ headers: { [name: string]: string } }> {
    const bytes = await this.#index.get(this.#uploadKey(bucket, name, uploadId))
    if (!bytes) throw new S3Error('NoSuchUpload', 'The upload does not exist; it was completed or aborted.')
    return unpackValue(bytes) as { headers: { [name: string]: string } }
  }

  async #parts(uploadId: string): Promise<Map<number, StoredPart>> {
    const entries = await collect(this.#index, prefixRange(key(PART, textPart(uploadId))))
    return new Map(entries.map(([k, v]) => [k.readUInt16BE(k.length - 2), unpackValue(v) as StoredPart]))
  }

  async #put(entryKey: Buffer, value: unknown): Promise<void> {
    await this.#index.write([{ type: 'put', key: entryKey, value: packValue(value) }], { sync: true })
  }

  #path(file: string): string {
    return join(this.#files, file)
  }

  async #sync(file: string): Promise<void> {
    const handle = await open(this.#path(file), 'r')
    try {
      await handle.sync()
    } finally {
      await handle.close()
    }
  }

  async #remove(files: readonly string[]): Promise<void> {
    for (const file of files) await rm(this.#path(file), { force: true })
  }

  /** What a crash left: files without an entry, and multipart uploads that nobody will finish (their clients died with the process, or gave up). */
  async #sweep(): Promise<void> {
    const abandonedBefore = Date.now() - 24 * 3_600_000
    for (const { name } of await this.buckets()) {
      for (const upload of await this.uploads(name)) {
        if (upload.startedAtMs < abandonedBefore) await this.abortUpload(name, upload.key, upload.uploadId)
      }
    }
    const named = new Set<string>()
    for await (const chunk of this.#index.chunks(prefixRange(key(OBJECT)))) {
      for (const [, v] of chunk) for (const { file } of (unpackValue(v) as StoredObject).extents) named.add(file)
    }
    for await (const chunk of this.#index.chunks(prefixRange(key(PART)))) {
      for (const [, v] of chunk) named.add((unpackValue(v) as StoredPart).file)
    }
    await this.#remove((await readdir(this.#files)).filter(file => !named.has(file)))
  }
}
