import { afterAll, beforeAll, it } from 'vitest'
import type { NatsStream } from '../../src/stream/nats/adapter.ts'
import { subjects } from '../../src/stream/subjects.ts'
import { TestCluster } from '../support/cluster.ts'
import { type LosableNats, startLosableNats } from '../support/losable-nats.ts'
import { connectNats, eventually, remove, tempFolder } from '../support/running.ts'

/** Only a controller runs: workers are scaled to zero, and nobody uploads. */
const TIERS = ['small', 'large'] as const
let folder: string
let nats: LosableNats
let cluster: TestCluster
let stream: NatsStream

beforeAll(async () => {
  folder = await tempFolder()
  nats = await startLosableNats(folder)
  cluster = await TestCluster.start({ nats, nodes: [], controller: false })
  await cluster.startController({
    PERCOLATE_ACTIVATOR_TIERS: TIERS.join(','),
    PERCOLATE_ACTIVATOR_HTTP_PORT: '0',
    PERCOLATE_ACTIVATOR_GRPC_PORT: '0',
    PERCOLATE_CONTROLLER_PORT: '0',
    PERCOLATE_HOST: '127.0.0.1',
    PERCOLATE_JOB_STREAMS_CHECK_MS: '200',
  })
  stream = connectNats(nats.url)
})
afterAll(async () => {
  await stream?.close()
  await cluster?.stop()
  await remove(folder)
})

const areThere = async (): Promise<string> => {
  const page = await (await fetch(`http://127.0.0.1:${cluster.controller.port}/metrics`)).text()
  return /^percolate_job_streams_there (\d)/m.exec(page)?.[1] ?? ''
}

/** The consumer, whose lag the scaler looks at, sees a job that is put into the queue. */
async function seesJobs(tier: string, job: string): Promise<boolean> {
  await stream.publish(subjects.jobs(tier), Buffer.from(job), job)
  const fetched = await stream.fetch(subjects.jobsStream(tier), subjects.workersConsumer(tier), {
    max: 9,
    waitMs: 1000,
  })
  for (const delivery of fetched) await delivery.ack()
  return fetched.some(({ data }) => data.toString() === job)
}

it('job streams and their consumers are there before a worker is', async () => {
  for (const tier of TIERS)
    await eventually(`the queue of ${tier} is seen`, () => seesJobs(tier, `first-${tier}`).catch(() => false))
  await eventually('they are said to be there', async () => (await areThere()) === '1')
})

it('they are made anew when the servers have lost their stores, with workers at zero', async () => {
  await nats.loseStore()
  await nats.start()
  for (const tier of TIERS)
    await eventually(`the queue of ${tier} is seen again`, () => seesJobs(tier, `again-${tier}`).catch(() => false))
  await eventually('they are said to be there', async () => (await areThere()) === '1')
})
