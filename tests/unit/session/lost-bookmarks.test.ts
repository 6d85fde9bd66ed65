import { describe, expect, it } from 'vitest'
import { ChangeOperations } from '../../../src/api/operations/changes.ts'
import type { OperationsContext } from '../../../src/api/operations/context.ts'
import type { PercolateError } from '../../../src/base/errors.ts'
import { parseTenantId } from '../../../src/base/ids.ts'
import { systemTime } from '../../../src/base/time.ts'
import { planEntity } from '../../../src/rem/plan.ts'
import { exportCopy } from '../../../src/replication/export.ts'
import type { TransferPart } from '../../../src/replication/peer.ts'
import { importTransfer } from '../../../src/replication/transfer.ts'
import {
  type Bookmark,
  encodeBookmark,
  joinBookmarks,
  parseBookmark,
  parseFeedCursor,
} from '../../../src/session/bookmark.ts'
import { hasAll } from '../../../src/session/reached.ts'
import { ANY } from '../../../src/session/request.ts'
import { Session } from '../../../src/session/session.ts'
import { decodeEntry } from '../../../src/storage/codec.ts'
import { prefixes, prefixRange, space } from '../../../src/storage/keys.ts'
import { collect } from '../../../src/storage/kv.ts'
import { MemoryKv } from '../../../src/storage/memory.ts'
import { Tenant } from '../../../src/tenant/tenant.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

const ID = parseTenantId('acme')
const openCopy = (node: string) =>
  Tenant.open(ID, new MemoryKv(), {
    time: systemTime,
    origin: `${node}.d`,
    incarnation: '000000000001-0000000000000000',
    changesMax: 1000,
    outboxEnabled: true,
    outboxBytesMax: 1e9,
    recordCacheBytes: 1e6,
    onCommit: () => {},
  })
const put = (tenant: Tenant, id: string) =>
  tenant.write(({ clock }) => ({ ops: planEntity({ id, properties: { id } }, clock), result: undefined }))
const entriesOf = async (tenant: Tenant) =>
  (await collect(tenant, prefixRange(prefixes.space(space.outbox)))).map(([, value]) => decodeEntry(value))
const giveUp = (tenant: Tenant, origin: string, sequence: number) =>
  tenant.change(async staging => staging.joinVector(new Map([[origin, sequence]]), [[origin, sequence]]))

/** Two copies that gave up the second of three entries of a third. */
async function losers() {
  const [x, b, c] = [await openCopy('x'), await openCopy('b'), await openCopy('c')]
  for (const id of ['one', 'gone', 'three']) await put(x, id)
  const [one, gone, three] = await entriesOf(x)
  for (const copy of [b, c]) {
    await copy.apply(one!)
    await giveUp(copy, 'x.d', 2)
    await copy.apply(three!)
  }
  return { b, c, gone: gone! }
}
const of = (tenant: Tenant, vector: Bookmark['vector']): Bookmark => ({
  incarnation: tenant.identity.incarnation,
  vector,
})

/** What a feed of the copy gives first: its bookmark and cursor when it ends, else the event. */
async function follow(tenant: Tenant, cursor: string) {
  const pool = {
    use: async (_: unknown, work: (open: Tenant) => Promise<unknown>) => work(tenant),
    watch: () => ({ wait: async () => false, stop: () => {} }),
  }
  const feeds = new ChangeOperations({ pool, time: systemTime } as unknown as OperationsContext, {
    feedsMax: 9,
    tenantFeedsMax: 9,
  })
  const request = { tenant: ID, access: 'read', consistency: ANY, asOf: undefined, forwardedBy: undefined } as const
  const call = new Session(request, { signal: new AbortController().signal, hasEnded: false })
  const events = feeds.follow(call, { cursor, field: 'cursor' }, 0)
  try {
    return { event: (await events.next()).value, ended: undefined }
  } catch (error) {
    return { event: undefined, ended: (error as PercolateError).extra! }
  } finally {
    await events.return(undefined)
  }
}

