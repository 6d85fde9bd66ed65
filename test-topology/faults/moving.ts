import { setTimeout as sleep } from 'node:timers/promises'
import { ask } from '../ask.ts'
import { addResource } from './clients.ts'
import type { FaultContext } from './context.ts'

const MOVE_MS_MAX = 30_000
const SURPLUS_MS_MAX = 15_000
const READERS = 8
const WRITERS_PER_NODE = 5
const PROVIDER_MS = 2000

export interface Holders {
  readonly home: string | null
  readonly holders: readonly {
    readonly node: string
    readonly state: string
    readonly copy: string
    readonly outbox: number | null
  }[]
}

/** As one of the nodes describes them; undefined when it does not now. */
export async function holdersOf({ world }: Pick<FaultContext, 'world'>, tenant: string): Promise<Holders | undefined> {
  for (const { url } of world.cluster.addresses.nodes) {
    const answer = await ask(`${url}/api/v1/replication`, 'GET', { 'x-tenant-id': tenant }).catch(() => undefined)
    if (answer?.status === 200) return answer.body as Holders
  }
  return undefined
}

/** A tenant that some node does not hold; one that moved a moment ago is on every node until a copy is dropped. */
async function movable(
  context: FaultContext,
  tenants: readonly string[],
): Promise<{ tenant: string; from: readonly string[]; to: string } | undefined> {
  for (const until = Date.now() + SURPLUS_MS_MAX; Date.now() < until; await sleep(300))
    for (const tenant of tenants) {
      const from = (await holdersOf(context, tenant))?.holders.map(({ node }) => node) ?? []
      const to = context.world.nodes.find(node => !from.includes(node))
      if (from.length > 0 && to !== undefined) return { tenant, from, to }
    }
  return undefined
}

/**
 * Sends a tenant's traffic to a node that does not hold it, so that the copy moves there, while writes that wait for the embedding provider are under way on every node: one of them loses its copy in the
 * middle of them.
 */
export async function moveAway(context: FaultContext): Promise<string | undefined> {
  const { world, doors, recorder, tenants } = context
  const found = await movable(
    context,
    [...tenants].sort(() => recorder.random() - 0.5),
  )
  if (!found) return 'every tenant is on every node'
  const { tenant, from, to } = found
  let isMoving = true
  world.provider.delay(PROVIDER_MS)
  const reader = async () => {
    while (isMoving) await recorder.oneOf(doors.nodes.get(to)!).getEntity(tenant, 'hot-0', {})
  }
  const writer = async (node: string, w: number) => {
    for (let n = 0; isMoving; n++)
      await addResource(
        context,
        recorder.oneOf(doors.nodes.get(node)!),
        tenant,
        `slow ${node} ${w} ${n} ${recorder.random()}`,
      )
  }
  const working = [
    ...Array.from({ length: READERS }, reader),
    ...world.nodes.flatMap(node => Array.from({ length: WRITERS_PER_NODE }, (_, w) => writer(node, w))),
  ]
  const held = new Set(from)
  let dropped: string | undefined
  for (const until = Date.now() + MOVE_MS_MAX; Date.now() < until && !dropped; await sleep(50)) {
    const now = await holdersOf(context, tenant)
    dropped = now && [...held].find(node => !now.holders.some(holder => holder.node === node))
    // Also the new one, when the old home keeps its place.
    for (const { node, state } of now?.holders ?? []) if (state !== 'joining') held.add(node)
  }
  isMoving = false
  world.provider.release()
  await Promise.all(working)
  if (dropped) return undefined
  const states = (await holdersOf(context, tenant))?.holders.map(({ node, state, copy }) => `${node} ${state} ${copy}`)
  return `no holder of ${tenant} lost its copy to ${to} in time: ${states?.join(', ')}`
}
