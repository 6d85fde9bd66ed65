import { createParser } from 'eventsource-parser'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type RunningGateway, startGateway } from '../../gateway/gateway.ts'
import { systemTime } from '../../src/base/time.ts'
import type { S3ObjectStore } from '../../src/objects/s3.ts'
import type { NatsStream } from '../../src/stream/nats/adapter.ts'
import { type RunningWorker, startWorker } from '../../workers/worker.ts'
import { TestCluster } from '../support/cluster.ts'
import { type LosableNats, startLosableNats } from '../support/losable-nats.ts'
import {
  type Answer,
  connectNats,
  eventually,
  logger,
  remove,
  request,
  startTestObjects,
  tempFolder,
  testConfig,
} from '../support/running.ts'

/** All servers of NATS lose their stores under running nodes: one of its kind here, so that it is all of them. */

const NODES = ['n1', 'n2', 'n3'] as const
const replicated = { 'x-percolate-durability': 'replicated' }
let folder: string
let nats: LosableNats
let stopObjects: (() => Promise<void>) | undefined
let objects: S3ObjectStore
let cluster: TestCluster
let stream: NatsStream
let gateway: RunningGateway
let worker: RunningWorker
const feeds: Feed[] = []

const put = (node: string, id: string, properties: object, headers: Record<string, string> = {}, tenant = 'acme') =>
  cluster.node(node).request('PUT', `/api/v1/entities/${id}`, { tenant, body: { properties }, headers })
const get = (node: string, id: string, tenant = 'acme') =>
  cluster.node(node).request('GET', `/api/v1/entities/${id}`, { tenant })

/** Tries until it is acknowledged at that level: until then it may be refused, and nothing else. */
const putAt = (node: string, id: string, level: string, headers: Record<string, string> = {}, tenant?: string) =>
  eventually(`${node} writes ${id} at ${level}`, async () => {
    const answer = await put(node, id, { by: node }, { 'x-percolate-durability': level, ...headers }, tenant)
    const isReached = answer.headers.get('x-percolate-durability') === level
    if (answer.status === 200) return isReached && answer
    expect([503, 504]).toContain(answer.status)
    return undefined
  })

/** Everything that a feed of one node told, on one connection, until it ended with CHANGES_EXPIRED. */
class Feed {
  readonly seen = new Set<string>()
  isExpired = false
  readonly #stop = new AbortController()
  readonly #running: Promise<void>

  constructor(node: string) {
    this.#running = this.#run(node)
    this.#running.catch(() => {})
  }

  async #run(node: string): Promise<void> {
    const { signal } = this.#stop
    const url = `${cluster.node(node).url}/api/v1/changes?cursor=earliest&heartbeat_ms=500`
    const { body } = await fetch(url, { headers: { 'x-tenant-id': 'acme' }, signal })
    const parser = createParser({
      onEvent: ({ event, data }) => {
        const { changes = [], code } = JSON.parse(data) as { changes?: { id: string }[]; code?: string }
        if (event === 'error' && code === 'CHANGES_EXPIRED') this.isExpired = true
        for (const { id } of changes) this.seen.add(id)
      },
    })
    const decoder = new TextDecoder()
    for await (const part of body!) parser.feed(decoder.decode(part, { stream: true }))
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#running.catch(() => {})
  }
}

async function upload(content: string): Promise<Answer> {
  const form = new FormData()
  form.set('file', new Blob([content]), 'note.txt')
  return request(`http://127.0.0.1:${gateway.port}/upload?wait=20s`, 'POST', { tenant: 'acme', body: form })
}

beforeAll(async () => {
  folder = await tempFolder()
  nats = await startLosableNats(folder)
  ;({ objects, stop: stopObjects } = await startTestObjects(folder))
  cluster = await TestCluster.start({ nats })
  stream = connectNats(nats.url)
  const config = testConfig(folder, {})
  gateway = await startGateway({ config, logger, time: systemTime, stream, objects })
  const nodeUrl = cluster.node('n1').url
  worker = await startWorker({ config, logger, time: systemTime, stream, objects, nodeUrl, port: 0 })
})
afterAll(async () => {
  await Promise.all(feeds.map(feed => feed.stop()))
  await worker?.stop()
  await gateway?.stop()
  await stream?.close()
  await cluster?.stop()
  await stopObjects?.()
  await remove(folder)
})

describe('all servers of NATS lose their stores under running nodes', () => {
  const expected: string[] = []
  let version: string
  let told: number

  it('reads and writes go on while they are away', async () => {
    for (let n = 0; n < 5; n++) {
      expect((await put(NODES[n % 3]!, `before-${n}`, { n }, replicated)).status).toBe(200)
      expected.push(`before-${n}`)
    }
    version = (await put('n1', 'decided', { n: 1 }, replicated)).headers.get('etag')!
    expected.push('decided')
    const holders = await cluster.holders('acme')
    expect((await upload('The marker before is heliotrope.')).body.status).toBe('completed')
    for (const node of holders) feeds.push(new Feed(node))
    // A copy that was made from another has no changes from before that.
    told = expected.length
    await nats.loseStore()
    for (const node of holders) {
      expect((await put(node, `away-${node}`, {})).status).toBe(200)
      expected.push(`away-${node}`)
    }
    expect((await get(holders[0]!, 'before-0')).body.properties).toEqual({ n: 0 })
  })

  it('what was written before is there at every node, and writes come to be on two of them again', async () => {
    await nats.start()
    for (const node of NODES)
      for (let n = 0; n < 5; n++) expect((await get(node, `before-${n}`)).body.properties).toEqual({ n })
    for (const node of NODES) {
      expect((await put(node, `local-${node}`, {})).status).toBe(200)
      await putAt(node, `stream-${node}`, 'stream')
      await putAt(node, `replicated-${node}`, 'replicated')
      expected.push(`local-${node}`, `stream-${node}`, `replicated-${node}`)
    }
    await eventually('all holders are equal', async () => {
      const { body } = await cluster.node('n2').request('GET', '/api/v1/replication/check', { tenant: 'acme' })
      return body.equal && body.comparisons.length > 0
    })
    for (const node of NODES) for (const id of expected) expect([id, (await get(node, id)).status]).toEqual([id, 200])
  })

  it('one of two conditional writes on the version from before is done, and new tenants can be made', async () => {
    const answers = await Promise.all(
      ['n1', 'n2'].map(node =>
        eventually(`the home answers ${node}`, async () => {
          const answer = await put(node, 'decided', { by: node }, { 'if-match': version })
          return answer.status !== 503 && answer
        }),
      ),
    )
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 412])
    await putAt('n3', 'first', 'replicated', {}, 'later')
  })

  it('feeds have told everything, or have said that they do not', async () => {
    const missing = () =>
      feeds.map(({ seen, isExpired }) => (isExpired ? [] : expected.slice(told).filter(id => !seen.has(id))))
    await eventually('the feeds are through', async () => missing().flat().length === 0, 5000).catch(() => {})
    expect(missing()).toEqual([[], []])
  })

  it('an upload is worked on', async () => {
    const { status, body } = await upload('The marker after is vermilion.')
    expect([status, body.status]).toEqual([200, 'completed'])
    const found = await cluster.node('n1').request('GET', '/api/v1/resources?query=vermilion')
    expect(found.body.results).toHaveLength(1)
  })
})