describe('a bookmark and what was given up for lost', () => {
  it('of a feed that ended at a copy which has the entry is not on one that lacks it', async () => {
    const { b, c, gone } = await losers()
    const cursor = encodeBookmark({ ...of(b, b.vector), lost: b.state.lost.mark })
    expect(await c.apply(gone)).toBe('applied')
    const { ended } = await follow(c, cursor)
    const bookmark = parseBookmark(ended!.bookmark!, 'bookmark')
    expect(await hasAll(c, bookmark)).toBe(true)
    expect(b.covers(bookmark.vector)).toBe(true)
    expect(await hasAll(b, bookmark)).toBe(false)
    // A client carries it along with what it writes.
    expect(await hasAll(b, joinBookmarks(bookmark, of(b, new Map([['x.d', 1]]))))).toBe(false)
    await b.apply(gone)
    expect(await hasAll(b, bookmark)).toBe(true)
  })

  it('of a feed that ended is on every copy that lacks no more than the one that gave it', async () => {
    const { b, c, gone } = await losers()
    const { ended } = await follow(c, encodeBookmark({ ...of(c, new Map()), lost: 'another' }))
    const bookmark = parseBookmark(ended!.bookmark!, 'bookmark')
    for (const copy of [b, c]) expect(await hasAll(copy, bookmark)).toBe(true)
    // What is given up later is not named by it; what has turned up since is more than it names.
    await giveUp(b, 'y.d', 1)
    expect(await hasAll(b, bookmark)).toBe(true)
    await c.apply(gone)
    expect(await hasAll(c, bookmark)).toBe(true)
  })

  it('of a feed that has begun at a copy which lacks nothing is not on one that does', async () => {
    const { b, c, gone } = await losers()
    expect(await c.apply(gone)).toBe('applied')
    const { event } = await follow(c, '')
    const bookmark = parseBookmark(event!.cursor, 'bookmark')
    expect(await hasAll(c, bookmark)).toBe(true)
    expect(await hasAll(b, bookmark)).toBe(false)
    expect(await hasAll(b, joinBookmarks(bookmark, of(b, new Map([['x.d', 1]]))))).toBe(false)
  })

  it('of a feed that ended is on every copy that lacks less than the one that gave it, also when no copy lacks just that any more', async () => {
    const { b, c, gone } = await losers()
    for (const copy of [b, c]) await giveUp(copy, 'y.d', 1)
    const { ended } = await follow(b, encodeBookmark({ ...of(b, new Map()), lost: 'another' }))
    const bookmark = parseBookmark(ended!.bookmark!, 'bookmark')
    const carried = parseBookmark(encodeBookmark(joinBookmarks(bookmark, of(b, new Map([['x.d', 1]])))), 'bookmark')
    for (const copy of [b, c]) {
      expect(await copy.apply(gone)).toBe('applied')
      for (const one of [bookmark, carried]) expect(await hasAll(copy, one)).toBe(true)
    }
    // One that gave up something else lacks what the bookmark names.
    const other = await openCopy('o')
    await giveUp(other, 'x.d', 3)
    await giveUp(other, 'y.d', 1)
    expect(await hasAll(other, bookmark)).toBe(false)
  })

  it('of a feed that ended says no more of what is lacking than it has room for', async () => {
    const { b, gone } = await losers()
    for (let n = 1; n <= 100; n++) await giveUp(b, 'y.d', n)
    const { ended } = await follow(b, encodeBookmark({ ...of(b, new Map()), lost: 'another' }))
    const bookmark = parseBookmark(ended!.bookmark!, 'bookmark')
    expect(ended!.bookmark!.length).toBeLessThan(200)
    expect(await hasAll(b, bookmark)).toBe(true)
    await b.apply(gone)
    expect(await hasAll(b, bookmark)).toBe(false)
  })

  it('of the very write that was given up is not reached where that is so, others of its origin are', async () => {
    const { b, gone } = await losers()
    expect(await hasAll(b, of(b, new Map([['x.d', 2]])))).toBe(false)
    expect(await hasAll(b, of(b, new Map([['x.d', 3]])))).toBe(true)
    await b.apply(gone)
    expect(await hasAll(b, of(b, new Map([['x.d', 2]])))).toBe(true)
  })

  it('of a command that had nothing to write names nothing that is lacking', async () => {
    const { b } = await losers()
    await giveUp(b, 'y.d', 1)
    let position: Bookmark['vector'] | undefined
    await b.write(() => ({ ops: [], result: undefined }), {
      onCommitted: reached => {
        position = reached
      },
    })
    expect(await hasAll(b, of(b, position!))).toBe(true)
  })

  it('sends a read on to who has the write, and is refused where nobody has', async () => {
    const small = await SmallCluster.start({ settings: { antiEntropyMs: 1e9 } })
    for (const node of ['n1', 'n2'])
      await small.open(node, async open => {
        if (node === 'n2') await giveUp(open, 'gone.d', 1)
      })
    const clock = { wall: small.process('n1').time.now(), counter: 0, origin: 'gone.d' }
    const bookmark = (await small.open('n1', async open => {
      const ops = planEntity({ id: 'gone' }, clock)
      const { incarnation } = open.identity
      expect(await open.apply({ tenant: open.id, incarnation, origin: 'gone.d', sequence: 1, ops })).toBe('applied')
      return of(open, new Map([['gone.d', 1]]))
    }))!
    const ask = () =>
      small.settle(
        small
          .process('n2')
          .handle({ tenant: small.tenant, ref: { kind: 'entity', key: ['gone'] }, bookmark }, undefined),
      )
    const answer = await ask()
    expect([answer.node, answer.exists]).toEqual(['n1', true])
    small.process('n1').kill()
    // Nobody who could be asked is left, and the copy here does not pass its lack off as an answer.
    await expect(ask()).rejects.toMatchObject({ code: 'TENANT_UNAVAILABLE' })
  })
})

