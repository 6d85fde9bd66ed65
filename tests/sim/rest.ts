import type { TenantId } from '../../src/base/ids.ts'
import { formatClock } from '../../src/clock/hlc.ts'
import type { RecordRef } from '../../src/rem/record.ts'
import { subjects } from '../../src/stream/subjects.ts'
import type { SimCluster, SimNode } from './cluster.ts'

/** Requests a second of one process to the servers when nobody asks it for anything. */
const IDLE_REQUESTS_MAX = 16
/** How long a home may take to answer when all is well again: a lease, and what it takes to notice that the directory was lost. */
const HOME_MS_MAX = 20_000

/** The first copy that does not answer for its tenant; empty when every one does. */
export function notCurrent(cluster: SimCluster, tenants: readonly TenantId[]): string {
  const { nodes } = cluster
  for (const tenant of tenants) {
    const placement = nodes.flatMap(({ process }) => process?.replica.directory.placement(tenant) ?? [])[0]
    for (const { node } of placement?.holders ?? []) {
      const copies = cluster.node(node)?.process?.replica.copies
      if (!copies?.isCurrent(tenant))
        return `${tenant} on ${node} is ${copies?.state(tenant)}: ${copies?.reason(tenant)}`
    }
  }
  return ''
}

/** What is not at rest yet: copies, outboxes, entries that wait, garbage. All of it, or the first of it. */
export function unrest(cluster: SimCluster, tenants: readonly TenantId[], isVerbose: boolean): string {
  const found: string[] = []
  for (const tenant of tenants) {
    const placement = cluster.nodes.flatMap(({ process }) => process?.replica.directory.placement(tenant) ?? [])[0]
    if (!placement) continue
    const active = placement.holders.filter(({ state }) => state === 'active')
    if (active.length !== placement.holders.length || active.length !== cluster.settings.replicas)
      found.push(`${tenant} has holders ${JSON.stringify(placement.holders)}`)
    for (const { node } of placement.holders) {
      const process = cluster.node(node)?.process
      if (!process?.replica.copies.isCurrent(tenant))
        found.push(
          `${tenant} on ${node} is ${process?.replica.copies.state(tenant)}: ${process?.replica.copies.reason(tenant)}`,
        )
      for (const open of process?.pool.openTenants() ?? []) {
        if (open.id !== tenant) continue
        if (open.outbox.entries > 0)
          found.push(
            `${tenant} on ${node} has ${open.outbox.entries} entries to publish: ${process?.replica.publisher.describe(tenant)}`,
          )
        if (process!.replica.maintenance.hasParked(tenant)) found.push(`${tenant} on ${node} has parked entries`)
        if (!open.isCollected) found.push(`${tenant} on ${node} has garbage`)
        if (process!.replica.applier.hasHole(tenant)) found.push(`${tenant} on ${node} has a hole`)
      }
    }
    const opened = placement.holders.flatMap(
      ({ node }) =>
        cluster
          .node(node)
          ?.process?.pool.openTenants()
          .filter(({ id }) => id === tenant) ?? [],
    )
    const vectors = opened.map(open => JSON.stringify([...open.vector].sort()))
    if (new Set(vectors).size > 1) found.push(`${tenant} has vectors ${vectors.join(' / ')}`)
    const floors = opened.map(open => open.floor && formatClock(open.floor.clock))
    if (new Set(floors).size > 1) found.push(`${tenant} has floors ${floors.join(' / ')}`)
    if (!isVerbose && found.length > 0) return found[0]!
  }
  return found.join('; ')
}

/** Whether no node has a tenant in use. */
export const isIdle = (nodes: readonly SimNode[]): boolean =>
  nodes.every(({ process }) => process!.pool.stats().leases === 0)

/** More requests of one process to the servers, `counted` in `ms` in which nothing was asked of it, than it should need. */
export function checkIdle(counted: ReadonlyMap<string, number>, ms: number): string[] {
  return [...counted]
    .filter(([, requests]) => requests > (IDLE_REQUESTS_MAX * ms) / 1000)
    .map(
      ([name, requests]) => `${name} asks the servers ${(requests * 1000) / ms} times a second while nothing happens`,
    )
}

/** What is left anywhere of tenants of which every request was refused: in what nodes know and hold, on their disks, in the servers. */
export function checkRefused(cluster: SimCluster, refused: ReadonlySet<string>): string[] {
  const found: string[] = []
  for (const { id, process, disk } of cluster.nodes) {
    const known = (process?.replica.directory.placements() ?? []).filter(({ tenant }) => refused.has(tenant))
    const copies = (process?.replica.copies.tenants() ?? []).filter(tenant => refused.has(tenant))
    const held = [...disk.databases.keys()].filter(tenant => refused.has(tenant))
    if (known.length + copies.length + held.length > 0)
      found.push(
        `${id} knows ${known.length} tenants, has copies of ${copies.length} and holds ${held.length} of which every request was refused, such as ${known[0]?.tenant ?? copies[0] ?? held[0]}`,
      )
  }
  const { log } = cluster
  const entered = [...refused].filter(tenant => log.bucket(subjects.clusterBucket).records.has(keyOf(tenant)))
  const streams = [...log.streams.keys()].filter(name => refused.has(name.slice(subjects.syncStreamPrefix.length)))
  if (entered.length + streams.length > 0)
    found.push(
      `the servers have ${entered.length} keys and ${streams.length} streams of tenants of which every request was refused, such as ${entered[0] ?? streams[0]}`,
    )
  return found
}

const keyOf = (tenant: string): string => subjects.tenantKey(tenant as TenantId)

/** Of tenants whose home nobody reaches, though a node has a whole copy: no fault keeps a home away for good. */
export async function silentHomes(cluster: SimCluster, tenants: readonly TenantId[]): Promise<string[]> {
  const { nodes, world } = cluster
  const ref: RecordRef = { kind: 'entity', key: ['asked of the home'] }
  const silent: string[] = []
  for (const tenant of tenants) {
    if (!nodes.some(({ process }) => process?.replica.copies.isCurrent(tenant))) continue
    const until = world.nowMs + HOME_MS_MAX
    let said = 'no node runs'
    for (let turn = 0; said !== '' && world.nowMs < until; turn++) {
      const { process } = nodes[turn % nodes.length]!
      const asked = process?.handle({ tenant, ref, ifVersion: 'any' }, undefined).then(() => '', String)
      const outcome = asked && (await world.settle(asked, HOME_MS_MAX))
      if (outcome) said = 'value' in outcome ? outcome.value : 'it failed'
      if (said !== '') await world.run(500)
    }
    if (said !== '')
      silent.push(`${HOME_MS_MAX / 1000} s after the last fault the home of ${tenant} answers nobody: ${said}`)
  }
  return silent
}
