import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { findProgram, LocalCluster } from '../src/cluster/cluster.ts'
import { ask } from '../test-topology/ask.ts'
import { type RemapReport, remapUnderLoad } from '../test-topology/remap.ts'

/**
 * Figures of a real local cluster: replication lag idle and under load, requests while nodes join and leave, many tenants. `npm run bench:cluster [lag|remap|tenants] [--json FILE]`. All
 * processes share this machine's cores: compare figures of one run with one another.
 */
const TENANTS = Number(process.env.BENCH_TENANTS ?? 2000)

const percentile = (values: readonly number[], p: number): number =>
  [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor((values.length * p) / 100))] ?? Number.NaN

async function withCluster<T>(
  syncStreams: string,
  env: Record<string, string>,
  work: (cluster: LocalCluster) => Promise<T>,
  spareNodes = 0,
): Promise<T> {
  const path = process.env.PATH ?? ''
  const dataDir = mkdtempSync(join(tmpdir(), 'percolate-bench-cluster-'))
  const cluster = await LocalCluster.prepare({
    dataDir,
    nodes: 3,
    nats: 3,
    zones: 3,
    workers: 0,
    replicas: 2,
    syncStreams,
    spareNodes,
    env: { PERCOLATE_LOG_LEVEL: 'warn', ...env },
    natsProgram: findProgram('nats-server', path, 'Run "npm run setup".'),
    haproxyProgram: findProgram('haproxy', path, 'Run "npm run setup".'),
    onExit: (name, reason) => console.error(`${name}: ${reason}`),
  })
  try {
    await cluster.start()
    return await work(cluster)
  } finally {
    await cluster.stop()
    rmSync(dataDir, { recursive: true, force: true })
  }
}

/** From the answer of a write on one holder to the first read on another that sees it. */
async function lag(cluster: LocalCluster): Promise<Record<string, number>> {
  const tenant = 'lag'
  const headers = { 'x-tenant-id': tenant }
  const put = (url: string, id: string, n: number) =>
    ask(`${url}/api/v1/entities/${id}`, 'PUT', headers, { properties: { n } })
  await ask(
    `${cluster.addresses.api}/api/v1/entities/first`,
    'PUT',
    { ...headers, 'x-percolate-durability': 'replicated' },
    {},
  )
  const { body } = await ask(`${cluster.addresses.api}/api/v1/replication`, 'GET', headers)
  const urls = (body.holders as { node: string }[]).map(
    ({ node }) => cluster.addresses.nodes.find(({ name }) => name === node)!.url,
  )
  const [from, to] = urls as [string, string]
  const measure = async (samples: number, pauseMs: number, id: string) => {
    const lags: number[] = []
    for (let n = 1; n <= samples; n++) {
      await put(from, id, n)
      const writtenAt = performance.now()
      for (;;) {
        const read = await ask(`${to}/api/v1/entities/${id}`, 'GET', headers)
        if (read.status === 200 && read.body.properties.n === n) break
      }
      lags.push(performance.now() - writtenAt)
      await sleep(pauseMs)
    }
    return lags
  }
  const idle = await measure(300, 5, 'idle')
  let isLoading = true
  let writes = 0
  const load = Array.from({ length: 16 }, async (_, n) => {
    for (let k = 0; isLoading; k++) {
      await put(k % 2 === 0 ? from : to, `load-${n}`, k)
      writes++
    }
  })
  await sleep(500)
  const startedAt = performance.now()
  const before = writes
  const loaded = await measure(300, 5, 'loaded')
  const perSecond = ((writes - before) / (performance.now() - startedAt)) * 1000
  isLoading = false
  await Promise.all(load)
  return {
    'idle p50 ms': percentile(idle, 50),
    'idle p99 ms': percentile(idle, 99),
    'under load p50 ms': percentile(loaded, 50),
    'under load p99 ms': percentile(loaded, 99),
    'load, writes/s': perSecond,
  }
}

const rssMiB = (pid: number | undefined): number =>
  pid === undefined ? 0 : Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) / 1024

