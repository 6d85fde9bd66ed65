import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import autocannon from 'autocannon'
import { PercolateClient } from '../client/client.ts'
import { PACKAGE_FOLDER } from '../src/base/version.ts'
import { openRocksKv } from '../src/storage/rocksdb.ts'
import { type Launched, launchUp } from '../test-topology/launch.ts'

/**
 * First benchmark: point read, durable write, search and ingest through HTTP on a real `percolate up`, each as a ratio to its ceiling in the
 * same run. Figures differ between machines and moments; ratios less. `npm run bench`; `--json FILE` keeps the result.
 */
const SECONDS = Number(process.env.BENCH_SECONDS ?? 5)
const CONNECTIONS = 64
const DOCUMENTS = 10_000
const BATCH = 250
const TENANT = 'bench'

interface Row {
  readonly name: string
  readonly value: number
  readonly unit: string
  readonly ceiling?: { readonly name: string; readonly value: number; readonly ratio: number }
  readonly more?: Record<string, number>
}

const WORDS = execWords()
const sentence = (seed: number, words = 60): string =>
  Array.from(
    { length: words },
    (_, n) => WORDS[(seed * 7919 + n * 104_729 + ((seed * n) % 97) * 31) % WORDS.length],
  ).join(' ')

function execWords(): string[] {
  // A vocabulary with the skew of language: few words are common, many are rare.
  const syllables = ['ba', 'ce', 'di', 'fo', 'gu', 'ha', 'je', 'ki', 'lo', 'mu', 'na', 'pe', 'ri', 'so', 'tu', 'va']
  const words: string[] = []
  for (let n = 0; n < 4000; n++) {
    const word = syllables[n % 16]! + syllables[(n >> 4) % 16]! + syllables[(n >> 8) % 16]!
    const copies = Math.max(1, Math.round(400 / (n + 1)))
    for (let k = 0; k < copies; k++) words.push(word)
  }
  return words
}

async function load(url: string, options: Partial<autocannon.Options> = {}): Promise<autocannon.Result> {
  return autocannon({
    url,
    connections: CONNECTIONS,
    duration: SECONDS,
    headers: { 'x-tenant-id': TENANT, 'content-type': 'application/json' },
    ...options,
  })
}

