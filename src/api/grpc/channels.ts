import { type Client, connectivityState, credentials, type ServiceClientConstructor } from '@grpc/grpc-js'

/** Nodes that channels are kept open to. */
const CHANNELS_MAX = 256

/** One channel a node, made anew when the node's address changes. A node that stops answering pings ends its calls, streams too. */
export class Channels {
  readonly #Service: ServiceClientConstructor
  readonly #open = new Map<string, { readonly address: string; readonly client: Client }>()

  constructor(Service: ServiceClientConstructor) {
    this.#Service = Service
  }

  to(node: string, address: string): Client {
    const channel = this.#open.get(node)
    if (channel?.address === address) return channel.client
    this.#drop(node)
    for (const [oldest] of this.#open) {
      if (this.#open.size < CHANNELS_MAX) break
      this.#drop(oldest)
    }
    const client = new this.#Service(address, credentials.createInsecure(), {
      'grpc.max_receive_message_length': -1,
      'grpc.max_send_message_length': -1,
      'grpc.initial_reconnect_backoff_ms': 100,
      'grpc.max_reconnect_backoff_ms': 1000,
      'grpc.keepalive_time_ms': 10_000,
      'grpc.keepalive_timeout_ms': 5000,
      // A connection of its own: the streams of one are bounded, and what nodes say to one another must not wait behind forwarded calls.
      'grpc.use_local_subchannel_pool': 1,
    })
    this.#open.set(node, { address, client })
    return client
  }

  close(): void {
    for (const node of [...this.#open.keys()]) this.#drop(node)
  }

  #drop(node: string): void {
    this.#open.get(node)?.client.close()
    this.#open.delete(node)
  }
}

/** Connects when it is not connected yet; false once that failed, or took longer than `withinMs`. */
export async function isConnected(client: Client, withinMs: number): Promise<boolean> {
  const channel = client.getChannel()
  const deadline = Date.now() + withinMs
  for (;;) {
    const state = channel.getConnectivityState(true)
    if (state === connectivityState.READY) return true
    if (state === connectivityState.TRANSIENT_FAILURE || state === connectivityState.SHUTDOWN) return false
    const failed = await new Promise<Error | undefined>(resolve =>
      channel.watchConnectivityState(state, deadline, error => resolve(error)),
    )
    if (failed) return false
  }
}
