import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { parse } from 'yaml'
import { PACKAGE_FOLDER } from '../../../src/base/version.ts'
import { findProgram } from '../../../src/cluster/cluster.ts'
import { loadConfig } from '../../../src/config/load.ts'
import { type Role, type Setting, type SettingName, settings } from '../../../src/config/settings.ts'
import { metricsMarkdown } from '../../../src/metrics-docs.ts'
import { subjects } from '../../../src/stream/subjects.ts'
import { type PrometheusTrigger, readScaledObjects } from '../../../test-topology/autoscaler/scaled-object.ts'
import { topologyProgram } from '../../../test-topology/commands.ts'
import { scenarios } from '../../../test-topology/scenarios/all.ts'
import {
  hasKubectl,
  type Manifest,
  nameOf,
  overlays,
  programOrNone,
  render,
  sayIfSkipped,
  sayNotChecked,
  schemaProblems,
} from '../../support/manifests.ts'

const TIERS = {
  small: { cpu: '1', memory: '1Gi', disk: '50Gi', nodes: 10, workerCpu: '4', workerMemory: '8Gi', workers: 5 },
  medium: { cpu: '2', memory: '2Gi', disk: '100Gi', nodes: 20, workerCpu: '8', workerMemory: '16Gi', workers: 10 },
  large: { cpu: '4', memory: '4Gi', disk: '200Gi', nodes: 30, workerCpu: '16', workerMemory: '32Gi', workers: 15 },
} as const
/** Secrets that an operator makes, with their keys (docs/operations.md). */
const SECRETS: Record<string, readonly string[]> = {
  'percolate-cluster': ['secret'],
  'percolate-object-store': ['endpoint', 'bucket', 'region', 'access-key', 'secret-key'],
  'percolate-nats': [
    ...['node', 'worker', 'gateway', 'controller'].flatMap(role => [`${role}-url`, `${role}-password`]),
    'sys-password',
  ],
}
/** As an operator would fill them in. */
const EXAMPLES: Record<string, string> = {
  secret: 'a secret of at least sixteen characters',
  endpoint: 'https://s3.example.com',
  bucket: 'percolate',
  region: 'us-east-1',
  'access-key': 'key',
  'secret-key': 'secret',
}

const MONITORING = join(PACKAGE_FOLDER, 'k8s', 'components', 'monitoring')
const metricNames = new Set((await metricsMarkdown()).match(/percolate_\w+/g))

sayIfSkipped()

