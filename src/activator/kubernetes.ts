import { readFile } from 'node:fs/promises'
import { request as httpRequest } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { isIP } from 'node:net'
import { PercolateError } from '../base/errors.ts'
import type { Destination, RouterPort } from './endpoints.ts'

export interface KubernetesOptions {
  /** The API server; in a pod `https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT`. */
  readonly url: string
  /** Where the service account's `token`, `ca.crt` and `namespace` are mounted. The token is read each time: it rotates. */
  readonly credentials: string
  readonly namespace: string
}

const ANSWER_MS_MAX = 5000
const ANSWER_BYTES_MAX = 1024 * 1024
const MANAGER = 'percolate-controller'

/**
 * The EndpointSlice of each tier's Service without a selector, by server-side apply (https://kubernetes.io/docs/reference/using-api/server-side-apply/). It needs the rights to create
 * and patch EndpointSlices in its own namespace, and no others.
 */
export class KubernetesRouter implements RouterPort {
  readonly #options: KubernetesOptions

  constructor(options: KubernetesOptions) {
    this.#options = options
  }

  async write(tier: string, destinations: readonly Destination[]): Promise<void> {
    const { namespace } = this.#options
    const slice = endpointSlice(tier, namespace, destinations)
    const path = `/apis/discovery.k8s.io/v1/namespaces/${encodeURIComponent(namespace)}/endpointslices/${encodeURIComponent(slice.metadata.name)}?fieldManager=${MANAGER}&force=true`
    const { status, text } = await this.#ask('PATCH', path, JSON.stringify(slice))
    if (status >= 200 && status < 300) return
    throw new PercolateError('INTERNAL', `The Kubernetes API refuses the EndpointSlice (${status}): ${reasonOf(text)}`)
  }

  async has(tier: string, destination: Destination): Promise<boolean> {
    const { namespace } = this.#options
    const wanted = endpointSlice(tier, namespace, [destination])
    const path = `/apis/discovery.k8s.io/v1/namespaces/${encodeURIComponent(namespace)}/endpointslices/${encodeURIComponent(wanted.metadata.name)}`
    const { status, text } = await this.#ask('GET', path)
    if (status === 404) return false
    if (status !== 200)
      throw new PercolateError(
        'INTERNAL',
        `The Kubernetes API does not show the EndpointSlice (${status}): ${reasonOf(text)}`,
      )
    const standing = JSON.parse(text) as Partial<Pick<typeof wanted, 'endpoints' | 'ports'>>
    const portOf = (slice: typeof standing) => slice.ports?.find(({ name }) => name === 'http')?.port
    return (
      portOf(standing) === portOf(wanted) &&
      (standing.endpoints ?? []).some(({ addresses }) => addresses.includes(wanted.endpoints[0]!.addresses[0]!))
    )
  }

  async #ask(method: 'GET' | 'PATCH', path: string, body = ''): Promise<{ status: number; text: string }> {
    const { url, credentials } = this.#options
    const target = new URL(path, url)
    const isSecure = target.protocol === 'https:'
    const [token, ca] = await Promise.all([
      readFile(`${credentials}/token`, 'utf8'),
      isSecure ? readFile(`${credentials}/ca.crt`, 'utf8') : undefined,
    ])
    return new Promise((resolve, reject) => {
      const outgoing = (isSecure ? httpsRequest : httpRequest)(
        target,
        {
          method,
          ...(ca === undefined ? {} : { ca }),
          timeout: ANSWER_MS_MAX,
          headers: {
            authorization: `Bearer ${token.trim()}`,
            accept: 'application/json',
            ...(method === 'GET'
              ? {}
              : { 'content-type': 'application/apply-patch+yaml', 'content-length': Buffer.byteLength(body) }),
          },
        },
        answer => {
          let text = ''
          answer.setEncoding('utf8').on('data', (chunk: string) => {
            if (text.length < ANSWER_BYTES_MAX) text += chunk
          })
          answer.once('error', reject)
          answer.once('end', () => resolve({ status: answer.statusCode ?? 0, text }))
        },
      )
      outgoing.once('timeout', () => outgoing.destroy(new Error('the Kubernetes API does not answer')))
      outgoing.once('error', reject)
      outgoing.end(body)
    })
  }
}

/** All destinations of a slice share their ports: they are the nodes of one tier, or the activator alone. */
export function endpointSlice(tier: string, namespace: string, destinations: readonly Destination[]) {
  const [first] = destinations
  const at = (address: string) => {
    const colon = address.lastIndexOf(':')
    return { host: address.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(address.slice(colon + 1)) }
  }
  const hosts = destinations.map(({ http }) => at(http).host)
  const named = hosts.find(host => isIP(host) === 0)
  if (!first || named !== undefined)
    throw new PercolateError(
      'CONFIG_INVALID',
      `An EndpointSlice takes IP addresses, not "${named ?? ''}": set PERCOLATE_ADVERTISE_HOST to the pod's IP.`,
    )
  return {
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: {
      name: `percolate-${tier}`,
      namespace,
      labels: {
        'kubernetes.io/service-name': `percolate-${tier}`,
        'endpointslice.kubernetes.io/managed-by': MANAGER,
        'app.kubernetes.io/name': 'percolate',
        'app.kubernetes.io/part-of': 'percolate',
      },
    },
    addressType: isIP(hosts[0]!) === 6 ? 'IPv6' : 'IPv4',
    ports: [
      { name: 'http', protocol: 'TCP', port: at(first.http).port },
      { name: 'grpc', protocol: 'TCP', port: at(first.grpc).port, appProtocol: 'kubernetes.io/h2c' },
    ],
    endpoints: destinations.map(({ pod, zone }, n) => ({
      addresses: [hosts[n]!],
      conditions: { ready: true, serving: true, terminating: false },
      ...(zone === undefined ? {} : { zone }),
      // A mesh drops an endpoint whose pod it does not know; without one it goes by the address.
      ...(pod === undefined ? {} : { targetRef: { kind: 'Pod', name: pod, namespace } }),
    })),
  }
}

function reasonOf(text: string): string {
  try {
    return String((JSON.parse(text) as { message?: unknown }).message ?? text).slice(0, 300)
  } catch {
    return text.slice(0, 300)
  }
}
