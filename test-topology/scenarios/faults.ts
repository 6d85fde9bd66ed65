import { setTimeout as sleep } from 'node:timers/promises'
import { PACKAGE_FOLDER } from '../../src/base/version.ts'
import { ask } from '../ask.ts'
import { measureLag } from '../lag.ts'
import { Load, lostOf, percentile } from '../load.ts'
import { previousPackage } from '../previous.ts'
import { holdersOf } from './scaling.ts'
import { holdersEqual, type Scenario, until, withTopology } from './scenario.ts'

const LAG_WRITES = 200
const LAG_AIM_MS = 100

export const replication: Scenario = {
  name: 'replication',
  title: 'A write appears on the peers at once, and the holders are identical',
  run: (context, verdict) =>
    withTopology(context, verdict, { fixed: { nodes: 3, workers: 0 } }, async topology => {
      const { api, nodes } = topology.cluster.addresses
      const headers = { 'x-tenant-id': 'lag' }
      await ask(
        `${api}/api/v1/entities/first`,
        'PUT',
        { ...headers, 'x-percolate-durability': 'replicated' },
        { name: 'x' },
      )
      await until('there are two holders', context, 0, () => holdersEqual(api, 'lag'))
      const holders = await holdersOf(api, 'lag')
      const [writer, reader] = holders.map(holder => nodes.find(({ name }) => name === holder)!)
      const { lagsMs, missing } = await measureLag('lag', writer!, reader!, LAG_WRITES)
      verdict.figure('writes', LAG_WRITES)
      verdict.figure('lag p50 ms', percentile(lagsMs, 50))
      verdict.figure('lag p99 ms', percentile(lagsMs, 99))
      verdict.check('every write appears on the peer', missing === 0)
      verdict.aim(`p99 below ${LAG_AIM_MS} ms`, percentile(lagsMs, 99) < LAG_AIM_MS)
      // Once is enough: after it, a copy that the writes' home left behind may be going, and is equal to nobody.
      const become = until('they are identical', context, 0, () => holdersEqual(api, 'lag'))
      verdict.check(
        'the holders are identical',
        await become.then(
          () => true,
          () => false,
        ),
      )
    }),
}

const DOWN_MS = 15_000
/** By then the streams have new leaders (NATS takes 4 to 5 s), the other nodes know that a zone is gone, and homes are taken over. */
const NOTICED_MS = 7000
const TENANTS = ['z1', 'z2', 'z3', 'z4', 'z5', 'z6']

export const zoneLoss: Scenario = {
  name: 'zone-loss',
  title:
    'One of three zones is killed under load: reads and writes go on, nothing acknowledged is lost, the zone heals',
  run: (context, verdict) =>
    withTopology(context, verdict, { fixed: { nodes: 3, workers: 0 }, replicas: 3 }, async topology => {
      const { api, grpc } = topology.cluster.addresses
      const loads = (['stream', 'replicated'] as const).map(
        durability => new Load({ api, grpc, tenants: TENANTS, clients: 4, pauseMs: 10, durability, timeoutMs: 10_000 }),
      )
      const count = (key: 'requests' | 'failed' | 'acknowledged') =>
        loads.reduce((sum, load) => sum + load.figures()[key], 0)
      await sleep(3000)
      verdict.figure('failed before', count('failed'))
      const killed = await topology.kill('zone-2', DOWN_MS)
      verdict.figure('killed', killed.join(' '))
      await sleep(NOTICED_MS)
      const noticed = { requests: count('requests'), failed: count('failed'), acknowledged: count('acknowledged') }
      verdict.figure(`failed in the first ${NOTICED_MS / 1000} s`, noticed.failed)
      await sleep(DOWN_MS - NOTICED_MS - 500)
      const acknowledged = count('acknowledged') - noticed.acknowledged
      const failed = count('failed') - noticed.failed
      const requests = count('requests') - noticed.requests
      verdict.figure('without the zone: requests', requests)
      verdict.figure('without the zone: failed', failed)
      verdict.figure('refusals', loads.flatMap(load => load.figures().failures).join('; '))
      verdict.check('reads and writes go on without the zone', acknowledged > 20 && failed <= requests * 0.1)
      await until('the zone is back', context, 0, () => killed.every(name => topology.cluster.program(name).isRunning))
      await topology.nodes.whenReady()
      await sleep(2000)
      for (const load of loads) await load.stop()
      const writes = loads.flatMap(load => load.acknowledged)
      verdict.figure('acknowledged at stream or replicated', writes.length)
      await until('the zone heals: all holders are equal', context, 0, async () =>
        (await Promise.all(TENANTS.map(tenant => holdersEqual(api, tenant)))).every(Boolean),
      )
      const lost = await lostOf(api, writes)
      verdict.figure('lost', lost.length)
      verdict.check(`nothing acknowledged is lost ${lost.slice(0, 3).join('; ')}`.trim(), lost.length === 0)
      verdict.check('every node is ready again', (await topology.nodes.count()).ready === 3)
    }),
}