describe.runIf(hasKubectl).each(overlays)('the overlay %s', overlay => {
  let all: Manifest[]
  beforeAll(() => {
    all = render(`overlays/${overlay}`)
  })
  const ofKind = (...kinds: string[]) => all.filter(({ kind }) => kinds.includes(kind))
  const workloads = () => ofKind('StatefulSet', 'Deployment')
  const containersOf = (workload: Manifest): Manifest[] => workload.spec.template.spec.containers
  const labelsOf = (workload: Manifest) => workload.spec.template.metadata.labels as Record<string, string>
  const find = (kind: string, name: string) =>
    all.find(manifest => manifest.kind === kind && manifest.metadata.name === name)
  const matches = (selector: Manifest, labels: Record<string, string>): boolean =>
    Object.entries(selector?.matchLabels ?? {}).every(([key, value]) => labels[key] === value) &&
    (selector?.matchExpressions ?? []).every(
      ({ key, operator, values }: Manifest) => operator === 'In' && values.includes(labels[key]),
    )
  const selected = (selector: Manifest) => workloads().filter(workload => matches(selector, labelsOf(workload)))
  const portsOf = (workload: Manifest): { name: string; containerPort: number }[] =>
    containersOf(workload).flatMap(({ ports = [] }) => ports)
  const roleOf = ({ args }: Manifest): string => args[0]
  const ours = () =>
    workloads()
      .flatMap(containersOf)
      .filter(({ args }) => /^(node|worker|gateway|controller)$/.test(roleOf({ args })))

  it('is valid by the schemas of all its kinds', { timeout: 60_000 }, () => {
    expect(schemaProblems(all)).toEqual([])
    expect(new Set(all.map(({ metadata }) => metadata.namespace ?? metadata.name))).toEqual(
      new Set(overlay === 'air-gapped' ? ['percolate'] : ['percolate', 'istio-ingress']),
    )
  })

  it('refers only to what is there: accounts, settings, secrets, services', () => {
    for (const workload of workloads()) {
      const { serviceAccountName, volumes = [] } = workload.spec.template.spec
      expect([nameOf(workload), find('ServiceAccount', serviceAccountName)?.kind]).toEqual([
        nameOf(workload),
        'ServiceAccount',
      ])
      for (const { configMap } of volumes) if (configMap) expect(find('ConfigMap', configMap.name)).toBeDefined()
      if (workload.kind === 'StatefulSet') expect(find('Service', workload.spec.serviceName)).toBeDefined()
      for (const { env = [], envFrom = [] } of containersOf(workload)) {
        for (const { configMapRef } of envFrom) expect(find('ConfigMap', configMapRef.name)).toBeDefined()
        for (const { valueFrom } of env)
          if (valueFrom?.secretKeyRef)
            expect([valueFrom.secretKeyRef.name, SECRETS[valueFrom.secretKeyRef.name]]).toEqual([
              valueFrom.secretKeyRef.name,
              expect.arrayContaining([valueFrom.secretKeyRef.key]),
            ])
      }
    }
    for (const { roleRef, subjects: bound } of ofKind('RoleBinding')) {
      expect(find('Role', roleRef.name)).toBeDefined()
      for (const { name } of bound) expect(find('ServiceAccount', name)).toBeDefined()
    }
  })

  it('selects pods that exist, on ports that they have', () => {
    for (const service of ofKind('Service')) {
      const { selector, ports } = service.spec
      if (!selector) continue
      const pods = selected({ matchLabels: selector })
      expect([nameOf(service), pods.length]).toEqual([nameOf(service), 1])
      for (const { targetPort } of ports) expect(portsOf(pods[0]).map(({ name }) => name)).toContain(targetPort)
    }
    for (const budget of ofKind('PodDisruptionBudget'))
      expect([nameOf(budget), selected(budget.spec.selector).length]).toEqual([nameOf(budget), 1])
    for (const policy of ofKind('NetworkPolicy')) {
      const pods = selected(policy.spec.podSelector)
      expect([nameOf(policy), pods.length > 0]).toEqual([nameOf(policy), true])
      const known = (at: Manifest[]) =>
        new Set(at.flatMap(portsOf).flatMap(({ name, containerPort }) => [name, containerPort]))
      for (const { ports = [] } of policy.spec.ingress ?? [])
        for (const { port } of ports)
          if (port !== 15020)
            expect([nameOf(policy), port, known(pods).has(port)]).toEqual([nameOf(policy), port, true])
      for (const { to = [], ports = [] } of policy.spec.egress ?? []) {
        const targets = to.flatMap(({ podSelector, namespaceSelector }: Manifest) =>
          podSelector && !namespaceSelector ? selected(podSelector) : [],
        )
        if (targets.length > 0)
          for (const { port } of ports)
            expect([nameOf(policy), port, known(targets).has(port)]).toEqual([nameOf(policy), port, true])
      }
    }
    for (const policy of ofKind('AuthorizationPolicy')) {
      expect(selected(policy.spec.selector).length).toBe(1)
      for (const principal of JSON.stringify(policy).match(/cluster\.local\/ns\/percolate\/sa\/[\w-]+/g) ?? [])
        expect(find('ServiceAccount', principal.split('/').at(-1)!)).toBeDefined()
    }
  })

  it('gives each role settings that it loads', () => {
    const known = new Map<string, Setting>(Object.values(settings).map(setting => [setting.env, setting]))
    for (const container of ours()) {
      const role = roleOf(container) as Role
      const env: Record<string, string> = {}
      for (const { configMapRef } of container.envFrom) Object.assign(env, find('ConfigMap', configMapRef.name).data)
      for (const { name, value, valueFrom } of container.env) {
        const key = valueFrom?.secretKeyRef?.key
        env[name] =
          value ??
          (key
            ? (EXAMPLES[key] ?? 'nats://user:password@percolate-nats:4222')
            : name === 'PERCOLATE_ZONE'
              ? 'eu-1a'
              : 'percolate-node-small-0')
      }
      for (const name of Object.keys(env)) {
        expect([name, known.has(name)]).toEqual([name, true])
        // What all roles get may be for others; what one container gets is for it.
        if (container.env.some((entry: Manifest) => entry.name === name))
          expect([role, name, known.get(name)!.roles]).toEqual([role, name, expect.arrayContaining([role])])
      }
      const flags = Object.fromEntries(
        container.args
          .slice(1)
          .flatMap((arg: string, n: number, list: string[]) =>
            arg === '--data-dir' ? [['dataDir', list[n + 1]]] : [],
          ),
      )
      const config = loadConfig({ role, env, flags })
      const ports = {
        node: [config.httpPort, config.grpcPort],
        gateway: [config.gatewayPort],
        worker: [config.workerPort],
      }
      const own = container.ports.map(({ containerPort }: Manifest) => containerPort)
      if (role === 'controller') {
        const held = config
          .activatorTiers!.split(',')
          .flatMap((_, n) => [config.activatorHttpPort + n, config.activatorGrpcPort + n])
        expect(own.sort()).toEqual([config.controllerPort, ...held].sort())
      } else expect(own).toEqual(ports[role as keyof typeof ports])
    }
  })

  it('scales tiers of the promised sizes by metrics, streams and consumers of ours', () => {
    const tiers = overlay === 'air-gapped' ? (['small', 'medium', 'large'] as const) : (['small'] as const)
    for (const tier of tiers) {
      const size = TIERS[tier]
      const nodes = find('ScaledObject', `percolate-node-${tier}`).spec
      const set = find('StatefulSet', nodes.scaleTargetRef.name)
      const workers = find('ScaledObject', `percolate-worker-${tier}`).spec
      const deployment = find('Deployment', workers.scaleTargetRef.name)
      if (overlay !== 'kind') {
        expect(containersOf(set)[0].resources.limits).toEqual({ cpu: size.cpu, memory: size.memory })
        expect(set.spec.volumeClaimTemplates[0].spec.resources.requests.storage).toBe(size.disk)
        expect(containersOf(deployment)[0].resources.limits).toEqual({ cpu: size.workerCpu, memory: size.workerMemory })
        expect([nodes.maxReplicaCount, workers.maxReplicaCount]).toEqual([size.nodes, size.workers])
      }
      // KEDA owns the number; a manifest that says one would reset it at every apply.
      expect([set.spec.replicas, deployment.spec.replicas]).toEqual([undefined, undefined])
      expect([nodes.idleReplicaCount, workers.minReplicaCount]).toEqual([0, 0])
      const { query } = nodes.triggers[0].metadata
      expect(new Set(query.match(/percolate_\w+/g))).toEqual(
        new Set(['percolate_active_tenants', 'percolate_waiting_tenants', 'percolate_ready_nodes']),
      )
      for (const name of query.match(/percolate_\w+/g)) expect(metricNames).toContain(name)
      expect(new Set(query.match(/tier="\w+"/g))).toEqual(new Set([`tier="${tier}"`]))
      expect(workers.triggers[0].metadata).toMatchObject({
        stream: subjects.jobsStream(tier),
        consumer: subjects.workersConsumer(tier),
        lagThreshold: '5',
      })
      expect(workers.cooldownPeriod).toBe(60)
      const { PERCOLATE_TIER, PERCOLATE_NODE_URL } = ofKind('ConfigMap').find(({ metadata }) =>
        metadata.name.startsWith(`percolate-tier-${tier}`),
      ).data
      expect(PERCOLATE_TIER).toBe(tier)
      const service = find('Service', new URL(PERCOLATE_NODE_URL).hostname)
      // The controller keeps its endpoints.
      expect(service.spec.selector).toBeUndefined()
      const role = find('Role', 'percolate-controller')
      expect(role.rules[1].resourceNames).toContain(service.metadata.name)
      expect(
        containersOf(find('Deployment', 'percolate-controller'))[0]
          .env.find((entry: Manifest) => entry.name === 'PERCOLATE_ACTIVATOR_TIERS')
          .value.split(','),
      ).toContain(tier)
    }
  })

  it('routes to services that exist, with retries that repeat nothing', () => {
    const config = loadConfig({
      role: 'controller',
      env: { PERCOLATE_NATS_URL: 'nats://x:4222', PERCOLATE_CLUSTER_SECRET: EXAMPLES.secret! },
    })
    for (const virtual of ofKind('VirtualService'))
      for (const { name, route = [], retries, timeout, directResponse } of virtual.spec.http) {
        for (const { destination } of route) {
          const service = find('Service', destination.host)
          expect([name, service?.spec.ports.map(({ port }: Manifest) => port)]).toEqual([
            name,
            expect.arrayContaining([destination.port.number]),
          ])
        }
        if (directResponse) continue
        expect(retries.retryOn.split(',').sort()).toEqual(['connect-failure', 'refused-stream'])
        // None is as long as it takes; 0s is refused.
        if (timeout !== undefined) expect(Number.parseInt(timeout, 10) * 1000).toBeGreaterThan(config.holdMs)
        expect(retries.perTryTimeout).toBeUndefined()
      }
    for (const { spec } of ofKind('DestinationRule')) {
      expect(find('Service', spec.host)).toBeDefined()
      const { loadBalancer, connectionPool } = spec.trafficPolicy
      expect(loadBalancer.consistentHash.httpHeaderName).toBe('x-tenant-id')
      expect(loadBalancer.localityLbSetting.enabled).toBe(false)
      expect(connectionPool.http.maxRequestsPerConnection).toBeUndefined()
    }
    for (const { spec } of ofKind('Gateway'))
      for (const { hosts } of spec.servers) expect(hosts.join()).not.toContain('*')
  })

  it('holds to the rules for pods', () => {
    for (const workload of workloads()) {
      const pod = workload.spec.template.spec
      const name = nameOf(workload)
      expect([name, pod.securityContext.runAsNonRoot, pod.securityContext.seccompProfile.type]).toEqual([
        name,
        true,
        'RuntimeDefault',
      ])
      expect([name, pod.automountServiceAccountToken]).toEqual([name, name === 'Deployment/percolate-controller'])
      for (const { args, image, resources, securityContext, readinessProbe, livenessProbe } of pod.containers) {
        expect([name, image]).toEqual([name, expect.stringMatching(/:[\w.-]+$/)])
        expect(image).not.toMatch(/:latest$/)
        expect(resources.limits).toMatchObject({ cpu: expect.any(String), memory: expect.any(String) })
        expect(resources.requests).toMatchObject({ cpu: expect.any(String), memory: expect.any(String) })
        expect(securityContext).toEqual({
          allowPrivilegeEscalation: false,
          readOnlyRootFilesystem: true,
          capabilities: { drop: ['ALL'] },
        })
        expect([name, readinessProbe !== undefined, livenessProbe !== undefined]).toEqual([name, true, true])
        // A roll goes on when the copies of the last node can be used; whether a node gets requests, the controller's list says.
        if (args?.[0] === 'node')
          expect([name, readinessProbe.httpGet.path, pod.containers.length]).toEqual([name, '/ready/copies', 1])
      }
    }
    for (const workload of workloads()) {
      const pod = workload.spec.template.spec
      const name = nameOf(workload)
      if (workload.spec.replicas !== 1)
        expect([name, pod.topologySpreadConstraints.map(({ topologyKey }: Manifest) => topologyKey)]).toEqual([
          name,
          ['topology.kubernetes.io/zone', 'kubernetes.io/hostname'],
        ])
    }
  })

  it('gives each process the time and the memory that it is told to take', () => {
    const MIB = 1024 * 1024
    const bytesOf = (text: string) => Number.parseInt(text, 10) * (text.endsWith('Gi') ? 1024 * MIB : MIB)
    for (const workload of workloads()) {
      const pod = workload.spec.template.spec
      const [container] = pod.containers
      const role = roleOf(container) as Role
      if (!ours().includes(container)) continue
      const env: Record<string, string> = {}
      for (const { configMapRef } of container.envFrom) Object.assign(env, find('ConfigMap', configMapRef.name).data)
      for (const { name, value } of container.env) if (value !== undefined) env[name] = value
      const number = (name: SettingName) => {
        const setting = settings[name] as Setting
        return Number(env[setting.env] ?? setting.default)
      }
      const pauseMs = 1000 * (container.lifecycle?.preStop?.sleep?.seconds ?? 0)
      const drainMs = number('drainMs')
      const neededMs = {
        node: pauseMs + number('drainNoticeMs') + 2 * drainMs,
        controller: 3 * number('leaseMs') + number('drainNoticeMs') + drainMs,
        gateway: pauseMs + drainMs,
        worker: pauseMs + drainMs,
        up: 0,
      }
      const stopMs = number('stopMs')
      expect([role, stopMs > neededMs[role] - pauseMs]).toEqual([role, true])
      expect([role, pod.terminationGracePeriodSeconds * 1000 >= pauseMs + stopMs]).toEqual([role, true])
      // The sizes of uploads are not bounded by half a minute.
      if (role === 'gateway') expect(drainMs).toBeGreaterThan(60_000)
      const limit = bytesOf(container.resources.limits.memory)
      if (role === 'node') expect(number('tenantMemoryBytes')).toBeLessThanOrEqual(limit / 2)
      if (role === 'worker') {
        expect(number('jobConcurrency') * number('parseMemoryBytes')).toBeLessThan(limit / 2)
        if (overlay !== 'kind') expect(number('jobConcurrency')).toBe(Number(container.resources.limits.cpu))
      }
    }
  })
})