/** Many tenants, each written once and once more, then everything restarted. */
async function tenants(cluster: LocalCluster): Promise<Record<string, number>> {
  const names = Array.from({ length: TENANTS }, (_, n) => `tenant-${n}`)
  const each = async (work: (name: string) => Promise<void>) => {
    const waiting = [...names]
    await Promise.all(
      Array.from({ length: 16 }, async () => {
        for (let name = waiting.pop(); name !== undefined; name = waiting.pop()) await work(name)
      }),
    )
  }
  const write = async (name: string, durability: string) => {
    for (let attempt = 0; ; attempt++) {
      const answer = await ask(
        `${cluster.addresses.api}/api/v1/entities/e`,
        'PUT',
        { 'x-tenant-id': name, 'x-percolate-durability': durability },
        { properties: { attempt } },
        60_000,
      ).catch(() => undefined)
      if (answer?.status === 200) return
      if (attempt > 50) throw new Error(`${name} could not be written: ${JSON.stringify(answer?.body)}`)
      await sleep(200)
    }
  }
  const startedAt = performance.now()
  await each(name => write(name, 'replicated'))
  const createS = (performance.now() - startedAt) / 1000
  await sleep(3000)
  const memory = (pattern: RegExp) =>
    [...cluster.programs].filter(([name]) => pattern.test(name)).map(([, { pid }]) => rssMiB(pid))
  const nodes = memory(/^node-/)
  const nats = memory(/^nats-/)
  const metrics = await Promise.all(
    cluster.addresses.nodes.map(async ({ url }) => await (await fetch(`${url}/metrics`)).text()),
  )
  const consumers = metrics.map(text => Number(/^percolate_stream_consumers (\d+)/m.exec(text)?.[1] ?? 0))
  const programs = [...cluster.programs].filter(([name]) => /^(node-|nats-)/.test(name)).map(([, program]) => program)
  await Promise.all(programs.map(program => program.stop()))
  const restartedAt = performance.now()
  for (const program of programs) program.launch()
  await Promise.all(programs.map(program => program.whenReady(300_000)))
  const readyS = (performance.now() - restartedAt) / 1000
  await each(async name => {
    for (;;) {
      const answer = await ask(`${cluster.addresses.api}/api/v1/entities/e`, 'GET', { 'x-tenant-id': name }).catch(
        () => undefined,
      )
      if (answer?.status === 200) return
      await sleep(100)
    }
  })
  const answeredS = (performance.now() - restartedAt) / 1000
  return {
    tenants: TENANTS,
    'written and replicated, s': createS,
    'a node, MiB': Math.max(...nodes),
    'a nats-server, MiB': Math.max(...nats),
    'consumers on all nodes': consumers.reduce((sum, count) => sum + count, 0),
    'full restart until ready, s': readyS,
    'full restart until every tenant answers, s': answeredS,
  }
}

async function main(): Promise<void> {
  const only = process.argv[2]
  const results: Record<string, Record<string, number> | RemapReport> = {}
  const show = (name: string, result: Record<string, number> | RemapReport) => {
    results[name] = result
    console.log(`\n${name}`)
    for (const [what, value] of Object.entries(result))
      console.log(
        `  ${what.padEnd(44)} ${typeof value === 'number' ? (Number.isInteger(value) ? value : value.toFixed(1)) : JSON.stringify(value)}`,
      )
  }
  if (!only || only === 'lag') show('replication lag', await withCluster('per-tenant', {}, lag))
  if (!only || only === 'remap')
    show(
      '3 → 4 → 3 nodes under load',
      await withCluster('per-tenant', { PERCOLATE_DRAIN_NOTICE_MS: '1500' }, remapUnderLoad, 1),
    )
  if (!only || only === 'tenants') {
    const env = { PERCOLATE_CONSUMER_IDLE_MS: '10000', PERCOLATE_OPEN_TENANTS_MAX: '500' }
    show(`${TENANTS} tenants, a stream each`, await withCluster('per-tenant', env, tenants))
    show(`${TENANTS} tenants, pooled:8`, await withCluster('pooled:8', env, tenants))
  }
  const at = process.argv.indexOf('--json')
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim()
  if (at > 0)
    writeFileSync(
      process.argv[at + 1]!,
      JSON.stringify({ commit, cpus: cpus().length, node: process.version, results }, undefined, 2),
    )
}

await main()
process.exit(0)
