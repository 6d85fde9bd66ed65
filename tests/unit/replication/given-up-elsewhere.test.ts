import { describe, expect, it } from 'vitest'
import { PercolateError } from '../../../src/base/errors.ts'
import { planEntity } from '../../../src/rem/plan.ts'
import { holderOf } from '../../../src/replication/placement.ts'
import type { ReplicaSettings } from '../../../src/replication/replica.ts'
import { decodeEntry, encodeEntry } from '../../../src/storage/codec.ts'
import { subjects } from '../../../src/stream/subjects.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

/** An entry of an origin that is nowhere any more. */
function entry(small: SmallCluster, sequence: number): Buffer {
  const { incarnation } = small.placement()
  const clock = { wall: small.process('n1').time.now(), counter: sequence, origin: 'gone.d1' }
  const ops = planEntity({ id: `e${sequence}`, properties: { n: sequence } }, clock)
  return encodeEntry({ tenant: small.tenant, incarnation, origin: 'gone.d1', sequence, ops })
}

const publish = (small: SmallCluster, sequence: number) =>
  small.cluster.log.publish(subjects.syncOps(small.tenant), entry(small, sequence), `m${sequence}`)

async function reached(small: SmallCluster, sequence: number): Promise<boolean> {
  for (const node of ['n1', 'n2', 'n3'])
    if ((await small.open(node, async open => open.vector.get('gone.d1'))) !== sequence) return false
  return true
}

/** n3 alone has the third entry, and is away; n1 and n2 gave it up. `before`: all three gave up the first. */
async function withLastCopy(before: boolean, settings: Partial<ReplicaSettings>): Promise<SmallCluster> {
  const small = await SmallCluster.start({ settings: { antiEntropyMs: 1e9, ...settings } })
  await small.hold('n3', 'joining')
  await small.until('n3 is current', () => small.isCurrent('n3'))
  if (!before) publish(small, 1)
  publish(small, 2)
  for (let n = 0; n < 100 && !(await reached(small, 2)); n++) await small.world.run(500)
  expect(await reached(small, 2)).toBe(true)
  small.cluster.node('n3')!.natsCut = true
  for (const other of ['n1', 'n2']) small.cluster.cuts.add(`${other}|n3`)
  await small.settle(small.process('n3').replica.service.push(small.tenant, [entry(small, 3)]))
  expect(await small.read('n3', 'e3')).toBeDefined()
  publish(small, 4)
  await small.world.run(3000)
  small.process('n3').kill()
  await small.hold('n3', undefined)
  const hasHole = (node: string) => small.process(node).replica.applier.hasHole(small.tenant)
  await small.until('the others gave it up', () => !hasHole('n1') && !hasHole('n2'))
  return small
}

async function comesBack(small: SmallCluster): Promise<void> {
  small.cluster.cuts.clear()
  small.cluster.node('n3')!.natsCut = false
  small.cluster.node('n3')!.start()
  const isBack = () => small.isCurrent('n3') && holderOf(small.placement(), 'n3')?.state === 'active'
  await small.until('n3 is back', isBack)
}

const have = async (small: SmallCluster, nodes: readonly string[]) =>
  Promise.all(nodes.map(async node => (await small.read(node, 'e3')) !== undefined))

describe('the last copy of an entry that the others gave up for lost', () => {
  it.each([true, false])('hands it on before it goes (all gave up another one before: %s)', async before => {
    const small = await withLastCopy(before, { tombstoneMs: 1e9, gcIntervalMs: 1e9 })
    await comesBack(small)
    await small.hold('n3', 'dropping')
    await small.until('n3 is gone', () => small.state('n3') === 'absent')
    expect(await have(small, ['n1', 'n2'])).toEqual([true, true])
  })

  it.each([true, false])(
    'sets it aside when it was away for too long, and is made anew (all gave up another one before: %s)',
    async before => {
      const small = await withLastCopy(before, { tombstoneMs: 8000, gcIntervalMs: 3000 })
      await small.settle(small.put('n1', 'later'))
      await small.world.run(20_000)
      await comesBack(small)
      await small.world.run(5000)
      const late = await small.settle(small.process('n3').replica.service.late(small.tenant))
      const keys = late.flatMap(bytes => decodeEntry(bytes).ops.flatMap(({ key }) => key))
      const isKept = keys.includes('e3') || (await have(small, ['n1'])).includes(true)
      expect(isKept).toBe(true)
    },
  )
})

