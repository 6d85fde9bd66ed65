import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { PercolateError } from '../../src/base/errors.ts'
import { parseTenantId, type TenantId } from '../../src/base/ids.ts'
import { systemTime, type Time } from '../../src/base/time.ts'
import { formatClock } from '../../src/clock/hlc.ts'
import { Jobs } from '../../src/jobs/jobs.ts'
import { UPLOADS_IN_LINE_MAX } from '../../src/jobs/line.ts'
import { decodeJobMessage, encodeJobMessage, type JobRecord, messageOf } from '../../src/jobs/model.ts'
import type { Delivery } from '../../src/stream/port.ts'
import { subjects } from '../../src/stream/subjects.ts'
import { type Interposed, interposed } from '../support/interposed.ts'
import { connectNats, remove, startTestNats, tempFolder, testConfig } from '../support/running.ts'

/** What becomes of jobs when a request to the servers or its answer is lost between any two steps, and when versions of the gateway are mixed. */

let folder: string
let nats: Awaited<ReturnType<typeof startTestNats>>
let stream: ReturnType<typeof connectNats>
let jobs: Jobs
let tier = 0
const hooks: Interposed = {}
let aheadMs = 0
const time: Time = {
  now: () => systemTime.now() + aheadMs,
  monotonic: () => systemTime.monotonic(),
  random: bytes => systemTime.random(bytes),
  sleep: (...args) => systemTime.sleep(...args),
}

beforeAll(async () => {
  folder = await tempFolder()
  nats = await startTestNats(folder)
  stream = connectNats(nats.url)
})
afterEach(() => {
  delete hooks.before
  delete hooks.after
  aheadMs = 0
})
afterAll(async () => {
  await stream.close()
  await nats.stop()
  await remove(folder)
})

/** A tier and a tenant of its own for each test. */
async function begin(): Promise<TenantId> {
  tier++
  jobs = Jobs.of(testConfig(folder), { stream: interposed(stream, hooks), time, tier: `t${tier}` })
  await jobs.prepare()
  return parseTenantId(`tenant-${tier}`)
}

const URI = 'file:///document'
const lost = () => new PercolateError('STREAM_UNAVAILABLE', 'The answer was lost.')
/** Loses one answer, when it is the first that `is` is true of. */
function loseOnce(
  when: 'before' | 'after',
  is: (what: string, key: string) => boolean,
  meanwhile?: () => Promise<void>,
) {
  hooks[when] = async (what, key) => {
    if (!is(what, key)) return
    delete hooks[when]
    await meanwhile?.()
    throw lost()
  }
}
/** The message is stored, and whoever sent it does not hear so; what comes before the answer would have. */
const losePubAck = (meanwhile?: () => Promise<void>) => loseOnce('after', what => what === 'publish', meanwhile)
function upload(tenant: TenantId, job_id: string, on = jobs): Promise<void> {
  const clock = formatClock({ wall: time.now(), counter: 0, origin: `upload-${job_id}` })
  const file = { name: 'a.md', objectKey: 'none', bytes: 1, contentType: null, sha256: 'none' }
  return on.enqueue(on.newRecord({ job_id, tenant, kind: 'ingest', clock, file, uri: URI, replaces: true }))
}
const get = async (tenant: TenantId, id: string): Promise<JobRecord> => (await jobs.get(tenant, id))!
const change = async (tenant: TenantId, id: string, changed: (job: JobRecord) => Partial<JobRecord>) =>
  jobs.update(await get(tenant, id), changed)
const fail = (tenant: TenantId, id: string) => change(tenant, id, () => ({ status: 'failed' }))
/** As a worker that has looked. */
const workedOnBy =
  (sequence: number, rest: Partial<JobRecord> = {}) =>
  ({ clock }: JobRecord): Partial<JobRecord> => ({ message: { sequence, clock }, ...rest })
async function pull(): Promise<Delivery> {
  const [delivery] = await jobs.fetch(1, 3000, new AbortController().signal)
  return delivery!
}
const lookOf = (delivery: Delivery) => jobs.look(decodeJobMessage(delivery.data), delivery.sequence)
const ahead = async (tenant: TenantId, id: string) => (await jobs.look(await get(tenant, id))).ahead

