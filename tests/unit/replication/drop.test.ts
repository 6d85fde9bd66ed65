import { describe, expect, it } from 'vitest'
import { SmallCluster } from '../../support/small-cluster.ts'

describe('a copy that was ordered to go', () => {
  it.each([
    ['waits for its provider under a lease', { underLease: 1500 }],
    ['is being planned', { inPlan: 1500 }],
  ])('takes no acknowledged write with it that %s', async (_, slow) => {
    const small = await SmallCluster.start()
    await small.hold('n3', 'joining')
    await small.until('n3 is current', () => small.isCurrent('n3'))
    const outcomes = new Map<string, string>()
    for (let n = 0; n < 5; n++)
      small.put('n3', `slow-${n}`, slow).then(
        () => outcomes.set(`slow-${n}`, 'acknowledged'),
        error => outcomes.set(`slow-${n}`, error.code),
      )
    await small.world.run(20)
    await small.hold('n3', 'dropping')
    await small.until('the copy is gone', () => small.state('n3') === 'absent')
    await small.world.run(5000)
    expect(outcomes.size).toBe(5)
    for (const [id, outcome] of outcomes) {
      if (outcome === 'acknowledged') {
        expect(await small.read('n1', id), `${id} on n1`).toBeDefined()
        expect(await small.read('n2', id), `${id} on n2`).toBeDefined()
      } else expect(outcome).toBe('TENANT_UNAVAILABLE')
    }
    expect(small.cluster.node('n3')!.disk.databases.has(small.tenant)).toBe(false)
  })
})
