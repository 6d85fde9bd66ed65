import pino from 'pino'
import { describe, expect, it } from 'vitest'
import type { TenantId } from '../../../src/base/ids.ts'
import { systemTime } from '../../../src/base/time.ts'
import type { Placement } from '../../../src/replication/placement.ts'
import { type RouteRequest, Router, type RouterOptions } from '../../../src/replication/router.ts'

/** A node alone, whose directory shows a new tenant some time before it answers who entered it. */
function lonelyNode(delayMs: number) {
  const node = { isAway: false, creations: 0 }
  let placement: Placement | undefined
  let isCurrent = false
  const directory = {
    isComplete: true,
    isWatching: true,
    members: () => [],
    member: () => undefined,
    isLive: () => true,
    placement: () => placement,
    fetch: async () => placement,
    create: async (wanted: Placement) => {
      node.creations++
      if (node.isAway) throw new Error('the directory is away')
      placement = wanted
      await systemTime.sleep(delayMs)
      return wanted
    },
  }
  const copies = {
    isCurrent: () => isCurrent,
    state: () => (isCurrent ? 'current' : 'absent'),
    reason: () => 'this node has no copy',
    whenCurrent: async () => isCurrent,
    creating: <T>(_: TenantId, work: () => Promise<T>) => work(),
    created: () => {
      isCurrent = true
    },
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

const request = (mayCreate: boolean): RouteRequest => ({
  tenant: 'new' as TenantId,
  mayCreate,
  needsHome: false,
  forwardedBy: undefined,
})

describe('the first requests of a tenant', () => {
  it('wait for the one that makes it, also when the directory shows it first', async () => {
    const { router, node } = lonelyNode(20)
    const first = router.route(request(true))
    await systemTime.sleep(5)
    const routes = await Promise.all([first, router.route(request(true)), router.route(request(false))])
    expect(routes).toEqual(Array(3).fill({ kind: 'local' }))
    expect(node.creations).toBe(1)
  })

  it('make it once when they come together', async () => {
    const { router, node } = lonelyNode(5)
    const routes = await Promise.all([router.route(request(true)), router.route(request(true))])
    expect(routes).toEqual(Array(2).fill({ kind: 'local' }))
    expect(node.creations).toBe(1)
  })

  it('make it anew when that failed', async () => {
    const { router, node } = lonelyNode(0)
    node.isAway = true
    await expect(router.route(request(true))).rejects.toThrow('away')
    node.isAway = false
    expect(await router.route(request(true))).toEqual({ kind: 'local' })
    expect(node.creations).toBe(2)
  })
})
