import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { PercolateClient } from '../../client/client.ts'
import { parseTenantId, type TenantId } from '../../src/base/ids.ts'
import { systemTime } from '../../src/base/time.ts'
import { formatClock } from '../../src/clock/hlc.ts'
import { HashingEmbedder } from '../../src/embedding/hashing.ts'
import type { Embedder } from '../../src/embedding/port.ts'
import { type JobSettings, Jobs } from '../../src/jobs/jobs.ts'
import { UPLOADS_IN_LINE_MAX } from '../../src/jobs/line.ts'
import { encodeJobMessage, messageOf } from '../../src/jobs/model.ts'
import { planFloor } from '../../src/rem/floor.ts'
import { openRocksKv } from '../../src/storage/rocksdb.ts'
import type { Delivery, StreamPort } from '../../src/stream/port.ts'
import { subjects } from '../../src/stream/subjects.ts'
import { DataDir } from '../../src/tenant/data-dir.ts'
import { Tenant } from '../../src/tenant/tenant.ts'
import { ParserPool } from '../../workers/parse/pool.ts'
import { JobRunner } from '../../workers/runner.ts'
import { Ingestion } from '../support/ingestion.ts'
import { interposed } from '../support/interposed.ts'
import { eventually, logger, remove, request, startTestNode } from '../support/running.ts'

/** What a job that is cancelled, or cannot be done, had written goes; what others wrote meanwhile stays. */

const ACK_WAIT_MS = 3000
let parts: Ingestion
let stream: Ingestion['stream']
let node: Ingestion['node']
let jobs: Ingestion['jobs']
let parsers: ParserPool
let url: string
const runners: JobRunner[] = []

/** The built-in embedder, which waits at its nth batch until it is let go or stopped. */
class HeldEmbedder implements Embedder {
  readonly #embedder = new HashingEmbedder()
  readonly #from: number
  #batches = 0
  readonly #go = new AbortController()
  readonly model = this.#embedder.model
  readonly dimensions = this.#embedder.dimensions
  readonly noiseFloor = this.#embedder.noiseFloor
  readonly fusionWeight = this.#embedder.fusionWeight
  isReached = false

  constructor(from: number) {
    this.#from = from
  }

  letGo(): void {
    this.#go.abort()
  }

