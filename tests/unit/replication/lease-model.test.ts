import { describe, expect, it } from 'vitest'
import { type Explored, explore, type Rules, wrongRules } from './lease-model.ts'

const takeover: Rules = { challengers: 1, recordWrites: 3, epochMax: 3, hasHandover: false, hasDrift: true }
const handover: Rules = { challengers: 1, recordWrites: 2, epochMax: 3, hasHandover: true, hasDrift: true }
const worlds: Record<string, Rules> = {
  'two nodes, renewals and takeover': takeover,
  'two nodes, handover and takeover': handover,
  'three nodes, takeover by either': {
    challengers: 2,
    recordWrites: 2,
    epochMax: 2,
    hasHandover: false,
    hasDrift: false,
  },
}

const explored = new Map<Rules, Explored>()
const exploredOnce = (rules: Rules): Explored => {
  const result = explored.get(rules) ?? explore(rules)
  explored.set(rules, result)
  return result
}

describe('the model of home, lease, takeover and handover, in every interleaving', () => {
  it.each(Object.entries(worlds))('never lets two nodes decide one version: %s', (_, rules) => {
    const { states, violation, steps } = exploredOnce(rules)
    expect(violation).toBeUndefined()
    // It is no empty promise: leases end, homes are taken, both decide, and what is late is not acknowledged.
    expect(states).toBeGreaterThan(10_000)
    for (const step of [
      'the record is renewed, and the answer is lost',
      'C1 ends the lease, if the record is as it was',
      'C1 writes the placement',
      'C1 decides',
      'H acknowledges',
      'H answers that it is not sure',
    ])
      expect(steps).toContain(step)
  })

  it('has claims anew, lost answers and handovers in it', () => {
    expect(exploredOnce(takeover).steps).toContain('H writes the placement')
    expect(exploredOnce(takeover).steps).toContain('a tick that H misses')
    expect(exploredOnce(handover).steps).toContain('H hands over, and the answer is lost')
  })

  it.each(wrongRules)('finds out what is wrong with: %s', wrong => {
    const rules = wrong === 'a handover keeps the claim until it is answered' ? handover : takeover
    expect(explore({ ...rules, wrong }).violation).toBeDefined()
  })
})
