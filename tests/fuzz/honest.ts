import { setTimeout as sleep } from 'node:timers/promises'
import { PercolateClient } from '../../client/client.ts'
import { PercolateClientError } from '../../client/errors.ts'
import { GrpcAsker } from '../../test-topology/ask-grpc.ts'
import { HONEST_TENANT } from './tenants.ts'

/** Between two writes of a client: it is there all the time, and no load. */
const PAUSE_MS = 5
/** Of what was acknowledged before, what is read behind every write. */
const READ_BACK = 3
const TIMEOUT_MS = 30_000
/** What a server that has much to do may answer instead. */
const MAY_REFUSE = /TOO_BUSY/

interface Reader {
  readonly protocol: 'HTTP' | 'gRPC'
  put(content: string): Promise<string>
  get(id: string): Promise<string>
}

/** Clients of one tenant that write and read, one over each protocol, beside whatever else the node is told. */
export class HonestClients {
  readonly #http: PercolateClient
  readonly #grpc: GrpcAsker
  readonly #acknowledged = new Map<string, string>()
  readonly wrong: string[] = []
  refused = 0
  #isRunning = true
  #running: Promise<unknown> = Promise.resolve()

  constructor(url: string, grpc: string) {
    this.#http = new PercolateClient({ url, tenant: HONEST_TENANT, attemptsMax: 1, timeoutMs: TIMEOUT_MS })
    this.#grpc = new GrpcAsker(grpc)
  }

  get acknowledged(): number {
    return this.#acknowledged.size
  }

  /** The one connection over HTTP that is kept between requests is there behind this. */
  async warmUp(): Promise<void> {
    await this.#readers()[0]!.put('the first note')
  }

  start(): void {
    this.#running = Promise.all(this.#readers().map(reader => this.#run(reader)))
  }

  /** No write is begun any more; what was acknowledged is read again, over both. */
  async end(): Promise<void> {
    this.#isRunning = false
    await this.#running
    for (const reader of this.#readers())
      for (const id of this.#acknowledged.keys()) await this.#tried(reader, 'at the end', () => this.#read(reader, id))
  }

  close(): void {
    this.#isRunning = false
    this.#grpc.close()
  }

  #readers(): readonly Reader[] {
    return [
      {
        protocol: 'HTTP',
        put: async content => (await this.#http.putResources([{ content }])).ids[0] ?? 'no id',
        get: async id => (await this.#http.getResource(id)).content,
      },
      {
        protocol: 'gRPC',
        put: async content => (await this.#ask('PutResources', { resources: [{ content }] })).ids[0] ?? 'no id',
        get: async id => (await this.#ask('GetResource', { id })).content,
      },
    ]
  }

  // biome-ignore lint/suspicious/noExplicitAny: answers of every shape.
  async #ask(method: string, message: unknown): Promise<any> {
    const { failure, body } = await this.#grpc.ask(method, { 'x-tenant-id': HONEST_TENANT }, message, TIMEOUT_MS)
    if (failure !== undefined) throw new Error(failure)
    return body
  }

  async #run(reader: Reader): Promise<void> {
    for (let n = 0; this.#isRunning; n++) {
      await this.#tried(reader, 'write', async () => {
        const content = `honest ${reader.protocol} ${n}`
        this.#acknowledged.set(await reader.put(content), content)
      })
      const ids = [...this.#acknowledged.keys()]
      for (let back = 1; back <= READ_BACK; back++) {
        const id = ids[ids.length - 1 - Math.floor((ids.length / READ_BACK) * (back - 1))]
        if (id !== undefined && this.#isRunning) await this.#tried(reader, 'read', () => this.#read(reader, id))
      }
      await sleep(PAUSE_MS)
    }
  }

  async #read(reader: Reader, id: string): Promise<void> {
    const found = await reader.get(id)
    const expected = this.#acknowledged.get(id)
    if (found !== expected)
      this.wrong.push(`${reader.protocol}: ${id} is ${JSON.stringify(found)}, not ${JSON.stringify(expected)}`)
  }

  async #tried(reader: Reader, what: string, work: () => Promise<void>): Promise<void> {
    try {
      await work()
    } catch (error) {
      const code = error instanceof PercolateClientError ? error.code : ''
      const text = `${reader.protocol} ${what}: ${code} ${(error as Error).message}`
      if (MAY_REFUSE.test(text)) this.refused++
      else this.wrong.push(text)
    }
  }
}
