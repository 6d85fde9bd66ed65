import { Readable } from 'node:stream'
import { type ServiceError, status } from '@grpc/grpc-js'
import { describe, expect, it } from 'vitest'
import { TcpProxy } from '../../test-topology/tcp-proxy.ts'
import { TestCluster } from '../support/cluster.ts'
import { grpcClient } from '../support/grpc.ts'
import { eventually, listed, startTestObjects, tempFolder } from '../support/running.ts'

const replicated = { 'x-percolate-durability': 'replicated' }

const put = (
  cluster: TestCluster,
  node: string,
  id: string,
  properties: object,
  headers: Record<string, string> = {},
) => cluster.node(node).request('PUT', `/api/v1/entities/${id}`, { tenant: 'acme', body: { properties }, headers })
const get = (cluster: TestCluster, node: string, id: string, headers: Record<string, string> = {}) =>
  cluster.node(node).request('GET', `/api/v1/entities/${id}`, { tenant: 'acme', headers })

async function withCluster(
  options: Parameters<typeof TestCluster.start>[0],
  work: (cluster: TestCluster) => Promise<void>,
): Promise<void> {
  const cluster = await TestCluster.start(options)
  try {
    await work(cluster)
  } finally {
    await cluster.stop()
  }
}

/** Where NATS can be cut off from one node. */
const proxyOf = async (cluster: TestCluster) => {
  const { port, username, password } = new URL(cluster.nats.url)
  const proxy = await new TcpProxy(Number(port)).start()
  const user = username === '' ? '' : `${username}${password === '' ? '' : `:${password}`}@`
  return { proxy, url: `nats://${user}127.0.0.1:${proxy.port}` }
}