describe('the message of a job', () => {
  it('counts when a gateway that does not know which one was noted has queued the job anew', async () => {
    const tenant = await begin()
    await upload(tenant, 'a')
    const first = await pull()
    await change(tenant, 'a', workedOnBy(first.sequence, { status: 'failed' }))
    await first.ack()
    const clock = formatClock({ wall: time.now(), counter: 0, origin: 'retry-a' })
    const retried = await change(tenant, 'a', () => ({ status: 'queued', clock, turn: { clock, after: [] } }))
    await stream.publish(subjects.jobs(retried.tier), encodeJobMessage(retried), 'retried')
    const second = await pull()
    expect(await lookOf(second)).toMatchObject({ isIts: true, ahead: 'nobody' })
    await second.ack()
  })

  it('counts when it reminds of a job whose record knows of an earlier one, or is gone', async () => {
    const tenant = await begin()
    await upload(tenant, 'a')
    await upload(tenant, 'b')
    const [first, second] = [await pull(), await pull()]
    await change(tenant, 'a', workedOnBy(first.sequence))
    await first.ack()
    aheadMs = 3_600_000
    let reminder: Delivery | undefined
    hooks.after = async what => {
      if (what !== 'publish') return
      reminder = await pull()
      expect(await lookOf(reminder)).toMatchObject({ isIts: true, ahead: 'nobody' })
    }
    await lookOf(second)
    delete hooks.after
    expect(decodeJobMessage(reminder!.data).message).toBe(undefined)
  })

  it('comes anew for each of a line in which all were lost', async () => {
    const tenant = await begin()
    for (const id of ['a', 'b', 'c']) await upload(tenant, id)
    const deliveries = [await pull(), await pull(), await pull()]
    for (const delivery of deliveries.slice(0, 2)) await delivery.ack()
    aheadMs = 3_600_000
    expect((await lookOf(deliveries[2]!)).ahead).toBe('several')
    const second = await pull()
    expect(decodeJobMessage(second.data).job_id).toBe('b')
    expect((await lookOf(second)).ahead).toBe('one')
    const first = await pull()
    expect(decodeJobMessage(first.data).job_id).toBe('a')
    expect((await lookOf(first)).ahead).toBe('nobody')
  })
})

describe('an upload of which an answer was lost', () => {
  it('is accepted once, as what a worker has made of it', async () => {
    const tenant = await begin()
    losePubAck(async () => {
      const delivery = await pull()
      await change(tenant, 'a', workedOnBy(delivery.sequence, { status: 'completed' }))
      await delivery.ack()
    })
    await upload(tenant, 'a')
    expect((await get(tenant, 'a')).status).toBe('completed')
    expect(await jobs.depth()).toBe(0)
  })

  it('gets a message when its first one was worked on before it was withdrawn', async () => {
    const tenant = await begin()
    losePubAck()
    await upload(tenant, 'a')
    const delivery = await pull()
    expect(await lookOf(delivery)).toMatchObject({ isIts: true, ahead: 'nobody', job: { status: 'queued' } })
  })

  it('leaves nothing when the line is full after all', async () => {
    const tenant = await begin()
    for (let n = 1; n < UPLOADS_IN_LINE_MAX; n++) await upload(tenant, `in-line-${n}`)
    const other = Jobs.of(testConfig(folder), { stream, time, tier: 'another' })
    hooks.before = async (what, key) => {
      if (what !== 'update' || !key.includes('.document.')) return
      delete hooks.before
      await upload(tenant, 'other', other)
    }
    await expect(upload(tenant, 'refused')).rejects.toMatchObject({ code: 'TOO_BUSY' })
    expect(await jobs.get(tenant, 'refused')).toBe(undefined)
  })

  it('finds room behind any number that were cancelled', async () => {
    const tenant = await begin()
    for (let n = 0; n < 5 * UPLOADS_IN_LINE_MAX; n++) {
      await upload(tenant, `cancelled-${n}`)
      await jobs.cancel(tenant, `cancelled-${n}`)
    }
    await upload(tenant, 'last')
    expect((await get(tenant, 'last')).status).toBe('queued')
  })
})

