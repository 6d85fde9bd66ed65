import { describe, expect, it } from 'vitest'
import { PercolateError } from '../../../src/base/errors.ts'
import { planEntity } from '../../../src/rem/plan.ts'
import type { LwwRecord } from '../../../src/rem/record.ts'
import { subjects } from '../../../src/stream/subjects.ts'
import { versionOf } from '../../sim/cluster.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

const ref = { kind: 'entity', key: ['counter'] } as const

/** A conditional write, sent to one node: the version that it made, or why not. */
async function decide(small: SmallCluster, node: string, ifVersion: string, by: string): Promise<string> {
  const request = {
    tenant: small.tenant,
    ref,
    ifVersion,
    durability: 'replicated' as const,
    write: (_: LwwRecord | undefined, clock: Parameters<typeof planEntity>[1]) =>
      planEntity({ id: 'counter', properties: { by } }, clock),
  }
  try {
    const { clock } = await small.settle(small.process(node).handle(request, undefined))
    return versionOf({ put: clock, del: undefined, fields: new Map() })
  } catch (error) {
    return error instanceof PercolateError ? error.code : String(error)
  }
}

/** What the counter says on a node's own disk. */
const by = async (small: SmallCluster, node: string) =>
  (await small.open(node, open => open.record(ref)))?.fields.get('property:by')?.value

/**
 * n1, the home, decided `first` on the version `start`, and n2 has it too; n3 was cut off from all then. All NATS servers have lost their stores, n1 and n2 are away with their disks, and n3 is back, alone.
 */
async function leftBehind({ restarted }: { restarted: boolean }) {
  const small = await SmallCluster.start({ settings: { replicas: 3, gcIntervalMs: 1e9 } })
  await small.hold('n3', 'joining')
  await small.until('n3 is current', () => small.isCurrent('n3'))
  const start = await decide(small, 'n1', 'none', 'start')
  await small.world.run(8000)
  expect(await by(small, 'n3')).toBe('start')
  if (restarted) {
    await small.settle(small.process('n3').replica.follower.unfollow(small.tenant))
    small.process('n3').kill()
  } else {
    small.cluster.node('n3')!.natsCut = true
    for (const other of ['n1', 'n2']) small.cluster.cuts.add(`${other}|n3`)
  }
  const first = await decide(small, 'n1', start, 'first')
  expect(first).toMatch(/^0/)
  for (let n = 0; n < 60 && (await by(small, 'n2')) !== 'first'; n++) await small.world.run(500)
  expect(await by(small, 'n2')).toBe('first')
  const { cluster } = small
  cluster.natsDown = true
  cluster.log.dropBucket(subjects.clusterBucket)
  for (const name of [...cluster.log.streams.keys()]) cluster.log.deleteStream(name)
  for (const node of ['n1', 'n2']) small.process(node).kill()
  cluster.natsDown = false
  cluster.cuts.clear()
  cluster.node('n3')!.natsCut = false
  if (restarted) cluster.node('n3')!.start()
  return { small, start, first }
}

/** Until somebody decides on conditions again. */
async function comesBack(small: SmallCluster, node: string): Promise<void> {
  small.cluster.node(node)!.start()
  for (let n = 0; n < 100 && (await decide(small, 'n3', 'never', 'nobody')) !== 'PRECONDITION_FAILED'; n++)
    await small.world.run(2000)
}

describe.each([false, true])('a copy that was left behind when the streams were lost (restarted: %s)', restarted => {
  it('decides on no condition while all who have what it lacks are away', async () => {
    const { small, start, first } = await leftBehind({ restarted })
    for (let n = 0; n < 10; n++) {
      expect(await decide(small, 'n3', start, 'second')).toMatch(/UNAVAILABLE|UNKNOWN|BUSY/)
      await small.world.run(2000)
    }
    await comesBack(small, 'n2')
    expect(await decide(small, 'n3', start, 'second')).toBe('PRECONDITION_FAILED')
    expect(await by(small, 'n3')).toBe('first')
    expect(await decide(small, 'n3', first, 'second')).toMatch(/^0/)
  })

  it('nor after plain writes made its stream anew', async () => {
    const { small, start, first } = await leftBehind({ restarted })
    await small.world.run(20_000)
    if (small.isCurrent('n3')) await small.settle(small.put('n3', 'plain'))
    for (let n = 0; n < 10; n++) {
      expect(await decide(small, 'n3', start, 'second')).toMatch(/UNAVAILABLE|UNKNOWN|BUSY/)
      await small.world.run(2000)
    }
    await comesBack(small, 'n2')
    expect(await decide(small, 'n3', first, 'second')).toMatch(/^0/)
  })
})

