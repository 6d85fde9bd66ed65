import { describe, expect, it } from 'vitest'
import { parseTenantId } from '../../../src/base/ids.ts'
import { planEntity } from '../../../src/rem/plan.ts'
import { type Bookmark, parseBookmark } from '../../../src/session/bookmark.ts'
import { ANY } from '../../../src/session/request.ts'
import { Session } from '../../../src/session/session.ts'
import { decodeEntry } from '../../../src/storage/codec.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

const ref = { kind: 'entity', key: ['marked'] } as const

/**
 * The holders are n1, the home, which is cut off from the servers of NATS and is not known to be, n2, and n3, which has written what the bookmark names and is gone. n4 holds nothing.
 */
async function marked(): Promise<{ small: SmallCluster; bookmark: Bookmark }> {
  const small = await SmallCluster.start({ nodes: 4, settings: { antiEntropyMs: 1e9 } })
  await small.hold('n3', 'joining')
  await small.until('n3 is current', () => small.isCurrent('n3'))
  const told = () => small.placement('n4').holders.filter(({ state }) => state === 'active').length === 3
  await small.until('n4 knows', () => told() && small.placement('n4').home === 'n1')
  small.cluster.node('n1')!.natsCut = true
  await small.write('n3', 'marked')
  const bookmark = await small.open('n3', async open => ({
    incarnation: open.identity.incarnation,
    vector: new Map([[open.origin, open.vector.get(open.origin)!]]),
  }))
  await small.settle(
    small.process('n2').pool.waitFor(small.tenant, open => open.covers(bookmark!.vector), { timeoutMs: 1000 }),
  )
  small.process('n3').kill()
  return { small, bookmark: bookmark! }
}

const ask = ({ cluster, tenant }: SmallCluster, entry: string, bookmark: Bookmark) =>
  cluster.node(entry)!.process!.handle({ tenant, ref, bookmark }, undefined)

describe('a read with a bookmark that a node sends on', () => {
  it('goes to the next holder when the first one lacks what the bookmark names', async () => {
    const { small, bookmark } = await marked()
    const answer = await small.settle(ask(small, 'n4', bookmark))
    expect([answer.node, answer.exists]).toEqual(['n2', true])
  })

  it('is refused when none of them has it: each is asked once, and waits once', async () => {
    const { small, bookmark } = await marked()
    const [origin, sequence] = [...bookmark.vector][0]!
    const future = { ...bookmark, vector: new Map([[origin, sequence + 1]]) }
    const forwarded = () => small.cluster.counts.get('forwarded') ?? 0
    const before = forwarded()
    await expect(small.settle(ask(small, 'n4', future))).rejects.toMatchObject({ code: 'BOOKMARK_NOT_REACHED' })
    // Nobody knows yet that n3 is gone.
    expect(forwarded() - before).toBe(3)
  })
})

/** As the guide tells those to do who begin from nothing: open the feed, and read with the `id` of its first event. */
async function firstEventOf(small: SmallCluster, node: string, tenant = small.tenant): Promise<Bookmark> {
  const stop = new AbortController()
  const session = new Session(
    { tenant, access: 'read', consistency: ANY, asOf: undefined, forwardedBy: undefined },
    { signal: stop.signal, hasEnded: false },
  )
  const feed = small.process(node).changes.follow(session, { cursor: undefined, field: 'cursor' }, 1000)
  const { value } = await small.settle(feed.next())
  stop.abort()
  return parseBookmark(value!.cursor, 'bookmark')
}

describe('the first event of a feed, as the bookmark of reads', () => {
  it('names nothing when the tenant is not there yet: reads are answered before it is made, and after', async () => {
    const small = await SmallCluster.start()
    const tenant = parseTenantId('nobody')
    const bookmark = await firstEventOf(small, 'n1', tenant)
    const exists = async (node: string) =>
      (await small.settle(small.process(node).handle({ tenant, ref, bookmark }, undefined))).exists
    expect(await exists('n1')).toBe(false)
    await small.settle(
      small.process('n1').handle({ tenant, ref, write: (_, clock) => planEntity({ id: 'marked' }, clock) }, undefined),
    )
    // From where it is, and sent on by a node that holds nothing.
    const { holders } = small.process('n1').replica.directory.placement(tenant)!
    const other = ['n1', 'n2', 'n3'].find(name => !holders.some(({ node }) => node === name))!
    await small.until('it is known there', () => !small.process(other).replica.router.isNew(tenant))
    for (const node of [holders[0]!.node, other]) expect(await exists(node), node).toBe(true)
  })

  it('that is of another incarnation is refused, also when that had nothing in it', async () => {
    const small = await SmallCluster.start()
    const bookmark = { incarnation: '000000000001-00000000000000ff', vector: new Map() }
    await expect(small.settle(ask(small, 'n1', bookmark))).rejects.toMatchObject({ code: 'INVALID_BOOKMARK' })
    expect(await small.settle(ask(small, 'n1', await firstEventOf(small, 'n1')))).toMatchObject({ exists: false })
  })
})

it.each([
  ['of another tenant', { incarnation: '000000000001-00000000000000ff', vector: new Map([['gone.d1', 1]]) }],
  ['of nothing in another one', { incarnation: '000000000001-00000000000000ff', vector: new Map() }],
])('a bookmark %s is refused for a tenant that nobody has written, as for one that is there', async (_, bookmark) => {
  const small = await SmallCluster.start()
  const tenant = parseTenantId('nobody')
  for (const node of ['n1', 'n3'])
    await expect(small.settle(small.process(node).handle({ tenant, ref, bookmark }, undefined))).rejects.toMatchObject({
      code: 'INVALID_BOOKMARK',
    })
})

it('the bookmark of a write that was set aside with its copy is reached by nobody; the list of late writes has the write', async () => {
  const small = await SmallCluster.start()
  const n2 = small.cluster.node('n2')!
  n2.natsCut = true
  for (const other of ['n1', 'n3']) small.cluster.cuts.add(`n2|${other}`)
  await small.hold('n2', undefined)
  // The floor passes what it has.
  for (let n = 0; n < 4; n++) {
    await small.write('n1', `elsewhere-${n}`)
    await small.world.run(5000)
  }
  await small.settle(small.put('n2', 'unseen'))
  const bookmark = (await small.open('n2', async open => ({
    incarnation: open.identity.incarnation,
    vector: new Map([[open.origin, open.vector.get(open.origin)!]]),
  })))!
  n2.natsCut = false
  small.cluster.cuts.clear()
  await small.until('it is made anew', () => small.process('n2').replica.copies.counts.wiped > 0)
  await small.until('it is current', () => small.isCurrent('n2'))
  await small.world.run(60_000)
  for (const node of ['n1', 'n2'])
    await expect(small.settle(ask(small, node, bookmark)), node).rejects.toMatchObject({ code: 'BOOKMARK_NOT_REACHED' })
  const late = (await small.settle(small.process('n2').replica.service.late(small.tenant))).map(decodeEntry)
  expect(late.map(({ origin, sequence, ops }) => [origin, sequence, ops[0]!.key])).toEqual([
    [...[...bookmark.vector][0]!, ['unseen']],
  ])
})
