import type { Readable } from 'node:stream'

export interface ObjectInfo {
  readonly key: string
  readonly bytes: number
  readonly contentType: string | undefined
}

/** The object-store port: uploads live here until they are parsed, and after. One adapter speaks S3; the embedded endpoint is served, not called around. */
export interface ObjectStore {
  /** Makes the bucket when it is missing. */
  prepare(): Promise<void>
  /**
   * Streams `body` to the store in parts, holding at most two of them in memory. When the body fails or `signal` fires nothing
   * is left behind: neither an object nor parts. Resolves when the store has acknowledged the whole object.
   */
  put(
    key: string,
    body: Readable,
    options: { readonly contentType?: string | undefined; readonly signal?: AbortSignal },
  ): Promise<void>
  /** NOT_FOUND when there is none. */
  get(
    key: string,
    options?: { readonly signal?: AbortSignal },
  ): Promise<{ readonly body: Readable; readonly info: ObjectInfo }>
  head(key: string): Promise<ObjectInfo | undefined>
  /** Deleting what is not there is no error. */
  delete(key: string): Promise<void>
  /** All objects whose key begins with `prefix`, in the order of keys, read page by page. */
  list(prefix: string): AsyncIterable<ObjectInfo>
  /** What comes between `prefix` and the next slash, each once. */
  folders(prefix: string): AsyncIterable<string>
  /** Throws OBJECT_STORE_UNAVAILABLE when the store can't be reached. */
  ping(): Promise<void>
  close(): void
}
