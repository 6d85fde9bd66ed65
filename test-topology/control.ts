import { timingSafeEqual } from 'node:crypto'
import { existsSync } from 'node:fs'
import { readFile, rename, rm, writeFile } from 'node:fs/promises'
import { createServer, type IncomingMessage, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { errorMessage, PercolateError } from '../src/base/errors.ts'
import type { ClusterAddresses } from '../src/cluster/cluster.ts'
import type { ScalerState } from './autoscaler/autoscaler.ts'
import type { TestTopology, TopologyEvent, TopologySample } from './topology.ts'

/** What a running topology says of itself. */
export interface TopologyState {
  readonly speed: number
  readonly addresses: ClusterAddresses & { readonly prometheus: string }
  readonly processes: readonly {
    readonly name: string
    readonly zone: string | undefined
    readonly pid: number | undefined
  }[]
  readonly scalers: readonly ScalerState[]
  readonly sample: TopologySample | undefined
  readonly events: readonly TopologyEvent[]
}

const BODY_BYTES_MAX = 10_000
const EVENTS_SHOWN = 12
const FILE = 'topology.json'

/** The way into a topology that `up` runs, for the other commands: on loopback, with a token that only its data directory has. */
export class ControlServer {
  readonly #topology: TestTopology
  readonly #server: Server

  constructor(topology: TestTopology) {
    this.#topology = topology
    this.#server = createServer((request, response) => {
      const answer = (status: number, body: unknown) => {
        response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
      }
      this.#handle(request).then(
        body => answer(200, body),
        error => answer(error instanceof PercolateError ? 400 : 500, { detail: errorMessage(error) }),
      )
    })
  }

  async start(): Promise<void> {
    await new Promise<void>(resolve => this.#server.listen(0, '127.0.0.1', resolve))
    const { port } = this.#server.address() as AddressInfo
    const path = join(this.#topology.options.dataDir, FILE)
    const text = JSON.stringify({ url: `http://127.0.0.1:${port}`, token: this.#topology.token, pid: process.pid })
    await writeFile(`${path}.new`, text, { mode: 0o600 })
    await rename(`${path}.new`, path)
  }

  async stop(): Promise<void> {
    await rm(join(this.#topology.options.dataDir, FILE), { force: true })
    this.#server.closeAllConnections()
    await new Promise(resolve => this.#server.close(resolve))
  }

  async #handle(request: IncomingMessage): Promise<unknown> {
    const given = Buffer.from(request.headers.authorization ?? '')
    const wanted = Buffer.from(`Bearer ${this.#topology.token}`)
    if (given.length !== wanted.length || !timingSafeEqual(given, wanted))
      throw new PercolateError('PEER_FORBIDDEN', 'The token is not that of this topology.')
    const body = await readBody(request)
    switch (`${request.method} ${request.url}`) {
      case 'GET /state':
        return this.#state()
      case 'POST /kill':
        return { killed: await this.#topology.kill(String(body.name), Number(body.downMs ?? 0)) }
      case 'POST /partition':
        return {
          cut: await this.#topology.partition(
            String(body.name),
            body.from as 'nats' | 'peers' | 'all',
            Number(body.ms),
          ),
        }
      default:
        throw new PercolateError('INVALID_ARGUMENT', 'There is no such command.')
    }
  }

  #state(): TopologyState {
    const topology = this.#topology
    return {
      speed: topology.options.speed,
      addresses: { ...topology.cluster.addresses, prometheus: topology.prometheusUrl },
      processes: [...topology.cluster.programs].map(([name, { pid }]) => ({ name, zone: topology.zoneOf(name), pid })),
      scalers: topology.scalers(),
      sample: topology.samples.at(-1),
      events: topology.events.slice(-EVENTS_SHOWN),
    }
  }
}

async function readBody(request: IncomingMessage): Promise<Record<string, unknown>> {
  let text = ''
  for await (const chunk of request.setEncoding('utf8')) {
    text += chunk as string
    if (text.length > BODY_BYTES_MAX) throw new PercolateError('INVALID_ARGUMENT', 'The command is too long.')
  }
  return text === '' ? {} : (JSON.parse(text) as Record<string, unknown>)
}

/** Asks the topology that runs with this data directory. */
export async function askTopology<T = TopologyState>(
  dataDir: string,
  method: 'GET' | 'POST',
  path: string,
  body?: unknown,
): Promise<T> {
  const away = () =>
    new PercolateError(
      'INVALID_ARGUMENT',
      `No topology runs with the data directory ${dataDir}; "percolate test-topology up --data-dir ${dataDir}" starts one.`,
      { field: '--data-dir' },
    )
  const file = join(dataDir, FILE)
  if (!existsSync(file)) throw away()
  const { url, token } = JSON.parse(await readFile(file, 'utf8')) as { url: string; token: string }
  const answer = await fetch(url + path, {
    method,
    headers: { authorization: `Bearer ${token}` },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  }).catch(() => {
    throw away()
  })
  const parsed = (await answer.json()) as T & { detail?: string }
  if (!answer.ok) throw new PercolateError('INVALID_ARGUMENT', parsed.detail ?? `It answers ${answer.status}.`)
  return parsed
}
