import Fastify from 'fastify'
import { describe, expect, it } from 'vitest'
import { sendEvents } from '../../../src/api/http/events.ts'
import { type ChangeEvent, ChangeOperations } from '../../../src/api/operations/changes.ts'
import type { OperationsContext } from '../../../src/api/operations/context.ts'
import { ResourceOperations } from '../../../src/api/operations/resources.ts'
import { SlowReaders } from '../../../src/api/slow-readers.ts'
import { parseTenantId, type TenantId } from '../../../src/base/ids.ts'
import { createLogger } from '../../../src/base/logger.ts'
import { Metrics } from '../../../src/base/metrics.ts'
import { Slicer } from '../../../src/base/slice.ts'
import { systemTime } from '../../../src/base/time.ts'
import { planEntity, planResource } from '../../../src/rem/plan.ts'
import { exportCopy } from '../../../src/replication/export.ts'
import { importTransfer } from '../../../src/replication/transfer.ts'
import { withCopy } from '../../../src/replication/with-copy.ts'
import { parseBookmark, parseFeedCursor } from '../../../src/session/bookmark.ts'
import { HeavyReads } from '../../../src/session/heavy-reads.ts'
import { ANY } from '../../../src/session/request.ts'
import { Session } from '../../../src/session/session.ts'
import { MemoryKv } from '../../../src/storage/memory.ts'
import { TenantPool } from '../../../src/tenant/pool.ts'
import { Tenant } from '../../../src/tenant/tenant.ts'

const logger = createLogger({ level: 'silent', role: 'test' })
const id = (name: string) => parseTenantId(name)

class Disk extends MemoryKv {
  override async close(): Promise<void> {}
}

function makeNode(openMax: number, name = 'n') {
  const limits = { feedsMax: 100, tenantFeedsMax: 3 }
  const disks = new Map<TenantId, Disk>()
  let opened = 0
  const pool = new TenantPool({
    time: systemTime,
    logger,
    openMax,
    memoryBytesMax: 1e9,
    tenantBytes: 1,
    idleMs: 1e6,
    waitMsMax: 10_000,
    exists: async tenant => disks.has(tenant),
    open: async tenant => {
      opened++
      const disk = disks.get(tenant) ?? new Disk()
      disks.set(tenant, disk)
      return Tenant.open(tenant, disk, {
        time: systemTime,
        origin: `${name}.d`,
        incarnation: '000000000001-0000000000000000',
        changesMax: 100,
        outboxEnabled: false,
        outboxBytesMax: 1e9,
        recordCacheBytes: 1e6,
        onCommit: () => {},
      })
    },
  })
  const heavyReads = new HeavyReads({ heavyReadsMax: 1, heavyReadsWaitingMax: 8 })
  const feeds = new ChangeOperations({ pool, time: systemTime, logger, heavyReads } as OperationsContext, limits)
  const put = (tenant: TenantId, name: string) =>
    pool.use(tenant, open => open.write(({ clock }) => ({ ops: planEntity({ id: name }, clock), result: undefined })), {
      create: true,
    })
  const follow = (tenant: TenantId, cursor?: string, heartbeatMs = 60_000) => {
    const controller = new AbortController()
    const session = sessionOf(tenant, controller.signal)
    return { events: feeds.follow(session, { cursor, field: 'cursor' }, heartbeatMs), stop: () => controller.abort() }
  }
  return { pool, feeds, heavyReads, disks, put, follow, opened: () => opened }
}

const sessionOf = (tenant: TenantId, signal = new AbortController().signal) =>
  new Session(
    { tenant, access: 'read', consistency: ANY, asOf: undefined, forwardedBy: undefined },
    {
      signal,
      get hasEnded() {
        return signal.aborted
      },
    },
  )

/** A feed as it goes over HTTP, to its end. */
async function served(events: AsyncGenerator<ChangeEvent>) {
  const app = Fastify()
  const readers = new SlowReaders(10_000, new Metrics())
  app.get('/', async (_, reply) => sendEvents(reply, events, readers))
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  const response = await fetch(url)
  const text = response.text().finally(() => app.close())
  return { status: response.status, text }
}

const namesOf = ({ changes }: ChangeEvent) => (changes ?? []).map(change => change.id)
const next = async (events: AsyncGenerator<ChangeEvent>) => (await events.next()).value as ChangeEvent

