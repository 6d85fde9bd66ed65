import { expect, it } from 'vitest'
import { JobListings } from '../../../gateway/job-listings.ts'
import { encodeCursor } from '../../../src/api/cursor.ts'
import { parseTenantId, timedId } from '../../../src/base/ids.ts'
import { systemTime } from '../../../src/base/time.ts'
import { Jobs } from '../../../src/jobs/jobs.ts'
import { MemoryStream } from '../../../src/stream/memory/adapter.ts'
import { MemoryLog } from '../../../src/stream/memory/log.ts'

const acme = parseTenantId('acme')
const signal = new AbortController().signal

it('ids with a time in them are UUIDs, in the order of their times', () => {
  const ids = [0, 1, 1_700_000_000_000, 1_800_000_000_000].map(timedId)
  for (const id of ids) expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
  expect([...ids].sort()).toEqual(ids)
  expect(timedId(1)).not.toBe(timedId(1))
})

it('one of a tenant and four of all run at once, and one whose client has gone is not begun', async () => {
  const running: { tenant: string; end: () => void }[] = []
  const listings = new JobListings({
    list: tenant => new Promise(resolve => running.push({ tenant, end: () => resolve({ jobs: [], next: undefined }) })),
  })
  const settled = () => systemTime.sleep(10)
  const gone = new AbortController()
  const asked = [acme, acme].map(tenant => listings.page(tenant, {}, signal))
  const left = listings.page(acme, {}, gone.signal)
  for (const name of ['b', 'c', 'd', 'e']) asked.push(listings.page(parseTenantId(name), {}, signal))
  await settled()
  expect(running.map(({ tenant }) => tenant)).toEqual(['acme', 'b', 'c', 'd'])
  gone.abort(new Error('gone'))
  await expect(left).rejects.toThrow('Gave up waiting')
  for (let n = 0; n < asked.length; n++) {
    running[n]!.end()
    await settled()
  }
  expect(running).toHaveLength(asked.length)
  await Promise.all(asked)
})

it.each([['nonsense'], [Buffer.from('[1,"x","y"]').toString('base64url')]])(
  'the cursor %s is refused',
  async cursor => {
    const listings = new JobListings({ list: async () => ({ jobs: [], next: undefined }) })
    await expect(listings.page(acme, { cursor }, signal)).rejects.toMatchObject({ code: 'INVALID_CURSOR' })
  },
)

it('pages are of the tenant alone, newest first, and all of them together are all of its jobs', async () => {
  const stream = new MemoryStream(new MemoryLog(systemTime), {
    request: async () => {},
    answer: async () => {},
    push: () => 0,
  })
  const jobs = new Jobs({
    stream,
    time: systemTime,
    tier: 'small',
    replicas: 1,
    ackWaitMs: 1000,
    recordMaxAgeMs: 60_000,
    bytesMax: 1_000_000,
    clockSkewMsMax: 500,
  })
  const ids = Array.from({ length: 7 }, (_, n) => timedId(1_700_000_000_000 + n))
  for (const [n, id] of ids.entries())
    for (const tenant of [acme, parseTenantId('other')])
      await jobs.update(
        jobs.newRecord({ job_id: id, tenant, kind: 'embed', clock: `00000000000${n}-00000000-x` }),
        () => ({}),
      )
  const listings = new JobListings(jobs)
  const seen: string[] = []
  let cursor: string | undefined
  do {
    const page = await listings.page(acme, { limit: 3, ...(cursor === undefined ? {} : { cursor }) }, signal)
    expect(page.results.length).toBeLessThanOrEqual(3)
    seen.push(...page.results.map(({ job_id }) => job_id))
    cursor = page.cursor
  } while (cursor !== undefined)
  expect(seen.map(id => id.slice(0, 13))).toEqual(ids.map(id => id.slice(0, 13)).reverse())
  await expect(
    listings.page(
      parseTenantId('other'),
      { cursor: encodeCursor({ tenant: 'acme', listing: 'jobs', parameters: {} }, ['x']) },
      signal,
    ),
  ).rejects.toMatchObject({ code: 'INVALID_CURSOR' })
})
