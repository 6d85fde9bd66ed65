import { describe, expect, it } from 'vitest'
import { extentOf, neededNodes } from '../../../src/activator/needed.ts'
import type { TenantId } from '../../../src/base/ids.ts'
import type { Holder, Member, Placement } from '../../../src/replication/placement.ts'

const placement = (tenant: string, ordinals: readonly number[], state: Holder['state'] = 'active'): Placement => ({
  tenant: tenant as TenantId,
  incarnation: '1',
  tier: 'small',
  holders: ordinals.map(n => ({ node: `percolate-node-small-${n}`, state })),
  home: undefined,
  epoch: 1,
  version: 1,
  changedAtMs: 0,
})
const nodes = (...ordinals: number[]) => new Set(ordinals.map(n => `percolate-node-small-${n}`))
const tenants = (...names: string[]) => new Set(names as TenantId[])
const placements = [
  placement('low', [0, 4, 9]),
  placement('middle', [4, 5, 8]),
  placement('high', [7, 8, 9]),
  placement('made', [6], 'joining'),
]
const needed = (ready: ReadonlySet<string>, waiting: ReadonlySet<TenantId>, firstOrdinal = 0) =>
  neededNodes({ placements, ready, waiting, firstOrdinal })

it('a tier that sleeps needs as many nodes as bring back a copy of each tenant that waits', () => {
  expect(needed(nodes(), tenants())).toBe(0)
  expect(needed(nodes(), tenants('low'))).toBe(1)
  expect(needed(nodes(), tenants('low', 'middle'))).toBe(5)
  expect(needed(nodes(), tenants('high'))).toBe(8)
  expect(needed(nodes(), tenants('unknown', 'made'))).toBe(0)
})

it('one that is awake, as many as bring back a copy of every tenant', () => {
  expect(needed(nodes(0, 1, 2), tenants())).toBe(8)
  expect(needed(nodes(0, 1, 2, 7), tenants())).toBe(5)
  expect(needed(nodes(0, 4, 7), tenants())).toBe(0)
})

it('counts from where the StatefulSet does, and passes over names without an ordinal', () => {
  expect(needed(nodes(), tenants('high'), 1)).toBe(7)
  const named = { ...placement('named', []), holders: [{ node: 'eve', state: 'active' as const }] }
  expect(neededNodes({ placements: [named], ready: nodes(0), waiting: tenants('named'), firstOrdinal: 0 })).toBe(0)
})

describe('how far up a tier reaches', () => {
  const member = (n: number | string, state: Member['state'] = 'ready', isHeard = true, ended = false) => ({
    member: { node: typeof n === 'string' ? n : `percolate-node-small-${n}`, state, ended },
    isHeard,
  })
  const low = [placement('low', [0, 4, 9]), placement('two', [2, 1, 3])]
  const extent = (members: Parameters<typeof extentOf>[0]['members'], placements = low, firstOrdinal = 0) =>
    extentOf({ placements, members, firstOrdinal })
  const three = [member(0), member(1), member(2)]

  it('is to its highest node that has not said that it goes: ready, starting or silent', () => {
    expect(extent(three)).toBe(3)
    expect(extent([...three, member(3, 'starting')])).toBe(4)
    expect(extent([...three, member(3, 'ready', false)])).toBe(4)
    expect(extent([...three, member(3, 'draining')])).toBe(3)
    expect(extent([...three, member(3, 'ready', true, true)])).toBe(3)
  })

  it('does not take other nodes for those that wake first', () => {
    expect(extent([member(1), member(2), member(3)])).toBe(4)
    expect(extent([member(2), member(3), member(4)], low, 1)).toBe(4)
    expect(extent([member('ada'), member('eve'), member('joe'), member('sue')])).toBe(4)
  })

  it("is to each tenant's lowest complete copy, though no node is there", () => {
    expect(extent(three, [...low, placement('high', [7, 5, 8])])).toBe(6)
    expect(extent(three, [...low, placement('made', [6], 'joining')])).toBe(3)
  })

  it('is nothing while none runs: what sleeps is woken by requests', () => {
    expect(extent([])).toBe(0)
    expect(extent([member(0, 'draining'), member(8, 'ready', false), member(9, 'ready', true, true)])).toBe(0)
  })
})
