import { expect, it } from 'vitest'
import { parseTenantId } from '../../../src/base/ids.ts'
import { HeldJobs, type PulledJob } from '../../../workers/held-jobs.ts'
import { parseTimeoutMs, parseTimeoutSettings } from '../../../workers/ingest.ts'

const job = (tenant: string, id: string) =>
  ({ delivery: {}, job: { tenant: parseTenantId(tenant), job_id: id } }) as unknown as PulledJob

it('tenants are served in turn, each with its own short queue', () => {
  const held = new HeldJobs({ max: 6, perTenantMax: 3 })
  const added = [job('a', '1'), job('a', '2'), job('a', '3'), job('a', '4'), job('b', '1'), job('b', '2')].map(pulled =>
    held.add(pulled),
  )
  expect(added).toEqual([true, true, true, false, true, true])
  expect([held.add(job('c', '1')), held.add(job('d', '1')), held.room]).toEqual([true, false, 0])
  const names: string[] = []
  for (let next = held.take(() => true); next; next = held.take(() => true))
    names.push(next.job.tenant + next.job.job_id)
  expect(names).toEqual(['a1', 'b1', 'c1', 'a2', 'b2', 'a3'])
  expect(held.size).toBe(0)
})

it('a tenant that may not start is passed over and keeps its place', () => {
  const held = new HeldJobs({ max: 6, perTenantMax: 3 })
  for (const pulled of [job('a', '1'), job('b', '1')]) held.add(pulled)
  expect(held.take(tenant => tenant !== 'a')?.job.tenant).toBe('b')
  expect(held.take(tenant => tenant !== 'a')).toBeUndefined()
  expect(held.clear().map(({ job: { tenant } }) => tenant)).toEqual(['a'])
  expect(held.room).toBe(6)
})

it('the time to parse follows the size, up to the most, and a second attempt has half', () => {
  const limits = { bytesMax: 1, timeoutMs: 120_000, timeoutBaseMs: 20_000, timeoutPerMibMs: 4000 }
  expect(parseTimeoutMs(limits, 1000, 1)).toBeLessThan(20_010)
  expect(parseTimeoutMs(limits, 10 * 1024 * 1024, 1)).toBe(60_000)
  expect(parseTimeoutMs(limits, 500 * 1024 * 1024, 1)).toBe(120_000)
  expect(parseTimeoutMs(limits, 10 * 1024 * 1024, 2)).toBe(30_000)
  expect(parseTimeoutSettings(limits, 200_000)).toMatch(/_BASE_MS and .*_PER_MIB_MS$/)
  expect(parseTimeoutSettings(limits, 500 * 1024 * 1024)).toBe('PERCOLATE_PARSE_TIMEOUT_MS')
})