describe('what a feed tells ahead of the vector of its copy', () => {
  it('is named by the id of the event: only who has it answers, or the copy that told it', async () => {
    const [a, b, c] = [await openCopy('a'), await openCopy('b'), await openCopy('c')]
    await put(a, 'base')
    for (const copy of [b, c]) for (const entry of await entriesOf(a)) await copy.apply(entry)
    await put(a, 'news')
    const cursor = encodeBookmark({ ...of(b, b.vector), lost: '' })
    const parts: TransferPart[] = []
    for await (const part of exportCopy(work => work(a), 'a', undefined)) parts.push(part)
    const allButTheLast = async function* () {
      yield* parts.slice(0, -1)
    }
    await expect(importTransfer(work => work(b), allButTheLast(), { resumable: false })).rejects.toThrow()
    const { event } = await follow(b, cursor)
    expect(event!.changes!.map((change: { id: string }) => change.id)).toEqual(['news'])
    const id = event!.cursor as string
    expect(await hasAll(c, parseBookmark(id, 'bookmark'))).toBe(false)
    for (const copy of [a, b]) expect(await hasAll(copy, parseBookmark(id, 'bookmark'))).toBe(true)
    // As a cursor it passes over nothing, and goes on naming it at another copy.
    expect(parseFeedCursor(id, 'cursor').vector).toEqual(b.vector)
    const elsewhere = (await follow(c, id)).event!.cursor as string
    expect(await hasAll(c, parseBookmark(elsewhere, 'bookmark'))).toBe(false)
    for (const entry of await entriesOf(a)) await c.apply(entry)
    expect(await hasAll(c, parseBookmark(elsewhere, 'bookmark'))).toBe(true)
    // Where the vector has come that far it says it all.
    const later = (await follow(c, elsewhere)).event!.cursor as string
    expect(parseBookmark(later, 'bookmark').ahead).toBeUndefined()
  })

  it('is read and written in bookmarks of either form', () => {
    const plain = { incarnation: '1-a', vector: new Map([['a.d', 3]]) }
    const ahead = [{ teller: 'b.d', vector: new Map([['a.d', 5]]) }]
    const lacks = [['x.d', 2]] as const
    for (const bookmark of [
      plain,
      { ...plain, lost: '' },
      { ...plain, lost: 'm~c' },
      { ...plain, lost: 'm', lacks },
      { ...plain, lost: 'm', ahead },
      { ...plain, lost: '', ahead },
      { ...plain, lost: 'm', ahead, lacks },
    ])
      expect(parseBookmark(encodeBookmark(bookmark), 'bookmark')).toEqual(bookmark)
    expect(parseFeedCursor(encodeBookmark({ ...plain, lost: '', ahead }), 'cursor')).toEqual({
      ...plain,
      lost: '',
      ahead,
    })
    expect(parseFeedCursor(encodeBookmark({ ...plain, lost: '' }), 'cursor')).toEqual({ ...plain, lost: '' })
  })
})
