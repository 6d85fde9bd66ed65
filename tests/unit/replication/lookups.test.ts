import pino from 'pino'
import { describe, expect, it } from 'vitest'
import type { TenantId } from '../../../src/base/ids.ts'
import { Directory } from '../../../src/replication/directory.ts'
import type { Placement } from '../../../src/replication/placement.ts'
import { Router, type RouterOptions } from '../../../src/replication/router.ts'
import { MemoryStream } from '../../../src/stream/memory/adapter.ts'
import { MemoryLog } from '../../../src/stream/memory/log.ts'
import { World } from '../../sim/world.ts'

const logger = pino({ level: 'silent' })
const T = 'unknown' as TenantId

/** A node that follows the directory of a cluster, and another one that writes it. Answers of the bucket to the node take `answerMs`. */
async function start() {
  const world = new World(7)
  const time = world.timeOf({ skewMs: 0, isDead: false })
  const log = new MemoryLog(time)
  const net = { answerMs: 1, pushMs: 1, gets: 0, isAway: false }
  const follow = (isNode: boolean) =>
    new Directory({
      stream: new MemoryStream(log, {
        request: async what => {
          await time.sleep(1)
          if (!isNode || what !== 'kv.get') return
          net.gets++
          if (net.isAway) throw new Error('no answer in time')
        },
        answer: what => time.sleep(isNode && what === 'kv.get' ? net.answerMs : 1),
        push: () => (isNode ? net.pushMs : 1),
      }),
      time,
      logger,
      replicas: 1,
      bytesMax: 0,
      leaseMs: 2000,
      heartbeatMs: 500,
      store: {
        load: async () => ({ placements: [], members: [] }),
        savePlacement: async () => {},
        saveMember: async () => {},
      },
      syncStreams: 'per-tenant',
    })
  const [directory, writer] = [follow(true), follow(false)]
  await directory.start()
  await writer.start()
  await world.runUntil(() => directory.isComplete && writer.isComplete, 20_000)
  expect(directory.isComplete).toBe(true)
  const copies = {
    isCurrent: () => false,
    state: () => 'absent',
    reason: () => 'there is none',
    whenCurrent: async () => false,
  }
  const router = new Router({
    node: 'n1',
    tier: 'small',
    time,
    logger,
    membership: { isFenced: false },
    directory,
    copies,
    replicas: 1,
  } as unknown as RouterOptions)
  const stop = async () => {
    const stopping = Promise.all([directory.stop(), writer.stop()])
    await world.settle(stopping, 10_000)
  }
  net.gets = 0
  return { world, net, directory, writer, router, stop }
}

const route = (router: Router, tenant: TenantId, signal?: AbortSignal) =>
  router.route({
    tenant,
    needsHome: false,
    forwardedBy: undefined,
    ending: signal && {
      signal,
      get hasEnded() {
        return signal.aborted
      },
    },
  })

const placement = (tenant: TenantId): Placement => ({
  tenant,
  incarnation: '000000000001-0000000000000000',
  tier: 'small',
  holders: [{ node: 'n1', state: 'active' }],
  home: 'n1',
  epoch: 1,
  version: 1,
  changedAtMs: 0,
})

describe('a tenant that the cache of the directory does not know', () => {
  it('is asked for once by requests that come together, and not at all when it is known', async () => {
    const { world, net, directory, router, writer, stop } = await start()
    const routes = Promise.all(Array.from({ length: 500 }, () => route(router, T)))
    const outcome = await world.settle(routes, 5000)
    expect(outcome).toMatchObject({ value: expect.arrayContaining([{ kind: 'local' }]) })
    expect(net.gets).toBe(1)
    await world.settle(writer.create(placement(T)), 5000)
    await world.runUntil(() => directory.placement(T) !== undefined, 5000)
    net.gets = 0
    expect(await world.settle(router.lookups.look(T), 5000)).toMatchObject({ value: { tenant: T } })
    expect(net.gets, 'who asks for it by name').toBe(1)
    await stop()
  })

  it('is not said to be missing to who came after it was made, on an answer from before', async () => {
    const { world, net, router, writer, stop } = await start()
    net.answerMs = 1000
    net.pushMs = 60_000
    const before = world.settle(router.lookups.look(T), 10_000)
    await world.run(100)
    expect(await world.settle(writer.create(placement(T)), 500)).toMatchObject({ value: { tenant: T } })
    const after = [router.lookups.look(T), router.lookups.look(T)]
    expect(await world.settle(Promise.all(after), 10_000)).toMatchObject({ value: [{ tenant: T }, { tenant: T }] })
    expect(await before).toEqual({ value: undefined })
    expect(router.lookups.counts.asked).toBe(2)
    await stop()
  })

  it('waits its turn among many others, up to a bound', async () => {
    const { world, net, router, stop } = await start()
    net.answerMs = 1000
    const all = Promise.allSettled(Array.from({ length: 2100 }, (_, n) => route(router, `t${n % 700}` as TenantId)))
    await world.run(500)
    expect(net.gets).toBe(32)
    expect(router.lookups.waiting).toBe(2000)
    const outcome = (await world.settle(all, 60_000)) as { value: PromiseSettledResult<unknown>[] }
    const refused = outcome.value.filter(({ status }) => status === 'rejected')
    expect(refused).toHaveLength(100)
    expect(refused[0]).toMatchObject({ reason: { code: 'TOO_BUSY' } })
    expect(router.lookups.counts).toEqual({ asked: 700, refused: 100 })
    expect(router.lookups.waiting).toBe(0)
    await stop()
  })

  it('is not asked for by requests whose clients have gone before their turn', async () => {
    const { world, net, router, stop } = await start()
    net.answerMs = 1000
    const clients = Array.from({ length: 1900 }, () => new AbortController())
    const gone = Promise.allSettled(clients.map(({ signal }, n) => route(router, `t${n % 500}` as TenantId, signal)))
    await world.run(100)
    for (const client of clients) client.abort()
    const outcome = (await world.settle(gone, 1000)) as { value: PromiseSettledResult<unknown>[] }
    expect(outcome.value.every(({ status }) => status === 'rejected')).toBe(true)
    expect(outcome.value[0]).toMatchObject({ reason: { code: 'CANCELLED' } })
    expect(router.lookups.waiting).toBe(0)
    expect(await world.settle(route(router, T), 5000)).toEqual({ value: { kind: 'local' } })
    expect(await world.settle(route(router, T, clients[0]!.signal), 5000)).toMatchObject({
      error: { code: 'CANCELLED' },
    })
    // Those that were under way, and that of the one that waited to the end.
    expect(router.lookups.counts.asked).toBe(33)
    await stop()
  })

  it('is asked for anew after an answer that failed', async () => {
    const { world, net, router, stop } = await start()
    net.isAway = true
    const failed = Promise.allSettled([route(router, T), route(router, T)])
    const outcome = await world.settle(failed, 5000)
    expect(outcome).toMatchObject({
      value: [{ reason: { code: 'PLACEMENT_UNKNOWN' } }, { reason: { code: 'PLACEMENT_UNKNOWN' } }],
    })
    net.isAway = false
    expect(await world.settle(route(router, T), 5000)).toEqual({ value: { kind: 'local' } })
    await stop()
  })
})