describe('an upload whose answers were lost for good', () => {
  it('is not worked on, and says so', async () => {
    const tenant = await begin()
    hooks.after = what => {
      if (what === 'publish') throw lost()
    }
    await expect(upload(tenant, 'a')).rejects.toMatchObject({ code: 'STREAM_UNAVAILABLE' })
    delete hooks.after
    const delivery = await pull()
    expect(await lookOf(delivery)).toMatchObject({
      job: { status: 'cancelled', error: { code: 'STREAM_UNAVAILABLE' } },
    })
  })

  it('is left to the worker that has it, though who sent it could not read that', async () => {
    const tenant = await begin()
    losePubAck(async () => {
      const delivery = await pull()
      await change(tenant, 'a', workedOnBy(delivery.sequence, { status: 'running', written: true }))
      loseOnce('before', (what, key) => what === 'update' && key === subjects.jobKey(tenant, 'a'))
    })
    await upload(tenant, 'a')
    expect(await get(tenant, 'a')).toMatchObject({ status: 'running', written: true })
  })
})

describe('a retry of which an answer was lost', () => {
  it('from its place in line: who comes behind it sees whom it came after', async () => {
    const tenant = await begin()
    await upload(tenant, 'a')
    await fail(tenant, 'a')
    await upload(tenant, 'x')
    loseOnce('after', (what, key) => what === 'update' && key.includes('.document.'))
    await expect(jobs.retry(tenant, 'a')).rejects.toMatchObject({ code: 'STREAM_UNAVAILABLE' })
    expect((await get(tenant, 'a')).status).toBe('failed')
    await upload(tenant, 'b')
    expect(await ahead(tenant, 'b')).toBe('one')
    await change(tenant, 'x', () => ({ status: 'completed' }))
    expect(await ahead(tenant, 'b')).toBe('nobody')
  })

  it('from its message, which a worker has: it goes on, in its place', async () => {
    const tenant = await begin()
    await upload(tenant, 'a')
    await fail(tenant, 'a')
    losePubAck(async () => {
      await change(tenant, 'a', workedOnBy(7, { status: 'running' }))
    })
    expect((await jobs.retry(tenant, 'a')).status).toBe('running')
    await upload(tenant, 'b')
    expect(await ahead(tenant, 'b')).toBe('one')
  })

  it('from all that follows: it is queued, and gets a message when it is retried later', async () => {
    const tenant = await begin()
    await upload(tenant, 'a')
    await (await pull()).ack()
    await fail(tenant, 'a')
    let isAway = false
    hooks.before = what => {
      isAway ||= what === 'publish'
      if (isAway) throw lost()
    }
    await expect(jobs.retry(tenant, 'a')).rejects.toMatchObject({ code: 'STREAM_UNAVAILABLE' })
    delete hooks.before
    await expect(jobs.retry(tenant, 'a')).rejects.toMatchObject({ code: 'JOB_STATE' })
    aheadMs = 3_600_000
    expect((await jobs.retry(tenant, 'a')).status).toBe('queued')
    expect(await lookOf(await pull())).toMatchObject({ isIts: true, ahead: 'nobody' })
  })

  it('from its beginning: it is what it was', async () => {
    const tenant = await begin()
    await upload(tenant, 'a')
    await fail(tenant, 'a')
    loseOnce('after', (what, key) => what === 'update' && key === subjects.jobKey(tenant, 'a'))
    await expect(jobs.retry(tenant, 'a')).rejects.toMatchObject({ code: 'STREAM_UNAVAILABLE' })
    expect((await get(tenant, 'a')).status).toBe('failed')
    expect((await jobs.retry(tenant, 'a')).status).toBe('queued')
  })

  it('from its setting back, too: it stays in line', async () => {
    const tenant = await begin()
    await upload(tenant, 'a')
    await fail(tenant, 'a')
    losePubAck(async () => {
      hooks.before = (what, key) => {
        if (what === 'update' && key === subjects.jobKey(tenant, 'a')) throw lost()
      }
    })
    await expect(jobs.retry(tenant, 'a')).rejects.toMatchObject({ code: 'STREAM_UNAVAILABLE' })
    delete hooks.before
    expect((await get(tenant, 'a')).status).toBe('queued')
    await upload(tenant, 'b')
    expect(await ahead(tenant, 'b')).toBe('one')
  })

  it('beside another retry: what that one has begun stays', async () => {
    const tenant = await begin()
    await upload(tenant, 'a')
    await fail(tenant, 'a')
    hooks.before = async (what, key) => {
      if (what !== 'update' || key !== subjects.jobKey(tenant, 'a')) return
      delete hooks.before
      await jobs.retry(tenant, 'a')
      await change(tenant, 'a', workedOnBy(2, { status: 'running', written: true }))
    }
    await expect(jobs.retry(tenant, 'a')).rejects.toMatchObject({ code: 'JOB_STATE' })
    const job = await get(tenant, 'a')
    expect([job.status, job.written, messageOf(job)]).toEqual(['running', true, 2])
  })
})

