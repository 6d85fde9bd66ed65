import { describe, expect, it } from 'vitest'
import type { TenantId } from '../../../src/base/ids.ts'
import type { Time } from '../../../src/base/time.ts'
import { EntryTraffic } from '../../../src/replication/entry-traffic.ts'

const WINDOW_MS = 10_000
const tenant = 'acme' as TenantId

function traffic() {
  const clock = { ms: 0 }
  return { clock, entries: new EntryTraffic({ time: { monotonic: () => clock.ms } as Time, windowMs: WINDOW_MS }) }
}

describe('traffic that enters', () => {
  it('of a steady rate counts as the rate by the window, however long it goes on', () => {
    const { clock, entries } = traffic()
    let most = 0
    for (; clock.ms < 20 * WINDOW_MS; clock.ms += 160) most = Math.max(most, entries.add(tenant))
    expect(most).toBeGreaterThan(WINDOW_MS / 160 - 2)
    expect(most).toBeLessThan(WINDOW_MS / 160 + 2)
  })

  it('counts what came within a window, also across its border', () => {
    const { clock, entries } = traffic()
    entries.add(tenant)
    clock.ms = 0.9 * WINDOW_MS
    for (let n = 0; n < 50; n++) entries.add(tenant)
    clock.ms = 1.1 * WINDOW_MS
    let count = 0
    for (let n = 0; n < 50; n++) count = entries.add(tenant)
    expect(count).toBeGreaterThan(90)
    expect(count).toBeLessThan(102)
  })

  it('is forgotten after two windows, and by a reset', () => {
    const { clock, entries } = traffic()
    for (let n = 0; n < 50; n++) entries.add(tenant)
    clock.ms = 2 * WINDOW_MS
    expect(entries.add(tenant)).toBe(1)
    entries.reset(tenant)
    expect(entries.add(tenant)).toBe(1)
  })

  it('is remembered of a bounded number of tenants', () => {
    const { entries } = traffic()
    for (let n = 0; n < 10_000; n++) entries.add(`t${n}` as TenantId)
    expect(entries.add('t0' as TenantId)).toBe(2)
    entries.add('one-more' as TenantId)
    expect(entries.add('t0' as TenantId)).toBe(1)
  })
})
