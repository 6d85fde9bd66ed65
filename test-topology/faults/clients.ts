import { setTimeout as sleep } from 'node:timers/promises'
import type { Door, openDoors } from './doors.ts'
import type { Recorder } from './recorder.ts'

export interface ClientContext {
  readonly doors: ReturnType<typeof openDoors>
  readonly recorder: Recorder
  /** While it is so, clients go on. */
  readonly isLoading: () => boolean
  readonly tenants: readonly string[]
}

const ENTITIES_PER_CLIENT = 4
/** Entities of each tenant that all of its conditional clients write. */
export const HOT_ENTITIES = ['hot-0', 'hot-1'] as const
/** What a hot entity is before anybody has written it under a condition. */
export const INITIAL = 'initial'
const HOT_READ_MS = 15

/** Mostly through the router, now and then straight to a node, which then may have to forward; over either protocol. */
function doorOf({ doors, recorder }: ClientContext, routerShare: number): Door {
  const pair = recorder.random() < routerShare ? doors.router : recorder.oneOf([...doors.nodes.values()])
  return recorder.oneOf(pair)
}

/** One client: it owns its entities, writes one after another, and reads with the bookmarks that it got. */
export async function plainClient(context: ClientContext, n: number): Promise<void> {
  const { recorder, tenants } = context
  const tenant = tenants[n % tenants.length]!
  const values = new Map<string, number>()
  let bookmark: { entity: string; value: number; text: string } | undefined
  let standing: { entity: string; etag: string } | undefined
  while (context.isLoading()) {
    const kind = recorder.random()
    const entity = `c${n}-${Math.floor(recorder.random() * ENTITIES_PER_CLIENT)}`
    const door = doorOf(context, 0.7)
    if (kind < 0.2 && bookmark) await read(context, door, tenant, bookmark)
    else {
      const value = (values.get(entity) ?? 0) + 1
      values.set(entity, value)
      const isConditional = kind > 0.9 && standing?.entity === entity
      const action = isConditional ? 'conditional' : kind > 0.8 ? 'delete' : 'put'
      const wishes = { durability: recorder.oneOf(['local', 'stream', 'replicated']) }
      const done = recorder.write({ tenant, entity, action, value })
      const outcome =
        action === 'delete'
          ? await door.deleteEntity(tenant, entity, wishes)
          : await door.putEntity(tenant, entity, value, wishes, isConditional ? standing!.etag : undefined)
      done(outcome)
      if (outcome.kind === 'done') {
        recorder.answered(door.name)
        if (outcome.bookmark !== '' && action !== 'delete') bookmark = { entity, value, text: outcome.bookmark }
        standing = outcome.standing && { entity, etag: outcome.standing.etag }
      }
    }
    await sleep(2 + recorder.random() * 8)
  }
}

async function read(
  { recorder }: ClientContext,
  door: Door,
  tenant: string,
  { entity, value, text }: { entity: string; value: number; text: string },
): Promise<void> {
  const found = await door.getEntity(tenant, entity, { bookmark: text })
  if (found.kind === 'failed') recorder.note(found.code)
  else
    recorder.history.reads.push({
      tenant,
      entity,
      bookmarkValue: value,
      seen: found.kind === 'found' ? (found.value as number) : undefined,
    })
}

/**
 * Reads a hot entity from the home and writes it on the condition that it is as it was read, or goes on from the answer to its own write. Always at `stream`: a conditional write that only the home's
 * disk has is not known to the next home.
 */
export async function conditionalClient(context: ClientContext, n: number): Promise<void> {
  const { recorder, tenants } = context
  const tenant = tenants[n % tenants.length]!
  let standing: { entity: string; value: string; etag: string } | undefined
  for (let count = 0; context.isLoading(); count++) {
    const door = doorOf(context, 0.3)
    if (!standing || recorder.random() < 0.3) {
      const entity = recorder.oneOf(HOT_ENTITIES)
      const found = await door.getEntity(tenant, entity, { consistency: 'home' })
      if (found.kind === 'found') standing = { entity, value: String(found.value), etag: found.etag }
      else if (found.kind === 'failed') recorder.note(found.code)
    }
    if (standing) {
      const { entity, value: expected, etag }: { entity: string; value: string; etag: string } = standing
      const version = `k${n}-${count}`
      const calledAtMs = performance.now()
      const outcome = await door.putEntity(tenant, entity, version, { durability: 'stream' }, etag)
      const isLost = outcome.kind === 'open'
      recorder.operation(tenant, entity, {
        name: `${version} (${door.name}${outcome.kind === 'done' ? `, decided by ${outcome.node}` : ''})`,
        kind: outcome.kind === 'done' ? 'written' : isLost ? 'unknown' : 'refused',
        calledAtMs,
        answeredAtMs: isLost ? Number.POSITIVE_INFINITY : performance.now(),
        expected,
        ...(outcome.kind === 'refused' ? {} : { version }),
      })
      standing = undefined
      if (outcome.kind === 'done') {
        recorder.answered(door.name)
        const { standing: now } = outcome
        if (now && recorder.random() < 0.7) standing = { entity, value: String(now.value), etag: now.etag }
      } else recorder.note(outcome.code)
    }
    await sleep(recorder.random() * HOT_READ_MS)
  }
}

/** Adds resources for which the node has to ask the embedding provider, with several under way at once. */
export async function resourceClient(context: ClientContext, n: number): Promise<void> {
  const { recorder, tenants } = context
  for (let count = 0; context.isLoading(); count++) {
    const tenant = recorder.oneOf(tenants)
    await addResource(context, doorOf(context, 0.4), tenant, `resource ${n} ${count} of ${tenant}`)
    await sleep(20 + recorder.random() * 60)
  }
}

export async function addResource(
  { recorder }: ClientContext,
  door: Door,
  tenant: string,
  content: string,
): Promise<void> {
  const calledAtMs = performance.now()
  const outcome = await door.putResource(tenant, content, {
    durability: recorder.oneOf(['local', 'stream', 'replicated']),
  })
  if (outcome.kind !== 'done') return recorder.note(outcome.code)
  recorder.answered(door.name)
  const { reached, node, clock, id = '' } = outcome
  recorder.resources.push({ tenant, id, content, reached, node, clock, calledAtMs })
}
