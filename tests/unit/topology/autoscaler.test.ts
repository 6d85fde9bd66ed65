import { mkdtemp, readFile, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { PACKAGE_FOLDER } from '../../../src/base/version.ts'
import { Autoscaler } from '../../../test-topology/autoscaler/autoscaler.ts'
import { Hpa, replicasFor } from '../../../test-topology/autoscaler/hpa.ts'
import { Keda } from '../../../test-topology/autoscaler/keda.ts'
import { parseOverride, readScaledObjects, type ScaledObject } from '../../../test-topology/autoscaler/scaled-object.ts'
import { readTrigger } from '../../../test-topology/autoscaler/triggers.ts'
import { eventually } from '../../support/running.ts'

const scaling = (tier: string) => join(PACKAGE_FOLDER, 'k8s', 'tiers', tier, 'scaling.yaml')

async function object(yaml: string): Promise<ScaledObject> {
  const folder = await mkdtemp(join(tmpdir(), 'percolate-scaling-'))
  const path = join(folder, 'scaling.yaml')
  await writeFile(path, yaml)
  return (await readScaledObjects(path))[0]!
}
const simple = (spec = '', trigger = '') => `
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: { name: thing }
spec:
  scaleTargetRef: { name: thing }
${spec}
  triggers:
    - type: prometheus
${trigger}
      metadata: { serverAddress: "http://p:9090", query: up, threshold: "2" }
`

describe('the ScaledObjects of k8s/', () => {
  it('are read for every tier, with the bounds that the tiers promise', async () => {
    const most = { small: [10, 5], medium: [20, 10], large: [30, 15] }
    for (const [tier, [nodes, workers]] of Object.entries(most)) {
      const [node, worker] = await readScaledObjects(scaling(tier))
      expect([node!.idleReplicaCount, node!.minReplicaCount, node!.maxReplicaCount]).toEqual([0, 3, nodes])
      expect([worker!.minReplicaCount, worker!.maxReplicaCount, worker!.cooldownPeriod]).toEqual([0, workers, 60])
      expect(worker!.triggers[0]).toMatchObject({ type: 'nats-jetstream', threshold: 5 })
    }
  })

  it('can be changed by their paths', async () => {
    const overrides = ['percolate-node.triggers.0.metadata.threshold=2', 'percolate-node.minReplicaCount=1']
    const [node] = await readScaledObjects(scaling('small'), overrides.map(parseOverride))
    expect([node!.triggers[0]!.threshold, node!.minReplicaCount]).toEqual([2, 1])
    expect(() => parseOverride('nonsense')).toThrow(/--set must be NAME.PATH=VALUE/)
    const set = (text: string) => readScaledObjects(scaling('small'), [parseOverride(text)])
    await expect(set('nobody.minReplicaCount=1')).rejects.toThrow(/nobody: there is no such ScaledObject/)
    await expect(set('percolate-node.a.b=1')).rejects.toThrow(/spec.a.b is not there/)
    await expect(set('percolate-node.minReplicaCount=99')).rejects.toThrow(/must not be more than/)
  })

  it('are refused for what is not carried out here, and get the defaults of KEDA and Kubernetes', async () => {
    const read = await object(simple())
    expect([read.pollingInterval, read.cooldownPeriod, read.minReplicaCount, read.maxReplicaCount]).toEqual([
      30, 300, 0, 100,
    ])
    expect(read.behavior.scaleDown).toEqual({
      stabilizationWindowSeconds: 300,
      selectPolicy: 'Max',
      policies: [{ type: 'Percent', value: 100, periodSeconds: 15 }],
    })
    await expect(object(simple('  fallback: { replicas: 3 }'))).rejects.toThrow(/spec.fallback is not supported/)
    await expect(object(simple('', '      metricType: Value'))).rejects.toThrow(/metricType must be AverageValue/)
    await expect(object(simple('  minReplicaCount: many'))).rejects.toThrow(/spec.minReplicaCount must be a number/)
    await expect(object(simple('  idleReplicaCount: 3\n  minReplicaCount: 3'))).rejects.toThrow(/must be less than/)
    await expect(object('kind: ConfigMap')).rejects.toThrow(/has no ScaledObject/)
  })
})

describe("KEDA's part", () => {
  const active = { isActive: true, isError: false }
  const idle = { isActive: false, isError: false }
  const broken = { isActive: false, isError: true }

  it('goes from zero to the minimum, and back after the cooldown', async () => {
    const keda = new Keda(await object(simple('  cooldownPeriod: 60\n  maxReplicaCount: 5')), 1)
    expect(keda.decide(0, 0, active)).toBe(1)
    expect(keda.isHpaOn(0)).toBe(false)
    expect(keda.isHpaOn(1)).toBe(true)
    expect(keda.decide(1000, 4, active)).toBeUndefined()
    expect(keda.decide(2000, 4, idle)).toBeUndefined()
    expect(keda.decide(60_999, 4, idle)).toBeUndefined()
    expect(keda.decide(61_000, 4, idle)).toBe(0)
  })

  it('goes between idle and the minimum; never on what could not be read', async () => {
    const spec = '  cooldownPeriod: 300\n  idleReplicaCount: 0\n  minReplicaCount: 3\n  maxReplicaCount: 10'
    const keda = new Keda(await object(simple(spec)), 10)
    expect(keda.decide(0, 0, active)).toBe(3)
    expect(keda.decide(100_000, 3, broken)).toBeUndefined()
    expect(keda.decide(29_000, 3, idle)).toBeUndefined()
    expect(keda.decide(30_001, 3, idle)).toBe(0)
    expect(keda.decide(40_000, 1, active)).toBe(3)
  })

  it('keeps the minimum where there is one and no idle count', async () => {
    const keda = new Keda(await object(simple('  minReplicaCount: 2')), 1)
    expect(keda.decide(0, 0, idle)).toBe(2)
    expect(keda.decide(1e9, 2, idle)).toBeUndefined()
  })
})

describe("the HPA's part", () => {
  it('rounds up, and leaves what is within a tenth', () => {
    expect([replicasFor(5, 2, 1), replicasFor(20, 5, 1), replicasFor(0, 5, 3), replicasFor(1, 20, 3)]).toEqual([
      3, 4, 0, 1,
    ])
    expect([replicasFor(21, 10, 2), replicasFor(21.9, 10, 2), replicasFor(23, 10, 2)]).toEqual([2, 2, 3])
  })

  it('counts in thousandths, as quantities of Kubernetes do: what a sum of fractions is off by asks for nothing', () => {
    expect([replicasFor(0.1 + 0.2, 0.1, 1), replicasFor(0.301, 0.1, 1), replicasFor(0.0001, 0.1, 0)]).toEqual([3, 4, 0])
  })

  it('goes up at once as far as its policies allow, and stays within its bounds', async () => {
    const { behavior } = await object(simple())
    const hpa = new Hpa({ min: 1, max: 10, behavior, speed: 1 })
    // The greater of +100 % and +4 in 15 s.
    expect(hpa.decide(0, 1, 50)).toBe(5)
    hpa.changed(0, 1, 5)
    expect(hpa.decide(5000, 5, 50)).toBe(5)
    expect(hpa.decide(15_000, 5, 50)).toBe(10)
    expect(hpa.decide(16_000, 12, 50)).toBe(10)
  })

  it('goes down only to the most that was asked for within the window', async () => {
    const { behavior } = await object(simple())
    const hpa = new Hpa({ min: 1, max: 10, behavior, speed: 1 })
    expect(hpa.decide(0, 4, 4)).toBe(4)
    expect(hpa.decide(200_000, 4, 2)).toBe(4)
    expect(hpa.decide(301_000, 4, 1)).toBe(2)
    expect(hpa.decide(301_500, 4, undefined)).toBe(4)
  })

  it('goes down one by one where the manifest says so; a factor of speed divides windows and periods', async () => {
    const [node] = await readScaledObjects(scaling('small'))
    const hpa = new Hpa({ min: 3, max: 10, behavior: node!.behavior, speed: 60 })
    expect(hpa.decide(0, 6, 6)).toBe(6)
    expect(hpa.decide(5100, 6, 3)).toBe(5)
    hpa.changed(5100, 6, 5)
    expect(hpa.decide(6000, 5, 3)).toBe(5)
    expect(hpa.decide(7200, 5, 3)).toBe(4)
  })

  it('does not go where its rules are disabled, and by the least where they say Min', async () => {
    const { behavior } = await object(simple())
    const off = { ...behavior, scaleUp: { ...behavior.scaleUp, selectPolicy: 'Disabled' as const } }
    expect(new Hpa({ min: 1, max: 10, behavior: off, speed: 1 }).decide(0, 2, 9)).toBe(2)
    const least = { ...behavior, scaleUp: { ...behavior.scaleUp, selectPolicy: 'Min' as const } }
    expect(new Hpa({ min: 1, max: 10, behavior: least, speed: 1 }).decide(0, 1, 9)).toBe(2)
  })
})

describe('triggers', () => {
  let server: Server
  let hosts: Map<string, string>
  const answers = new Map<string, unknown>()
  const asked: string[] = []
  beforeAll(async () => {
    server = createServer((request, response) => {
      asked.push(request.url!)
      const body = answers.get(request.url!.split('?')[0]!)
      response.writeHead(body === undefined ? 500 : 200).end(JSON.stringify(body))
    })
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    const at = `127.0.0.1:${(server.address() as AddressInfo).port}`
    hosts = new Map([
      ['prometheus-operated.monitoring.svc:9090', at],
      ['percolate-nats.percolate.svc.cluster.local:8222', at],
      ['nats-2.percolate-nats.percolate.svc.cluster.local:8222', at],
    ])
  })
  afterAll(() => void server.close())

  it('change nothing while the autoscaler is paused, and do again afterwards', async () => {
    const [read] = await readScaledObjects(scaling('small'))
    answers.set('/api/v1/query', { data: { result: [{ value: [0, '1000'] }] } })
    const scaled: number[] = []
    const target = {
      wanted: 0,
      present: 0,
      scale(replicas: number) {
        scaled.push(replicas)
        this.wanted = replicas
        this.present = replicas
      },
    }
    const scaler = new Autoscaler({ ...read!, triggers: [read!.triggers[0]!] }, target, hosts, 1e6)
    const name = read!.triggers[0]!.name
    scaler.pause(2, 'a test')
    scaler.start()
    // Two more looks, each with an answer that asks for more.
    for (let look = 0; look < 2; look++) {
      const before = asked.length
      await eventually('it looks', async () => asked.length > before + 2)
    }
    expect([scaler.state().values[name], scaled]).toEqual([1000, [2]])
    scaler.resume()
    await eventually('it goes on', async () => target.wanted > 2)
    await scaler.stop()
  })

  it('read Prometheus; no result is an error where nulls are not ignored', async () => {
    const [node] = await readScaledObjects(scaling('small'))
    const trigger = node!.triggers[0]!
    answers.set('/api/v1/query', { data: { result: [{ value: [0, '7'] }] } })
    expect(await readTrigger(trigger, hosts)).toBe(7)
    expect(decodeURIComponent(asked.at(-1)!)).toContain('percolate_active_tenants{tier="small"}')
    answers.set('/api/v1/query', { data: { result: [] } })
    await expect(readTrigger(trigger, hosts)).rejects.toThrow(/no result/)
    expect(await readTrigger({ ...trigger, ignoreNullValues: true } as typeof trigger, hosts)).toBe(0)
    answers.set('/api/v1/query', { data: { result: [{ value: [0, '1'] }, { value: [0, '2'] }] } })
    await expect(readTrigger(trigger, hosts)).rejects.toThrow(/more than one/)
    answers.delete('/api/v1/query')
    await expect(readTrigger(trigger, hosts)).rejects.toThrow(/answers 500/)
  })

  it("read a consumer's lag from its leader, and all of the stream when there is no consumer", async () => {
    const [, worker] = await readScaledObjects(scaling('small'))
    const trigger = worker!.triggers[0]!
    const stream = (consumers: unknown[]) => ({
      account_details: [
        {
          name: 'PERCOLATE',
          stream_detail: [{ name: 'percolate-jobs-small', state: { last_seq: 99 }, consumer_detail: consumers }],
        },
      ],
    })
    answers.set(
      '/jsz',
      stream([{ name: 'workers-small', num_pending: 12, num_ack_pending: 3, cluster: { leader: 'nats-2' } }]),
    )
    asked.length = 0
    expect(await readTrigger(trigger, hosts)).toBe(15)
    expect(asked.length).toBe(2)
    answers.set('/jsz', stream([]))
    expect(await readTrigger(trigger, hosts)).toBe(99)
    answers.set('/jsz', { account_details: [] })
    await expect(readTrigger(trigger, hosts)).rejects.toThrow(/percolate-jobs-small is not known/)
    await expect(readTrigger(trigger, new Map([['a:1', 'b:2']]))).rejects.toThrow(/no counterpart .* known are a:1/)
  })
})

describe('the scrape interval of the local Prometheus', () => {
  it('is that of the PodMonitors', async () => {
    const monitors = await readFile(join(PACKAGE_FOLDER, 'k8s', 'components', 'monitoring', 'scrape.yaml'), 'utf8')
    expect(new Set([...monitors.matchAll(/interval: (\w+)/g)].map(([, interval]) => interval))).toEqual(new Set(['5s']))
  })
})
