import { ask } from '../ask.ts'
import { GrpcAsker } from '../ask-grpc.ts'
import { Load } from '../load.ts'
import { holdersEqual, type Scenario, type ScenarioContext, until, withTopology } from './scenario.ts'

const REQUESTS = [100, 10_000] as const
const TENANTS = 1000
const LANES = 8
const WAKE_MS_MAX = 90_000

/** Where `count` requests of a tenant enter; the first may wake its tier. */
export async function entriesOf(api: string, tenant: string, count: number): Promise<Map<string, number>> {
  const entries = new Map<string, number>()
  let next = 0
  const lane = async () => {
    while (next++ < count) {
      const { headers } = await ask(
        `${api}/api/v1/entities/x`,
        'GET',
        { 'x-tenant-id': tenant },
        undefined,
        WAKE_MS_MAX,
      )
      const node = String(headers['x-percolate-entry-node'] ?? 'none')
      entries.set(node, (entries.get(node) ?? 0) + 1)
    }
  }
  await Promise.all(Array.from({ length: LANES }, lane))
  return entries
}

/** Where one request of each tenant enters. */
async function spread(api: string): Promise<Map<string, string>> {
  const entries = new Map<string, string>()
  let next = 0
  const lane = async () => {
    while (next < TENANTS) {
      const tenant = `spread-${next++}`
      const { headers } = await ask(`${api}/api/v1/entities/x`, 'GET', { 'x-tenant-id': tenant })
      entries.set(tenant, String(headers['x-percolate-entry-node']))
    }
  }
  await Promise.all(Array.from({ length: LANES }, lane))
  return entries
}

/** Where one gRPC call of each of the first `count` tenants enters. */
async function spreadOverGrpc(address: string, count: number): Promise<Map<string, string>> {
  const grpc = new GrpcAsker(address)
  const entries = new Map<string, string>()
  for (let n = 0; n < count; n++) {
    const { entryNode } = await grpc.ask('GetEntity', { 'x-tenant-id': `spread-${n}` }, { id: 'x' })
    entries.set(`spread-${n}`, entryNode)
  }
  grpc.close()
  return entries
}

const moved = (before: ReadonlyMap<string, string>, after: ReadonlyMap<string, string>): number =>
  [...after].filter(([tenant, node]) => before.get(tenant) !== node).length

export const affinity: Scenario = {
  name: 'affinity',
  title: "A tenant's requests enter one node; tenants spread evenly; few move when a node joins or leaves",
  run: (context, verdict) =>
    withTopology(context, verdict, { fixed: { nodes: 3, workers: 0 } }, async topology => {
      const { api, grpc } = topology.cluster.addresses
      await ask(`${api}/api/v1/entities/x`, 'PUT', { 'x-tenant-id': 'one' }, { name: 'x' })
      for (const count of REQUESTS) {
        const entries = await entriesOf(api, 'one', count)
        const share = (100 * Math.max(...entries.values())) / count
        verdict.figure(`${count} requests: % into one node`, share)
        verdict.check(`more than 95 % of ${count} requests of a tenant enter one node`, share > 95)
        verdict.aim(`all ${count} do`, share === 100)
      }
      const three = await spread(api)
      const overGrpc = await spreadOverGrpc(grpc, 100)
      verdict.check(
        'gRPC calls of a tenant enter where its HTTP requests do',
        overGrpc.size === 100 && moved(three, overGrpc) === 0,
      )
      const counts = new Map<string, number>()
      for (const node of three.values()) counts.set(node, (counts.get(node) ?? 0) + 1)
      const mean = TENANTS / 3
      const deviation = Math.sqrt([...counts.values()].reduce((sum, n) => sum + (n - mean) ** 2, 0) / 3) / mean
      verdict.figure('tenants a node', [...counts.values()].sort((a, b) => b - a).join(' / '))
      verdict.figure('standard deviation, % of the mean', 100 * deviation)
      verdict.check(
        `every node has some of ${TENANTS} tenants, none more than half`,
        counts.size === 3 && Math.max(...counts.values()) < TENANTS / 2,
      )

      topology.nodes.scale(4, 'a node joins')
      await topology.nodes.whenReady()
      await topology.routerHas(4)
      const four = await spread(api)
      const joined = moved(three, four)
      verdict.figure('% of tenants that a join moved (a quarter is the least)', (100 * joined) / TENANTS)
      verdict.check('a join moves about a quarter: from 10 to 40 %', joined > TENANTS * 0.1 && joined < TENANTS * 0.4)
      verdict.check(
        'and moves them to the node that joined only',
        [...four].every(([tenant, node]) => node === three.get(tenant) || node === 'node-4'),
      )

      topology.nodes.scale(3, 'a node leaves')
      await until('the node is gone', context, 0, () => topology.nodes.present === 3)
      const again = await spread(api)
      const left = moved(four, again)
      verdict.figure('% of tenants that a leave moved', (100 * left) / TENANTS)
      verdict.check(
        'a leave moves those that were on the node only',
        [...again].every(([tenant, node]) => node === four.get(tenant) || four.get(tenant) === 'node-4'),
      )
    }),
}