describe('a feed over HTTP that has begun', () => {
  it('ends with an error event that has the bookmark to read with and the cursor to go on from', async () => {
    const { put, follow, pool } = makeNode(2)
    await put(id('a'), 'first')
    const { status, text } = await served(follow(id('a')).events)
    expect(status).toBe(200)
    // More than the log keeps, in one go: the reader finds what is behind it gone.
    await pool.use(id('a'), async open => {
      await Promise.all(
        Array.from({ length: 400 }, (_, n) =>
          open.write(({ clock }) => ({ ops: planEntity({ id: `e${n}` }, clock), result: undefined })),
        ),
      )
    })
    const [last] = (await text).trim().split('\n\n').slice(-1)
    const [name, data] = last!.split('\n')
    expect(name).toBe('event: error')
    const error = JSON.parse(data!.slice('data: '.length))
    expect(error).toMatchObject({ code: 'CHANGES_EXPIRED', detail: expect.stringMatching(/read what you need anew/i) })
    // Both tell of one position, which this copy has reached.
    const bookmark = parseBookmark(error.bookmark, 'bookmark')
    expect(parseFeedCursor(error.cursor, 'cursor').vector).toEqual(bookmark.vector)
    const reached = bookmark.vector.get('n.d')!
    expect(reached).toBeGreaterThan(100)
    expect(reached).toBeLessThanOrEqual((await pool.use(id('a'), async open => open.vector.get('n.d')))!)
  })

  it('tells in an error event that the node drains, and where to go on', async () => {
    const { put, follow, feeds } = makeNode(2)
    await put(id('a'), 'first')
    const { text } = await served(follow(id('a')).events)
    feeds.places.close()
    expect(await text).toMatch(/event: error\ndata: \{"code":"SHUTTING_DOWN",.*"cursor":"[^"]+"\}/)
  })
})

describe('change feeds', () => {
  it('that wait keep no tenant open: many more than may be open at once keep nobody out', async () => {
    const { pool, put, follow, opened } = makeNode(2)
    const tenants = Array.from({ length: 12 }, (_, n) => id(`t${n}`))
    for (const tenant of tenants) await put(tenant, 'first')
    const following = tenants.map(tenant => follow(tenant))
    for (const { events } of following) await next(events)
    const waiting = following.map(({ events }) => next(events))
    await put(id('another'), 'x')
    while (pool.stats().leases > 0) await systemTime.sleep(1)
    await put(tenants[3]!, 'second')
    expect(namesOf(await waiting[3]!)).toEqual(['second'])
    for (const [n, tenant] of tenants.entries()) if (n !== 3) await put(tenant, 'second')
    for (const [n, event] of waiting.entries()) if (n !== 3) expect(namesOf(await event)).toEqual(['second'])
    // A heartbeat opens nothing.
    const quiet = follow(tenants[0]!, undefined, 5)
    await next(quiet.events)
    await next(quiet.events)
    await put(tenants[10]!, 'third')
    await put(tenants[11]!, 'third')
    const before = opened()
    for (let n = 0; n < 3; n++) expect((await next(quiet.events)).changes).toBeUndefined()
    expect(opened()).toBe(before)
    for (const { events, stop } of [...following, quiet]) {
      stop()
      await events.return(undefined)
    }
  })

  it('go on over a transfer of records, without a gap', async () => {
    const { pool, put, follow } = makeNode(4)
    const other = makeNode(4, 'other')
    const tenant = id('t')
    await put(tenant, 'here')
    for (let n = 0; n < 300; n++) await other.put(tenant, `there${n}`)
    const { events, stop } = follow(tenant)
    const { cursor } = await next(events)
    const parts = exportCopy(work => withCopy(other.pool, tenant, undefined, work), 'b', undefined)
    await importTransfer(work => withCopy(pool, tenant, undefined, work), parts, { resumable: false })
    const seen = new Set<string>()
    while (seen.size < 300) for (const name of namesOf(await next(events))) seen.add(name)
    await put(tenant, 'last')
    let event = await next(events)
    while (!event.changes) event = await next(events)
    expect(namesOf(event)).toEqual(['last'])
    stop()
    // The same for who comes back.
    const again = follow(tenant, cursor)
    const heard = new Set<string>()
    while (!heard.has('last')) for (const name of namesOf(await next(again.events))) heard.add(name)
    expect(heard.size).toBe(301)
    again.stop()
  })

  it('begin before their tenant is there, and give its first change', async () => {
    const { put, follow } = makeNode(2)
    const { events, stop } = follow(id('new'), undefined, 20)
    const { cursor } = await next(events)
    const second = next(events)
    await put(id('new'), 'first')
    const heard = await second
    expect(namesOf(heard.changes ? heard : await next(events))).toEqual(['first'])
    stop()
    const resumed = follow(id('new'), cursor)
    expect(namesOf(await next(resumed.events))).toEqual(['first'])
    resumed.stop()
  })

  it('are so many a tenant, and end at once when the node drains', async () => {
    const { feeds, put, follow } = makeNode(2)
    await put(id('t'), 'x')
    const open = [follow(id('t')), follow(id('t')), follow(id('t'))]
    for (const { events } of open) await next(events)
    await expect(next(follow(id('t')).events)).rejects.toMatchObject({ code: 'TOO_BUSY', retryAfterS: 5 })
    await expect(next(follow(id('t')).events)).rejects.toThrow(/PERCOLATE_TENANT_FEEDS_MAX/)
    expect([feeds.places.served, feeds.places.refused]).toEqual([3, 2])
    const ending = open.map(({ events }) => events.next().catch(error => error))
    feeds.places.close()
    for (const end of ending)
      expect(await end).toMatchObject({ code: 'SHUTTING_DOWN', extra: { cursor: expect.any(String) } })
    expect(feeds.places.served).toBe(0)
    await expect(next(follow(id('t')).events)).rejects.toMatchObject({ code: 'SHUTTING_DOWN' })
  })
})

describe('a feed that ends because its node drains', () => {
  const names = ['a', 'b', 'c', 'd', 'e']
  const drained = async (events: AsyncGenerator<ChangeEvent>) => {
    const told: string[] = []
    for (;;) {
      const event = await events.next().catch(error => error)
      if (!('done' in event)) return { told, error: event }
      told.push(...namesOf(event.value))
    }
  }

  it('says to go on behind what it told, not behind what it has read', async () => {
    for (const toldFirst of [0, 1, 3]) {
      const { put, follow, feeds, pool } = makeNode(2)
      await put(id('t'), 'first')
      const begun = follow(id('t'))
      const { cursor } = await next(begun.events)
      begun.stop()
      for (const name of names) await put(id('t'), name)
      const { events } = follow(id('t'), cursor)
      const taken: string[] = []
      for (let n = 0; n < toldFirst; n++) taken.push(...namesOf(await next(events)))
      const rest = drained(events)
      feeds.places.close()
      const { told, error } = await rest
      expect(error).toMatchObject({ code: 'SHUTTING_DOWN', extra: { cursor: expect.any(String) } })
      const other = new ChangeOperations(
        { pool, time: systemTime, logger, heavyReads: {} } as unknown as OperationsContext,
        { feedsMax: 1, tenantFeedsMax: 1 },
      )
      const later = other.follow(sessionOf(id('t')), { cursor: error.extra.cursor, field: 'cursor' }, 60_000)
      const all = [...taken, ...told]
      while (all.length < names.length) all.push(...namesOf(await next(later)))
      expect([toldFirst, all]).toEqual([toldFirst, names])
    }
  })
})

describe('waiting for a tenant', () => {
  it('keeps no place in the pool, and sees what comes', async () => {
    const { pool, put } = makeNode(1)
    await put(id('t'), 'x')
    const waits = Array.from({ length: 9 }, () =>
      pool.waitFor(id('t'), tenant => tenant.state.changes >= 2, { timeoutMs: 5000 }),
    )
    const late = pool.waitFor(id('t'), tenant => tenant.state.changes >= 3, { timeoutMs: 30 })
    await put(id('other'), 'x')
    await put(id('t'), 'y')
    expect(await Promise.all(waits)).toEqual(waits.map(() => true))
    expect(await late).toBe(false)
    expect(await pool.waitFor(id('nobody'), () => true, { timeoutMs: 5000 })).toBeUndefined()
  })

  it('is not done while a provider embeds a query', async () => {
    const { pool, put } = makeNode(1)
    const tenant = id('t')
    await pool.use(
      tenant,
      open =>
        open.write(({ clock }) => ({
          ops: [
            planResource(
              { uri: '', ordinal: 0, content: 'a pump', embedding: { model: 'm', vector: new Float32Array([1, 0]) } },
              clock,
            ),
          ],
          result: undefined,
        })),
      { create: true },
    )
    let answer = (_: Float32Array[]) => {}
    const answered = new Promise<Float32Array[]>(resolve => {
      answer = resolve
    })
    let asked = 0
    const embed = () => {
      asked++
      return answered
    }
    const embedder = { model: 'm', noiseFloor: 0, fusionWeight: 1, dimensions: 2, embed }
    const heavyReads = new HeavyReads({ heavyReadsMax: 2, heavyReadsWaitingMax: 8 })
    const resources = new ResourceOperations({ pool, time: systemTime, logger, embedder, heavyReads } as never)
    const request = { tenant, access: 'read', consistency: ANY, asOf: undefined, forwardedBy: undefined } as const
    const searching = resources.search(
      new Session(request, { signal: new AbortController().signal, hasEnded: false }),
      { query: 'pump' },
    )
    while (asked === 0) await systemTime.sleep(1)
    await put(id('other'), 'x')
    answer([new Float32Array([1, 0])])
    expect((await searching).results.map(({ content }) => content)).toEqual(['a pump'])
  })

  it('says how long all places have been in use', async () => {
    const { pool } = makeNode(1)
    let release = () => {}
    const using = pool.use(
      id('t'),
      () =>
        new Promise<void>(resolve => {
          release = resolve
        }),
      { create: true },
    )
    await expect(pool.use(id('u'), async () => {}, { create: true })).rejects.toMatchObject({ code: 'TOO_BUSY' })
    expect(pool.exhaustedMs).toBeGreaterThan(100)
    release()
    await using
    expect(pool.exhaustedMs).toBe(0)
  })
})

it('as many feeds may be sent on to other nodes as come: who waits for the end of all is no leak', async () => {
  const warnings: string[] = []
  const onWarning = ({ name }: Error) => void warnings.push(name)
  process.on('warning', onWarning)
  const { feeds } = makeNode(1)
  let ended = 0
  for (let n = 0; n < 20; n++) feeds.places.closing.addEventListener('abort', () => void ended++, { once: true })
  await new Promise(resolve => setImmediate(resolve))
  feeds.places.close()
  process.off('warning', onWarning)
  expect([ended, warnings]).toEqual([20, []])
})

describe('a feed that begins far back', () => {
  const far = 40
  const made = async () => {
    const node = makeNode(2)
    for (let n = 0; n < far; n++) await node.put(id('a'), `e${n}`)
    await node.put(id('b'), 'other')
    return node
  }
  const session = (tenant: TenantId, signal = new AbortController().signal) =>
    new Session(
      { tenant, access: 'read', consistency: ANY, asOf: undefined, forwardedBy: undefined },
      { signal, hasEnded: false },
    )

  it('waits for its turn among the reads that compute, and keeps no tenant open meanwhile; one that begins near does not', async () => {
    const { pool, follow, heavyReads, put } = await made()
    let free = () => {}
    const busy = heavyReads.run(session(id('b')), () => new Promise<void>(resolve => (free = resolve)))
    const feed = follow(id('a'), 'earliest')
    const first = next(feed.events)
    while (heavyReads.waiting === 0) await systemTime.sleep(1)
    expect(pool.stats().leases).toBe(0)
    const now = follow(id('a'))
    const { cursor } = await next(now.events)
    await put(id('a'), 'latest')
    expect(namesOf(await next(follow(id('a'), cursor).events))).toEqual(['latest'])
    expect(heavyReads.waiting).toBe(1)
    free()
    await busy
    expect(namesOf(await first)).toEqual(['e0'])
    for (let n = 1; n < far; n++) expect(namesOf(await next(feed.events))).toEqual([`e${n}`])
    expect([heavyReads.running, heavyReads.waiting]).toEqual([0, 0])
  })

  it('reads no more of the log when its client has gone, or the node drains', async () => {
    for (const how of ['client', 'drain'] as const) {
      const { disks, feeds, follow } = await made()
      const disk = disks.get(id('a'))!
      const feed = follow(id('a'), 'earliest')
      const chunks = disk.chunks.bind(disk)
      let scans = 0
      let given = 0
      // One item at a time, and somebody ends it all within the second reading, which looks at the whole log.
      disk.chunks = async function* (range) {
        const scan = range.reverse ? ++scans : 0
        for await (const chunk of chunks(range))
          for (const entry of chunk) {
            if (scan === 2 && ++given === 5) how === 'client' ? feed.stop() : feeds.places.close()
            yield [entry]
          }
      }
      const { sliceMs } = Slicer
      Slicer.sliceMs = 0
      const end = await feed.events.next().catch(error => error)
      Slicer.sliceMs = sliceMs
      expect([how, end.code, given]).toEqual([how, how === 'client' ? 'CANCELLED' : 'SHUTTING_DOWN', 5])
    }
  })
})