describe('a home', () => {
  it('moves to where the requests enter, without an error on the way, and rests there', { timeout: 120_000 }, () =>
    withCluster({ env: { PERCOLATE_MOVE_AFTER_REQUESTS: '20', PERCOLATE_MOVE_REST_MS: '6000' } }, async cluster => {
      await put(cluster, 'n1', 'e', { n: 0 }, replicated)
      const outsider = (await cluster.outsider('acme')).name
      const homeOf = async () =>
        (await cluster.node(outsider).request('GET', '/api/v1/replication', { tenant: 'acme' })).body.home
      let n = 0
      const moved = await eventually(
        'the home moves',
        async () => {
          const answers = await Promise.all([
            put(cluster, outsider, 'e', { [`p${n++}`]: n }),
            get(cluster, outsider, 'e', { 'x-percolate-consistency': 'home' }),
            get(cluster, 'n1', 'e'),
          ])
          expect(answers.map(({ status, body }) => (status === 200 ? 200 : body))).toEqual([200, 200, 200])
          return (await homeOf()) === outsider && (await get(cluster, outsider, 'e'))
        },
        40_000,
      )
      expect(moved.headers.get('x-percolate-node')).toBe(outsider)
      expect(Object.keys(moved.body.properties)).toHaveLength(n + 1)
      // Another node's traffic does not take it away again at once.
      for (let at = 0; at < 60; at++) await get(cluster, 'n1', 'e')
      expect(await homeOf()).toBe(outsider)
      await eventually('one copy too many goes', async () => (await cluster.holders('acme')).length === 2)
    }),
  )

  it('stays where it is whatever enters elsewhere and is refused', { timeout: 120_000 }, () =>
    withCluster({ env: { PERCOLATE_MOVE_AFTER_REQUESTS: '20', PERCOLATE_MOVE_REST_MS: '500' } }, async cluster => {
      const stored = await put(cluster, 'n1', 'e', { n: 0 }, replicated)
      const { version } = stored.body
      const outsider = await cluster.outsider('acme')
      const placed = async () => {
        const { home, holders } = (await cluster.node('n1').request('GET', '/api/v1/replication', { tenant: 'acme' }))
          .body
        return { home, holders: holders.map(({ node }: { node: string }) => node).sort() }
      }
      const before = await placed()
      const other = before.holders.find((node: string) => node !== before.home)!
      const { client, metadata } = grpcClient(`127.0.0.1:${outsider.grpcPort}`, 'acme')
      const putUnnamed = () =>
        new Promise<number>(resolve =>
          client.PutEntities!({ entities: [{ id: '' }] }, metadata, (error: ServiceError | null) =>
            resolve(error?.code ?? status.OK),
          ),
        )
      for (const node of [outsider.name, other])
        for (let n = 0; n < 60; n++) {
          const refused = await cluster.node(node).request('PUT', '/api/v1/entities/e', { tenant: 'acme', body: 7 })
          expect([node, refused.status]).toEqual([node, 400])
          const nothing = await cluster.node(node).request('DELETE', '/api/v1/entities/nobody', { tenant: 'acme' })
          expect([node, nothing.status]).toEqual([node, 404])
        }
      for (let n = 0; n < 60; n++) expect(await putUnnamed()).toBe(status.INVALID_ARGUMENT)
      client.close()
      // Longer than a move takes, which the test above waits for.
      await new Promise(resolve => setTimeout(resolve, 3000))
      expect(await placed()).toEqual(before)
      expect((await get(cluster, 'n1', 'e')).body.version).toBe(version)
    }),
  )

  it('counts its tenant as active, whichever holder answers, once in the sum over nodes', () =>
    withCluster(
      {
        env: { PERCOLATE_ACTIVE_WINDOW_MS: '1500', PERCOLATE_MOVE_AFTER_REQUESTS: '40', PERCOLATE_MOVE_REST_MS: '500' },
      },
      async cluster => {
        await put(cluster, 'n1', 'e', { n: 0 }, replicated)
        const home = (await cluster.node('n1').request('GET', '/api/v1/replication', { tenant: 'acme' })).body.home
        const other = (await cluster.holders('acme')).find(name => name !== home)!
        const active = async (name: string) => {
          const { body } = await cluster.node(name).request('GET', '/metrics')
          return Number(/^percolate_active_tenants\{[^}]*\} (\d+)/m.exec(String(body))![1])
        }
        const sum = async () => (await Promise.all([...cluster.nodes.keys()].map(active))).reduce((a, b) => a + b, 0)
        // A few requests, too few to bring the home here, for longer than the window.
        for (let n = 0; n < 30; n++) {
          const answer = await get(cluster, other, 'e')
          expect([answer.status, answer.headers.get('x-percolate-node')]).toEqual([200, other])
          if (n > 2) expect([n, await sum()]).toEqual([n, 1])
          await new Promise(resolve => setTimeout(resolve, 100))
        }
        // Many: the home comes here, and who had it forgets the tenant.
        await eventually('the home moves', async () => {
          for (let n = 0; n < 20; n++) await get(cluster, other, 'e')
          return (
            (await cluster.node('n1').request('GET', '/api/v1/replication', { tenant: 'acme' })).body.home === other
          )
        })
        await get(cluster, other, 'e')
        expect(await active(home)).toBe(0)
        expect(await active(other)).toBe(1)
        await eventually('it is not active any more', async () => (await sum()) === 0)
      },
    ))
})

describe('a node that stops while NATS is away', () => {
  it('gives what nobody has to another holder', () =>
    withCluster({ nodes: ['n2', 'n3'] }, async cluster => {
      const { proxy, url } = await proxyOf(cluster)
      await cluster.startNode('n1', {}, url)
      await put(cluster, 'n1', 'e', { a: 1 }, replicated)
      const [home, second] = await cluster.holders('acme')
      expect(home).toBe('n1')
      proxy.cut()
      const written = await put(cluster, 'n1', 'e', { unpublished: true })
      expect([written.status, written.headers.get('x-percolate-durability')]).toEqual([200, 'local'])
      await cluster.stopNode('n1')
      expect((await get(cluster, second!, 'e')).body.properties).toEqual({ a: 1, unpublished: true })
      await proxy.stop()
    }))
})

