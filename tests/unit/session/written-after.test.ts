import { describe, expect, it } from 'vitest'
import { ChangeOperations } from '../../../src/api/operations/changes.ts'
import { EntityOperations } from '../../../src/api/operations/entities.ts'
import { parseTenantId } from '../../../src/base/ids.ts'
import { createLogger } from '../../../src/base/logger.ts'
import { systemTime } from '../../../src/base/time.ts'
import { compareClocks } from '../../../src/clock/hlc.ts'
import { type Bookmark, encodeBookmark, parseBookmark } from '../../../src/session/bookmark.ts'
import { HeavyReads } from '../../../src/session/heavy-reads.ts'
import { ANY, parseRequest } from '../../../src/session/request.ts'
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
  open: id => openMemoryTenant(id, {}, undefined, { changesMax: 100 }),
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

  it('is later than the change that a feed told of with that id, and than what is read with what a feed that has ended gives', async () => {
    const changes = new ChangeOperations(
      { pool, time: systemTime, heavyReads: new HeavyReads({ heavyReadsMax: 1, heavyReadsWaitingMax: 1 }) } as never,
      { feedsMax: 2, tenantFeedsMax: 2 },
    )
    const { bookmark: before } = await put()
    const { clock } = await put(ahead(before, 5000))
    const follow = async (cursor: string) => {
      const stop = new AbortController()
      const request = { tenant, access: 'read', consistency: ANY, asOf: undefined, forwardedBy: undefined } as const
      const session = new Session(request, { signal: stop.signal, hasEnded: false })
      const { value } = await changes.follow(session, { cursor, field: 'cursor' }, 1000).next()
      stop.abort()
      return parseBookmark(value!.cursor, 'bookmark')
    }
    const told = await follow(encodeBookmark(before))
    expect(told.clock && compareClocks({ ...told.clock, origin: '~' }, clock)).toBeGreaterThan(0)
    const ended = await follow(encodeBookmark({ ...before, incarnation: 'another' })).catch(error => error.extra)
    for (const text of [ended.cursor, ended.bookmark])
      expect(parseBookmark(text, 'bookmark').clock).toMatchObject({ wall: clock.wall, counter: clock.counter })
    // A position that is given back as it was taken has no earlier one.
    const later = { wall: clock.wall + 1000, counter: 0 }
    expect((await follow(encodeBookmark({ ...told, clock: later }))).clock).toEqual(later)
  })

  it('is not moved to a clock that no node can have given, nor to one of another incarnation', async () => {
    const { bookmark, clock } = await put()
    const limit = clock.wall + AHEAD_MS_MAX / 2
    expect((await put(ahead(bookmark, 2 * AHEAD_MS_MAX))).clock.wall).toBeLessThan(limit)
    expect((await put(ahead({ ...bookmark, incarnation: 'another' }, 9000))).clock.wall).toBeLessThan(limit)
  })
})
