import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { parseTenantId } from '../../../src/base/ids.ts'
import { systemTime, type Time } from '../../../src/base/time.ts'
import { TenantPool } from '../../../src/tenant/pool.ts'
import { openMemoryTenant } from '../../support/memory-tenant.ts'
import { eventually, logger, within } from '../../support/running.ts'

/** Waits of the pool: each is one sleep, so those that are counted are wakeups, too. */
function makePool(openMax: number, options: { waitMsMax?: number; exists?: (name: string) => boolean } = {}) {
  const counts = { sleeps: 0, open: 0, openAtOnce: 0 }
  const time: Time = {
    ...systemTime,
    sleep: (ms, how) => {
      counts.sleeps++
      return systemTime.sleep(ms, how)
    },
  }
  const pool = new TenantPool({
    time,
    logger,
    openMax,
    memoryBytesMax: 1e9,
    tenantBytes: 1000,
    idleMs: 1e6,
    waitMsMax: options.waitMsMax ?? 60_000,
    exists: async name => options.exists?.(name) ?? true,
    open: async name => {
      counts.openAtOnce = Math.max(counts.openAtOnce, ++counts.open)
      return openMemoryTenant(name, { end: () => counts.open-- })
    },
  })
  return { pool, counts }
}
const id = (name: string) => parseTenantId(name)
const turn = () => new Promise<void>(resolve => setImmediate(resolve))

describe('who waits for a place in the pool', () => {
  it('is woken once, in the order in which they came', async () => {
    const { pool, counts } = makePool(2)
    const order: number[] = []
    const many = 400
    const uses = Array.from({ length: many }, (_, n) =>
      pool.use(id(`t${n}`), async () => {
        order.push(n)
        await turn()
      }),
    )
    await within('all have had their turn', Promise.all(uses))
    expect(order).toEqual(Array.from({ length: many }, (_, n) => n))
    expect(counts.openAtOnce).toBe(2)
    expect(counts.sleeps).toBeLessThanOrEqual(many)
    expect(pool.stats().waiting).toBe(0)
  })

  it('gets in with the first of its tenant', async () => {
    const { pool, counts } = makePool(1)
    let end = () => {}
    const held = pool.use(id('a'), () => new Promise<void>(resolve => (end = resolve)))
    await eventually('it is open', async () => counts.open === 1)
    let inside = 0
    let all = () => {}
    const together = new Promise<void>(resolve => (all = resolve))
    const uses = Array.from({ length: 50 }, () =>
      pool.use(id('b'), () => {
        if (++inside === 50) all()
        return together
      }),
    )
    const later = pool.use(id('c'), async () => inside)
    await eventually('they wait', async () => pool.stats().waiting === 51)
    end()
    await within('they are in together', Promise.all([held, ...uses]))
    expect(await later).toBe(50)
  })

  it('passes its place on when it has no use for it any more', async () => {
    const known = new Set(['a', 'gone', 'c'])
    const { pool, counts } = makePool(1, { exists: name => known.has(name) })
    let end = () => {}
    const held = pool.use(id('a'), () => new Promise<void>(resolve => (end = resolve)))
    await eventually('it is open', async () => counts.open === 1)
    const gone = [pool.use(id('gone'), async () => 'in'), pool.use(id('gone'), async () => 'in')]
    const next = pool.use(id('c'), async () => 'in')
    await eventually('they wait', async () => pool.stats().waiting === 3)
    known.delete('gone')
    end()
    await held
    expect(await within('both', Promise.all(gone))).toEqual([undefined, undefined])
    expect(await within('the next one', next)).toBe('in')
  })

  it('and is told at once when the node stops', async () => {
    const { pool, counts } = makePool(1)
    let end = () => {}
    const held = pool.use(id('a'), () => new Promise<void>(resolve => (end = resolve)))
    await eventually('it is open', async () => counts.open === 1)
    const waiting = pool.use(id('b'), async () => {})
    waiting.catch(() => {})
    await eventually('it waits', async () => pool.stats().waiting === 1)
    const stopping = pool.stop()
    await expect(within('it is told', waiting, 5000)).rejects.toMatchObject({ code: 'SHUTTING_DOWN' })
    end()
    await Promise.all([held, stopping])
  })

  it('always gets one, whatever else goes on', async () => {
    const tenants = fc.integer({ min: 0, max: 6 }).map(n => id(`t${n}`))
    const step = fc.record({
      tenant: tenants,
      how: fc.constantFrom('use', 'use', 'use', 'fail', 'alone', 'exclusive', 'idle'),
      turns: fc.integer({ min: 0, max: 3 }),
      after: fc.integer({ min: 0, max: 2 }),
    })
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 3 }),
        fc.array(step, { minLength: 1, maxLength: 60 }),
        async (openMax, steps) => {
          const { pool, counts } = makePool(openMax)
          const busy = new Map<string, 'shared' | 'alone'>()
          const inside = async (tenant: string, kind: 'shared' | 'alone', turns: number) => {
            expect([undefined, kind === 'shared' ? 'shared' : undefined]).toContain(busy.get(tenant))
            busy.set(tenant, kind)
            for (let n = 0; n < turns; n++) await turn()
          }
          const users = new Map<string, number>()
          const run = async ({ tenant, how, turns }: { tenant: ReturnType<typeof id>; how: string; turns: number }) => {
            const shared = async () => {
              users.set(tenant, (users.get(tenant) ?? 0) + 1)
              await inside(tenant, 'shared', turns)
              users.set(tenant, users.get(tenant)! - 1)
              if (users.get(tenant) === 0) busy.delete(tenant)
            }
            const alone = async () => {
              await inside(tenant, 'alone', turns)
              busy.delete(tenant)
            }
            if (how === 'use') await pool.use(tenant, shared)
            else if (how === 'fail')
              await pool
                .use(tenant, async () => {
                  await shared()
                  throw new Error('on purpose')
                })
                .catch(error => expect(error.message).toBe('on purpose'))
            else if (how === 'alone') await pool.alone(tenant, alone)
            else if (how === 'exclusive') await pool.exclusive(tenant, alone)
            else pool.closeIdle()
          }
          const running: Promise<void>[] = []
          for (const each of steps) {
            running.push(run(each))
            for (let n = 0; n < each.after; n++) await turn()
          }
          await within('all are done', Promise.all(running), 10_000)
          expect(counts.openAtOnce).toBeLessThanOrEqual(openMax)
          expect(pool.stats()).toMatchObject({ waiting: 0, leases: 0 })
          await pool.stop()
          expect(counts.open).toBe(0)
        },
      ),
      { numRuns: 60 },
    )
  })
})
