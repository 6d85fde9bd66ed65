import { setTimeout as sleep } from 'node:timers/promises'
import { ask } from '../ask.ts'
import type { TestTopology } from '../topology.ts'
import { holdersOf } from './scaling.ts'
import { type Scenario, type ScenarioContext, until, type VerdictBuilder, withTopology } from './scenario.ts'

/** As in the manifests: what wakes at once, and what an HPA takes away at a time. */
const LEAST = 3
const IDLE_S = 300 + 300 + 60
const STEP_S = 120
/** However fast time goes, the HPA of the topology goes no faster (test-topology/autoscaler). */
const HPA_SPEED_MAX = 25
const TENANTS_PER_NODE = 2
/** Ten nodes take time to come and to catch up on a small machine; at greater speeds windows would be over before. */
const SPEED_OF_TEN = 10
/** Tenants that are made at most until enough have their copies on nodes that do not wake first. */
const TENANTS_MAX = 120
const STRANDED = 3
/** A client that asks again while it is told to: longer than waking and the HPA's pause before it goes up. */
const ANSWERED_MS_MAX = 120_000

const headers = (tenant: string) => ({ 'x-tenant-id': tenant })
const path = '/api/v1/entities/ada'

/** Asks until the answer is final; what it was, and how long it took. */
async function answered(api: string, tenant: string): Promise<{ ok: boolean; ms: number }> {
  const startedAt = performance.now()
  for (;;) {
    const answer = await ask(`${api}${path}`, 'GET', headers(tenant), undefined, ANSWERED_MS_MAX).catch(() => undefined)
    const ms = performance.now() - startedAt
    if (answer?.status === 200) return { ok: answer.body.name === tenant, ms }
    if ((answer !== undefined && answer.status !== 503) || ms > ANSWERED_MS_MAX) return { ok: false, ms }
    await sleep(500)
  }
}

async function askAll(what: string, api: string, tenants: readonly string[], verdict: VerdictBuilder): Promise<void> {
  const answers = await Promise.all(tenants.map(tenant => answered(api, tenant)))
  verdict.figure(`${what}: slowest answer, ms`, Math.max(...answers.map(({ ms }) => ms)))
  const right = answers.filter(({ ok }) => ok).length
  verdict.check(`${what}: every tenant is answered, and right: ${right} of ${tenants.length}`, right === tenants.length)
}

/** Tenants whose copies are all on nodes that do not wake first; made until there are some. */
async function strand(api: string, verdict: VerdictBuilder, context: ScenarioContext): Promise<string[]> {
  const tenants: string[] = []
  const stranded: string[] = []
  while (stranded.length < STRANDED && tenants.length < TENANTS_MAX) {
    const tenant = `t${tenants.length}`
    tenants.push(tenant)
    const durable = { ...headers(tenant), 'x-percolate-durability': 'replicated' }
    await until(`${tenant} is written`, context, 0, async () => {
      const answer = await ask(`${api}${path}`, 'PUT', durable, { name: tenant }).catch(() => undefined)
      return answer?.status === 200
    })
    let holders: string[] = []
    await until(`${tenant} has its copies`, context, 0, async () => {
      holders = await holdersOf(api, tenant)
      return holders.length >= LEAST
    })
    if (holders.every(name => Number(/-(\d+)$/.exec(name)![1]) > LEAST)) stranded.push(tenant)
  }
  verdict.figure('tenants', tenants.length)
  verdict.figure('with all copies above the first three nodes', stranded.length)
  verdict.check('some have no copy on the nodes that wake first', stranded.length === STRANDED)
  return [...tenants.slice(0, 10), ...stranded]
}

/** Requests of more and more tenants, until as many nodes run as may. */
async function grow(topology: TestTopology, api: string, nodes: number, context: ScenarioContext): Promise<void> {
  const crowd = Array.from({ length: nodes * TENANTS_PER_NODE }, (_, n) => `crowd${n}`)
  await until(`${nodes} nodes run`, context, 10 * STEP_S, async () => {
    await Promise.all(
      crowd.map(tenant => ask(`${api}${path}`, 'PUT', headers(tenant), { name: tenant }).catch(() => {})),
    )
    return (await topology.nodes.count()).ready === nodes
  })
}

/** With an object store nodes leave snapshots behind that others could begin from; without one, what wakes must have the copies. */
const shrink = (name: string, hasStore: boolean): Scenario => ({
  name,
  title: `From many nodes to none and back: no tenant is left on nodes that do not wake, orderly or not, with${hasStore ? '' : 'out'} an object store`,
  run: (context, verdict) => {
    const nodes = context.speed < SPEED_OF_TEN ? 10 : 6
    const overrides = [
      { name: 'percolate-node', path: ['triggers', '0', 'metadata', 'threshold'], value: TENANTS_PER_NODE },
      { name: 'percolate-node', path: ['maxReplicaCount'], value: nodes },
    ]
    const nodeEnv: Record<string, string> = hasStore ? {} : { PERCOLATE_S3_ENDPOINT: '' }
    return withTopology(context, verdict, { replicas: 3, nats: 1, overrides, nodeEnv }, async topology => {
      const { api } = topology.cluster.addresses
      await grow(topology, api, nodes, context)
      const tenants = await strand(api, verdict, context)
      // Not by idleness, which takes them one by one; and nobody may bring them back before all are gone.
      topology.nodeScaler.pause(0, 'by hand, all at once')
      await until('all nodes are gone', context, 0, () => topology.nodes.present === 0)
      topology.nodeScaler.resume()
      await askAll('all at once', api, tenants, verdict)
      const hpaS = (300 + (nodes - LEAST) * STEP_S) * Math.max(1, context.speed / HPA_SPEED_MAX)
      let went = topology.nodes.wanted
      let step = 0
      const watch = setInterval(() => {
        const now = topology.nodes.wanted
        if (now === went) return
        if (went > LEAST) step = Math.max(step, went - now)
        went = now
      }, 20)
      await until('all nodes go', context, IDLE_S + hpaS, () => topology.nodes.wanted + topology.nodes.present === 0)
      clearInterval(watch)
      verdict.figure('nodes that went at once, above the minimum', step)
      verdict.check('idle, it goes down node by node to the minimum, and only then to none', step === 1)
      let most = 0
      const count = setInterval(() => {
        most = Math.max(most, topology.nodes.wanted)
      }, 20)
      // As many as three nodes are for: more would wake more by their number.
      await askAll('idle', api, tenants.slice(-LEAST * TENANTS_PER_NODE), verdict)
      clearInterval(count)
      verdict.figure('nodes that woke', most)
      verdict.check('the nodes that wake have a copy of every tenant', most === LEAST)
    })
  },
})

export const shrinking = shrink('shrinking', false)
export const shrinkingWithStore = shrink('shrinking-with-store', true)
