import { beforeAll, describe, expect, it } from 'vitest'
import { hasKubectl, type Manifest, nameOf, overlays, render, sayIfSkipped } from '../../support/manifests.ts'

sayIfSkipped()

/** Where a sidecar is, its agent answers here in plain text, past its interception. */
const AGENT_PORT = 15020
/** Declared by the injected container `istio-proxy`. */
const SIDECAR_PORT = { name: 'http-envoy-prom', containerPort: 15090 }
const POD_IPS = ['10.1.2.3', 'fd00::1']

/** What Prometheus makes of relabelings, as far as manifests of ours use them: undefined when the target is dropped. */
function relabel(labels: Record<string, string>, rules: readonly Manifest[]): Record<string, string> | undefined {
  const now = { ...labels }
  for (const { action = 'replace', sourceLabels, regex = '(.*)', replacement = '$1', targetLabel } of rules) {
    const text = sourceLabels.map((name: string) => now[name] ?? '').join(';')
    const match = new RegExp(`^(?:${regex})$`).exec(text)
    if (action === 'keep') {
      if (!match) return undefined
    } else if (action === 'replace') {
      if (match) now[targetLabel] = replacement.replace(/\$(\d)/g, (_: string, n: string) => match[Number(n)] ?? '')
    } else throw new Error(`the relabeling action ${action} is not known here`)
  }
  return now
}

