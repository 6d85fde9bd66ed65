import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { Metrics } from '../../src/base/metrics.ts'
import { systemTime } from '../../src/base/time.ts'
import { chooseEmbedder } from '../../src/embedding/choose.ts'
import { Jobs } from '../../src/jobs/jobs.ts'
import { NatsStream } from '../../src/stream/nats/adapter.ts'
import type { Delivery, StreamPort } from '../../src/stream/port.ts'
import { subjects } from '../../src/stream/subjects.ts'
import { ParserPool } from '../../workers/parse/pool.ts'
import { JobRunner } from '../../workers/runner.ts'
import { type LosableNats, startLosableNats } from '../support/losable-nats.ts'
import { type Fate, LossyLine } from '../support/lossy-line.ts'
import { connectS3, eventually, logger, remove, tempFolder, testConfig, within } from '../support/running.ts'

/** Short: what is delivered to nobody comes again after it. */
const ACK_WAIT_MS = 1000
/** What is not answered within this is taken for lost. */
const REQUEST_TIMEOUT_MS = 1000
const NEXT = 'CONSUMER.MSG.NEXT'
let folder: string
let nats: LosableNats
let line: LossyLine
let direct: NatsStream
let stream: NatsStream
let round = 0
let names = { stream: '', consumer: 'workers', subject: '' }

beforeAll(async () => {
  folder = await tempFolder()
  nats = await startLosableNats(folder)
  const { port } = new URL(nats.url)
  line = await new LossyLine(Number(port)).start()
  direct = connect(nats.url)
  stream = connect(`nats://127.0.0.1:${line.port}`)
})
afterAll(async () => {
  await stream?.close()
  await direct?.close()
  await line?.stop()
  await nats?.stop()
  await remove(folder)
})
beforeEach(async () => {
  line.fate = () => 'carried'
  const name = `pulls-${round++}`
  names = { stream: name, consumer: 'workers', subject: name }
  await queueOf(direct)
})

const connect = (url: string) => new NatsStream({ url, name: 'test', requestTimeoutMs: REQUEST_TIMEOUT_MS, logger })

async function queueOf(port: StreamPort): Promise<void> {
  await port.ensureStream({
    name: names.stream,
    subjects: [names.subject],
    retention: 'work-queue',
    maxAgeMs: 0,
    replicas: 1,
  })
  await port.ensureConsumer({
    stream: names.stream,
    name: names.consumer,
    subject: names.subject,
    ackWaitMs: ACK_WAIT_MS,
    ackPendingMax: 100,
  })
}

async function put(texts: readonly string[]): Promise<void> {
  for (const text of texts) await direct.publish(names.subject, Buffer.from(text), `${names.stream}-${text}`)
}

const fetch = (signal?: AbortSignal): Promise<Delivery[]> =>
  stream.fetch(names.stream, names.consumer, { max: 9, waitMs: 1000, ...(signal ? { signal } : {}) })

/** Fetches, whatever goes wrong now and then, until each was acknowledged. */
async function drain(texts: readonly string[]): Promise<void> {
  const missing = new Set(texts)
  await eventually(`all were delivered (${[...missing].join(' ')} is missing)`, async () => {
    for (const delivery of await fetch().catch(() => [])) {
      await delivery.ack().then(
        () => missing.delete(delivery.data.toString()),
        () => {},
      )
    }
    return missing.size === 0
  })
}

/** From now on: of the requests for messages, the nth has this fate, and the others are carried. */
function loseRequest(nth: number, fate: Fate): void {
  let count = 0
  line.fate = (direction, text) => (direction === 'out' && text.includes(NEXT) && ++count === nth ? fate : 'carried')
}

describe.each(['lost', 'cut'] as const)('a request for messages that is %s', fate => {
  const texts = ['a', 'b', 'c']

  it('is the first: it is said that nobody answered, and later requests have them all', async () => {
    await put(texts)
    loseRequest(1, fate)
    await expect(fetch()).rejects.toMatchObject({ code: 'STREAM_UNAVAILABLE' })
    await drain(texts)
  })

  it('is the one for those behind the first: what came is had, and later requests have the others', async () => {
    await put(texts)
    loseRequest(2, fate)
    const came = await fetch()
    expect(came.map(({ data }) => data.toString())).toEqual(['a'])
    await came[0]!.ack()
    await drain(texts.slice(1))
  })

  it.each([1, 2])('ends at once when nobody wants it any more (request %i)', async nth => {
    await put(texts)
    const ending = new AbortController()
    loseRequest(nth, fate)
    const inner = line.fate
    let isLost = false
    line.fate = (direction, text) => {
      const now = inner(direction, text)
      isLost ||= now === fate
      return now
    }
    const fetching = fetch(ending.signal)
    await eventually('the request is lost', async () => isLost)
    ending.abort()
    expect(await fetching).toEqual([])
    await drain(texts)
  })
})

it('what came of an answer that broke off is had, and the others come again', async () => {
  const texts = ['a', 'b', 'c', 'd']
  await put(texts)
  // The status that ends an answer never arrives.
  line.fate = (direction, text) => (direction === 'in' && text.includes('NATS/1.0 404') ? 'lost' : 'carried')
  const came = await fetch()
  expect(came.length).toBeGreaterThan(0)
  for (const delivery of came) await delivery.ack()
  line.fate = () => 'carried'
  await drain(texts.slice(came.length))
})

