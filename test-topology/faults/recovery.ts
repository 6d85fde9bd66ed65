import { setTimeout as sleep } from 'node:timers/promises'
import { ask } from '../ask.ts'
import type { FinalState } from '../history.ts'
import { checkLinearizable, type RegisterOperation } from '../linearizable.ts'
import { INITIAL } from './clients.ts'
import { type Feed, feedProblem } from './feeds.ts'
import type { Forgetting, Recorder } from './recorder.ts'
import type { FaultWorld } from './world.ts'

/** After the last fault every copy is current, and every feed has told everything, within this. */
export const RECOVERY_MS_MAX = 60_000
const LANES = 8
const SHOWN = 5

type World = Pick<FaultWorld, 'cluster'>

/** Waits until the holders of every tenant are equal; gives what was wrong, and how long it took. */
export async function recover(world: World, tenants: readonly string[]): Promise<{ problems: string[]; ms: number }> {
  const problems: string[] = []
  const startedAt = performance.now()
  const until = startedAt + RECOVERY_MS_MAX
  await Promise.all(
    tenants.map(async tenant => {
      for (let last = 'no answer'; ; await sleep(300)) {
        const answer = await ask(`${world.cluster.addresses.nodes[0]!.url}/api/v1/replication/check`, 'GET', {
          'x-tenant-id': tenant,
        }).catch(() => undefined)
        if (answer?.body?.equal === true && answer.body.comparisons.length > 0) return
        last = JSON.stringify(answer?.body) ?? last
        if (performance.now() < until) continue
        problems.push(
          `the holders of ${tenant} did not become equal within ${RECOVERY_MS_MAX / 1000} s after the last fault: ${last.slice(0, 500)}`,
        )
        return
      }
    }),
  )
  return { problems, ms: performance.now() - startedAt }
}

async function readEverywhere(
  { cluster }: World,
  tenant: string,
  entity: string,
  problems: string[],
): Promise<(unknown | undefined)[]> {
  const seen: unknown[] = []
  for (const { url } of cluster.addresses.nodes) {
    const answer = await ask(`${url}/api/v1/entities/${entity}`, 'GET', { 'x-tenant-id': tenant }).catch(
      (error: Error) => ({ status: 0, body: error.message }),
    )
    if (answer.status === 200) seen.push(answer.body.properties.v)
    else if (answer.status === 404) seen.push(undefined)
    else problems.push(`${tenant}/${entity} cannot be read on ${url}: ${JSON.stringify(answer.body)}`)
  }
  return seen
}

/** Every register of the plain clients on every node. */
export async function readBack(world: World, recorder: Recorder): Promise<{ final: FinalState; problems: string[] }> {
  const problems: string[] = []
  const final = new Map<string, (number | undefined)[]>()
  const { writes } = recorder.history
  const names = new Map(writes.map(({ tenant, entity }) => [`${tenant}/${entity}`, { tenant, entity }]))
  for (const [name, { tenant, entity }] of names)
    final.set(name, (await readEverywhere(world, tenant, entity, problems)) as (number | undefined)[])
  return { final, problems }
}

/** Acknowledged resources that are not there. */
export async function lostResources({ cluster }: World, recorder: Recorder): Promise<string[]> {
  const lost: string[] = []
  const { nodes } = cluster.addresses
  let next = 0
  const lane = async () => {
    while (next < recorder.resources.length) {
      const n = next++
      const write = recorder.resources[n]!
      const { tenant, id, content, reached, node, calledAtMs } = write
      const url = `${nodes[n % nodes.length]!.url}/api/v1/resources/${id}`
      const answer = await ask(url, 'GET', { 'x-tenant-id': tenant }).catch(() => undefined)
      if (answer?.status === 200 && answer.body.content === content) continue
      if (recorder.wasLosable(tenant, write, calledAtMs)) continue
      lost.push(`${content} (${reached} by ${node}): ${answer?.status ?? 'no answer'}`)
    }
  }
  await Promise.all(Array.from({ length: LANES }, lane))
  if (lost.length === 0) return []
  return [
    `${lost.length} of ${recorder.resources.length} acknowledged resources are lost: ${lost.slice(0, SHOWN).join('; ')}`,
  ]
}

/**
 * Without refusals that a write without an answer may be the reason of, one on the same condition. The home saw that write; if only the home's disk had it, the next home never does, so that it has and has not been. That is
 * promised to nobody: the write was not acknowledged, and the refused one changes nothing.
 */
export function explained(operations: readonly RegisterOperation[]): RegisterOperation[] {
  const open = operations.filter(({ kind }) => kind === 'unknown')
  return operations.filter(
    ({ kind, expected, answeredAtMs }) =>
      kind !== 'refused' || !open.some(other => other.expected === expected && other.calledAtMs <= answeredAtMs),
  )
}

/** What was decided while it could be forgotten may have happened or not, and who read or was refused then may have seen what is forgotten. All else counts as it stands. */
export function unforgotten(
  operations: readonly RegisterOperation[],
  forgettings: readonly Forgetting[],
): RegisterOperation[] {
  return operations.flatMap(operation => {
    const { kind, calledAtMs, answeredAtMs } = operation
    if (!forgettings.some(({ fromMs, untilMs }) => answeredAtMs >= fromMs && calledAtMs <= untilMs)) return operation
    if (kind === 'unknown') return operation
    return kind === 'written' ? { ...operation, kind: 'unknown', answeredAtMs: Number.POSITIVE_INFINITY } : []
  })
}

export interface ConditionalVerdict {
  readonly problems: string[]
  /** Conditional writes of hot entities that were acknowledged. */
  readonly acknowledged: number
  /** Versions on which more than one of them was. */
  readonly decidedTwice: number
  readonly undecided: number
}

/** Reads the hot entities on every node and judges their histories, this last read included. */
export async function judgeConditional(world: World, recorder: Recorder): Promise<ConditionalVerdict> {
  const problems: string[] = []
  let [acknowledged, decidedTwice, undecided] = [0, 0, 0]
  for (const [name, operations] of recorder.conditional) {
    const [tenant, entity] = name.split('/') as [string, string]
    const atMs = performance.now()
    const values = await readEverywhere(world, tenant, entity, problems)
    if (new Set(values).size > 1) problems.push(`${name} differs between nodes: ${values.join(', ')}`)
    const last: RegisterOperation = {
      name: 'the read at the end',
      kind: 'read',
      calledAtMs: atMs,
      answeredAtMs: performance.now(),
      version: String(values[0]),
    }
    const decided = operations.filter(({ kind }) => kind === 'written')
    acknowledged += decided.length
    const times = new Map<string, number>()
    for (const { expected } of decided) times.set(expected!, (times.get(expected!) ?? 0) + 1)
    decidedTwice += [...times.values()].filter(count => count > 1).length
    const { verdict, reason } = checkLinearizable(
      [...explained(unforgotten(operations, recorder.forgettings)), last],
      INITIAL,
    )
    if (verdict === 'violated') problems.push(`${name} is not linearizable: ${reason}`)
    if (verdict === 'undecided') undecided++
  }
  return { problems, acknowledged, decidedTwice, undecided }
}

/** Every feed tells everything within the time for recovery, or has said that it does not. */
export async function judgeFeeds(feeds: readonly Feed[], recorder: Recorder): Promise<string[]> {
  const problems: string[] = []
  for (const until = Date.now() + RECOVERY_MS_MAX / 2; ; await sleep(500)) {
    const open = feeds.flatMap(feed => feedProblem(feed, recorder) ?? [])
    if (open.length === 0) break
    if (Date.now() < until) continue
    problems.push(...open)
    break
  }
  return problems
}