async function main(): Promise<void> {
  const dataDir = mkdtempSync(join(tmpdir(), 'percolate-bench-'))
  const ceiling = spawn(process.execPath, [join(PACKAGE_FOLDER, 'dist', 'bench', 'ceiling-server.js')], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const [port] = await once(ceiling.stdout, 'data')
  const empty = `http://127.0.0.1:${String(port).trim()}/`
  const up = await launchUp({ dataDir: join(dataDir, 'data'), env: { PERCOLATE_LOG_LEVEL: 'error' } })
  try {
    const rows: Row[] = []
    const print = (row: Row) => {
      rows.push(row)
      const beside = row.ceiling
        ? `  = ${(row.ceiling.ratio * 100).toFixed(0)} % of ${row.ceiling.name} (${row.ceiling.value.toFixed(0)})`
        : ''
      const more = Object.entries(row.more ?? {})
        .map(([name, value]) => `${name} ${value}`)
        .join(', ')
      console.log(
        `${row.name.padEnd(34)} ${row.value.toFixed(row.value < 100 ? 2 : 0).padStart(8)} ${row.unit}${beside}${more ? `  (${more})` : ''}`,
      )
    }
    // Forgets what starting cost.
    await lag(up, '')
    print(await ingest(up, dataDir))
    print(await lag(up, 'event-loop lag under ingest, p99'))
    print(await pointRead(up, empty))
    print(await durableWrite(up, dataDir))
    for (const row of await searches(up, empty)) print(row)
    keep(rows)
  } finally {
    ceiling.kill()
    await up.stop()
    rmSync(dataDir, { recursive: true, force: true })
  }
}

const rocks = (dataDir: string, name: string) =>
  openRocksKv(join(dataDir, name), {
    createIfMissing: true,
    writeBufferBytes: 1024 * 1024,
    blockCacheBytes: 4 * 1024 * 1024,
  })

async function ingest(up: Launched, dataDir: string): Promise<Row> {
  const client = new PercolateClient({ url: up.url, tenant: TENANT })
  const startedAt = performance.now()
  for (let at = 0; at < DOCUMENTS; at += BATCH) {
    await client.putResources(
      Array.from({ length: BATCH }, (_, n) => ({
        content: sentence(at + n),
        category: `c${n % 10}`,
        metadata: { n: at + n },
      })),
    )
  }
  const rate = (DOCUMENTS / (performance.now() - startedAt)) * 1000
  const kv = await rocks(dataDir, 'raw-batch')
  const rawStartedAt = performance.now()
  for (let at = 0; at < DOCUMENTS; at += BATCH) {
    await kv.write(
      Array.from({ length: BATCH }, (_, n) => ({
        type: 'put' as const,
        key: Buffer.from(`k${at + n}`),
        value: Buffer.from(sentence(at + n)),
      })),
      { sync: true },
    )
  }
  const raw = (DOCUMENTS / (performance.now() - rawStartedAt)) * 1000
  await kv.close()
  return {
    name: 'ingest, batches of 250, indexed',
    value: rate,
    unit: 'resources/s',
    ceiling: { name: 'raw RocksDB batches of the text', value: raw, ratio: rate / raw },
  }
}

async function pointRead(up: Launched, empty: string): Promise<Row> {
  const client = new PercolateClient({ url: up.url, tenant: TENANT })
  const { results } = await client.listResources({ limit: 1 })
  const bare = await load(empty)
  const read = await load(`${up.url}/api/v1/resources/${results[0]!.id}`)
  return {
    name: 'point read',
    value: read.requests.average,
    unit: 'requests/s',
    ceiling: {
      name: 'an empty Fastify route',
      value: bare.requests.average,
      ratio: read.requests.average / bare.requests.average,
    },
    more: { 'p50 ms': read.latency.p50, 'p99 ms': read.latency.p99 },
  }
}

async function durableWrite(up: Launched, dataDir: string): Promise<Row> {
  let n = 0
  const write = await load(`${up.url}/api/v1/entities`, {
    requests: [
      {
        method: 'POST',
        setupRequest: request => ({
          ...request,
          body: JSON.stringify({ id: `entity-${n++}`, type: 'thing', properties: { text: sentence(n, 12) } }),
        }),
      },
    ],
  })
  const kv = await rocks(dataDir, 'raw-put')
  const until = performance.now() + SECONDS * 1000
  let puts = 0
  const lane = async () => {
    while (performance.now() < until)
      await kv.write([{ type: 'put', key: Buffer.from(`k${puts++}`), value: Buffer.alloc(200) }], { sync: true })
  }
  const startedAt = performance.now()
  await Promise.all(Array.from({ length: CONNECTIONS }, lane))
  const raw = (puts / (performance.now() - startedAt)) * 1000
  await kv.close()
  return {
    name: 'durable write, 64 clients',
    value: write.requests.average,
    unit: 'writes/s',
    ceiling: { name: 'raw RocksDB fsynced puts, 64 in flight', value: raw, ratio: write.requests.average / raw },
    more: { 'p50 ms': write.latency.p50, 'p99 ms': write.latency.p99, errors: write.non2xx + write.errors },
  }
}

async function searches(up: Launched, empty: string): Promise<Row[]> {
  const rows: Row[] = []
  const bare = await load(empty, { connections: 1 })
  for (const mode of ['hybrid', 'text', 'vector']) {
    const path = (n: number) => `/api/v1/resources?mode=${mode}&query=${encodeURIComponent(sentence(n, 4))}`
    const requests = Array.from({ length: 200 }, (_, n) => ({ path: path(n * 13) }))
    await load(up.url, { connections: 1, amount: 50, requests } as autocannon.Options)
    const result = await load(up.url, { connections: 1, requests })
    rows.push({
      name: `search, 10k resources, ${mode}`,
      value: result.requests.average,
      unit: 'requests/s',
      ceiling: {
        name: 'an empty route, 1 client',
        value: bare.requests.average,
        ratio: result.requests.average / bare.requests.average,
      },
      more: { 'p50 ms': result.latency.p50, 'p99 ms': result.latency.p99 },
    })
  }
  rows.push(await lag(up, 'event-loop lag under search, p99'))
  return rows
}

/** Since the last look: reading the metric resets it. */
async function lag(up: Launched, name: string): Promise<Row> {
  const metrics = await (await fetch(`${up.url}/metrics`)).text()
  const read = (metric: string) =>
    Number(new RegExp(`nodejs_eventloop_lag_${metric}_seconds ([\\d.e-]+)`).exec(metrics)?.[1] ?? 0) * 1000
  return { name, value: read('p99'), unit: 'ms', more: { 'max ms': Number(read('max').toFixed(1)) } }
}

function keep(rows: readonly Row[]): void {
  const at = process.argv.indexOf('--json')
  const path =
    at > 0
      ? process.argv[at + 1]!
      : join(PACKAGE_FOLDER, 'bench', 'results', `${new Date().toISOString().replaceAll(':', '')}.json`)
  mkdirSync(join(path, '..'), { recursive: true })
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { cwd: PACKAGE_FOLDER, encoding: 'utf8' }).trim()
  const machine = {
    cpu: cpus()[0]?.model,
    cores: cpus().length,
    memoryBytes: totalmem(),
    node: process.version,
    commit,
    seconds: SECONDS,
  }
  writeFileSync(path, JSON.stringify({ machine, rows }, undefined, 2))
  console.log(`kept in ${path}`)
}

await main()