it('a queue that is deleted while it is asked is told, as one that is not there', async () => {
  const refused = expect(fetch()).rejects.toMatchObject({ code: 'STREAM_UNAVAILABLE' })
  await direct.deleteStream(names.stream)
  await refused
  await expect(fetch()).rejects.toMatchObject({ code: 'STREAM_UNAVAILABLE' })
})

it('an empty queue is an answer', async () => {
  expect(await fetch()).toEqual([])
})

it('the server is killed and comes back, again and again: every message is delivered, and acknowledged once', async () => {
  const texts = Array.from({ length: 40 }, (_, i) => `m${i}`)
  await put(texts)
  const missing = new Set(texts)
  const ending = new AbortController()
  const pulling = (async () => {
    while (missing.size > 0 && !ending.signal.aborted)
      for (const delivery of await fetch(ending.signal).catch(() => []))
        await delivery.ack().then(
          () => missing.delete(delivery.data.toString()),
          () => {},
        )
  })()
  for (let i = 0; i < 3; i++) {
    missing.add(`late-${i}`)
    await nats.kill()
    await nats.start()
    await eventually('it takes messages again', () =>
      put([`late-${i}`]).then(
        () => true,
        () => false,
      ),
    )
  }
  await eventually('all were delivered', async () => missing.size === 0)
  ending.abort()
  await pulling
})

it('a bucket is listed by one answer: nothing that is delivered beside it is waited for', async () => {
  const bucket = await stream.bucket(`records-${round}`, { maxAgeMs: 0, replicas: 1 })
  for (const key of ['t.a', 't.b', 't.gone', 'u.a']) await bucket.put(key, Buffer.from(key))
  await bucket.delete('t.gone')
  // Were the keys delivered as messages, none would arrive.
  let isBroken = false
  line.fate = (direction, text) => {
    const at = direction === 'in' ? text.indexOf('HMSG $KV.') : -1
    isBroken ||= at >= 0
    return at >= 0 ? at : isBroken && direction === 'in' ? 'lost' : 'carried'
  }
  const keys = (await within('the listing', bucket.list('t.*', { max: 10 }), 10_000)).map(({ key }) => key)
  expect(keys.sort()).toEqual(['t.a', 't.b'])
  expect(await bucket.list('t.*', { max: 1 })).toHaveLength(1)
  line.fate = direction => (direction === 'in' ? 'lost' : 'carried')
  await expect(bucket.list('t.*', { max: 10 })).rejects.toMatchObject({ code: 'STREAM_UNAVAILABLE' })
})

describe('a worker', () => {
  const tier = 'pulls'
  let runner: JobRunner
  let metrics: Metrics

  beforeEach(() => {
    const config = testConfig(folder, { PERCOLATE_TIER: tier, PERCOLATE_JOB_ACK_WAIT_MS: String(ACK_WAIT_MS) })
    const { jobAttemptsMax: attemptsMax, jobAckWaitMs: ackWaitMs, drainMs, parseBytesMax, chunkChars } = config
    runner = new JobRunner({
      jobs: Jobs.of(config, { stream, time: systemTime, tier }),
      objects: connectS3('http://127.0.0.1:1'),
      time: systemTime,
      logger,
      nodeUrl: 'http://127.0.0.1:1',
      embedder: chooseEmbedder(config, systemTime, 1),
      attemptsMax,
      concurrency: 2,
      perTenantMax: 1,
      ackWaitMs,
      drainMs,
      parsers: new ParserPool({ time: systemTime, warm: 0, memoryBytes: 1e8, parseBytesMax, chunkChars }),
      parseLimits: { bytesMax: parseBytesMax, timeoutMs: 1000, timeoutBaseMs: 1000, timeoutPerMibMs: 1000 },
    })
    metrics = new Metrics()
    runner.addMetrics(metrics)
  })

  const metricOf = async (name: string): Promise<number> => {
    const page = await metrics.registry.metrics()
    return Number(new RegExp(`^${name} (.*)$`, 'm').exec(page)?.[1])
  }
  const dead = async () => (await direct.streamInfo(subjects.deadJobsStream))?.messages ?? 0
  /** Of no kind that a worker knows: they end as dead letters. */
  const send = async (...ids: string[]) => {
    for (const id of ids) await direct.publish(subjects.jobs(tier), Buffer.from('{}'), `${round}-${id}`)
  }

  it.each([1, 2])('goes on when request %i for jobs is lost', async nth => {
    runner.start()
    await eventually('there is a queue', () => direct.streamInfo(subjects.jobsStream(tier)))
    const before = await dead()
    loseRequest(nth, 'lost')
    await send('a', 'b', 'c')
    await eventually('all were done', async () => (await dead()) === before + 3)
    await runner.stop()
  })

  it('tells that its queue is silent, goes on when it speaks again, and stops at once meanwhile', async () => {
    runner.start()
    await eventually('there is a queue', () => direct.streamInfo(subjects.jobsStream(tier)))
    const before = await dead()
    line.fate = (direction, text) => (direction === 'out' && text.includes(NEXT) ? 'lost' : 'carried')
    await eventually('it is counted', async () => (await metricOf('percolate_job_pulls_failed_total')) > 0)
    expect(await metricOf('percolate_jobs_unanswered_seconds')).toBeGreaterThan(0)
    await send('d')
    line.fate = () => 'carried'
    await eventually('it was done', async () => (await dead()) === before + 1)
    line.fate = () => 'lost'
    await within('the stop', runner.stop(), 10_000)
  })
})
