import { setTimeout as sleep } from 'node:timers/promises'
import type { LocalCluster } from '../src/cluster/cluster.ts'
import { ask } from './ask.ts'
import { GrpcAsker } from './ask-grpc.ts'
import { percentile } from './load.ts'

export interface RemapReport {
  readonly requests: number
  readonly failed: number
  readonly empty: number
  readonly failures: readonly string[]
  readonly tenantsMoved: number
  readonly tenants: number
  readonly p50Ms: number
  readonly p99Ms: number
  readonly maxMs: number
  readonly steadyP99Ms: number
}

const TENANTS = 24
const CLIENTS = 6

/** A node joins and leaves behind the router while clients read and write: no request may fail, no answer be empty. */
export async function remapUnderLoad(cluster: LocalCluster): Promise<RemapReport> {
  const { api } = cluster.addresses
  const grpc = new GrpcAsker(cluster.addresses.grpc)
  const tenants = Array.from({ length: TENANTS }, (_, n) => `remap-${n}`)
  for (const tenant of tenants) {
    const headers = { 'x-tenant-id': tenant, 'x-percolate-durability': 'replicated' }
    await ask(`${api}/api/v1/entities/fixed`, 'PUT', headers, { name: tenant })
    await ask(`${api}/api/v1/moments`, 'POST', { 'x-tenant-id': tenant }, { content: 'something happened' })
  }
  let isLoading = true
  let phase = 'steady'
  const failures: string[] = []
  const latencies: Record<string, number[]> = { steady: [], moving: [] }
  let requests = 0
  let empty = 0
  const load = Array.from({ length: CLIENTS }, async (_, client) => {
    for (let n = client; isLoading; n++) {
      const tenant = tenants[n % TENANTS]!
      const headers = { 'x-tenant-id': tenant }
      const startedAt = performance.now()
      requests++
      try {
        const kind = n % 3
        // Every third client speaks gRPC.
        if (client % 3 === 2) {
          const { failure, body } = await (kind === 0
            ? grpc.ask('PutEntities', headers, { entities: [{ id: `w${client}`, name: String(n) }] })
            : grpc.ask('GetEntity', headers, { id: 'fixed' }))
          if (failure !== undefined) failures.push(`${phase}: ${failure}`)
          else if (kind !== 0 && body.name !== tenant) empty++
          latencies[phase]!.push(performance.now() - startedAt)
          continue
        }
        const answer =
          kind === 0
            ? await ask(`${api}/api/v1/entities/w${client}`, 'PUT', headers, { properties: { n } })
            : kind === 1
              ? await ask(`${api}/api/v1/entities/fixed`, 'GET', headers)
              : await ask(`${api}/api/v1/moments`, 'GET', headers)
        if (answer.status !== 200) failures.push(`${phase}: ${answer.status} ${answer.body?.code ?? ''}`)
        else if (kind === 2 && answer.body.results.length === 0) empty++
      } catch (error) {
        failures.push(`${phase}: ${(error as Error).message}`)
      }
      latencies[phase]!.push(performance.now() - startedAt)
    }
  })
  const entries = async () => {
    const found = new Map<string, string>()
    for (const tenant of tenants) {
      const { headers } = await ask(`${api}/api/v1/entities/fixed`, 'GET', { 'x-tenant-id': tenant })
      found.set(tenant, String(headers['x-percolate-entry-node']))
    }
    return found
  }
  await sleep(2000)
  const before = await entries()
  phase = 'moving'
  const joining = cluster.addresses.nodes.at(-1)!.name
  await cluster.program(joining).start()
  await sleep(3000)
  const during = await entries()
  await cluster.program(joining).stop()
  await sleep(1500)
  isLoading = false
  await Promise.all(load)
  grpc.close()
  return {
    requests,
    failed: failures.length,
    empty,
    failures: [...new Set(failures)].slice(0, 5),
    tenants: TENANTS,
    tenantsMoved: [...during].filter(([tenant, node]) => before.get(tenant) !== node).length,
    p50Ms: percentile(latencies.moving!, 50),
    p99Ms: percentile(latencies.moving!, 99),
    maxMs: percentile(latencies.moving!, 100),
    steadyP99Ms: percentile(latencies.steady!, 99),
  }
}