  async embed(...[texts, { signal }]: Parameters<Embedder['embed']>): Promise<Float32Array[]> {
    if (++this.#batches >= this.#from && !this.#go.signal.aborted) {
      this.isReached = true
      const ends = AbortSignal.any([this.#go.signal, ...(signal ? [signal] : [])])
      await systemTime.sleep(60_000, { signal: ends }).catch(() => {})
      signal?.throwIfAborted()
    }
    return this.#embedder.embed(texts)
  }
}

beforeAll(async () => {
  parts = await Ingestion.start({ env: { PERCOLATE_JOB_ACK_WAIT_MS: String(ACK_WAIT_MS) }, isNodeAlone: true })
  ;({ stream, node, jobs } = parts)
  url = await parts.startGateway()
  const { config } = parts
  parsers = new ParserPool({
    time: systemTime,
    warm: 0,
    memoryBytes: config.parseMemoryBytes,
    parseBytesMax: config.parseBytesMax,
    chunkChars: config.chunkChars,
  })
  parts.also(() => parsers.stop())
})
afterEach(async () => {
  await Promise.all(runners.splice(0).map(runner => runner.stop()))
})
afterAll(() => parts.stop())

function startRunner(embedder: Embedder, nodeUrl = node.url): JobRunner {
  const { config, objects } = parts
  const runner = new JobRunner({
    jobs,
    objects,
    time: systemTime,
    logger,
    nodeUrl,
    embedder,
    attemptsMax: 3,
    concurrency: 1,
    perTenantMax: 1,
    ackWaitMs: ACK_WAIT_MS,
    drainMs: 100,
    parsers,
    parseLimits: {
      bytesMax: config.parseBytesMax,
      timeoutMs: config.parseTimeoutMs,
      timeoutBaseMs: config.parseTimeoutBaseMs,
      timeoutPerMibMs: config.parseTimeoutPerMibMs,
    },
  })
  runner.start()
  runners.push(runner)
  return runner
}

/** About 170 chunks: three batches. */
const LINES = Array.from(
  { length: 500 },
  (_, n) => `# Part ${n}\n\nLine ${n} of the document says ${'word '.repeat(20)}`,
)
const DOCUMENT = LINES.join('\n\n')

async function upload(tenant: TenantId, uri: string, content = DOCUMENT): Promise<string> {
  return (await parts.upload('long.md', content, { uri }, tenant)).body.job_id
}
const job = async (tenant: TenantId, id: string) => (await request(`${url}/jobs/${id}`, 'GET', { tenant })).body
const chunks = async (tenant: TenantId, uri: string) =>
  (await new PercolateClient({ url: node.url, tenant }).listResources({ uri, limit: 500 })).results
const cancel = (tenant: TenantId, id: string) => request(`${url}/jobs/${id}`, 'DELETE', { tenant })
const entities = async (tenant: TenantId) =>
  (await node.request('GET', '/api/v1/entities?type=document', { tenant })).body.results as { id: string }[]

describe('a job that is cancelled while it writes', () => {
  it('takes back its own, all of it, and nothing that others have written since', async () => {
    const tenant = parseTenantId('shared')
    const embedder = new HeldEmbedder(2)
    startRunner(embedder)
    const id = await upload(tenant, 'file:///long.md')
    await eventually(
      'it has written',
      async () => embedder.isReached && (await chunks(tenant, 'file:///long.md')).length > 50,
    )
    const written = await chunks(tenant, 'file:///long.md')
    const mine = written
      .slice(0, 40)
      .map(({ uri, ordinal, content }) => ({ uri: uri!, ordinal, content, category: 'mine' }))
    const { status, body } = await node.request('POST', '/api/v1/resources', { tenant, body: { resources: mine } })
    expect(status).toBe(201)
    expect((await cancel(tenant, id)).body).toMatchObject({ status: 'cancelled', stage: 'retract' })
    const { body: ended } = await request(`${url}/jobs/${id}?wait=30s`, 'GET', { tenant })
    expect(ended).toMatchObject({ status: 'cancelled', stage: 'retracted' })
    const left = await chunks(tenant, 'file:///long.md')
    expect(left.map(chunk => chunk.id).sort()).toEqual([...body.ids].sort())
    expect(left.every(({ category, metadata }) => category === 'mine' && metadata.job_id === undefined)).toBe(true)
    expect(await entities(tenant)).toEqual([])
    // It can be done over, and all of it comes.
    embedder.letGo()
    expect((await request(`${url}/jobs/${id}/retry`, 'POST', { tenant })).status).toBe(202)
    await eventually('it is in', async () => (await job(tenant, id)).status === 'completed')
    expect((await chunks(tenant, 'file:///long.md')).length).toBeGreaterThan(written.length)
  })

  it('leaves what was there before, also when it has begun twice', async () => {
    const tenant = parseTenantId('before')
    const first = new HeldEmbedder(Number.POSITIVE_INFINITY)
    const one = startRunner(first)
    const done = await upload(tenant, 'file:///same.md')
    await eventually('it is in', async () => (await job(tenant, done)).status === 'completed')
    const before = (await chunks(tenant, 'file:///same.md')).map(chunk => chunk.id).sort()
    await one.stop()
    const held = new HeldEmbedder(2)
    const two = startRunner(held)
    const id = await upload(tenant, 'file:///same.md')
    await eventually('it has begun', async () => held.isReached)
    await two.stop()
    const again = new HeldEmbedder(3)
    startRunner(again)
    await eventually('it has begun anew', async () => again.isReached)
    await cancel(tenant, id)
    await eventually('it is taken back', async () => (await job(tenant, id)).stage === 'retracted')
    expect((await chunks(tenant, 'file:///same.md')).map(chunk => chunk.id).sort()).toEqual(before)
    expect((await entities(tenant)).length).toBe(1)
  })

  it('is taken back by another worker when its own is gone, and when it waited for a service', async () => {
    const tenant = parseTenantId('orphan')
    const held = new HeldEmbedder(2)
    const one = startRunner(held)
    const id = await upload(tenant, 'file:///orphan.md')
    await eventually('it has begun', async () => held.isReached)
    // It is given back, and nobody runs it when it is cancelled.
    await one.stop()
    expect((await chunks(tenant, 'file:///orphan.md')).length).toBeGreaterThan(50)
    expect((await cancel(tenant, id)).body).toMatchObject({ status: 'cancelled', stage: 'retract' })
    expect((await request(`${url}/jobs/${id}/retry`, 'POST', { tenant })).body.code).toBe('JOB_STATE')
    startRunner(new HashingEmbedder())
    await eventually('it is taken back', async () => (await job(tenant, id)).stage === 'retracted')
    expect(await chunks(tenant, 'file:///orphan.md')).toEqual([])
  })
})

describe('what stood before a job under clocks that its look did not show', () => {
  it('stays when the job is cancelled, which ends all the same', async () => {
    const tenant = parseTenantId('unseen')
    const uri = 'file:///unseen.md'
    startRunner(new HeldEmbedder(2))
    const id = await upload(tenant, uri)
    const written = await eventually('it has written', async () => {
      const found = await chunks(tenant, uri)
      return found.length > 50 ? found : undefined
    })
    // Acknowledged by another holder before the upload, and arrived here after the job had looked.
    const client = new PercolateClient({ url: node.url, tenant })
    const wallMs = Number.parseInt((await jobs.get(tenant, id))!.clock.slice(0, 12), 16) - 1000
    const { ordinal, content } = written[0]!
    await client.putResources([{ uri, ordinal, content, category: 'mine' }], {
      asOf: `${wallMs.toString(16).padStart(12, '0')}-00000000-other`,
    })
    await cancel(tenant, id)
    await eventually('it is taken back', async () => (await job(tenant, id)).stage === 'retracted')
    expect((await chunks(tenant, uri)).map(({ category }) => category)).toEqual(['mine'])
  })
})

describe('a job that stood when it was done over', () => {
  it('is taken back with what it had written before', async () => {
    const tenant = parseTenantId('over')
    const held = new HeldEmbedder(2)
    const one = startRunner(held)
    const id = await upload(tenant, 'file:///over.md')
    await eventually('it has begun', async () => held.isReached)
    await one.stop()
    expect((await chunks(tenant, 'file:///over.md')).length).toBeGreaterThan(50)
    const clock = `${Date.now().toString(16).padStart(12, '0')}-00000000-retry`
    await jobs.update((await jobs.get(tenant, id))!, () => ({ clock }))
    await cancel(tenant, id)
    startRunner(new HashingEmbedder())
    await eventually('it is taken back', async () => (await job(tenant, id)).stage === 'retracted')
    expect(await chunks(tenant, 'file:///over.md')).toEqual([])
  })
})

describe('uploads of one document', () => {
  const ended = (tenant: TenantId, id: string, status: string) =>
    eventually(`it is ${status}`, async () => {
      const { status: now, stage } = await job(tenant, id)
      return now === status && stage !== 'retract'
    })
  /** For as long as another would have begun to write if it did not wait. */
  const aWhile = () => systemTime.sleep(1500)
  /** Takes the first message of the queue, as a worker does that then ends. */
  const take = async (): Promise<Delivery> => {
    const [delivery] = await jobs.fetch(1, 3000, new AbortController().signal)
    return delivery!
  }

  it('the second, cancelled while it writes, takes nothing away from the first, which is in', async () => {
    const tenant = parseTenantId('twice')
    const first = new HeldEmbedder(1)
    startRunner(first)
    const a = await upload(tenant, 'file:///twice.md')
    await eventually('the first has begun', async () => first.isReached)
    const second = new HeldEmbedder(2)
    startRunner(second)
    const b = await upload(tenant, 'file:///twice.md')
    await aWhile()
    first.letGo()
    await ended(tenant, a, 'completed')
    await eventually('the second has begun to write', async () => first.isReached && second.isReached)
    await cancel(tenant, b)
    await ended(tenant, b, 'cancelled')
    expect((await chunks(tenant, 'file:///twice.md')).length).toBe((await job(tenant, a)).total)
    expect((await entities(tenant)).length).toBe(1)
  })

  it('the second waits for the first also when the queue has it first, and stays the one that is in; it costs no attempt', async () => {
    const tenant = parseTenantId('versions')
    const a = await upload(tenant, 'file:///v.md', '# Old\n\nThe first version of the document.')
    const b = await upload(tenant, 'file:///v.md', '# New\n\nThe second version of the document.')
    ;(await take()).release(1500)
    startRunner(new HashingEmbedder())
    await ended(tenant, b, 'completed')
    await ended(tenant, a, 'completed')
    expect((await chunks(tenant, 'file:///v.md')).map(({ content }) => content)).toEqual([
      expect.stringContaining('The second version'),
    ])
    expect((await job(tenant, b)).attempts).toBe(1)
  })

  it('one that was cancelled in line, or whose record is gone, lets those behind it see who is further ahead; one whose record is gone holds up nobody', async () => {
    const tenant = parseTenantId('line')
    const first = new HeldEmbedder(2)
    startRunner(first)
    const a = await upload(tenant, 'file:///line.md')
    await eventually('the first has begun', async () => first.isReached)
    const b = await upload(tenant, 'file:///line.md')
    const c = await upload(tenant, 'file:///line.md')
    startRunner(new HashingEmbedder())
    await cancel(tenant, b)
    await aWhile()
    expect(await job(tenant, c)).toMatchObject({ status: 'queued', attempts: 0 })
    // Retried, it comes behind the third.
    expect((await request(`${url}/jobs/${b}/retry`, 'POST', { tenant })).status).toBe(202)
    const records = await stream.bucket(subjects.jobsBucket, { maxAgeMs: parts.config.jobRecordMaxAgeMs, replicas: 1 })
    const [one, two, three] = await Promise.all([a, b, c].map(async id => (await jobs.get(tenant, id))!.clock))
    expect([one! < three!, three! < two!]).toEqual([true, true])
    await records.delete(subjects.jobKey(tenant, a))
    await ended(tenant, c, 'completed')
    await ended(tenant, b, 'completed')
  })

  it('one that never got its message gets one when another waits for it', async () => {
    const tenant = parseTenantId('lost')
    const a = await upload(tenant, 'file:///lost.md', 'The first.')
    await (await take()).ack()
    const records = await stream.bucket(subjects.jobsBucket, { maxAgeMs: parts.config.jobRecordMaxAgeMs, replicas: 1 })
    const long = { ...(await jobs.get(tenant, a))!, updated_at: new Date(Date.now() - 3_600_000).toISOString() }
    await records.put(subjects.jobKey(tenant, a), Buffer.from(JSON.stringify(long)))
    const b = await upload(tenant, 'file:///lost.md', 'The second.')
    startRunner(new HashingEmbedder())
    await ended(tenant, b, 'completed')
    expect((await job(tenant, a)).status).toBe('completed')
    expect((await chunks(tenant, 'file:///lost.md')).map(({ content }) => content)).toEqual(['The second.'])
  })

  it('one whose message the queue has no room for leaves the line as it was, also when others come behind it meanwhile', async () => {
    const tenant = parseTenantId('full')
    const [free, full] = ['elsewhere', 'full'].map(tier =>
      Jobs.of(
        { ...parts.config, ...(tier === 'full' ? { jobBytesMax: 400 } : {}) },
        { stream, time: systemTime, tier },
      ),
    )
    const enqueue = (on: Jobs, job_id: string) => {
      const clock = formatClock({ wall: Date.now(), counter: 0, origin: job_id })
      const file = { name: 'a.md', objectKey: 'none', bytes: 1, contentType: null, sha256: 'none' }
      return on.enqueue(on.newRecord({ job_id, tenant, kind: 'ingest', clock, file, uri: 'file:///full' }))
    }
    await free!.prepare()
    await enqueue(free!, 'first')
    await expect(enqueue(full!, 'refused')).rejects.toMatchObject({ code: 'STREAM_FULL' })
    expect(await jobs.get(tenant, 'refused')).toBeUndefined()
    await enqueue(free!, 'second')
    const first = (await jobs.get(tenant, 'first'))!
    expect((await jobs.get(tenant, 'second'))!.turn!.after).toEqual([{ job_id: 'first', clock: first.clock }])
    const outcomes = await Promise.all(
      Array.from({ length: 20 }, (_, n) =>
        Promise.all([
          enqueue(full!, `refused-${n}`).catch(error => error.code),
          enqueue(free!, `more-${n}`).then(() => 'queued'),
        ]),
      ),
    )
    expect(new Set(outcomes.flat())).toEqual(new Set(['STREAM_FULL', 'queued']))
    const left = (await jobs.list(tenant)).jobs.sort((a, b) => (a.clock < b.clock ? -1 : 1))
    expect(left.filter(({ status }) => status === 'queued').length).toBe(22)
    // The last is done first: it finds, through those that were refused, that others are ahead; and so does each.
    for (const { job_id, status } of left.reverse()) {
      if (status !== 'queued') continue
      const { ahead } = await jobs.look((await jobs.get(tenant, job_id))!)
      const expected = (id: string) => (id === 'first' ? 'nobody' : id === 'second' ? 'one' : 'several')
      expect([job_id, ahead]).toEqual([job_id, expected(job_id)])
    }
  })

  it('one that was cancelled and retried in line, or has several messages, is worked on once', async () => {
    const tenant = parseTenantId('messages')
    const uri = 'file:///messages.md'
    const first = new HeldEmbedder(1)
    startRunner(first)
    const a = await upload(tenant, uri)
    await eventually('the first has begun', async () => first.isReached)
    const others = [1, 2, 3].map(() => startRunner(new HashingEmbedder()))
    const b = await upload(tenant, uri)
    for (let n = 0; n < 4; n++) {
      await eventually('it was looked at', async () => messageOf((await jobs.get(tenant, b))!) !== undefined)
      await cancel(tenant, b)
      expect((await request(`${url}/jobs/${b}/retry`, 'POST', { tenant })).status).toBe(202)
    }
    const record = (await jobs.get(tenant, b))!
    for (let n = 0; n < 5; n++) await stream.publish(subjects.jobs(record.tier), encodeJobMessage(record), `more-${n}`)
    await aWhile()
    first.letGo()
    await ended(tenant, a, 'completed')
    await ended(tenant, b, 'completed')
    expect((await job(tenant, b)).attempts).toBe(1)
    await eventually('no message is left', async () => (await jobs.depth()) === 0)
    expect((await job(tenant, b)).attempts).toBe(1)
    expect((await chunks(tenant, uri)).length).toBe((await job(tenant, b)).total)
    await Promise.all(others.map(runner => runner.stop()))
  })

  it('one that has ended takes the messages that come behind with it', async () => {
    const tenant = parseTenantId('behind')
    const id = await upload(tenant, 'file:///behind.md', 'A short one.')
    await cancel(tenant, id)
    expect((await request(`${url}/jobs/${id}/retry`, 'POST', { tenant })).status).toBe(202)
    startRunner(new HashingEmbedder())
    await ended(tenant, id, 'completed')
    await eventually('no message is left', async () => (await jobs.depth()) === 0)
    expect(await job(tenant, id)).toMatchObject({ status: 'completed', attempts: 1 })
  })

  it('one whose gateway gave it no place does not replace a later one that has; retried, it does', async () => {
    const tenant = parseTenantId('roll')
    const uri = 'file:///roll.md'
    const older = await upload(tenant, uri, 'The older version.')
    const { turn: _turn, ...unplaced } = (await jobs.get(tenant, older))!
    const records = await stream.bucket(subjects.jobsBucket, { maxAgeMs: parts.config.jobRecordMaxAgeMs, replicas: 1 })
    await records.put(subjects.jobKey(tenant, older), Buffer.from(JSON.stringify(unplaced)))
    const newer = await upload(tenant, uri, 'The newer version.')
    startRunner(new HashingEmbedder())
    await ended(tenant, newer, 'completed')
    await ended(tenant, older, 'failed')
    expect((await job(tenant, older)).error).toMatchObject({ code: 'CONFLICT' })
    expect((await chunks(tenant, uri)).map(({ content }) => content)).toEqual(['The newer version.'])
    expect((await request(`${url}/jobs/${older}/retry`, 'POST', { tenant })).status).toBe(202)
    await ended(tenant, older, 'completed')
    expect((await chunks(tenant, uri)).map(({ content }) => content)).toEqual(['The older version.'])
  })

  /** Puts uploads in line, of which no worker here knows. */
  const enqueue = (on: Jobs, tenant: TenantId, job_id: string, uri: string) => {
    const clock = formatClock({ wall: Date.now(), counter: 0, origin: job_id })
    const file = { name: 'a.md', objectKey: 'none', bytes: 1, contentType: null, sha256: 'none' }
    return on.enqueue(on.newRecord({ job_id, tenant, kind: 'ingest', clock, file, uri }))
  }
  const elsewhere = (over: Partial<JobSettings> = {}, on: StreamPort = stream, tier = 'elsewhere') =>
    Jobs.of({ ...parts.config, ...over }, { stream: on, time: systemTime, tier })

  it('are a hundred at most; one that has ended makes room', async () => {
    const tenant = parseTenantId('hundred')
    const on = elsewhere()
    await on.prepare()
    for (let n = 0; n < UPLOADS_IN_LINE_MAX; n++) await enqueue(on, tenant, `in-line-${n}`, 'file:///hundred')
    const refused = { code: 'TOO_BUSY', field: 'uri' }
    await expect(enqueue(on, tenant, 'one-more', 'file:///hundred')).rejects.toMatchObject(refused)
    expect(await on.get(tenant, 'one-more')).toBeUndefined()
    await enqueue(on, tenant, 'another-document', 'file:///another')
    await on.cancel(tenant, 'in-line-7')
    await enqueue(on, tenant, 'one-more', 'file:///hundred')
    // Nor has a retry room, and it is what it was.
    await expect(on.retry(tenant, 'in-line-7')).rejects.toMatchObject(refused)
    expect(await on.get(tenant, 'in-line-7')).toMatchObject({ status: 'cancelled' })
  })

  it('one whose retry the queue has no room for is what it was, and so is the line', async () => {
    const tenant = parseTenantId('no-retry')
    const [free, full] = [elsewhere(), elsewhere({ jobBytesMax: 400 }, stream, 'full')]
    await Promise.all([free.prepare(), full.prepare()])
    await enqueue(free, tenant, 'tried', 'file:///no-retry')
    await enqueue(free, tenant, 'behind', 'file:///no-retry')
    const error = { code: 'DOCUMENT_DAMAGED', detail: 'It is cut short.' }
    const before = await free.update((await free.get(tenant, 'tried'))!, () => ({
      status: 'failed',
      tier: 'full',
      attempts: 2,
      error,
    }))
    await expect(full.retry(tenant, 'tried')).rejects.toMatchObject({ code: 'STREAM_FULL' })
    // Whom it would have come after stays noted, for those who may have come behind it.
    const { updated_at: _then, turn: _before, ...was } = before
    const { updated_at: _now, turn: _after, ...is } = (await free.get(tenant, 'tried'))!
    expect(is).toEqual(was)
    await enqueue(free, tenant, 'last', 'file:///no-retry')
    expect((await free.get(tenant, 'last'))!.turn!.after.map(({ job_id }) => job_id)).toEqual(['behind'])
  })

  it('who comes behind one sees whom that comes after, wherever its gateway ends', async () => {
    const tenant = parseTenantId('halfway')
    const seen: string[][] = []
    const watched = interposed(stream, {
      before: async (what, key, value) => {
        if (what !== 'update' || !key.includes('.document.')) return
        const { job_id } = JSON.parse(value.toString())
        seen.push((await jobs.get(tenant, job_id))!.turn!.after.map(other => other.job_id))
      },
    })
    const on = elsewhere({}, watched)
    for (const id of ['one', 'two', 'three']) await enqueue(on, tenant, id, 'file:///halfway')
    await on.cancel(tenant, 'one')
    await on.retry(tenant, 'one')
    expect(seen).toEqual([[], ['one'], ['two'], ['three']])
    expect((await jobs.look((await jobs.get(tenant, 'one'))!)).ahead).toBe('several')
  })

  it('many at once, from several gateways whose clocks differ, all get a place of their own', async () => {
    const tenant = parseTenantId('many')
    const gateways = [0, 8000].map(offset =>
      Jobs.of(parts.config, {
        stream,
        time: { ...systemTime, now: () => Date.now() - offset, sleep: systemTime.sleep.bind(systemTime) },
        tier: 'elsewhere',
      }),
    )
    const ids = Array.from({ length: 60 }, (_, n) => `many-${n}`)
    await Promise.all(
      ids.map((job_id, n) => {
        const clock = formatClock({ wall: Date.now() - (n % 2) * 8000, counter: 0, origin: job_id })
        const file = { name: 'a.md', objectKey: 'none', bytes: 1, contentType: null, sha256: 'none' }
        const gateway = gateways[n % 2]!
        return gateway.enqueue(gateway.newRecord({ job_id, tenant, kind: 'ingest', clock, file, uri: 'file:///many' }))
      }),
    )
    const all = (await jobs.list(tenant)).jobs.sort((a, b) => (a.clock < b.clock ? -1 : 1))
    expect(all.map(({ turn }) => turn!.after.map(({ clock }) => clock))).toEqual(
      all.map((_, n) => (n === 0 ? [] : [all[n - 1]!.clock])),
    )
    expect(all.length).toBe(60)
  })
})

describe('a job that was started too often', () => {
  it('is taken back before it is called dead', async () => {
    const tenant = parseTenantId('poison')
    const held = new HeldEmbedder(2)
    const one = startRunner(held)
    const id = await upload(tenant, 'file:///poison.md')
    await eventually('it has begun', async () => held.isReached)
    await one.stop()
    const record = (await jobs.get(tenant, id))!
    await jobs.update(record, () => ({ attempts: 3 }))
    startRunner(new HashingEmbedder())
    await eventually('it is dead', async () => (await job(tenant, id)).status === 'dead')
    expect(await chunks(tenant, 'file:///poison.md')).toEqual([])
  })
})

describe('a job whose deletes would be forgotten', () => {
  /** As if `tenant` had been written long ago: whatever there is lies below the floor. */
  async function forgetDeletes(path: string, tenant: TenantId): Promise<void> {
    const dataDir = await DataDir.open(path, undefined)
    const kv = await openRocksKv(dataDir.tenantPath(tenant), {
      createIfMissing: false,
      writeBufferBytes: 1e6,
      blockCacheBytes: 1e6,
    })
    const opened = await Tenant.open(tenant, kv, {
      time: systemTime,
      origin: dataDir.origin,
      outboxEnabled: false,
      outboxBytesMax: 1e6,
      recordCacheBytes: 1e6,
      onCommit: () => {},
    })
    await opened.write(({ clock }) => ({ ops: [planFloor({ clock, vector: new Map() })], result: undefined }))
    await opened.close()
    await dataDir.close()
  }

  it('ends all the same, says what is left of it, and can be done over', async () => {
    const tenant = parseTenantId('aged')
    const first = await startTestNode()
    const begin = async (uri: string) => {
      const held = new HeldEmbedder(2)
      const runner = startRunner(held, first.url)
      const id = await upload(tenant, uri)
      await eventually('it has begun', async () => held.isReached)
      return { runner, id }
    }
    const cancelled = await begin('file:///aged.md')
    const dead = await begin('file:///poison.md')
    await Promise.all([cancelled.runner.stop(), dead.runner.stop()])
    expect((await cancel(tenant, cancelled.id)).body).toMatchObject({ status: 'cancelled', stage: 'retract' })
    await jobs.update((await jobs.get(tenant, dead.id))!, () => ({ attempts: 3 }))
    await first.stop()
    await forgetDeletes(first.folder, tenant)
    const again = await startTestNode({ folder: first.folder })
    try {
      const standing = async (uri: string) =>
        (await new PercolateClient({ url: again.url, tenant }).listResources({ uri, limit: 500 })).results.length
      const left = [await standing('file:///aged.md'), await standing('file:///poison.md')]
      startRunner(new HashingEmbedder(), again.url)
      const one = await eventually('the cancelled job ends', async () => {
        const { stage, ...rest } = await job(tenant, cancelled.id)
        return stage === 'retract' ? undefined : { stage, ...rest }
      })
      expect(one).toMatchObject({ status: 'cancelled', stage: 'retained', error: { code: 'CLOCK_SETTLED' } })
      expect(one.error.detail).toMatch(
        new RegExp(`^${left[0]} resources .*file:///aged.md.*still there.*retry the job`, 'i'),
      )
      const two = await eventually('the poisonous job ends', async () => {
        const ended = await job(tenant, dead.id)
        return ended.status === 'dead' ? ended : undefined
      })
      expect(two.error.detail).toMatch(
        new RegExp(`Started 3 times.* ${left[1]} resources .*file:///poison.md.*still there`),
      )
      expect((await request(`${url}/jobs/${cancelled.id}/retry`, 'POST', { tenant })).status).toBe(202)
      await eventually('it is in', async () => (await job(tenant, cancelled.id)).status === 'completed')
      expect(await standing('file:///aged.md')).toBeGreaterThan(left[0]!)
      expect((await job(tenant, cancelled.id)).error).toBeUndefined()
    } finally {
      await Promise.all(runners.splice(0).map(runner => runner.stop()))
      await again.stop()
      await remove(again.folder)
    }
  })
})

describe('a retraction', () => {
  it('needs a clock, spares what is later, and undoes a write of that clock that arrives after it', async () => {
    const tenant = parseTenantId('clocks')
    const client = new PercolateClient({ url: node.url, tenant })
    const asOf = `${(Date.now() - 1000).toString(16).padStart(12, '0')}-00000000-job`
    const [kept, gone] = (await client.putResources([{ content: 'kept' }, { content: 'gone' }], { asOf })).ids
    await client.putResources([{ content: 'kept', category: 'later' }])
    const none = await node.request('POST', '/api/v1/retractions', { tenant, body: { resources: [kept] } })
    expect([none.status, none.body.field]).toEqual([400, 'X-Percolate-As-Of'])
    await client.putResources([{ content: 'other' }])
    const late = { id: 'late', time: '2026-01-01T00:00:00Z' }
    await client.retract({ resources: [kept!, gone!], moments: ['late'] }, { asOf })
    await client.putMoments([late], { asOf })
    expect((await client.listResources()).results.map(({ content }) => content).sort()).toEqual(['kept', 'other'])
    expect((await client.getResource(kept!)).category).toBe('later')
    expect((await client.listMoments()).results).toEqual([])
    const headers = { 'X-Percolate-As-Of': asOf }
    await client.retract({ entities: ['lost'] }, { asOf })
    expect((await node.request('PUT', '/api/v1/entities/lost', { tenant, headers, body: { type: 'x' } })).status).toBe(
      404,
    )
    const posted = { resources: [{ content: 'gone' }] }
    expect(await node.request('POST', '/api/v1/resources', { tenant, headers, body: posted })).toMatchObject({
      status: 201,
      body: { ids: [gone] },
    })
    expect((await node.request('GET', `/api/v1/resources/${gone}`, { tenant })).status).toBe(404)
    await client.putMoments([late])
    expect((await client.listMoments()).results.length).toBe(1)
  })
})