const ROLL_TENANTS = ['r1', 'r2', 'r3', 'r4', 'r5', 'r6']

export const rolling: Scenario = {
  name: 'rolling-upgrade',
  title: 'Rolling upgrade, with the version before beside this one, and back: no failed request, nothing lost',
  run: async (context, verdict) => {
    const before = await previousPackage(context.say)
    verdict.figure('the version before', before.name)
    /** Processes that run the new version by now. */
    const upgraded = new Set<string>()
    await withTopology(
      context,
      verdict,
      {
        fixed: { nodes: 3, workers: 0 },
        packageOf: name => (/^(node-|controller)/.test(name) && !upgraded.has(name) ? before.folder : PACKAGE_FOLDER),
        env: { PERCOLATE_DRAIN_NOTICE_MS: '1500' },
      },
      async topology => {
        const { api, grpc } = topology.cluster.addresses
        // One by one: that first writes which come at once may be refused is a fault of the version before.
        for (const tenant of ROLL_TENANTS)
          await ask(`${api}/api/v1/entities/first`, 'PUT', { 'x-tenant-id': tenant }, { name: tenant })
        const load = new Load({ api, grpc, tenants: ROLL_TENANTS, clients: 4, pauseMs: 10 })
        await sleep(2000)
        const roll = async (name: string, isNew: boolean) => {
          if (isNew) upgraded.add(name)
          else upgraded.delete(name)
          topology.note(`${name}: to ${isNew ? 'this version' : 'the version before'}`)
          await topology.nodes.restart(name)
          await topology.routerHas(3)
          // As a StatefulSet waits for its readiness probe. The version before does not know the path.
          const { url } = topology.cluster.addresses.nodes.find(node => node.name === name)!
          await until(
            `${name} has its copies`,
            context,
            0,
            async () => (await fetch(`${url}/ready/copies`)).status !== 503,
          )
          await sleep(1000)
        }
        for (const { spec } of topology.nodes.wantedPrograms()) {
          await roll(spec.name, true)
          verdict.figure(`failed after ${spec.name} was upgraded`, load.figures().failed)
        }
        // A step back: it reads what the new version wrote.
        await roll('node-2', false)
        verdict.figure('failed after node-2 went back', load.figures().failed)
        await roll('node-2', true)
        const figures = await load.stop()
        verdict.figure('requests', figures.requests)
        verdict.figure('failed', figures.failed)
        verdict.figure('p99 ms', figures.p99Ms)
        verdict.check(`no request failed ${figures.failures.join('; ')}`.trim(), figures.failed === 0)
        await until('all holders are equal', context, 0, async () =>
          (await Promise.all(ROLL_TENANTS.map(tenant => holdersEqual(api, tenant)))).every(Boolean),
        )
        const lost = await lostOf(api, load.acknowledged)
        verdict.figure('acknowledged', load.acknowledged.length)
        verdict.check(`nothing acknowledged is lost ${lost.slice(0, 3).join('; ')}`.trim(), lost.length === 0)
      },
    )
  },
}
