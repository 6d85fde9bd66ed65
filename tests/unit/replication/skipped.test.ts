import { describe, expect, it } from 'vitest'
import { planEntity } from '../../../src/rem/plan.ts'
import { readSkipped } from '../../../src/replication/export.ts'
import type { PeerHandlers, PeerPort } from '../../../src/replication/peer.ts'
import { Reconciler } from '../../../src/replication/reconciler.ts'
import { encodeEntry } from '../../../src/storage/codec.ts'
import { keys } from '../../../src/storage/keys.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

/** An entry of an origin that is nowhere any more. */
function entry(small: SmallCluster, sequence: number): Buffer {
  const { incarnation } = small.placement()
  const clock = { wall: small.process('n1').time.now(), counter: sequence, origin: 'gone.d1' }
  const ops = planEntity({ id: `e${sequence}`, properties: { n: sequence } }, clock)
  return encodeEntry({ tenant: small.tenant, incarnation, origin: 'gone.d1', sequence, ops })
}

const skipped = (small: SmallCluster, node: string) =>
  small.open(node, async open => (await readSkipped(open)).map(([, sequence]) => sequence))

/** A reconciler of n2 on whose way to the others something happens between two calls. */
function reconcilerOf(small: SmallCluster, afterStatus: (node: string) => Promise<void>): Reconciler {
  const { replica, pool } = small.process('n2')
  const peers: PeerPort = {
    to: node => {
      const { service } = small.process(node).replica
      return {
        status: async tenant => {
          const status = await service.status(tenant)
          await afterStatus(node)
          return status
        },
        transfer: (...args) => service.transfer(...args),
      } as Partial<PeerHandlers> as PeerHandlers
    },
  }
  const logger = { info: () => {}, warn: () => {}, error: () => {}, debug: () => {} }
  return new Reconciler({
    node: 'n2',
    logger: logger as never,
    pool,
    directory: replica.directory,
    applier: replica.applier,
    peers,
    onBelowFloor: () => {},
    announce: () => {},
  })
}

/** n2 gave up entry 1, which n1 has. */
async function withOneGivenUp(): Promise<SmallCluster> {
  const small = await SmallCluster.start({ settings: { tombstoneMs: 1e9 } })
  for (const other of ['n2', 'n3']) small.cluster.cuts.add(`n1|${other}`)
  const { service, applier } = small.process('n2').replica
  await small.settle(small.process('n1').replica.service.push(small.tenant, [entry(small, 1), entry(small, 2)]))
  await small.settle(service.push(small.tenant, [entry(small, 2)]))
  await small.open('n2', open => applier.skipHoles(open, () => true))
  expect(await skipped(small, 'n2')).toEqual([1])
  return small
}

describe('what was given up here and another copy has', () => {
  it('is taken over from it', async () => {
    const small = await withOneGivenUp()
    expect(await small.settle(reconcilerOf(small, async () => {}).takeSkipped(small.tenant, 'n1'))).toBe(true)
    expect(await skipped(small, 'n2')).toEqual([])
    expect(await small.read('n2', 'e1')).toBeDefined()
  })

  it('stays given up when that copy lost it between its answer and its transfer', async () => {
    const small = await withOneGivenUp()
    // Made anew from a copy that lacks the entry too.
    const loseIt = (node: string) =>
      small.process(node).pool.use(small.tenant, async open => {
        await open.change(async staging => {
          await staging.remove({ kind: 'entity', key: ['e1'] })
          staging.put(keys.skipped('gone.d1', 1), Buffer.alloc(0))
        })
      })
    const reconciler = reconcilerOf(small, async node => void (await loseIt(node)))
    expect(await small.settle(reconciler.takeSkipped(small.tenant, 'n1'))).toBe(false)
    expect(await small.read('n2', 'e1')).toBeUndefined()
    expect(await skipped(small, 'n2')).toEqual([1])
    // So it is applied when it turns up after all.
    await small.settle(small.process('n2').replica.service.push(small.tenant, [entry(small, 1)]))
    expect(await small.read('n2', 'e1')).toBeDefined()
  })
})

describe('what the reader passed over for lack of room', () => {
  it('is not given up when the first of it has come another way: what else it was is known when it has been read again', async () => {
    const small = await SmallCluster.start({ settings: { tombstoneMs: 1e9 } })
    for (const other of ['n2', 'n3']) small.cluster.cuts.add(`n1|${other}`)
    const { service, applier } = small.process('n2').replica
    applier.passedOver(small.tenant, entry(small, 1))
    await small.settle(service.push(small.tenant, [entry(small, 4)]))
    await small.open('n2', open => open.change(async staging => staging.joinVector(new Map([['gone.d1', 2]]))))
    const giveUp = () => small.open('n2', open => applier.skipHoles(open, () => true))
    expect(await giveUp()).toEqual([])
    applier.comingBack(small.tenant)
    applier.cameBack(small.tenant, true)
    expect(await giveUp()).toEqual([{ origin: 'gone.d1', from: 3, to: 3 }])
  })
})
