import type { Readable } from 'node:stream'
import {
  CreateBucketCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  type ListObjectsV2CommandOutput,
  S3Client,
  S3ServiceException,
} from '@aws-sdk/client-s3'
import { Upload } from '@aws-sdk/lib-storage'
import { PercolateError } from '../base/errors.ts'
import type { ObjectInfo, ObjectStore } from './port.ts'

export interface S3Options {
  readonly endpoint: string
  readonly region: string
  readonly bucket: string
  readonly accessKey: string
  readonly secretKey: string
  /** As {@link SILENCE_MS_MAX}, which it defaults to. */
  readonly silenceMsMax?: number
}

/** An attempt at a request, or the body of an answer, is given up when nothing was sent or came for so long: a job whose document never comes would hold its slot for ever. */
const SILENCE_MS_MAX = 30_000
const CONNECT_MS_MAX = 10_000

/** S3's smallest part. One in flight and one filling: 10 MiB an upload, whatever its size. */
export const PART_BYTES = 5 * 1024 * 1024

/** The S3 adapter: the AWS SDK against any endpoint, path style. */
export class S3ObjectStore implements ObjectStore {
  readonly #client: S3Client
  readonly #bucket: string

  constructor(options: S3Options) {
    this.#bucket = options.bucket
    this.#client = new S3Client({
      endpoint: options.endpoint,
      region: options.region,
      forcePathStyle: true,
      credentials: { accessKeyId: options.accessKey, secretAccessKey: options.secretKey },
      maxAttempts: 3,
      requestHandler: {
        connectionTimeout: CONNECT_MS_MAX,
        socketTimeout: options.silenceMsMax ?? SILENCE_MS_MAX,
      },
    })
  }

  async prepare(): Promise<void> {
    await this.#call(async () => {
      try {
        await this.#client.send(new HeadBucketCommand({ Bucket: this.#bucket }))
      } catch (error) {
        if (statusOf(error) !== 404) throw error
        await this.#client.send(new CreateBucketCommand({ Bucket: this.#bucket }))
      }
    })
  }

  async put(
    key: string,
    body: Readable,
    options: { contentType?: string | undefined; signal?: AbortSignal },
  ): Promise<void> {
    const upload = new Upload({
      client: this.#client,
      params: {
        Bucket: this.#bucket,
        Key: key,
        Body: body,
        ...(options.contentType ? { ContentType: options.contentType } : {}),
      },
      partSize: PART_BYTES,
      queueSize: 1,
      leavePartsOnError: false,
    })
    // Not upload.abort(): that answers before the parts are removed. A body that fails makes the upload clean up first.
    const abort = () => void body.destroy(toError(options.signal?.reason))
    options.signal?.addEventListener('abort', abort, { once: true })
    try {
      if (options.signal?.aborted) abort()
      await upload.done()
    } catch (error) {
      // A body that failed is the caller's news, not the store's. Nor is it the body's that the upload let it go because the store had failed: then it was aborted.
      if (options.signal?.aborted) throw options.signal.reason
      if (body.errored && (body.errored as { code?: string }).code !== 'ABORT_ERR') throw body.errored
      throw unavailable(error)
    } finally {
      options.signal?.removeEventListener('abort', abort)
    }
  }

  async get(key: string, options: { signal?: AbortSignal } = {}): Promise<{ body: Readable; info: ObjectInfo }> {
    const answer = await this.#call(() =>
      this.#client.send(
        new GetObjectCommand({ Bucket: this.#bucket, Key: key }),
        options.signal ? { abortSignal: options.signal } : {},
      ),
    )
    return {
      body: answer.Body as Readable,
      info: { key, bytes: answer.ContentLength ?? 0, contentType: answer.ContentType },
    }
  }

  async head(key: string): Promise<ObjectInfo | undefined> {
    try {
      const answer = await this.#call(() =>
        this.#client.send(new HeadObjectCommand({ Bucket: this.#bucket, Key: key })),
      )
      return { key, bytes: answer.ContentLength ?? 0, contentType: answer.ContentType }
    } catch (error) {
      if (error instanceof PercolateError && error.code === 'NOT_FOUND') return undefined
      throw error
    }
  }

  async delete(key: string): Promise<void> {
    await this.#call(() => this.#client.send(new DeleteObjectCommand({ Bucket: this.#bucket, Key: key })))
  }

  async *list(prefix: string): AsyncGenerator<ObjectInfo> {
    for await (const { Contents = [] } of this.#pages({ Prefix: prefix }))
      for (const { Key, Size } of Contents) yield { key: Key ?? '', bytes: Size ?? 0, contentType: undefined }
  }

  async *folders(prefix: string): AsyncGenerator<string> {
    for await (const { CommonPrefixes = [] } of this.#pages({ Prefix: prefix, Delimiter: '/' }))
      for (const { Prefix = '' } of CommonPrefixes) yield Prefix.slice(prefix.length, -1)
  }

  async *#pages(query: { Prefix: string; Delimiter?: string }): AsyncGenerator<ListObjectsV2CommandOutput> {
    let after: string | undefined
    do {
      const page = await this.#call(() =>
        this.#client.send(new ListObjectsV2Command({ Bucket: this.#bucket, ...query, ContinuationToken: after })),
      )
      yield page
      after = page.NextContinuationToken
    } while (after !== undefined)
  }

  async ping(): Promise<void> {
    await this.#call(() => this.#client.send(new HeadBucketCommand({ Bucket: this.#bucket })))
  }

  close(): void {
    this.#client.destroy()
  }

  async #call<T>(operation: () => Promise<T>): Promise<T> {
    try {
      return await operation()
    } catch (error) {
      if (statusOf(error) === 404)
        throw new PercolateError('NOT_FOUND', 'The object is not in the store.', { cause: error })
      throw unavailable(error)
    }
  }
}

/** RFC 4918; of the stores that run on disks of their own. */
const INSUFFICIENT_STORAGE = 507

const toError = (reason: unknown): Error => (reason instanceof Error ? reason : new Error('aborted'))

const statusOf = (error: unknown): number | undefined =>
  error instanceof S3ServiceException ? error.$metadata.httpStatusCode : undefined

const unavailable = (error: unknown): PercolateError => {
  const status = statusOf(error)
  if (status === INSUFFICIENT_STORAGE)
    return new PercolateError(
      'OBJECT_STORE_UNAVAILABLE',
      'The disk of the object store is full; nothing was kept. Try again when there is space.',
      { retryAfterS: 30, cause: error },
    )
  const why = status === undefined ? 'does not answer' : `answered with status ${status}`
  return new PercolateError('OBJECT_STORE_UNAVAILABLE', `The object store ${why}.`, { cause: error })
}