describe('a holder that was ordered to go, and has not gone', () => {
  it('may be one of the two that have what was decided', async () => {
    const small = await SmallCluster.start({ settings: { replicas: 2, gcIntervalMs: 1e9 } })
    await small.hold('n3', 'joining')
    await small.until('n3 is current', () => small.isCurrent('n3'))
    const start = await decide(small, 'n1', 'none', 'start')
    await small.world.run(8000)
    const { cluster } = small
    cluster.node('n3')!.natsCut = true
    for (const other of ['n1', 'n2']) cluster.cuts.add(`${other}|n3`)
    const first = await decide(small, 'n1', start, 'first')
    for (let n = 0; n < 60 && (await by(small, 'n2')) !== 'first'; n++) await small.world.run(500)
    // It stays: n3 does not say that it has all of it.
    await small.hold('n2', 'dropping')
    await small.world.run(2000)
    expect(await by(small, 'n2')).toBe('first')
    for (const name of [...cluster.log.streams.keys()]) cluster.log.deleteStream(name)
    for (const node of ['n1', 'n2']) small.process(node).kill()
    cluster.cuts.clear()
    cluster.node('n3')!.natsCut = false
    for (let n = 0; n < 10; n++) {
      expect(await decide(small, 'n3', start, 'second')).toMatch(/UNAVAILABLE|UNKNOWN|BUSY/)
      await small.world.run(2000)
    }
    await comesBack(small, 'n2')
    expect(await decide(small, 'n3', first, 'second')).toMatch(/^0/)
  })
})

describe('a copy whose process was killed before the position in its stream was written down', () => {
  it('does not take another stream for the one that it had read', async () => {
    const small = await SmallCluster.start({ settings: { replicas: 3, gcIntervalMs: 1e9 } })
    await small.hold('n3', 'joining')
    await small.until('n3 is current', () => small.isCurrent('n3'))
    const start = await decide(small, 'n1', 'none', 'start')
    expect(await small.settle(small.process('n3').replica.follower.catchUp(small.tenant))).toBe(true)
    expect(await by(small, 'n3')).toBe('start')
    small.process('n3').kill()
    const first = await decide(small, 'n1', start, 'first')
    for (let n = 0; n < 60 && (await by(small, 'n2')) !== 'first'; n++) await small.world.run(500)
    const { cluster } = small
    for (const name of [...cluster.log.streams.keys()]) cluster.log.deleteStream(name)
    // By another origin, so that no gap shows.
    await small.settle(small.put('n2', 'plain'))
    await small.until('the stream is made anew', () => cluster.log.streams.size > 0)
    await small.world.run(1000)
    for (const node of ['n1', 'n2']) small.process(node).kill()
    cluster.node('n3')!.start()
    for (let n = 0; n < 10; n++) {
      expect(await decide(small, 'n3', start, 'second')).toMatch(/UNAVAILABLE|UNKNOWN|BUSY/)
      await small.world.run(2000)
    }
    await comesBack(small, 'n2')
    expect(await decide(small, 'n3', first, 'second')).toMatch(/^0/)
  })
})

describe.each([
  ['n1', 'n2'],
  ['n2', 'n1'],
])('a copy that %s has made anew on an empty disk after the streams were lost', (remade, away) => {
  it(`has nothing to say of what was in them, nor has who was left behind, while ${away} is away`, async () => {
    const { small, start, first } = await leftBehind({ restarted: false })
    small.cluster.node(remade)!.loseDisk()
    small.cluster.node(remade)!.start()
    await small.until('there is a copy again', () => small.isCurrent(remade))
    for (let n = 0; n < 20; n++) {
      for (const node of ['n3', remade])
        expect(await decide(small, node, start, 'second')).toMatch(/UNAVAILABLE|UNKNOWN|BUSY/)
      await small.world.run(1000)
    }
    await comesBack(small, away)
    expect(await decide(small, 'n3', start, 'second')).toBe('PRECONDITION_FAILED')
    const next = await decide(small, remade, first, 'second')
    expect(next).toMatch(/^0/)
    // Nobody is missed any more: the copy that was made anew can take the home over alone.
    await small.world.run(8000)
    for (const node of [away, 'n3']) small.process(node).kill()
    await small.world.run(8000)
    let third = ''
    for (let n = 0; n < 30 && !/^0/.test(third); n++) {
      third = await decide(small, remade, next, 'third')
      await small.world.run(1000)
    }
    expect(third).toMatch(/^0/)
  })
})
