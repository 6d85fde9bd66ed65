import { describe, expect, it } from 'vitest'
import type { PercolateError } from '../../../src/base/errors.ts'
import { ANY, type SessionRequest } from '../../../src/session/request.ts'
import { Session } from '../../../src/session/session.ts'
import { subjects } from '../../../src/stream/subjects.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

/**
 * The servers and one of the two holders lose their disks while the other one can't be reached, and the tenant is written there as if it were new: another incarnation. `backup`: the directory from
 * before, which names both as holders.
 */
async function madeTwice(others: 'down' | 'cut off') {
  const small = await SmallCluster.start()
  const { cluster, world } = small
  const { incarnation } = small.placement()
  const backup = [...cluster.log.bucket(subjects.clusterBucket).records.values()]
  const [n1, n2, n3] = cluster.nodes
  for (const node of others === 'down' ? cluster.nodes : [n2!, n3!]) node.process!.kill()
  n1!.natsCut = others === 'cut off'
  cluster.cuts.add('n1|n2')
  cluster.log.dropBucket(subjects.clusterBucket)
  for (const name of [...cluster.log.streams.keys()]) cluster.log.deleteStream(name)
  n2!.loseDisk()
  n2!.start()
  await world.run(15_000)
  await small.write('n2', 'second')
  expect(small.placement('n2').incarnation > incarnation).toBe(true)
  expect(small.isCurrent('n2')).toBe(true)
  const returns = () => {
    cluster.log.restoreBucket(subjects.clusterBucket, backup)
    cluster.cuts.clear()
    n1!.natsCut = false
    if (others === 'down') n1!.start()
  }
  return { small, incarnation, returns }
}

const incarnationOf = (small: SmallCluster, node: string) => small.open(node, async open => open.identity.incarnation)
const reasonOf = (small: SmallCluster, node: string) => small.process(node).replica.copies.reason(small.tenant)
/** A feed of the tenant as one node serves it. */
function follow(small: SmallCluster, node: string, cursor?: string) {
  const request = { tenant: small.tenant, access: 'read', consistency: ANY, asOf: undefined, forwardedBy: undefined }
  const session = new Session(request as SessionRequest, { signal: new AbortController().signal, hasEnded: false })
  return small.process(node).changes.follow(session, { cursor, field: 'cursor' }, 500)
}

/** What a feed ends with. */
async function endOf(feed: AsyncGenerator<unknown>): Promise<PercolateError> {
  try {
    for await (const _ of feed);
  } catch (error) {
    return error as PercolateError
  }
  throw new Error('it ended without an error')
}

const KEPT = /it is kept, and not used/

describe('a copy that is current when the directory comes to tell of another incarnation of its tenant', () => {
  it('answers no more, and is kept', async () => {
    const { small, incarnation, returns } = await madeTwice('down')
    returns()
    await small.until('n2 knows', () => small.placement('n2').incarnation === incarnation)
    // By this directory both hold it; n2 has nothing of what was written to it, and strikes itself off.
    expect(small.state('n2')).toBe('verifying')
    await small.until('n1 answers', () => small.isCurrent('n1'))
    await small.world.run(5000)
    expect(await small.read('n1', 'first')).toBeDefined()
    expect(small.placement('n1').holders).toEqual([{ node: 'n1', state: 'active' }])
    expect([small.state('n2'), reasonOf(small, 'n2')]).toEqual(['verifying', expect.stringMatching(KEPT)])
    expect(await small.read('n2', 'second')).toBeDefined()
  })

  it('ends the feeds that are read from it, which begin anew at a copy of the other one', async () => {
    const { small, returns } = await madeTwice('down')
    const feed = follow(small, 'n2')
    const began = await small.settle(feed.next())
    expect(began.value!.cursor).toMatch(/./)
    const ended = small.settle(endOf(feed))
    returns()
    const { code, extra } = await ended
    expect(code).toBe('TENANT_UNAVAILABLE')
    await small.until('n1 answers', () => small.isCurrent('n1'))
    const resumed = await small.settle(endOf(follow(small, 'n1', extra!.cursor)))
    expect(resumed.code).toBe('CHANGES_EXPIRED')
  })

  it('is no holder of the later one, which is rolled forward over its record', async () => {
    const { small, incarnation, returns } = await madeTwice('cut off')
    expect(small.isCurrent('n1')).toBe(true)
    const { directory } = small.process('n2').replica
    while (small.placement('n2').version < 20) await small.settle(directory.update(small.tenant, now => ({ ...now })))
    const later = small.placement('n2').incarnation
    returns()
    await small.until('n1 knows', () => small.placement('n1').incarnation === later)
    expect(small.isCurrent('n1')).toBe(false)
    await small.world.run(5000)
    expect([small.state('n1'), reasonOf(small, 'n1')]).toEqual(['verifying', expect.stringMatching(KEPT)])
    expect(await incarnationOf(small, 'n1')).toBe(incarnation)
    expect(small.isCurrent('n2')).toBe(true)
    for (const node of ['n1', 'n2']) expect(small.placement(node).holders).toEqual([{ node: 'n2', state: 'active' }])
  })
})

it('a copy that is being checked when the directory comes to tell of another incarnation is not listed as one of it', async () => {
  const small = await SmallCluster.start()
  const { directory, follower } = small.process('n2').replica
  const readToEnd = follower.readToEnd.bind(follower)
  let later = ''
  follower.readToEnd = async (...args) => {
    if (later === '')
      await directory.update(small.tenant, current => {
        later = `${current.incarnation}0`
        return { ...current, incarnation: later }
      })
    return readToEnd(...args)
  }
  // It then checks its copy, to list it.
  await small.hold('n2', undefined)
  await small.until('n2 knows', () => later !== '' && small.placement('n2').incarnation === later)
  await small.world.run(5000)
  expect([small.state('n2'), reasonOf(small, 'n2')]).toEqual(['verifying', expect.stringMatching(KEPT)])
  expect(small.placement('n2').holders.map(({ node }) => node)).not.toContain('n2')
})
