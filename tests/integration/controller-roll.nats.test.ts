import { mkdtemp, writeFile } from 'node:fs/promises'
import { createServer, request as httpRequest, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { systemTime } from '../../src/base/time.ts'
import { loadConfig } from '../../src/config/load.ts'
import { type RunningController, startController } from '../../src/controller.ts'
import type { NatsStream } from '../../src/stream/nats/adapter.ts'
import type { EmbeddedNats } from '../../src/stream/nats/server.ts'
import { FAST } from '../support/cluster.ts'
import { connectNats, eventually, logger, startTestNats, tempFolder } from '../support/running.ts'

/** The part of an API server that keeps an EndpointSlice. */
// biome-ignore lint/suspicious/noExplicitAny: an object of the API.
let slice: any
let api: Server
let nats: EmbeddedNats
let credentials: string
const running: { controller: RunningController; stream: NatsStream }[] = []

beforeAll(async () => {
  nats = await startTestNats(await tempFolder())
  credentials = await mkdtemp(join(tmpdir(), 'percolate-test-'))
  await writeFile(join(credentials, 'token'), 'a-token')
  api = createServer((request, response) => {
    let body = ''
    request.setEncoding('utf8').on('data', text => {
      body += text
    })
    request.once('end', () => {
      if (request.method === 'PATCH') slice = JSON.parse(body)
      if (slice) response.writeHead(200).end(JSON.stringify(slice))
      else response.writeHead(404).end('{}')
    })
  })
  await new Promise<void>(resolve => api.listen(0, '127.0.0.1', resolve))
})
afterAll(async () => {
  for (const { controller, stream } of running) {
    await controller.stop()
    await stream.close()
  }
  api.close()
  await nats.stop()
})

async function start(): Promise<RunningController> {
  const stream = connectNats(nats.url)
  const controller = await startController({
    config: loadConfig({
      role: 'controller',
      env: {
        ...FAST,
        PERCOLATE_NATS_URL: nats.url,
        PERCOLATE_HOST: '127.0.0.1',
        PERCOLATE_ACTIVATOR_TIERS: 'small',
        PERCOLATE_ACTIVATOR_HTTP_PORT: '0',
        PERCOLATE_ACTIVATOR_GRPC_PORT: '0',
        PERCOLATE_ROUTER: 'kubernetes',
        PERCOLATE_KUBERNETES_URL: `http://127.0.0.1:${(api.address() as AddressInfo).port}`,
        PERCOLATE_KUBERNETES_NAMESPACE: 'prod',
        PERCOLATE_KUBERNETES_CREDENTIALS: credentials,
        PERCOLATE_HOLD_MS: '1000',
        PERCOLATE_DRAIN_NOTICE_MS: '200',
      },
    }),
    logger,
    time: systemTime,
    stream,
    objects: undefined,
    port: undefined,
  })
  running.push({ controller, stream })
  return controller
}

const listed = () => `${slice?.endpoints[0].addresses[0]}:${slice?.ports[0].port}`
const httpOf = ({ activator }: RunningController) => activator!.addresses('small').http

/** A request as a router sends it that reads the list anew each time; what it came to. */
const ask = (): Promise<string> =>
  new Promise(resolve => {
    const [host, port] = listed().split(':') as [string, string]
    const outgoing = httpRequest({
      host,
      port,
      path: '/api/v1/entities/ada',
      headers: { 'x-tenant-id': 'acme' },
      agent: false,
    })
    outgoing.once('response', answer => {
      answer.resume().once('end', () => resolve(String(answer.statusCode)))
    })
    outgoing.once('error', error => resolve(String((error as NodeJS.ErrnoException).code)))
    outgoing.end()
  })

it('while controllers are rolled every request to a sleeping tier meets one that holds it', async () => {
  await start()
  await eventually('the first is in the list', async () => slice !== undefined)
  const outcomes: Promise<string>[] = []
  const asking = setInterval(() => outcomes.push(ask()), 10)
  for (let roll = 0; roll < 2; roll++) {
    const before = running.at(-1)!.controller
    expect(listed()).toBe(httpOf(before))
    const next = await start()
    // As a rolling update does: the next one is there, then the one before is told to stop.
    await before.stop()
    expect(listed()).toBe(httpOf(next))
  }
  clearInterval(asking)
  // Nothing woke, so each was held for as long as may be, or told that its holder goes; none met a closed door.
  const met = new Set(await Promise.all(outcomes))
  expect([...met]).toEqual(['503'])
  expect(outcomes.length).toBeGreaterThan(20)
})