describe('the scripts for kind', () => {
  const run = (command: string, ...args: string[]) =>
    spawnSync(command, args, { cwd: PACKAGE_FOLDER, encoding: 'utf8' })

  it('make every secret with every key, and show none of them', () => {
    const { status, stdout, stderr } = run('bash', 'k8s/kind/up.sh', '--dry-run')
    expect([status, stderr]).toEqual([0, ''])
    for (const [name, keys] of Object.entries(SECRETS)) {
      const made = new RegExp(`create secret generic ${name} \\(([^)]*)\\)`).exec(stdout)?.[1]?.trim().split(' ')
      expect([name, made?.sort()]).toEqual([name, [...keys].sort()])
    }
    expect(stdout).not.toMatch(/[0-9a-f]{40}/)
  })

  const shellcheck = programOrNone('shellcheck')
  if (shellcheck === undefined)
    sayNotChecked('the scripts for kind. There is no shellcheck; "npm run setup" fetches it')

  it.runIf(shellcheck)('are clean', () => {
    const scripts = ['up', 'down', 'random'].map(name => `k8s/kind/${name}.sh`)
    expect(run(shellcheck!, '-x', ...scripts, '.ci/run')).toMatchObject({ status: 0, stdout: '' })
  })
})

describe('the router in the docs', () => {
  const haproxy = programOrNone('haproxy')
  if (haproxy === undefined) sayNotChecked('the router in the docs. There is no HAProxy; "npm run setup" fetches it')

  it.runIf(haproxy)('is understood by HAProxy, and names what the manifests have', async () => {
    const docs = readFileSync(join(PACKAGE_FOLDER, 'docs', 'operations.md'), 'utf8')
    const backend = /```\n(backend small\n[^`]+)```/.exec(docs)![1]!
    const folder = await mkdtemp(join(tmpdir(), 'percolate-router-'))
    const around =
      'defaults\n  mode http\n  timeout connect 1s\n  timeout client 1m\n  timeout server 1m\nresolvers cluster\n  nameserver dns 10.0.0.10:53\n'
    await writeFile(
      join(folder, 'router.cfg'),
      `${around}frontend in\n  bind 127.0.0.1:12999\n  default_backend small\n${backend}`,
    )
    const { status, stderr } = spawnSync(haproxy!, ['-c', '-f', join(folder, 'router.cfg')], {
      encoding: 'utf8',
      env: { ...process.env, LD_LIBRARY_PATH: join(dirname(haproxy!), 'lib') },
    })
    await rm(folder, { recursive: true })
    expect([status, stderr]).toEqual([0, expect.not.stringMatching(/ALERT|WARNING/)])
    if (!hasKubectl) return
    const all = render('overlays/air-gapped')
    const services = all.filter(({ kind }) => kind === 'Service').map(({ metadata }) => metadata.name)
    for (const [, host] of backend.matchAll(/([\w-]+)\.percolate\.svc:8080/g)) expect(services).toContain(host)
  })
})

describe('PromQL', () => {
  const path = process.env.PATH ?? ''
  const promtool = join(dirname(findProgram('prometheus', path, 'Run "npm run setup".')), 'promtool')
  const run = async (command: readonly string[], content: unknown) => {
    const folder = await mkdtemp(join(tmpdir(), 'percolate-promql-'))
    const file = join(folder, 'rules.yaml')
    await writeFile(file, JSON.stringify(content))
    const { status, stdout, stderr } = spawnSync(promtool, [...command, file], { encoding: 'utf8' })
    await rm(folder, { recursive: true })
    return { status, text: stdout + stderr }
  }

  it('of alerts and the dashboard is understood by Prometheus', async () => {
    const { spec } = parse(readFileSync(join(MONITORING, 'alerts.yaml'), 'utf8')) as Manifest
    expect(await run(['check', 'rules'], spec)).toMatchObject({ status: 0 })
    const dashboard = readFileSync(join(MONITORING, 'dashboard.json'), 'utf8')
    const expressions = [...dashboard.matchAll(/"expr": ("(?:[^"\\]|\\.)*")/g)].map(([, text]) =>
      (JSON.parse(text!) as string).replace(/\$__rate_interval|\$__interval/g, '1m').replace(/\$\w+/g, 'x'),
    )
    expect(expressions.length).toBeGreaterThan(10)
    const rules = expressions.map((expr, n) => ({ record: `panel:${n}`, expr }))
    const checked = await run(['check', 'rules'], { groups: [{ name: 'panels', rules }] })
    expect([checked.status, checked.text]).toEqual([0, expect.stringContaining('SUCCESS')])
  })

  it.each(Object.keys(TIERS))(
    'of the ScaledObject %s asks for nodes with copies, and for sleep only from the minimum',
    async tier => {
      const [node] = await readScaledObjects(join(PACKAGE_FOLDER, 'k8s', 'tiers', tier, 'scaling.yaml'))
      const { query } = node!.triggers[1] as PrometheusTrigger
      const least = node!.minReplicaCount
      const cases: [needed: number, ready: number, extent: number, value: number][] = [
        [0, 0, 0, 0],
        [0, least, least, 0],
        [0, least + 1, least + 1, 1],
        [8, least, least, 8],
        [5, least + 4, least + 4, 5],
        // The last one is not ready yet, or any more; or those that are ready are not those that wake first.
        [0, least, least + 1, 1],
        [0, 1, least + 7, 1],
        // One below is on its way out, and nothing is above.
        [0, least - 1, least, 0],
      ]
      const tests = cases.map(([needed, ready, extent, value]) => ({
        interval: '5s',
        input_series: Object.entries({
          needed_nodes: needed,
          ready_nodes: ready,
          extent_nodes: extent,
        }).flatMap(([name, count]) =>
          ['p0', 'p1'].map(pod => ({
            series: `percolate_${name}{tier="${tier}",pod="${pod}"}`,
            values: String(count),
          })),
        ),
        promql_expr_test: [{ expr: query, eval_time: '0s', exp_samples: [{ labels: '{}', value }] }],
      }))
      const none = { interval: '5s', input_series: [{ series: 'other', values: '1' }] }
      const unknown = { ...none, promql_expr_test: [{ expr: query, eval_time: '0s', exp_samples: [] }] }
      const tested = await run(['test', 'rules'], { rule_files: [], tests: [...tests, unknown] })
      expect([tested.status, tested.text]).toEqual([0, expect.stringContaining('SUCCESS')])
    },
  )

  it.each(Object.keys(TIERS))(
    'of the ScaledObject %s counts the greater of active and waiting tenants, and nothing when it cannot know',
    async tier => {
      const [node] = await readScaledObjects(join(PACKAGE_FOLDER, 'k8s', 'tiers', tier, 'scaling.yaml'))
      const { query } = node!.triggers[0] as PrometheusTrigger
      const values = (series: Record<string, readonly number[]>) =>
        Object.entries(series).flatMap(([name, list]) =>
          list.map((value, n) => ({ series: `percolate_${name}{tier="${tier}",pod="p${n}"}`, values: String(value) })),
        )
      const cases: [Record<string, readonly number[]>, number | undefined][] = [
        [{ active_tenants: [3, 4], waiting_tenants: [0, 0], ready_nodes: [2, 2] }, 7],
        [{ active_tenants: [1], waiting_tenants: [5, 0], ready_nodes: [1, 1] }, 5],
        [{ active_tenants: [0, 0, 0], waiting_tenants: [0], ready_nodes: [3] }, 0],
        [{ waiting_tenants: [2], ready_nodes: [0] }, 2],
        [{ waiting_tenants: [0], ready_nodes: [0] }, 0],
        // Nodes answer, and Prometheus does not get at them.
        [{ waiting_tenants: [0], ready_nodes: [3] }, undefined],
        // It does not get at the controllers.
        [{}, undefined],
      ]
      const tests = cases.map(([series, value]) => ({
        interval: '5s',
        input_series: values({ ...series, other: [1] }),
        promql_expr_test: [
          { expr: query, eval_time: '0s', exp_samples: value === undefined ? [] : [{ labels: '{}', value }] },
        ],
      }))
      const tested = await run(['test', 'rules'], { rule_files: [], tests })
      expect([tested.status, tested.text]).toEqual([0, expect.stringContaining('SUCCESS')])
    },
  )
})

describe('the sizes in the docs', () => {
  it('are those of the manifests', async () => {
    const docs = readFileSync(join(PACKAGE_FOLDER, 'docs', 'operations.md'), 'utf8')
    for (const [tier, size] of Object.entries(TIERS)) {
      const [node, worker] = await readScaledObjects(join(PACKAGE_FOLDER, 'k8s', 'tiers', tier, 'scaling.yaml'))
      const { minReplicaCount: least, maxReplicaCount: most, triggers } = node!
      const gib = (text: string) => text.replace('Gi', ' GiB')
      const row = [
        tier,
        `${size.cpu} CPU, ${gib(size.memory)}`,
        gib(size.disk),
        `0, then ${least} to ${most}, ${triggers[0]!.threshold} active tenants each`,
        `${size.workerCpu} CPU, ${gib(size.workerMemory)}`,
        `0 to ${worker!.maxReplicaCount}`,
      ]
      expect(docs).toContain(`| ${row.join(' | ')} |`)
    }
  })

  it('and the scenarios are those of the code', () => {
    const docs = readFileSync(join(PACKAGE_FOLDER, 'docs', 'test-topology.md'), 'utf8')
    const listed = [...docs.matchAll(/^\| `([a-z-]+)` \|/gm)].map(([, name]) => name)
    expect(listed).toEqual(scenarios.map(({ name }) => name))
    const commands = topologyProgram().commands.map(command => command.name())
    for (const name of commands) expect([name, docs.includes(name)]).toEqual([name, true])
  })
})

describe('what looks at metrics', () => {
  const read = (path: string) => readFileSync(join(PACKAGE_FOLDER, path), 'utf8')
  const used = (text: string) =>
    new Set((text.match(/percolate_\w+/g) ?? []).map(name => name.replace(/_(bucket|count|sum)$/, '')))

  it('names only metrics that the code has', () => {
    for (const path of ['alerts.yaml', 'dashboard.json'])
      for (const name of used(read(`k8s/components/monitoring/${path}`)))
        expect([path, name, metricNames.has(name)]).toEqual([path, name, true])
  })

  it('has a runbook for every alert', () => {
    const alerts = [...read('k8s/components/monitoring/alerts.yaml').matchAll(/alert: (\w+)/g)].map(match => match[1]!)
    const operations = read('docs/operations.md')
    expect(alerts.length).toBeGreaterThan(10)
    for (const alert of alerts) expect([alert, operations.includes(`\n### ${alert}\n`)]).toEqual([alert, true])
    for (const [, anchor] of read('k8s/components/monitoring/alerts.yaml').matchAll(/operations\.md#(\w+)/g))
      expect(alerts.map(alert => alert.toLowerCase())).toContain(anchor)
  })
})

describe.runIf(hasKubectl)('the check of schemas', () => {
  it('finds what is misspelt, missing, of another type, or no known value', () => {
    const [set] = render('overlays/production').filter(({ kind }) => kind === 'StatefulSet')
    const broken = (change: (copy: Manifest) => void) => {
      const copy = structuredClone(set)
      change(copy)
      return schemaProblems([copy]).join('\n')
    }
    expect(broken(() => {})).toBe('')
    expect(
      broken(({ spec }) => Object.assign(spec.template.spec.containers[0], { imagepullpolicy: 'Always' })),
    ).toMatch(/imagepullpolicy/)
    expect(broken(({ spec }) => delete spec.selector)).toMatch(/selector/)
    expect(broken(({ spec }) => Object.assign(spec, { replicas: 'three' }))).toMatch(/number|integer/)
    const [scaled] = render('overlays/production').filter(({ kind }) => kind === 'ScaledObject')
    expect(schemaProblems([{ ...scaled, spec: { ...scaled.spec, cooldown: 5 } }]).join()).toMatch(/cooldown/)
  })
})
