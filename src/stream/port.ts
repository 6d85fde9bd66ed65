/** The stream port: what Percolate needs of NATS JetStream. One adapter folder knows the client; the rest knows this. */

export interface StreamSpec {
  readonly name: string
  readonly subjects: readonly string[]
  /** `work-queue` keeps a message until it is acknowledged; `limits` keeps it for `maxAgeMs`. */
  readonly retention: 'work-queue' | 'limits'
  /** 0: no limit. */
  readonly maxAgeMs: number
  readonly replicas: number
  /** Messages at most; -1: no limit. Which end gives way when it is reached. */
  readonly messagesMax?: number
  /** Bytes at most, which the servers set aside for it when it is made; default: no limit. */
  readonly bytesMax?: number
  readonly discard?: 'new' | 'old'
  /** A message id is remembered for this long; default: two minutes. */
  readonly duplicateWindowMs?: number
}

export interface StreamInfo {
  /** When it was made, as the server says it: a stream that was deleted and made again has another. */
  readonly incarnation: string
  /** Of the oldest message; one above `lastSequence` when there is none. */
  readonly firstSequence: number
  readonly lastSequence: number
  readonly messages: number
  readonly bytes: number
  readonly lastAtMs: number
  readonly sealed: boolean
  /** Copies that the servers keep. */
  readonly replicas: number
}

export interface StoredMessage {
  readonly subject: string
  readonly data: Buffer
  readonly sequence: number
}

export interface ConsumerSpec {
  readonly stream: string
  readonly name: string
  readonly subject: string
  readonly ackWaitMs: number
  /** Messages delivered and not acknowledged, at most, over all who share the consumer. */
  readonly ackPendingMax: number
}

export interface Delivery {
  readonly data: Buffer
  readonly sequence: number
  /** 1 on the first delivery. */
  readonly deliveries: number
  /** Resolves when the server has confirmed it. */
  ack(): Promise<void>
  /** Gives the message back, to be delivered again after the delay. */
  release(delayMs: number): void
  /** Says that work goes on; restarts the wait for the acknowledgement. */
  working(): void
}

export interface PublishAck {
  readonly sequence: number
  /** The server had seen the message id within its window and stored nothing. */
  readonly duplicate: boolean
}

export interface KvRecord {
  readonly key: string
  readonly value: Buffer
  readonly revision: number
  /** When it was written, by the server's clock. */
  readonly writtenAtMs: number
}

/** A change of a key; no value: it was deleted. */
export interface KvUpdate {
  readonly key: string
  readonly value: Buffer | undefined
  readonly revision: number
}

/** Which bucket it is, and how far it has come. */
export interface KvState {
  /** As {@link StreamInfo.incarnation}. */
  readonly incarnation: string
  /** Of the last change of any key; revisions begin at 1 in a bucket that is made anew. */
  readonly revision: number
}

export interface BucketOptions {
  readonly maxAgeMs: number
  readonly replicas: number
  /** As {@link StreamSpec.bytesMax}. */
  readonly bytesMax?: number
}

export interface StreamStorage {
  readonly usedBytes: number
  /** Undefined: the account has no limit of its own. */
  readonly limitBytes: number | undefined
}

export interface KvListOptions {
  readonly max: number
  readonly before?: string | undefined
  readonly signal?: AbortSignal | undefined
}

/** A key-value bucket: a stream named `KV_<bucket>` to the servers. Keys are dot-separated tokens. */
export interface KvBucket {
  get(key: string): Promise<KvRecord | undefined>
  /** Returns the new revision. */
  put(key: string, value: Buffer): Promise<number>
  /** Undefined when the record has moved on from `revision` (0: when it exists). */
  update(key: string, value: Buffer, revision: number): Promise<number | undefined>
  delete(key: string): Promise<void>
  /** Records whose key matches a filter such as `acme.*`, the last key first: at most `max`, and only keys that come before `before`. Reads no more than it gives. Throws the reason of `signal` when that fires. */
  list(filter: string, options: KvListOptions): Promise<KvRecord[]>
  /** Undefined: the bucket is gone. All other methods then throw STREAM_UNAVAILABLE until it is opened again, which makes it. */
  state(): Promise<KvState | undefined>
  /**
   * The last value of every key, then every change, in the order of revisions; `undefined` once when the state at the start is complete. Ends
   * when the signal fires; throws STREAM_UNAVAILABLE when it can't go on, and the caller starts over. A watch whose bucket is lost may stay silent instead, and goes on
   * from the revision that it had come to when there is another bucket of that name: of all before that it tells nothing. Whoever watches compares {@link state}.
   */
  watch(signal: AbortSignal): AsyncIterable<KvUpdate | undefined>
}

/** Every method throws STREAM_UNAVAILABLE when the servers can't be reached in time. */
export interface StreamPort {
  /**
   * Makes the stream, or leaves it as it is when it exists (but for a byte limit, which one without gets). With fewer servers than replicas are wanted, it gets as many as there are.
   * STREAM_FULL when the servers have no room left to set aside for it.
   */
  ensureStream(spec: StreamSpec): Promise<void>
  /** Undefined when there is none. */
  streamInfo(name: string): Promise<StreamInfo | undefined>
  streamNames(prefix: string): Promise<string[]>
  /** No message is taken any more; those that are there can be read. It can't be undone. */
  sealStream(name: string): Promise<void>
  /** Drops the messages below a sequence. */
  trimStream(name: string, beforeSequence: number): Promise<void>
  /** Deleting what is not there is no error. */
  deleteStream(name: string): Promise<void>
  /**
   * The messages from `fromSequence` on (or from the oldest that is left), in order, those that are there and those to come, without
   * acknowledgements. Ends when the signal fires; throws STREAM_UNAVAILABLE when it can't go on, and the caller starts over.
   */
  consume(stream: string, options: { fromSequence: number; signal: AbortSignal }): AsyncIterable<StoredMessage>
  /** A message to whoever listens now: not stored, may be lost. */
  announce(subject: string, data: Buffer): void
  /** Returns a function that ends it. `*` stands for one token. */
  listen(subject: string, handle: (data: Buffer) => void): () => void
  ensureConsumer(spec: ConsumerSpec): Promise<void>
  /** Resolves when the stream has stored the message. `messageId` makes a repetition harmless. STREAM_FULL when the stream is at a limit of its own. */
  publish(subject: string, data: Buffer, messageId: string): Promise<PublishAck>
  /** Up to `max` messages; waits for the first one for at most `waitMs`. */
  fetch(
    stream: string,
    consumer: string,
    options: { max: number; waitMs: number; signal?: AbortSignal },
  ): Promise<Delivery[]>
  bucket(name: string, options: BucketOptions): Promise<KvBucket>
  /** What the account's streams take now, replicas counted, and may take together. */
  storage(): Promise<StreamStorage>
  /** Messages that wait in the stream, delivered or not. */
  depth(stream: string): Promise<number>
  /** Throws unless connected. */
  ping(): Promise<void>
  close(): Promise<void>
}
