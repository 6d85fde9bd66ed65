import { ask } from '../ask.ts'
import { documents, upload, waitForJobs } from '../jobs.ts'
import type { TestTopology } from '../topology.ts'
import { holdersEqual, type Scenario, type ScenarioContext, until, withTopology } from './scenario.ts'

/** The active window and the cooldown of nodes, in production's seconds, with some to spare for rounds of everybody. */
const IDLE_S = 300 + 300 + 60
const WORKER_IDLE_S = 60 + 60
const COLD_START_PROMISED_MS = 30_000
const COLD_START_AIM_MS = 3000

const nodesAreGone = (context: ScenarioContext, topology: TestTopology) =>
  until('all nodes go', context, IDLE_S, () => topology.nodes.wanted === 0 && topology.nodes.present === 0)
const workersAreGone = (context: ScenarioContext, topology: TestTopology) =>
  until('all workers go', context, WORKER_IDLE_S, () => topology.workers.wanted === 0 && topology.workers.present === 0)

export const scaleToZero: Scenario = {
  name: 'scale-to-zero',
  title: 'Idle past the window and the cooldown there is no node; the next request wakes one and is answered',
  run: (context, verdict) =>
    withTopology(context, verdict, {}, async topology => {
      const { api } = topology.cluster.addresses
      const headers = { 'x-tenant-id': 'sleeper', 'x-percolate-durability': 'replicated' }
      verdict.check('there is no node at first', topology.nodes.present === 0)
      const writtenAt = performance.now()
      const written = await ask(`${api}/api/v1/entities/ada`, 'PUT', headers, { name: 'Ada' }, COLD_START_PROMISED_MS)
      const firstMs = performance.now() - writtenAt
      verdict.figure('first write, nothing there yet, ms', firstMs)
      verdict.check(`the first write is answered: ${written.status}`, written.status === 200)
      await until('the tenant has two copies', context, 0, () => holdersEqual(api, 'sleeper'))
      await nodesAreGone(context, topology)
      verdict.check('idle, every node goes', topology.nodes.present === 0)
      const askedAt = performance.now()
      const read = await ask(
        `${api}/api/v1/entities/ada`,
        'GET',
        { 'x-tenant-id': 'sleeper' },
        undefined,
        COLD_START_PROMISED_MS,
      )
      const coldMs = performance.now() - askedAt
      verdict.figure('cold start, ms', coldMs)
      verdict.check(
        `the next request is answered, and right: ${read.status}`,
        read.status === 200 && read.body.name === 'Ada',
      )
      verdict.check('within the 30 s promised', coldMs < COLD_START_PROMISED_MS)
      verdict.aim('within 3 s', coldMs < COLD_START_AIM_MS)
      const missing = await ask(`${api}/api/v1/entities/nobody`, 'GET', { 'x-tenant-id': 'sleeper' })
      verdict.check('what was never written is not there', missing.status === 404)
    }),
}

const JOBS = 20
const JOBS_MS_MAX = 180_000

export const workers: Scenario = {
  name: 'workers',
  title: `${JOBS} jobs make 4 workers; all are done, none is lost or doubled; then there is none`,
  run: (context, verdict) =>
    withTopology(context, verdict, {}, async topology => {
      const { api, gateway } = topology.cluster.addresses
      verdict.check('there is no worker at first', topology.workers.present === 0)
      // The HPA looks every 15 s: by then most of the jobs must still be there.
      const files = documents(JOBS, context.speed < 10 ? 300 : 30)
      const ids = await Promise.all(files.map(file => upload(gateway, 'jobs', file)))
      let most = 0
      const watch = setInterval(() => {
        most = Math.max(most, topology.workers.wanted)
      }, 20)
      const finished = await waitForJobs(gateway, 'jobs', ids, JOBS_MS_MAX).finally(() => clearInterval(watch))
      verdict.figure('workers at most', most)
      verdict.check('four workers', most === 4)
      verdict.figure('jobs done', finished.filter(({ status }) => status === 'completed').length)
      verdict.check(
        `all ${JOBS} are done`,
        finished.every(({ status }) => status === 'completed'),
      )
      const stored = await resourcesByUri(api, 'jobs')
      verdict.figure(
        'resources',
        [...stored.values()].reduce((sum, list) => sum + list.length, 0),
      )
      verdict.check(
        'every document is there once, with as many parts as its job says',
        stored.size === JOBS &&
          finished.every(job => {
            const parts = stored.get(job.uri) ?? []
            return parts.length === job.total && new Set(parts).size === parts.length
          }),
      )
      await workersAreGone(context, topology)
      verdict.check('then no worker is left', topology.workers.present === 0)
    }),
}

/** The ordinals of the resources of a tenant, by the document that they came from. */
async function resourcesByUri(api: string, tenant: string): Promise<Map<string, number[]>> {
  const found = new Map<string, number[]>()
  let cursor: string | undefined
  do {
    const page = await ask(
      `${api}/api/v1/resources?limit=200${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ''}`,
      'GET',
      { 'x-tenant-id': tenant },
    )
    for (const { uri, ordinal } of page.body.results) found.set(uri, [...(found.get(uri) ?? []), ordinal])
    cursor = page.body.cursor
  } while (cursor)
  return found
}

export const endToEnd: Scenario = {
  name: 'end-to-end',
  title: 'An upload wakes node and worker, is parsed and found on every holder; then everything sleeps again',
  run: (context, verdict) =>
    withTopology(context, verdict, {}, async topology => {
      const { gateway, nodes } = topology.cluster.addresses
      verdict.check('nothing is awake at first', topology.nodes.present + topology.workers.present === 0)
      const startedAt = performance.now()
      const text = 'Tides rise because the moon pulls at the sea. '.repeat(50)
      const id = await upload(gateway, 'reader', { name: 'tides.txt', content: text })
      verdict.figure('upload acknowledged after ms', performance.now() - startedAt)
      const [job] = await waitForJobs(gateway, 'reader', [id], JOBS_MS_MAX)
      verdict.check(`the job is done: ${job!.status}`, job!.status === 'completed')
      let holders: string[] = []
      await until('it is found on every holder', context, 0, async () => {
        holders = await holdersOf(topology.cluster.addresses.api, 'reader')
        if (holders.length < 2) return false
        const answers = await Promise.all(
          holders.map(holder =>
            ask(`${nodes.find(({ name }) => name === holder)!.url}/api/v1/resources?query=moon`, 'GET', {
              'x-tenant-id': 'reader',
            }).catch(() => undefined),
          ),
        )
        return answers.every(
          (answer, n) =>
            answer?.status === 200 &&
            answer.headers['x-percolate-node'] === holders[n] &&
            answer.body.results.some((result: { content: string }) => result.content.includes('moon')),
        )
      })
      verdict.figure('searchable on every holder after ms, from nothing awake', performance.now() - startedAt)
      verdict.figure('holders', holders.join(' '))
      verdict.check('search finds it on every holder, each from its own copy', holders.length >= 2)
      await workersAreGone(context, topology)
      await nodesAreGone(context, topology)
      verdict.check('everything sleeps again', topology.nodes.present + topology.workers.present === 0)
    }),
}

export async function holdersOf(api: string, tenant: string): Promise<string[]> {
  const { body } = await ask(`${api}/api/v1/replication`, 'GET', { 'x-tenant-id': tenant })
  return ((body?.holders ?? []) as { node: string; state: string }[])
    .filter(({ state }) => state === 'active' || state === 'current')
    .map(({ node }) => node)
}