it('is not vouched for by a copy that gave it up: a write waits for a second disk that has it', async () => {
  const small = await SmallCluster.start({ settings: { antiEntropyMs: 1e9 } })
  const put = (id: string) =>
    small.settle(
      small.process('n1').handle(
        {
          tenant: small.tenant,
          ref: { kind: 'entity', key: [id] },
          durability: 'replicated',
          write: (_, clock) => planEntity({ id }, clock),
        },
        undefined,
      ),
    )
  expect((await put('before')).reached).toBe('replicated')
  const [origin, last] = (await small.open('n1', async open => [open.origin, open.state.sequence] as const))!
  // Such as while the writer was suspended for so long that it was struck off.
  small.cluster.node('n2')!.natsCut = true
  await small.open('n2', open =>
    open.change(async staging => staging.joinVector(new Map([[origin, last + 1]]), [[origin, last + 1]])),
  )
  expect((await put('lost')).reached).toBe('stream')
  small.cluster.node('n2')!.natsCut = false
  expect((await put('later')).reached).toBe('replicated')
  expect(await small.read('n2', 'lost')).toBeDefined()
})

it('is no matter of a write that is later than it: a copy that gave the former up is a second disk of the latter', async () => {
  const small = await SmallCluster.start({ settings: { antiEntropyMs: 1e9 } })
  const put = (id: string, durability: 'stream' | 'replicated') =>
    small.settle(
      small.process('n1').handle(
        {
          tenant: small.tenant,
          ref: { kind: 'entity', key: [id] },
          durability,
          write: (_, clock) => planEntity({ id }, clock),
        },
        undefined,
      ),
    )
  expect((await put('before', 'replicated')).reached).toBe('replicated')
  const [origin, last] = (await small.open('n1', async open => [open.origin, open.state.sequence] as const))!
  small.cluster.node('n2')!.natsCut = true
  await small.open('n2', open =>
    open.change(async staging => staging.joinVector(new Map([[origin, last + 1]]), [[origin, last + 1]])),
  )
  expect((await put('lost', 'stream')).reached).toBe('stream')
  // It is not to be had, as when the servers lost it too, and the node that has it sends other copies.
  small.process('n1').replica.service.transfer = () => {
    throw new PercolateError('TOO_BUSY', 'other copies')
  }
  const stream = [...small.cluster.log.streams.values()].find(({ messages }) => messages.length > 0)!
  stream.messages.pop()
  small.cluster.node('n2')!.natsCut = false
  expect((await put('later', 'replicated')).reached).toBe('replicated')
  expect(await small.open('n2', async open => open.state.lost.count)).toBe(1)
  // A peer that is asked as by a version before looks at all of the origin's.
  const { service } = small.process('n2').replica
  const { incarnation } = small.placement()
  const vector = new Map([[origin, last + 2]])
  const answers = [0, last + 1, last + 2].map(from =>
    small.settle(service.awaitVector(small.tenant, incarnation, vector, 100, new Map([[origin, from]]))),
  )
  expect(await Promise.all(answers)).toEqual([false, false, true])
})

it.each([true, false])(
  'holds up no copy that comes back to a node which cannot be asked for it (all gave up another one before: %s)',
  async before => {
    const small = await withLastCopy(before, { tombstoneMs: 1e9, gcIntervalMs: 1e9, antiEntropyMs: 3000 })
    // Versions before do not know of it; one that sends other copies is too busy for it.
    let isOlder = true
    for (const node of ['n1', 'n2']) {
      const { service } = small.process(node).replica
      const offer = service.offer.bind(service)
      const refused = new PercolateError('NODE_UNAVAILABLE', 'UNIMPLEMENTED')
      service.offer = (...args) => (isOlder ? Promise.reject(refused) : offer(...args))
      const transfer = service.transfer.bind(service)
      service.transfer = (...args) => {
        if (isOlder) throw refused
        return transfer(...args)
      }
    }
    await comesBack(small)
    isOlder = false
    small.process('n3').replica.maintenance.changed(small.tenant, { data: true, floor: false })
    for (const node of ['n1', 'n2'])
      small.process(node).replica.maintenance.changed(small.tenant, { data: true, floor: false })
    await small.world.run(30_000)
    expect(await have(small, ['n1', 'n2'])).toEqual([true, true])
    const left = await Promise.all(
      ['n1', 'n2', 'n3'].map(node => small.open(node, async open => open.state.lost.count)),
    )
    expect(left).toEqual(before ? [1, 1, 1] : [0, 0, 0])
  },
)
