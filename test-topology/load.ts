import { setTimeout as sleep } from 'node:timers/promises'
import { ask } from './ask.ts'
import { GrpcAsker } from './ask-grpc.ts'

export interface LoadOptions {
  /** Router, or any node. */
  readonly api: string
  /** Where every other client speaks gRPC, as `host:port`; without it all speak HTTP. */
  readonly grpc?: string
  readonly tenants: readonly string[]
  /** Clients at once; each works through the tenants in turn, one request after another. */
  readonly clients: number
  /** Between two requests of a client. */
  readonly pauseMs: number
  readonly durability?: 'local' | 'stream' | 'replicated'
  /** How long an answer may take: a held request waits for its node. */
  readonly timeoutMs?: number
}

export interface LoadFigures {
  readonly requests: number
  readonly failed: number
  readonly failures: readonly string[]
  readonly acknowledged: number
  readonly p50Ms: number
  readonly p99Ms: number
  readonly maxMs: number
}

export interface AcknowledgedWrite {
  readonly tenant: string
  readonly entity: string
  readonly value: string
}

interface Done {
  readonly failure: string | undefined
  readonly entryNode: string
  /** What a read found. */
  readonly value?: string
}

const TIMEOUT_MS = 30_000
const FAILURES_SHOWN = 8
/** Verification asks for so many records at once. */
const LANES = 8

/** Clients that write, each record once, and read what they wrote; they remember what was acknowledged and where their requests entered. */
export class Load {
  readonly #options: LoadOptions
  readonly #latenciesMs: number[] = []
  readonly #failures = new Map<string, number>()
  readonly #entries = new Map<string, { readonly node: string; readonly sinceMs: number }[]>()
  readonly #grpc: GrpcAsker | undefined
  readonly #clients: Promise<void>[]
  readonly acknowledged: AcknowledgedWrite[] = []
  #isOn = true
  #requests = 0
  #failed = 0

  constructor(options: LoadOptions) {
    this.#options = options
    this.#grpc = options.grpc === undefined ? undefined : new GrpcAsker(options.grpc)
    this.#clients = Array.from({ length: options.clients }, (_, n) => this.#client(n))
  }

  async stop(): Promise<LoadFigures> {
    this.#isOn = false
    await Promise.all(this.#clients)
    this.#grpc?.close()
    return this.figures()
  }

  figures(): LoadFigures {
    return {
      requests: this.#requests,
      failed: this.#failed,
      failures: [...this.#failures].slice(0, FAILURES_SHOWN).map(([text, count]) => `${count}× ${text}`),
      acknowledged: this.acknowledged.length,
      p50Ms: percentile(this.#latenciesMs, 50),
      p99Ms: percentile(this.#latenciesMs, 99),
      maxMs: percentile(this.#latenciesMs, 100),
    }
  }

  /** The nodes where a tenant's requests entered, in order, without repetitions in a row. */
  entriesOf(tenant: string): readonly string[] {
    return (this.#entries.get(tenant) ?? []).map(({ node }) => node)
  }

  async #client(client: number): Promise<void> {
    const { tenants, pauseMs, durability } = this.#options
    const own: AcknowledgedWrite[] = []
    const grpc = client % 2 === 1 ? this.#grpc : undefined
    for (let n = client; this.#isOn; n++) {
      const tenant = tenants[n % tenants.length]!
      const headers = { 'x-tenant-id': tenant, ...(durability ? { 'x-percolate-durability': durability } : {}) }
      const known = n % 3 === 0 ? own.findLast(write => write.tenant === tenant) : undefined
      const entity = known?.entity ?? `c${client}-${n}`
      const startedAt = performance.now()
      this.#requests++
      try {
        const value = String(n)
        const done = await (grpc
          ? this.#overGrpc(grpc, headers, entity, known ? undefined : value)
          : this.#overHttp(headers, entity, known ? undefined : value))
        if (done.failure !== undefined) this.#fail(done.failure)
        else if (known && done.value !== known.value) this.#fail('another value than was written')
        else if (!known) {
          const write = { tenant, entity, value }
          own.push(write)
          this.acknowledged.push(write)
        }
        this.#enter(tenant, done.entryNode, startedAt)
      } catch (error) {
        this.#fail((error as Error).message)
      }
      this.#latenciesMs.push(performance.now() - startedAt)
      await sleep(pauseMs)
    }
  }

  /** Writes `name`, or reads it when there is none to write. */
  async #overHttp(headers: Record<string, string>, entity: string, name: string | undefined): Promise<Done> {
    const { api, timeoutMs = TIMEOUT_MS } = this.#options
    const url = `${api}/api/v1/entities/${entity}`
    const answer =
      name === undefined
        ? await ask(url, 'GET', headers, undefined, timeoutMs)
        : await ask(url, 'PUT', headers, { name }, timeoutMs)
    return {
      failure: answer.status === 200 ? undefined : `${answer.status} ${answer.body?.code ?? ''}`,
      entryNode: String(answer.headers['x-percolate-entry-node'] ?? ''),
      value: answer.body?.name,
    }
  }

  async #overGrpc(
    grpc: GrpcAsker,
    headers: Record<string, string>,
    entity: string,
    name: string | undefined,
  ): Promise<Done> {
    const { timeoutMs = TIMEOUT_MS } = this.#options
    const { failure, entryNode, body } =
      name === undefined
        ? await grpc.ask('GetEntity', headers, { id: entity }, timeoutMs)
        : await grpc.ask('PutEntities', headers, { entities: [{ id: entity, name }] }, timeoutMs)
    return { failure, entryNode, value: body?.name }
  }

  #enter(tenant: string, node: string, startedAtMs: number): void {
    if (node === '') return
    const nodes = this.#entries.get(tenant) ?? []
    // Was on its way to the node before when another request came back from the present one: no way back.
    const isLate = nodes.at(-2)?.node === node && startedAtMs < nodes.at(-1)!.sinceMs
    if (nodes.at(-1)?.node !== node && !isLate) nodes.push({ node, sinceMs: performance.now() })
    this.#entries.set(tenant, nodes)
  }

  #fail(text: string): void {
    this.#failed++
    this.#failures.set(text, (this.#failures.get(text) ?? 0) + 1)
  }
}

/** Those of acknowledged writes that cannot be read any more, or have another value. */
export async function lostOf(api: string, writes: readonly AcknowledgedWrite[]): Promise<string[]> {
  const lost: string[] = []
  let next = 0
  const lane = async () => {
    while (next < writes.length) {
      const { tenant, entity, value } = writes[next++]!
      const answer = await ask(`${api}/api/v1/entities/${entity}`, 'GET', { 'x-tenant-id': tenant })
      if (answer.status !== 200 || answer.body.name !== value) lost.push(`${tenant}/${entity}: ${answer.status}`)
    }
  }
  await Promise.all(Array.from({ length: LANES }, lane))
  return lost
}

export const percentile = (values: readonly number[], p: number): number =>
  [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor((values.length * p) / 100))] ?? Number.NaN
