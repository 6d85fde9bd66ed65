import { describe, expect, it } from 'vitest'
import { ChatOperations } from '../../../src/api/operations/chat.ts'
import { EntityOperations } from '../../../src/api/operations/entities.ts'
import { MomentOperations } from '../../../src/api/operations/moments.ts'
import { ResourceOperations } from '../../../src/api/operations/resources.ts'
import type { PercolateError } from '../../../src/base/errors.ts'
import { parseTenantId, type TenantId } from '../../../src/base/ids.ts'
import { createLogger } from '../../../src/base/logger.ts'
import { systemTime } from '../../../src/base/time.ts'
import { HashingEmbedder } from '../../../src/embedding/hashing.ts'
import { HeavyReads, readInTurn } from '../../../src/session/heavy-reads.ts'
import { ANY } from '../../../src/session/request.ts'
import { Session } from '../../../src/session/session.ts'
import { MemoryKv } from '../../../src/storage/memory.ts'
import { TenantPool } from '../../../src/tenant/pool.ts'
import type { Tenant } from '../../../src/tenant/tenant.ts'
import { openMemoryTenant } from '../../support/memory-tenant.ts'

const session = (tenant: string, signal = new AbortController().signal) =>
  new Session(
    { tenant: parseTenantId(tenant), access: 'read', consistency: ANY, asOf: undefined, forwardedBy: undefined },
    { signal, hasEnded: false },
  )
const settle = () => new Promise(resolve => setImmediate(resolve))

const poolOf = (open: (id: TenantId) => Promise<Tenant>, openMax = 1) =>
  new TenantPool({
    time: systemTime,
    logger: createLogger({ level: 'silent', role: 'test' }),
    openMax,
    memoryBytesMax: 1e9,
    tenantBytes: 1,
    idleMs: 1e6,
    waitMsMax: 1000,
    exists: async () => true,
    open,
  })

/** Work that ends when it is told to. */
function heldWork(reads: HeavyReads) {
  const begun: string[] = []
  const ends = new Map<string, () => void>()
  const start = (tenant: string, name: string, signal?: AbortSignal) =>
    reads.run(session(tenant, signal), async () => {
      begun.push(name)
      await new Promise<void>(end => ends.set(name, end))
    })
  return { begun, start, end: (name: string) => ends.get(name)!() }
}

