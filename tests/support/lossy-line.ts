import { connect, createServer, type Socket } from 'node:net'

/** What becomes of bytes on their way: `lost` alone, or `cut` with both connections, as when the process behind them ends. A number: so many are carried, and the others lost. */
export type Fate = 'carried' | 'lost' | 'cut' | number

/** A line to a server on this machine on which a test decides, chunk by chunk, what becomes of the bytes. */
export class LossyLine {
  /** Of what a client sends (`out`) or gets (`in`). */
  fate: (direction: 'out' | 'in', text: string) => Fate = () => 'carried'
  readonly #target: number
  readonly #sockets = new Set<Socket>()
  readonly #server = createServer(client => this.#carry(client))
  port = 0

  constructor(target: number) {
    this.#target = target
  }

  async start(): Promise<this> {
    await new Promise<void>(resolve => this.#server.listen(0, '127.0.0.1', resolve))
    this.port = (this.#server.address() as { port: number }).port
    return this
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    await new Promise(resolve => this.#server.close(resolve))
  }

  #carry(client: Socket): void {
    const upstream = connect({ port: this.#target, host: '127.0.0.1' })
    const end = () => {
      client.destroy()
      upstream.destroy()
    }
    const pass = (direction: 'out' | 'in', to: Socket) => (bytes: Buffer) => {
      const fate = this.fate(direction, bytes.toString('latin1'))
      if (fate === 'cut') end()
      else if (fate !== 'lost') to.write(fate === 'carried' ? bytes : bytes.subarray(0, fate))
    }
    client.on('data', pass('out', upstream))
    upstream.on('data', pass('in', client))
    for (const socket of [client, upstream]) {
      this.#sockets.add(socket)
      socket.on('error', () => {})
      socket.once('close', () => {
        this.#sockets.delete(socket)
        end()
      })
    }
  }
}