const ACTIVE = 5
const SETTLED_MS = 3000

export const scalingUp: Scenario = {
  name: 'scaling-up',
  title: `${ACTIVE} active tenants at threshold 2 make 3 nodes, without a failed request`,
  run: (context, verdict) =>
    withTopology(
      context,
      verdict,
      {
        overrides: [
          { name: 'percolate-node', path: ['triggers', '0', 'metadata', 'threshold'], value: '2' },
          { name: 'percolate-node', path: ['minReplicaCount'], value: 1 },
        ],
      },
      async topology => {
        const { api, grpc } = topology.cluster.addresses
        const tenants = Array.from({ length: ACTIVE }, (_, n) => `active-${n}`)
        const load = new Load({ api, grpc, tenants, clients: ACTIVE, pauseMs: 20 })
        let most = 0
        const watch = () => {
          most = Math.max(most, topology.nodes.wanted)
          return topology.nodes.wanted
        }
        await until('three nodes are wanted', context, 120, () => watch() >= 3)
        await topology.nodes.whenReady()
        await topology.routerHas(3)
        await settle(context, watch)
        const before = tenants.map(tenant => load.entriesOf(tenant).length)
        await settle(context, watch)
        const figures = await load.stop()
        verdict.figure('nodes at most', most)
        verdict.check('three nodes, and never more', most === 3 && topology.nodes.wanted === 3)
        verdict.figure('requests', figures.requests)
        verdict.figure('failed', figures.failed)
        verdict.figure('p99 ms', figures.p99Ms)
        verdict.figure('longest ms (held until the first node was there)', figures.maxMs)
        verdict.check(`no request failed ${figures.failures.join('; ')}`.trim(), figures.failed === 0)
        const routes = tenants.map(tenant => load.entriesOf(tenant))
        verdict.figure(
          'ways of the tenants',
          routes.map(route => route.map(node => node.replace('node-', '')).join('→')).join(', '),
        )
        verdict.check(
          'a tenant moves at most once for each of the three nodes that joined',
          routes.every(route => route.length <= 1 + 3),
        )
        verdict.check(
          'in steady state every tenant enters one node',
          routes.every((route, n) => route.length === before[n]),
        )
        await until('all holders are equal', context, 0, async () =>
          (await Promise.all(tenants.map(tenant => holdersEqual(api, tenant)))).every(Boolean),
        )
      },
    ),
}

/** Some rounds of the HPA. */
async function settle({ speed }: ScenarioContext, watch: () => number): Promise<void> {
  const end = Date.now() + Math.max(SETTLED_MS, 60_000 / speed)
  while (Date.now() < end) {
    watch()
    await new Promise(resolve => setTimeout(resolve, 50))
  }
}