describe('reads that compute for long', () => {
  it('are bounded; one tenant leaves a place to the others, who are served in turn', async () => {
    const reads = new HeavyReads({ heavyReadsMax: 3, heavyReadsWaitingMax: 100 })
    const { begun, start, end } = heldWork(reads)
    const all = [1, 2, 3, 4, 5].map(n => start('greedy', `greedy ${n}`))
    all.push(start('other', 'other 1'), start('third', 'third 1'))
    await settle()
    expect(begun).toEqual(['greedy 1', 'greedy 2', 'other 1'])
    expect([reads.running, reads.waiting]).toEqual([3, 4])
    end('greedy 1')
    await settle()
    expect(begun.slice(3)).toEqual(['greedy 3'])
    end('other 1')
    await settle()
    expect(begun.slice(4)).toEqual(['third 1'])
    for (const name of ['greedy 2', 'greedy 3', 'third 1']) end(name)
    await settle()
    for (const name of ['greedy 4', 'greedy 5']) end(name)
    await Promise.all(all)
    expect([reads.running, reads.waiting]).toEqual([0, 0])
  })

  it('are refused when too many wait, a quarter of them of one tenant, and counted', async () => {
    const reads = new HeavyReads({ heavyReadsMax: 1, heavyReadsWaitingMax: 8 })
    const { start, end } = heldWork(reads)
    const all = [1, 2, 3].map(n => start('greedy', `greedy ${n}`))
    const refusal = await start('greedy', 'greedy 4').catch((error: unknown) => error)
    expect(refusal).toMatchObject({ code: 'TOO_BUSY', retryAfterS: 1 })
    expect(reads.refused).toBe(1)
    all.push(start('other', 'other 1'))
    await settle()
    for (const name of ['greedy 1', 'greedy 2', 'other 1', 'greedy 3']) {
      end(name)
      await settle()
    }
    await Promise.all(all)
  })

  it('give their place back when they fail, and do not wait for who has gone', async () => {
    const reads = new HeavyReads({ heavyReadsMax: 1, heavyReadsWaitingMax: 8 })
    await expect(reads.run(session('a'), () => Promise.reject(new Error('failed')))).rejects.toThrow('failed')
    const { start, end } = heldWork(reads)
    const first = start('a', 'a 1')
    const gone = new AbortController()
    const second = start('b', 'b 1', gone.signal)
    gone.abort()
    await expect(second).rejects.toMatchObject({ code: 'CANCELLED' } satisfies Partial<PercolateError>)
    end('a 1')
    await first
    expect([reads.running, reads.waiting, reads.refused]).toEqual([0, 0, 0])
  })

  it('are searches, answers, listings with a filter, lookups by name and walks; they wait without the tenant', async () => {
    const heavyReads = new HeavyReads({ heavyReadsMax: 1, heavyReadsWaitingMax: 100 })
    const kv = new MemoryKv()
    const pool = poolOf(tenant => openMemoryTenant(tenant, {}, kv))
    const context = { pool, time: systemTime, embedder: new HashingEmbedder(), heavyReads } as never
    const resources = new ResourceOperations(context)
    const entities = new EntityOperations(context)
    const moments = new MomentOperations(context)
    const chat = new ChatOperations(context, undefined)
    const call = session('t')
    await entities.put(new Session({ ...call, access: 'write' } as never, call), [{ id: 'e', name: 'Ada' }])
    const heavy = [
      () => resources.search(call, { query: 'x' }),
      () => resources.query(call, { limit: 1000 }),
      () => resources.query(call, { category: 'x' }),
      () => entities.query(call, { name: 'Ada' }),
      () => entities.traverse(call, 'e', {}),
      () => chat.chat(call, { messages: [{ role: 'user', content: 'Who is Ada?' }] }),
    ]
    const light = [
      () => resources.query(call, {}),
      () => entities.query(call, {}),
      () => entities.get(call, 'e'),
      () => moments.query(call, {}),
      // Large is what reads much, whatever it asks for (tests/unit/api/large-reads.test.ts).
      () => entities.query(call, { limit: 1000 }),
      () => moments.query(call, { limit: 1000 }),
    ]
    const { start, end } = heldWork(heavyReads)
    const first = start('other', 'first')
    for (const read of light) await read()
    const waiting = heavy.map(read => read())
    while (heavyReads.waiting < heavy.length) await settle()
    expect(pool.stats().leases).toBe(0)
    end('first')
    await Promise.all([first, ...waiting])
    expect([heavyReads.running, heavyReads.waiting]).toEqual([0, 0])
  })
  it('hold no place while their tenant is opened, or is kept closed', async () => {
    const heavyReads = new HeavyReads({ heavyReadsMax: 2, heavyReadsWaitingMax: 100 })
    let openSlow = () => {}
    const slow = new Promise<void>(resolve => {
      openSlow = resolve
    })
    const pool = poolOf(async id => {
      if (id.startsWith('slow')) await slow
      return openMemoryTenant(id)
    }, 10)
    let letGo = () => {}
    const held = pool.exclusive(parseTenantId('held'), () => new Promise(resolve => (letGo = resolve)))
    const context = { pool, time: systemTime, heavyReads } as never
    const readOf = (tenant: string) => readInTurn(context, session(tenant), async ({ id }) => id, never)
    const waiting = ['slow-1', 'slow-2', 'held'].map(readOf)
    for (let n = 0; n < 10; n++) await settle()
    expect([heavyReads.running, heavyReads.waiting]).toEqual([0, 0])
    expect(await readOf('quick')).toBe('quick')
    openSlow()
    letGo()
    expect(await Promise.all(waiting)).toEqual(['slow-1', 'slow-2', 'held'])
    expect([await held, heavyReads.running]).toEqual([true, 0])
    await pool.stop()
  })

  it('that are refused have nothing opened', async () => {
    const heavyReads = new HeavyReads({ heavyReadsMax: 1, heavyReadsWaitingMax: 0 })
    const pool = poolOf(id => openMemoryTenant(id))
    const { start, end } = heldWork(heavyReads)
    const first = start('first', 'first')
    const refused = readInTurn({ pool, time: systemTime, heavyReads } as never, session('t'), async () => {}, never)
    await expect(refused).rejects.toMatchObject({ code: 'TOO_BUSY' })
    expect([pool.stats().opened, heavyReads.refused]).toEqual([0, 1])
    end('first')
    await first
  })

  it('whose tenant was closed for others while they waited give their place back, and come to an end all the same', async () => {
    const heavyReads = new HeavyReads({ heavyReadsMax: 1, heavyReadsWaitingMax: 100 })
    const placesWhileOpening: number[] = []
    const pool = poolOf(id => {
      placesWhileOpening.push(heavyReads.running)
      return openMemoryTenant(id)
    })
    const context = { pool, time: systemTime, heavyReads } as never
    const { start, end } = heldWork(heavyReads)
    const first = start('first', 'first')
    const ids = Array.from({ length: 20 }, (_, n) => `t${n}`)
    const waiting = ids.map(tenant => readInTurn(context, session(tenant), async ({ id }) => id, never))
    // In the one database that may be open, each takes the place of the one before.
    while (heavyReads.waiting < ids.length) await settle()
    expect(placesWhileOpening).toHaveLength(ids.length)
    end('first')
    await first
    expect(await Promise.all(waiting)).toEqual(ids)
    expect(placesWhileOpening.length).toBeGreaterThan(ids.length)
    expect([heavyReads.running, heavyReads.waiting]).toEqual([0, 0])
    await pool.stop()
  })
})

const never = () => {
  throw new Error('There is such a tenant.')
}