describe('a disk that was away for longer than deletes are remembered', () => {
  it('is made anew; what only it had is set aside, can be read, and is applied or discarded by an operator', () =>
    withCluster(
      {
        nodes: ['n1', 'n3'],
        env: {
          PERCOLATE_TOMBSTONE_MS: '1000',
          PERCOLATE_GC_INTERVAL_MS: '200',
          PERCOLATE_REPLACE_AFTER_MS: '1500',
          PERCOLATE_FORGET_AFTER_MS: '2500',
        },
      },
      async cluster => {
        const { proxy, url } = await proxyOf(cluster)
        for (const id of ['kept', 'victim']) await put(cluster, 'n1', id, { a: 1 }, replicated)
        await cluster.stopNode('n3')
        await cluster.startNode('n2', {}, url)
        await eventually('n2 holds it', async () => (await cluster.holders('acme')).includes('n2'))
        proxy.cut()
        for (const id of ['late', 'unwanted', 'victim'])
          expect((await put(cluster, 'n2', id, { written: 'far away' })).headers.get('x-percolate-node')).toBe('n2')
        await cluster.stopNode('n1')
        await cluster.stopNode('n2')
        await cluster.startNode('n1')
        await cluster.startNode('n3')
        const deletedAtMs = Date.now()
        await eventually('n3 holds it instead', async () => (await cluster.holders('acme')).includes('n3'))
        expect(
          (await cluster.node('n1').request('DELETE', '/api/v1/entities/victim', { tenant: 'acme' })).status,
        ).toBeLessThan(300)
        await eventually('the floor passes what n2 never had', async () => {
          const { body } = await cluster.node('n1').request('GET', '/api/v1/replication', { tenant: 'acme' })
          return body.holders.every(
            ({ floor }: { floor: string | null }) => floor !== null && Date.parse(floor) > deletedAtMs,
          )
        })
        await cluster.startNode('n2')
        const late = await eventually('the writes are set aside', async () => {
          const { body } = await cluster.node('n3').request('GET', '/api/v1/replication/late', { tenant: 'acme' })
          return body.results.length === 3 && body.results
        })
        expect(late.map(({ ops }: { ops: { key: string[] }[] }) => ops[0]!.key[0]).sort()).toEqual([
          'late',
          'unwanted',
          'victim',
        ])
        for (const { name } of cluster.nodes.values())
          for (const id of ['late', 'unwanted', 'victim'])
            expect([name, id, (await get(cluster, name, id)).status]).toEqual([name, id, 404])
        for (const { origin, sequence, ops } of late) {
          const action = ops[0].key[0] === 'unwanted' ? 'discard' : 'apply'
          const body = { origin, sequence, action }
          const resolved = await cluster
            .node('n3')
            .request('POST', '/api/v1/replication/late', { tenant: 'acme', body })
          expect([resolved.status, resolved.body]).toEqual([
            200,
            { origin, sequence, ...(action === 'apply' ? { applied: true, kept: [] } : { discarded: true }) },
          ])
        }
        expect((await get(cluster, 'n3', 'late', { 'x-percolate-consistency': 'home' })).body.properties).toEqual({
          written: 'far away',
        })
        expect((await get(cluster, 'n3', 'unwanted')).status).toBe(404)
        const left = await cluster.node('n1').request('GET', '/api/v1/replication/late', { tenant: 'acme' })
        expect(left.body).toEqual({ results: [], unreachable: [] })
        await cluster.stopNode('n3')
        const alone = await cluster.node('n1').request('GET', '/api/v1/replication/late', { tenant: 'acme' })
        expect(alone.body).toEqual({ results: [], unreachable: ['n3'] })
        await cluster.startNode('n3')
        const again = await cluster.node('n1').request('POST', '/api/v1/replication/late', {
          tenant: 'acme',
          body: { origin: late[0].origin, sequence: late[0].sequence, action: 'apply' },
        })
        expect([again.status, again.body.code]).toEqual([404, 'NOT_FOUND'])
        await proxy.stop()
      },
    ))
})

