import { describe, expect, it } from 'vitest'
import type { Clock } from '../../../src/clock/hlc.ts'
import { planEntity } from '../../../src/rem/plan.ts'
import type { Op } from '../../../src/rem/record.ts'
import { decodeEntry, encodeEntry } from '../../../src/storage/codec.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

/** A cluster whose n2 has a copy, and reaches nobody. */
async function startCutOff() {
  const small = await SmallCluster.start()
  const n2 = small.cluster.node('n2')!
  n2.natsCut = true
  for (const other of ['n1', 'n3']) small.cluster.cuts.add(`n2|${other}`)
  await small.hold('n2', undefined)
  const reconnect = () => {
    n2.natsCut = false
    small.cluster.cuts.clear()
  }
  return { small, reconnect }
}

/** For so long that the others forget deletes that n2 never saw. */
async function passFloor(small: SmallCluster): Promise<void> {
  for (let n = 0; n < 4; n++) {
    await small.write('n1', `elsewhere-${n}`)
    await small.world.run(5000)
  }
  expect(await small.open('n1', async open => open.floor)).toBeDefined()
}

describe('a copy that is made anew', () => {
  it('stops acknowledging first, and keeps aside what it had acknowledged', async () => {
    const { small, reconnect } = await startCutOff()
    await passFloor(small)
    expect(small.state('n2')).toBe('current')
    const outcomes = new Map<string, string>()
    const put = (id: string, slow: { underLease?: number; inPlan?: number }) =>
      small.put('n2', id, slow).then(
        () => outcomes.set(id, 'acknowledged'),
        error => outcomes.set(id, error.code),
      )
    put('before', {})
    await small.world.run(100)
    reconnect()
    for (let round = 0; round < 60 && small.process('n2').replica.copies.counts.wiped === 0; round++) {
      put(`leased-${round}`, { underLease: 500 })
      put(`planned-${round}`, { inPlan: 150 })
      await small.world.run(200)
    }
    await small.until('n2 is made anew', () => small.process('n2').replica.copies.counts.wiped > 0)
    await small.until('n2 is current', () => small.isCurrent('n2'))
    await small.world.run(10_000)
    const aside = (await small.settle(small.process('n2').replica.service.late(small.tenant))).flatMap(bytes =>
      decodeEntry(bytes).ops.map(op => op.key[0]),
    )
    expect(outcomes.get('before')).toBe('acknowledged')
    expect([...outcomes.values()]).toContain('TENANT_UNAVAILABLE')
    for (const [id, outcome] of outcomes) {
      if (outcome === 'acknowledged')
        expect(aside.includes(id) || (await small.read('n1', id)) !== undefined, `${id} is somewhere`).toBe(true)
      else expect(outcome, id).toBe('TENANT_UNAVAILABLE')
    }
  })

  it('does not tell of a write as set aside that has arrived', async () => {
    const { small, reconnect } = await startCutOff()
    const { incarnation } = small.process('n1').replica.directory.placement(small.tenant)!
    // The record has a digest in the vector's place.
    const vectorsOf = (id: string, clock: Clock): Op[] => [
      { kind: 'resource', key: [id], action: 'put', clock, fields: { 'embedding:m': Buffer.alloc(16, id) } },
    ]
    const entryOf = (sequence: number, id: string) => {
      const clock = { wall: small.process('n1').time.now(), counter: sequence, origin: 'gone.d' }
      return encodeEntry({
        tenant: small.tenant,
        incarnation,
        origin: 'gone.d',
        sequence,
        ops: [...planEntity({ id }, clock), ...vectorsOf(id, clock)],
      })
    }
    const [arrived, missing] = [entryOf(1, 'arrived'), entryOf(2, 'missing')]
    await small.settle(small.process('n1').replica.service.push(small.tenant, [arrived]))
    await small.settle(small.process('n2').replica.service.keepLate(small.tenant, [arrived, missing]))
    await passFloor(small)
    reconnect()
    await small.until('n2 is made anew', () => small.process('n2').replica.copies.counts.wiped > 0)
    await small.until('n2 is current', () => small.isCurrent('n2'))
    const aside = await small.settle(small.process('n2').replica.service.late(small.tenant))
    expect(aside.map(bytes => decodeEntry(bytes).sequence)).toEqual([2])
  })
})
