import pino from 'pino'
import { describe, expect, it } from 'vitest'
import type { TenantId } from '../../../src/base/ids.ts'
import { systemTime } from '../../../src/base/time.ts'
import type { Placement } from '../../../src/replication/placement.ts'
import { type RouteRequest, Router, type RouterOptions } from '../../../src/replication/router.ts'

/** A node alone, whose directory shows a new tenant some time before it answers who entered it. */
function lonelyNode(delayMs: number) {
  const node = { isAway: false, creations: 0 }
  const placements = new Map<TenantId, Placement>()
  const current = new Set<TenantId>()
  const directory = {
    isComplete: true,
    confirmComplete: async () => true,
    isWatching: true,
    members: () => [],
    member: () => undefined,
    isLive: () => true,
    placement: (id: TenantId) => placements.get(id),
    fetch: async (id: TenantId) => placements.get(id),
    create: async (wanted: Placement) => {
      node.creations++
      if (node.isAway) throw new Error('the directory is away')
      placements.set(wanted.tenant, wanted)
      await systemTime.sleep(delayMs)
      return wanted
    },
  }
  const copies = {
    isCurrent: (id: TenantId) => current.has(id),
    state: (id: TenantId) => (current.has(id) ? 'current' : 'absent'),
    reason: () => 'this node has no copy',
    whenCurrent: async (id: TenantId) => current.has(id),
    creating: <T>(_: TenantId, work: () => Promise<T>) => work(),
    created: ({ tenant: id }: Placement) => void current.add(id),
  }
  const router = new Router({
    node: 'n1',
    tier: 'small',
    time: systemTime,
    logger: pino({ level: 'silent' }),
    membership: { isFenced: false },
    homes: { created: () => {} },
    directory,
    copies,
    replicas: 1,
  } as unknown as RouterOptions)
  return { router, node }
}

const request: RouteRequest = { tenant: 'new' as TenantId, needsHome: false, forwardedBy: undefined }
const tenant = request.tenant

describe('a tenant that nobody has written', () => {
  it('is answered for by the node that is asked, which makes nothing', async () => {
    const { router, node } = lonelyNode(0)
    expect(await router.route(request)).toEqual({ kind: 'local' })
    expect(router.isNew(tenant)).toBe(true)
    expect(node.creations).toBe(0)
  })

  it('is entered once by first writes that come together; requests wait for that, also when the directory shows it first', async () => {
    const { router, node } = lonelyNode(20)
    const entered = [router.enter(tenant), router.enter(tenant)]
    await systemTime.sleep(5)
    expect(await router.route(request)).toEqual({ kind: 'local' })
    expect(await Promise.all(entered)).toEqual([true, true])
    expect(await router.enter(tenant)).toBe(true)
    expect(node.creations).toBe(1)
  })

  it('is entered anew when that failed', async () => {
    const { router, node } = lonelyNode(0)
    node.isAway = true
    await expect(router.enter(tenant)).rejects.toThrow('away')
    node.isAway = false
    expect(await router.enter(tenant)).toBe(true)
    expect(node.creations).toBe(2)
  })

  it('waits its turn when very many are entered at once', async () => {
    const { router, node } = lonelyNode(1)
    const entered = Array.from({ length: 2000 }, (_, n) => router.enter(`t${n}` as TenantId))
    const settled = await Promise.allSettled(entered)
    const refused = settled.filter(({ status }) => status === 'rejected')
    expect(refused.length).toBe(2000 - node.creations)
    expect(node.creations).toBeGreaterThan(1000)
    expect(node.creations).toBeLessThan(1100)
    expect(refused[0]).toMatchObject({ reason: { code: 'TOO_BUSY' } })
  })
})
