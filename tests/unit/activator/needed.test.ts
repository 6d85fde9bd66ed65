import { expect, it } from 'vitest'
import { neededNodes } from '../../../src/activator/needed.ts'
import type { TenantId } from '../../../src/base/ids.ts'
import type { Holder, Placement } from '../../../src/replication/placement.ts'

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
