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
  readonly discard?: 'new' | 'old'
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
}

/** A key-value bucket. Keys are dot-separated tokens. */
export interface KvBucket {
  get(key: string): Promise<KvRecord | undefined>
  /** Returns the new revision. */
  put(key: string, value: Buffer): Promise<number>
  /** Undefined when the record has moved on from `revision` (0: when it exists). */
  update(key: string, value: Buffer, revision: number): Promise<number | undefined>
  delete(key: string): Promise<void>
  /** Records whose key matches a filter such as `acme.*`, at most `max`. */
  list(filter: string, max: number): Promise<KvRecord[]>
}

/** Every method throws STREAM_UNAVAILABLE when the servers can't be reached in time. */
export interface StreamPort {
  /** Makes the stream, or leaves it as it is when it exists. */
  ensureStream(spec: StreamSpec): Promise<void>
  ensureConsumer(spec: ConsumerSpec): Promise<void>
  /** Resolves when the stream has stored the message. `messageId` makes a repetition harmless. */
  publish(subject: string, data: Buffer, messageId: string): Promise<PublishAck>
  /** Up to `max` messages; waits for the first one for at most `waitMs`. */
  fetch(
    stream: string,
    consumer: string,
    options: { max: number; waitMs: number; signal?: AbortSignal },
  ): Promise<Delivery[]>
  bucket(name: string, options: { maxAgeMs: number; replicas: number }): Promise<KvBucket>
  /** Messages that wait in the stream, delivered or not. */
  depth(stream: string): Promise<number>
  /** Throws unless connected. */
  ping(): Promise<void>
  close(): Promise<void>
}
