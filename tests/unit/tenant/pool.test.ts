import { describe, expect, it } from 'vitest'
import { PercolateError } from '../../../src/base/errors.ts'
import { parseTenantId } from '../../../src/base/ids.ts'
import { createLogger } from '../../../src/base/logger.ts'
import { systemTime } from '../../../src/base/time.ts'
import { planDelete } from '../../../src/rem/plan.ts'
import { MemoryKv } from '../../../src/storage/memory.ts'
import { TenantPool, WAITERS_MAX } from '../../../src/tenant/pool.ts'
import { openMemoryTenant } from '../../support/memory-tenant.ts'
import { eventually } from '../../support/running.ts'

const logger = createLogger({ level: 'silent', role: 'test' })
const id = (name: string) => parseTenantId(name)

function makePool(options: { openMax?: number; idleMs?: number; waitMsMax?: number; memoryBytesMax?: number } = {}) {
  const closed: string[] = []
  const opens = new Map<string, number>()
  const kvs: MemoryKv[] = []
  const pool = new TenantPool({
    time: systemTime,
    logger,
    openMax: 2,
    memoryBytesMax: 1e9,
    tenantBytes: 1000,
    idleMs: 1e6,
    waitMsMax: 100,
    ...options,
    exists: async name => name !== 'unknown',
    open: async name => {
      opens.set(name, (opens.get(name) ?? 0) + 1)
      const kv = new MemoryKv()
      kvs.push(kv)
      return openMemoryTenant(name, { begin: () => closed.push(name) }, kv)
    },
  })
  return { pool, closed, opens, kvs }
}
const gate = () => {
  let open = () => {}
  const wait = new Promise<void>(resolve => {
    open = resolve
  })
  return { wait, open }
}

describe('tenant pool', () => {
  it('opens a tenant anew whose database has failed, also while somebody uses it all the time', async () => {
    const { pool, opens, kvs } = makePool()
    const name = id('a')
    // Uses that overlap, so that there is no moment without one, unless those who come wait.
    let isBusy = true
    const use = async (): Promise<void> => {
      let next: Promise<void> | undefined
      await pool.use(name, async () => {
        await systemTime.sleep(2)
        if (isBusy) next = use()
        await systemTime.sleep(2)
      })
      await next
    }
    const busy = use()
    await pool.use(name, async tenant => {
      kvs[0]!.write = () => Promise.reject(new PercolateError('DISK_FULL', 'no space left'))
      await expect(
        tenant.write(({ clock }) => ({ ops: [planDelete('entity', 'x', clock)], result: undefined })),
      ).rejects.toMatchObject({ code: 'DISK_FULL' })
      expect(tenant.broken).toBe(true)
    })
    await eventually('it is opened anew', async () => opens.get(name) === 2, 5000)
    expect(await pool.use(name, async tenant => tenant.broken)).toBe(false)
    isBusy = false
    await busy
  })

  it('opens a tenant once for many users at a time', async () => {
    const { pool, opens } = makePool()
    await Promise.all(Array.from({ length: 20 }, () => pool.use(id('a'), async () => {})))
    expect(opens.get('a')).toBe(1)
  })

  it('never closes a tenant in use, and makes newcomers wait for a place', async () => {
    const { pool, closed } = makePool()
    const [a, b] = [gate(), gate()]
    const holdingA = pool.use(id('a'), () => a.wait)
    const holdingB = pool.use(id('b'), () => b.wait)
    await expect(pool.use(id('c'), async () => {})).rejects.toMatchObject({ code: 'TOO_BUSY' })
    expect(closed).toEqual([])
    const waiting = pool.use(id('c'), async () => 'in')
    a.open()
    await holdingA
    expect(await waiting).toBe('in')
    expect(closed).toEqual(['a'])
    b.open()
    await holdingB
  })

  it('lets no more wait than its bound: who comes then is told at once', async () => {
    const { pool, opens } = makePool({ openMax: 1, waitMsMax: 60_000 })
    const a = gate()
    void pool.use(id('a'), () => a.wait)
    await eventually('it is open', async () => opens.has('a'))
    const outcomes: string[] = []
    const more = 50
    for (let n = 0; n < WAITERS_MAX + more; n++)
      void pool
        .use(id(`t${n}`), async () => {})
        .then(
          () => outcomes.push('in'),
          error => outcomes.push(error.code),
        )
    await eventually('the last ones are refused', async () => outcomes.length >= more)
    expect(outcomes).toEqual(Array.from({ length: more }, () => 'TOO_BUSY'))
    expect(pool.stats().waiting).toBe(WAITERS_MAX)
  })

  it('closes the least recently used first', async () => {
    const { pool, closed } = makePool()
    for (const name of ['a', 'b', 'a', 'c']) await pool.use(id(name), async () => {})
    expect(closed).toEqual(['b'])
  })

  it('makes nothing for a tenant that only reads and does not exist', async () => {
    const { pool, opens } = makePool()
    expect(await pool.use(id('unknown'), async () => 1)).toBeUndefined()
    expect(opens.size).toBe(0)
    expect(await pool.use(id('unknown'), async () => 1, { create: true })).toBe(1)
  })

  it('closes idle tenants, and opens them again', async () => {
    const { pool, closed, opens } = makePool({ idleMs: 10 })
    await pool.use(id('a'), async () => {})
    await systemTime.sleep(30)
    pool.closeIdle()
    await pool.use(id('a'), async () => {})
    expect([closed, opens.get('a'), pool.stats().idleClosed]).toEqual([['a'], 2, 1])
  })

  it('keeps to its memory budget, but never closes the only tenant over it', async () => {
    const { pool, closed } = makePool({ openMax: 10, memoryBytesMax: 2500 })
    for (const name of ['a', 'b', 'c']) await pool.use(id(name), async () => {})
    await systemTime.sleep(5)
    expect(closed).toEqual(['a'])
    const small = makePool({ memoryBytesMax: 10 })
    await small.pool.use(id('a'), async () => {})
    expect(small.closed).toEqual([])
  })

  it('lets uses finish when it stops, and refuses new ones', async () => {
    const { pool, closed } = makePool()
    const a = gate()
    const using = pool.use(id('a'), () => a.wait)
    await systemTime.sleep(5)
    const stopping = pool.stop()
    await expect(pool.use(id('b'), async () => {})).rejects.toMatchObject({ code: 'SHUTTING_DOWN' })
    expect(closed).toEqual([])
    a.open()
    await Promise.all([using, stopping])
    expect(closed).toEqual(['a'])
  })
})
