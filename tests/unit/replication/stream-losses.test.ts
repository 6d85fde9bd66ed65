import { describe, expect, it } from 'vitest'
import { subjects } from '../../../src/stream/subjects.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

/** Three nodes, each with a copy of the tenant, all of which have read its stream. */
async function threeCopies(): Promise<SmallCluster> {
  const small = await SmallCluster.start({ settings: { replicas: 3, gcIntervalMs: 1e9, antiEntropyMs: 1e9 } })
  await small.hold('n3', 'joining')
  await small.until('n3 is current', () => small.isCurrent('n3'))
  await small.write('n1', 'before')
  await small.world.run(3000)
  expect(await small.read('n3', 'before')).toBeDefined()
  return small
}

const streamOf = (small: SmallCluster) => subjects.syncStream(small.tenant)

/** The stream is gone, and made anew by what `writer` writes; n3 has read that. */
async function loseStream(small: SmallCluster, writer: string): Promise<void> {
  const { log } = small.cluster
  const before = log.streams.get(streamOf(small))
  log.deleteStream(streamOf(small))
  void small.put(writer, `of ${writer} at ${small.world.nowMs}`)
  const { follower } = small.process('n3').replica
  const { time } = small.process('n1')
  for (;;) {
    const stream = log.streams.get(streamOf(small))
    const { incarnation, lastSequence } = stream?.info() ?? { incarnation: '', lastSequence: 0 }
    if (stream !== before && lastSequence > 0 && follower.hasRead(small.tenant, incarnation, lastSequence)) return
    await time.sleep(5)
  }
}

const mayBeCut = (small: SmallCluster) =>
  small.settle(small.process('n3').replica.follower.mayBeCut(small.tenant, true))

describe('a stream that is lost while the holders are asked', () => {
  it('is asked about again at the next takeover, when it was lost twice', async () => {
    const small = await threeCopies()
    const { copies } = small.process('n3').replica
    await small.settle(loseStream(small, 'n1'))
    expect(await mayBeCut(small)).toBe(true)
    const ask = () => copies.isVouchedFor(small.tenant, small.placement('n3'))
    small.process('n1').pause(4000)
    const asked = ask()
    await small.world.run(50)
    await small.settle(loseStream(small, 'n2'))
    expect(await small.settle(asked)).toBe(true)
    // What the holders said was of the time before.
    expect(await mayBeCut(small)).toBe(true)
    expect(await small.settle(ask())).toBe(true)
    expect(await mayBeCut(small)).toBe(false)
  })

  it('is not forgotten by a copy that had missed nothing when it began to be checked', async () => {
    const small = await threeCopies()
    const { copies, follower } = small.process('n3').replica
    for (const other of ['n1', 'n2']) small.cluster.cuts.add(`${other}|n3`)
    const askFollower = follower.mayHaveMissed.bind(follower)
    const said: boolean[] = []
    follower.mayHaveMissed = async (...args) => {
      said.push(await askFollower(...args))
      if (said.length === 1) await loseStream(small, 'n1')
      return said.at(-1)!
    }
    copies.demote(small.tenant)
    await small.until('it is checked', () => said.length > 0)
    expect(said[0]).toBe(false)
    await small.world.run(10_000)
    expect(small.state('n3')).toBe('verifying')
    small.cluster.cuts.clear()
    await small.until('it is current', () => small.isCurrent('n3'))
    expect(await mayBeCut(small)).toBe(false)
  })

  it('is not forgotten by a copy whose holders had answered already', async () => {
    const small = await threeCopies()
    const { copies, follower } = small.process('n3').replica
    const askFollower = follower.mayHaveMissed.bind(follower)
    follower.mayHaveMissed = async (...args) => {
      follower.mayHaveMissed = askFollower
      const said = await askFollower(...args)
      small.process('n1').pause(4000)
      small.world.at(200, () => void loseStream(small, 'n2'))
      return said
    }
    copies.demote(small.tenant)
    expect(small.state('n3')).toBe('verifying')
    await small.until('it is current', () => small.isCurrent('n3'))
    expect(await mayBeCut(small)).toBe(true)
  })
})

describe('a loss in a pool stream', () => {
  it('is not what the comparison of copies comes back for again and again: nobody can make up for it', async () => {
    const small = await SmallCluster.start({ settings: { syncStreams: 'pooled:1' } })
    const { cluster, tenant } = small
    for (const name of [...cluster.log.streams.keys()]) cluster.log.deleteStream(name)
    await small.settle(small.put('n1', 'after'))
    const { copies, follower } = small.process('n2').replica
    await small.until('n2 has found it', () => follower.lossOf(tenant) !== undefined)
    expect(await small.settle(copies.settleLoss(tenant))).toBe(true)
  })
})
