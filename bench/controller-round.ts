import { createLogger } from '../src/base/logger.ts'
import { Slicer } from '../src/base/slice.ts'
import { systemTime } from '../src/base/time.ts'
import { loadConfig } from '../src/config/load.ts'
import { startController } from '../src/controller.ts'
import { MemoryStream } from '../src/stream/memory/adapter.ts'
import { MemoryLog } from '../src/stream/memory/log.ts'
import { subjects } from '../src/stream/subjects.ts'

/**
 * For how long a controller's rounds keep its event loop, with many tenants on many nodes and nothing to do: the probes, the lease and the activator wait that long. `npm run bench:controller`;
 * BENCH_TENANTS and BENCH_NODES choose the size. The ratio is to the same rounds uncut.
 */
const TENANTS = Number(process.env.BENCH_TENANTS ?? 100_000)
const NODES = Number(process.env.BENCH_NODES ?? 100)
const SECONDS = Number(process.env.BENCH_SECONDS ?? 5)

function directoryOf(): MemoryLog {
  const log = new MemoryLog(systemTime)
  const write = (key: string, value: unknown) =>
    log.write(subjects.clusterBucket, key, Buffer.from(JSON.stringify(value)))
  write(subjects.clusterKey, { id: 'bench', generation: 1, syncStreams: 'pooled:1', madeAtMs: 0 })
  const node = (n: number) => `n${n % NODES}`
  for (let n = 0; n < NODES; n++)
    write(subjects.memberKey(node(n)), {
      ...{ node: node(n), disk: 'd', session: 's', zone: `z${n % 3}`, tier: 'small', http: '', grpc: '' },
      ...{ state: 'ready', unpublished: false, tenants: 0, reported: 1, beat: 1, version: 'bench' },
    })
  for (let n = 0; n < TENANTS; n++)
    write(`tenant.t${n}`, {
      ...{ tenant: `t${n}`, incarnation: 'i', tier: 'small', home: node(n), epoch: 1, version: 1, changedAtMs: 0 },
      holders: [n, n + 1, n + 2].map(k => ({ node: node(k), state: 'active' })),
    })
  return log
}

/** The longest that the event loop was kept in some seconds of rounds, milliseconds. */
async function longestMs(log: MemoryLog): Promise<number> {
  const running = await startController({
    config: loadConfig({
      role: 'controller',
      env: {
        PERCOLATE_NATS_URL: 'nats://127.0.0.1:1',
        PERCOLATE_CLUSTER_SECRET: 'a-secret-only-for-this-benchmark',
        PERCOLATE_REPLICAS: '3',
        PERCOLATE_LEASE_MS: '60000',
        PERCOLATE_CONTROLLER_ROUND_MS: '200',
      },
    }),
    logger: createLogger({ level: 'silent', role: 'bench' }),
    time: systemTime,
    stream: new MemoryStream(log),
    objects: undefined,
    port: undefined,
  })
  while (!running.controller.isLeading || running.directory.placements().length < TENANTS) await systemTime.sleep(100)
  await systemTime.sleep(1000)
  let longest = 0
  const untilMs = performance.now() + SECONDS * 1000
  for (let before = performance.now(); before < untilMs; ) {
    await new Promise(resolve => setImmediate(resolve))
    const now = performance.now()
    longest = Math.max(longest, now - before)
    before = now
  }
  await running.stop()
  return longest
}

const sliced = await longestMs(directoryOf())
Slicer.sliceMs = Number.POSITIVE_INFINITY
const uncut = await longestMs(directoryOf())
console.log(`${TENANTS} tenants on ${NODES} nodes: the longest that a round kept the event loop`)
console.log(`  in slices  ${sliced.toFixed(1)} ms`)
console.log(`  uncut      ${uncut.toFixed(1)} ms`)
console.log(`  ratio      ${(sliced / uncut).toFixed(3)}`)