describe('a snapshot in the object store', () => {
  it('that is altered or cut short is refused; an older one with the stream behind it serves', async () => {
    const { objects, stop: stopObjects } = await startTestObjects(await tempFolder())
    const snapshots = (suffix: RegExp) => async () =>
      (await listed(objects, 'snapshots/acme/')).filter(key => suffix.test(key))
    await withCluster(
      { nodes: ['a'], objects, env: { PERCOLATE_SNAPSHOT_INTERVAL_MS: '1000', PERCOLATE_REPLICAS: '1' } },
      async cluster => {
        const manifests = snapshots(/manifest\.json$/)
        await put(cluster, 'a', 'first', { n: 1 })
        await eventually('one snapshot', async () => (await manifests()).length === 1)
        await put(cluster, 'a', 'second', { n: 2 })
        await eventually('another one', async () => (await manifests()).length === 2)
        await cluster.loseDisk('a')
        const [newest] = (await snapshots(/part-/)()).sort().reverse()
        const chunks: Buffer[] = []
        for await (const chunk of (await objects.get(newest!)).body) chunks.push(chunk as Buffer)
        const whole = Buffer.concat(chunks)
        const altered = Buffer.from(whole)
        altered[Math.floor(whole.length / 2)]! ^= 1
        await objects.put(newest!, Readable.from([altered]), {})
        await cluster.startNode('a')
        const back = await eventually('the tenant is back', async () => {
          const answer = await get(cluster, 'a', 'second')
          expect(answer.status).not.toBe(404)
          return answer.status === 200 && answer
        })
        expect(back.body.properties).toEqual({ n: 2 })
        expect((await get(cluster, 'a', 'first')).body.properties).toEqual({ n: 1 })
      },
    )
    await stopObjects()
  })
})

describe('production mode', () => {
  it('is not ready while the directory has fewer than three copies', () =>
    withCluster({ nodes: [] }, async cluster => {
      const node = await cluster.startNode('n1', { PERCOLATE_MODE: 'production' })
      const ready = await node.request('GET', '/ready', { tenant: undefined })
      const probe = ready.body.probes.find(({ name }: { name: string }) => name === 'stream-replicas')
      expect([ready.status, probe.ok]).toEqual([503, false])
      expect(JSON.stringify(probe)).toMatch(/3 NATS servers/)
    }))
})

describe('pooled sync streams', () => {
  it('carry every tenant, over restarts, without a stream each', () =>
    withCluster({ env: { PERCOLATE_SYNC_STREAMS: 'pooled:2' } }, async cluster => {
      const tenants = Array.from({ length: 12 }, (_, n) => `t${n}`)
      const write = (tenant: string, id: string, n: number) =>
        cluster.node(`n${1 + (n % 3)}`).request('PUT', `/api/v1/entities/${id}`, {
          tenant,
          body: { properties: { n } },
          headers: { 'x-percolate-durability': 'stream' },
        })
      const written = await Promise.all(tenants.map((tenant, n) => write(tenant, 'e', n)))
      expect(written.map(({ headers }) => headers.get('x-percolate-durability'))).toEqual(tenants.map(() => 'stream'))
      const names = await cluster.node('n1').stream.streamNames('percolate-sync')
      expect(names.length).toBeLessThanOrEqual(2)
      await cluster.stopNode('n2')
      for (const [n, tenant] of tenants.entries())
        await eventually(`${tenant} takes writes`, async () => {
          const answer = await cluster
            .node('n1')
            .request('PUT', `/api/v1/entities/f`, { tenant, body: { properties: { n } } })
          return answer.status === 200
        })
      await cluster.startNode('n2')
      for (const [n, tenant] of tenants.entries())
        await eventually(`${tenant} is equal everywhere`, async () => {
          const { body } = await cluster.node('n2').request('GET', '/api/v1/replication/check', { tenant })
          const read = await cluster.node('n2').request('GET', '/api/v1/entities/f', { tenant })
          return body.equal && read.body.properties?.n === n
        })
    }))
})
