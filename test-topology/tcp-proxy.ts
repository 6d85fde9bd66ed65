import { connect, createServer, type Server, type Socket } from 'node:net'

/** Carries connections to a port, until it is told to cut them: a network partition for whoever goes through it. */
export class TcpProxy {
  readonly #target: number
  readonly #targetHost: string
  readonly #host: string
  readonly #sockets = new Set<Socket>()
  #server: Server | undefined
  #isCut = false
  port = 0

  /** @param target the port to carry to, on `targetHost`; `host` is where it listens itself. */
  constructor(target: number, targetHost = '127.0.0.1', host = '127.0.0.1') {
    this.#target = target
    this.#targetHost = targetHost
    this.#host = host
  }

  async start(): Promise<this> {
    const server = createServer(client => {
      if (this.#isCut) {
        // Nothing comes back, as in a real partition.
        this.#keep(client)
        return
      }
      const upstream = connect({ port: this.#target, host: this.#targetHost })
      this.#keep(client)
      this.#keep(upstream)
      client.pipe(upstream)
      upstream.pipe(client)
      client.once('close', () => upstream.destroy())
      upstream.once('close', () => client.destroy())
    })
    await new Promise<void>(resolve => server.listen(0, this.#host, resolve))
    this.#server = server
    this.port = (server.address() as { port: number }).port
    return this
  }

  /** Bytes stop in both directions; connections stay, as far as their ends can tell. */
  cut(): void {
    this.#isCut = true
    for (const socket of this.#sockets) {
      socket.unpipe()
      socket.pause()
    }
  }

  heal(): void {
    if (!this.#isCut) return
    this.#isCut = false
    for (const socket of this.#sockets) socket.destroy()
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    await new Promise(resolve => this.#server?.close(resolve))
  }

  #keep(socket: Socket): void {
    this.#sockets.add(socket)
    socket.on('error', () => {})
    socket.once('close', () => this.#sockets.delete(socket))
  }
}