describe.runIf(hasKubectl).each(overlays)('in the overlay %s', overlay => {
  let all: Manifest[]
  beforeAll(() => {
    all = render(`overlays/${overlay}`)
  })
  const ofKind = (...kinds: string[]) => all.filter(({ kind }) => kinds.includes(kind))
  const podOf = (workload: Manifest) => workload.spec.template
  const labelsOf = (workload: Manifest) => podOf(workload).metadata.labels as Record<string, string>
  const matches = (selector: Manifest, labels: Record<string, string>): boolean =>
    Object.entries(selector?.matchLabels ?? {}).every(([key, value]) => labels[key] === value) &&
    (selector?.matchExpressions ?? []).every(({ key, values }: Manifest) => values.includes(labels[key]))
  const workloads = () => ofKind('StatefulSet', 'Deployment')
  const hasSidecar = (workload: Manifest): boolean =>
    ofKind('Namespace')[0].metadata.labels['istio-injection'] === 'enabled' &&
    podOf(workload).metadata.annotations?.['sidecar.istio.io/inject'] !== 'false' &&
    labelsOf(workload)['sidecar.istio.io/inject'] !== 'false'

  /** Addresses that Prometheus asks, as the operator configures it: it keeps targets of declared container ports only. */
  const scraped = (monitor: Manifest, workload: Manifest, podIp: string): string[] => {
    const containers = [
      ...podOf(workload).spec.containers,
      ...(hasSidecar(workload) ? [{ name: 'istio-proxy', ports: [SIDECAR_PORT] }] : []),
    ]
    const addresses = monitor.spec.podMetricsEndpoints.flatMap(({ port, targetPort, relabelings = [] }: Manifest) =>
      containers.flatMap(({ name, ports = [] }: Manifest) =>
        ports
          .filter(
            (declared: Manifest) =>
              (port === undefined || declared.name === port) &&
              (targetPort === undefined || declared.name === targetPort || declared.containerPort === targetPort),
          )
          .flatMap(({ containerPort }: Manifest) => {
            const host = podIp.includes(':') ? `[${podIp}]` : podIp
            const labels = {
              __address__: `${host}:${containerPort}`,
              __meta_kubernetes_pod_ip: podIp,
              __meta_kubernetes_pod_container_name: name,
            }
            return relabel(labels, relabelings)?.__address__ ?? []
          }),
      ),
    )
    return [...new Set(addresses as string[])]
  }

  /** Whether a call from outside of the mesh, in plain text, gets through to a port of a pod. */
  const takesPlainText = (workload: Manifest, port: number): boolean => {
    if (!hasSidecar(workload) || port === AGENT_PORT) return true
    const policies = ofKind('PeerAuthentication')
    const own = policies.find(({ spec }) => spec.selector && matches(spec.selector, labelsOf(workload)))
    const general = policies.find(({ spec }) => !spec.selector)
    const mode =
      own?.spec.portLevelMtls?.[port]?.mode ?? own?.spec.mtls?.mode ?? general?.spec.mtls?.mode ?? 'PERMISSIVE'
    if (mode === 'STRICT') return false
    const allowing = ofKind('AuthorizationPolicy').filter(
      ({ spec }) => spec.action === 'ALLOW' && matches(spec.selector, labelsOf(workload)),
    )
    // Who has no certificate has no principal.
    const admits = ({ from, to = [] }: Manifest) =>
      from === undefined &&
      (to.length === 0 || to.some(({ operation }: Manifest) => operation.ports?.includes(String(port))))
    return allowing.length === 0 || allowing.some(({ spec }) => (spec.rules ?? []).some(admits))
  }

  /** Whether network policies let a namespace of others in to a port of a pod. */
  const letsIn = (workload: Manifest, namespace: string, port: number): boolean => {
    const declared = podOf(workload).spec.containers.flatMap(({ ports = [] }: Manifest) => ports)
    const numberOf = (value: string | number) =>
      typeof value === 'number' ? value : declared.find(({ name }: Manifest) => name === value)?.containerPort
    return ofKind('NetworkPolicy')
      .filter(({ spec }) => matches(spec.podSelector, labelsOf(workload)))
      .flatMap(({ spec }) => spec.ingress ?? [])
      .some(
        ({ from = [], ports = [] }) =>
          from.some(
            ({ namespaceSelector }: Manifest) =>
              namespaceSelector?.matchLabels?.['kubernetes.io/metadata.name'] === namespace,
          ) && ports.some((each: Manifest) => numberOf(each.port) === port),
      )
  }

  it('Prometheus finds every process of ours once, where it is let in and understood', () => {
    for (const workload of workloads().filter(each => labelsOf(each)['app.kubernetes.io/name'] === 'percolate'))
      for (const podIp of POD_IPS) {
        const addresses = ofKind('PodMonitor')
          .filter(({ spec }) => matches(spec.selector, labelsOf(workload)))
          .flatMap(monitor => scraped(monitor, workload, podIp))
        expect([nameOf(workload), addresses.length]).toEqual([nameOf(workload), 1])
        const port = Number(/:(\d+)$/.exec(addresses[0]!)![1])
        expect([nameOf(workload), port, takesPlainText(workload, port)]).toEqual([nameOf(workload), port, true])
        expect([nameOf(workload), port, letsIn(workload, 'monitoring', port)]).toEqual([nameOf(workload), port, true])
        // The agent asks the container where the annotation says.
        if (port === AGENT_PORT) {
          const { annotations } = podOf(workload).metadata
          const declared = podOf(workload).spec.containers[0].ports.map(({ containerPort }: Manifest) => containerPort)
          expect(annotations['prometheus.io/scrape']).toBe('true')
          expect(declared).toContain(Number(annotations['prometheus.io/port']))
          expect(annotations['prometheus.io/path']).toBe('/metrics')
        }
      }
  })

  it('KEDA gets at the lag of every job consumer', () => {
    const monitors = ofKind('ScaledObject')
      .flatMap(({ spec }) => spec.triggers)
      .filter(({ type }) => type === 'nats-jetstream')
      .map(({ metadata }) => ({ ...metadata, at: metadata.natsServerMonitoringEndpoint as string }))
    expect(monitors.length).toBeGreaterThan(0)
    for (const { at, useHttps } of monitors) {
      const [, name, namespace, port] = /^([\w-]+)\.([\w-]+)\.svc\.cluster\.local:(\d+)$/.exec(at)!
      // Somebody else's NATS is theirs to open.
      if (namespace !== 'percolate') continue
      expect(useHttps).toBe('false')
      const service = ofKind('Service').find(({ metadata }) => metadata.name === name)
      const [nats] = workloads().filter(each => matches({ matchLabels: service.spec.selector }, labelsOf(each)))
      expect(service.spec.ports.map((each: Manifest) => each.port)).toContain(Number(port))
      expect([at, takesPlainText(nats, Number(port))]).toEqual([at, true])
      expect([at, letsIn(nats, 'keda', Number(port))]).toEqual([at, true])
    }
  })

  it('who becomes an endpoint says which pod it is: a mesh drops endpoints of pods that it does not know', () => {
    for (const workload of workloads()) {
      const [{ args, env = [] }] = podOf(workload).spec.containers
      if (!/^(node|controller)$/.test(args[0])) continue
      const named = env.find(({ name }: Manifest) => name === 'PERCOLATE_POD_NAME')
      expect([nameOf(workload), named?.valueFrom]).toEqual([
        nameOf(workload),
        { fieldRef: { fieldPath: 'metadata.name' } },
      ])
    }
  })

  it('and what clients and roles say goes encrypted, where there is a mesh', () => {
    if (overlay === 'air-gapped') return
    for (const workload of workloads())
      for (const { containerPort } of podOf(workload).spec.containers.flatMap(({ ports = [] }: Manifest) => ports))
        if (containerPort !== 8222)
          expect([nameOf(workload), containerPort, takesPlainText(workload, containerPort)]).toEqual([
            nameOf(workload),
            containerPort,
            false,
          ])
  })
})