describe('a message that a worker gives back', () => {
  const take = async (): Promise<Delivery> => (await jobs.fetch(1, 2000, new AbortController().signal))[0]!
  const giveBack = async (delivery: Delivery, job: JobRecord) => {
    delivery.release(0)
    await jobs.sendAgainIfGone(delivery, job)
  }
  /** What the servers lose with their stores. */
  const loseStores = async () => {
    await stream.deleteStream(subjects.jobsStream(`t${tier}`))
    await stream.deleteStream(`KV_${subjects.jobsBucket}`)
  }
  /** As a worker does that has its job in hand still. */
  const noteQueued = async (tenant: TenantId, id: string, job: JobRecord) => {
    await jobs.ensure()
    const queued = await jobs.update(job, () => ({ status: 'queued', stage: 'waiting' }))
    expect((await get(tenant, id)).status).toBe('queued')
    return queued
  }

  it('comes again, and once', async () => {
    const tenant = await begin()
    await upload(tenant, 'one')
    await giveBack(await take(), await get(tenant, 'one'))
    const again = await take()
    expect([decodeJobMessage(again.data).job_id, again.deliveries, await jobs.depth()]).toEqual(['one', 2, 1])
  })

  it('comes as another one when its stream has gone, also of a job that is being taken back', async () => {
    for (const end of [{}, { status: 'cancelled', stage: 'retract' }] as const) {
      const tenant = await begin()
      await upload(tenant, 'one')
      const delivery = await take()
      const job = await get(tenant, 'one')
      await loseStores()
      const queued = await noteQueued(tenant, 'one', {
        ...job,
        message: { sequence: delivery.sequence, clock: job.clock },
      })
      const now = await jobs.update(queued, () => end)
      await giveBack(delivery, now)
      const again = await take()
      expect(decodeJobMessage(again.data).job_id).toBe('one')
      expect((await jobs.look(decodeJobMessage(again.data), again.sequence)).isIts).toBe(true)
    }
  })

  it('but not when another message has it by now', async () => {
    const tenant = await begin()
    await upload(tenant, 'one')
    const delivery = await take()
    const job = await get(tenant, 'one')
    await loseStores()
    const queued = await noteQueued(tenant, 'one', {
      ...job,
      message: { sequence: delivery.sequence, clock: job.clock },
    })
    const other = { sequence: delivery.sequence + 1, clock: job.clock }
    await jobs.update(queued, () => ({ status: 'running', message: other }))
    await giveBack(delivery, queued)
    expect([(await get(tenant, 'one')).message, await jobs.depth()]).toEqual([other, 0])
  })

  it('and of a job without a record does not come again: it is gone', async () => {
    const tenant = await begin()
    await upload(tenant, 'one')
    const delivery = await take()
    const job = await get(tenant, 'one')
    await loseStores()
    await giveBack(delivery, job)
    expect(await jobs.get(tenant, 'one')).toBeUndefined()
    expect(await jobs.depth()).toBe(0)
  })
})
