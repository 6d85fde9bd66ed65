import { describe, expect, it } from 'vitest'
import { EntityOperations } from '../../../src/api/operations/entities.ts'
import { parseTenantId } from '../../../src/base/ids.ts'
import { createLogger } from '../../../src/base/logger.ts'
import { systemTime } from '../../../src/base/time.ts'
import { compareClocks } from '../../../src/clock/hlc.ts'
import { type Bookmark, encodeBookmark } from '../../../src/session/bookmark.ts'
import { parseRequest } from '../../../src/session/request.ts'
import { Session } from '../../../src/session/session.ts'
import { TenantPool } from '../../../src/tenant/pool.ts'
import { openMemoryTenant } from '../../support/memory-tenant.ts'

const tenant = parseTenantId('t')
const AHEAD_MS_MAX = 10_000
const pool = new TenantPool({
  time: systemTime,
  logger: createLogger({ level: 'silent', role: 'test' }),
  openMax: 1,
  memoryBytesMax: 1e9,
  tenantBytes: 1,
  idleMs: 1e6,
  waitMsMax: 1000,
  exists: async () => true,
  open: id => openMemoryTenant(id),
})
const entities = new EntityOperations({ pool, time: systemTime } as never)

async function put(bookmark?: Bookmark) {
  const headers: Record<string, string> = bookmark ? { 'x-percolate-bookmark': encodeBookmark(bookmark) } : {}
  const request = parseRequest(
    { tenant, access: 'write', isConditional: false, isNewCondition: false, header: name => headers[name] },
    { nowMs: Date.now(), asOfAheadMsMax: AHEAD_MS_MAX },
    undefined,
  )
  const session = new Session(request, { signal: new AbortController().signal, hasEnded: false })
  await entities.put(session, [{ id: 'e', properties: { at: Date.now() } }])
  return session.outcome!
}
const ahead = (bookmark: Bookmark, ms: number): Bookmark => ({
  ...bookmark,
  clock: { wall: Date.now() + ms, counter: 5 },
})

describe('a write that carries the bookmark of another', () => {
  it('is later than that, though the clock of the node that took the other one is ahead', async () => {
    const { bookmark } = await put()
    const carried = ahead(bookmark, 3000)
    const { clock, bookmark: next } = await put(carried)
    expect(compareClocks(clock, { ...carried.clock!, origin: '~' })).toBeGreaterThan(0)
    expect(next.clock).toMatchObject({ wall: clock.wall, counter: clock.counter })
    // Who only reads in between loses nothing of it.
    expect(compareClocks((await put(next)).clock, clock)).toBeGreaterThan(0)
  })

  it('is not moved to a clock that no node can have given, nor to one of another incarnation', async () => {
    const { bookmark, clock } = await put()
    const limit = clock.wall + AHEAD_MS_MAX / 2
    expect((await put(ahead(bookmark, 2 * AHEAD_MS_MAX))).clock.wall).toBeLessThan(limit)
    expect((await put(ahead({ ...bookmark, incarnation: 'another' }, 9000))).clock.wall).toBeLessThan(limit)
  })
})
