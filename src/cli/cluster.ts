import { resolve } from 'node:path'
import { type Command, InvalidArgumentError } from 'commander'
import { systemTime } from '../base/time.ts'
import { findProgram, LocalCluster } from '../cluster/cluster.ts'
import { RESTART_MS, Restarts, restartLine } from '../cluster/restarts.ts'
import { watchNats } from '../cluster/watch-nats.ts'
import { searchPath } from '../config/environment.ts'
import { SYNC_STREAMS_PATTERN } from '../replication/streams.ts'
import { configOf, guarded, loggerOf, runUntilSignal } from './common.ts'
import { fail, printJson, say } from './output.ts'

const PROCESSES_MAX = 16

const count = (least: number) => (text: string) => {
  const value = Number(text)
  if (!Number.isInteger(value) || value < least || value > PROCESSES_MAX)
    throw new InvalidArgumentError(`must be a whole number from ${least} to ${PROCESSES_MAX}.`)
  return value
}

interface ClusterFlags {
  readonly nodes: number
  readonly nats: number
  readonly zones: number
  readonly workers: number
  readonly replicas: number
  readonly syncStreams: string
  readonly dataDir: string
  readonly json?: boolean
}

/** `percolate cluster`: real processes of every role on this machine; and `percolate s3`, the object store that it uses. */
export function addClusterCommands(program: Command): void {
  program
    .command('cluster')
    .description(
      'run a cluster of real processes on this machine: NATS, nodes in zones, controller, worker, gateway, S3, router',
    )
    .option('--nodes <number>', 'database nodes', count(1), 3)
    .option('--nats <number>', 'nats-servers: 1 or 3', count(1), 3)
    .option('--zones <number>', 'zones that the nodes are spread over', count(1), 3)
    .option('--workers <number>', 'workers', count(0), 1)
    .option('--replicas <number>', 'copies of each tenant', count(1), 2)
    .option('--sync-streams <mode>', 'per-tenant, or pooled:N', 'per-tenant')
    .option('--data-dir <path>', 'where everything is kept', './data/cluster')
    .option('--json', 'print where things are as JSON, for programs')
    .addHelpText('after', '\nExample:\n  percolate cluster --nodes 3 --nats 3 --zones 3')
    .action(guarded(cluster))
  program.command('s3', { hidden: true }).description('run the embedded S3 endpoint alone').action(guarded(s3))
}

async function cluster(flags: ClusterFlags): Promise<void> {
  if (!new RegExp(SYNC_STREAMS_PATTERN).test(flags.syncStreams))
    fail(`--sync-streams must be per-tenant or pooled:N, not ${JSON.stringify(flags.syncStreams)}.`)
  if (flags.nats === 2) fail('--nats must be 1, 3 or more: two servers have no majority when one is gone.')
  const { diskReserveBytes: reserveBytes } = configOf('up', {})
  const path = searchPath()
  let isStopping = false
  const restarts = new Restarts(systemTime)
  const running: LocalCluster = await LocalCluster.prepare({
    ...flags,
    dataDir: resolve(flags.dataDir),
    natsProgram: findProgram(
      'nats-server',
      path,
      'Run "npm run setup", or install it ("apt-get install nats-server", "brew install nats-server").',
    ),
    haproxyProgram: findProgram(
      'haproxy',
      path,
      'Run "npm run setup", or install it ("apt-get install haproxy", "brew install haproxy").',
    ),
    onExit: (name, reason) => {
      if (isStopping) return
      const program = running.programs.get(name)!
      const next = restarts.next(name)
      process.stderr.write(`percolate: ${restartLine(name, reason, next)}\n`)
      // As a pod would, so that trying what a failure does needs no second command.
      void systemTime.sleep(next.waitMs, { ref: false }).then(() => {
        if (!isStopping) program.launch()
      })
    },
    onProgress: text => {
      if (!flags.json) say(`· ${text}`)
    },
  })
  try {
    await running.start()
  } catch (error) {
    isStopping = true
    await running.stop()
    throw error
  }
  const unwatch = watchNats(running, {
    time: systemTime,
    reserveBytes,
    say: text => process.stderr.write(`percolate: ${text}\n`),
  })
  const { addresses } = running
  const processes = [...running.programs].flatMap(([name, { pid }]) => (pid === undefined ? [] : [{ name, pid }]))
  if (flags.json) printJson({ ...addresses, data: resolve(flags.dataDir), processes })
  else
    say(`
The cluster is ready.

  API       ${addresses.api}   (through the router: a tenant's requests enter one node)
  gRPC      ${addresses.grpc}
  uploads   ${addresses.gateway}/upload
  router    ${addresses.router}   (which nodes are up)
${addresses.nodes.map(node => `  ${node.name}    ${node.url}   (${node.zone})`).join('\n')}
  NATS      ${addresses.nats}
  objects   ${addresses.s3}
  data      ${resolve(flags.dataDir)}   (logs in logs/, secrets in cluster.json)

Try:
  curl -X PUT -H 'X-Tenant-ID: demo' -H 'Content-Type: application/json' -d '{"name":"Ada"}' ${addresses.api}/api/v1/entities/ada
  curl -H 'X-Tenant-ID: demo' ${addresses.api}/api/v1/replication
  kill -9 ${processes.find(({ name }) => name === 'node-1')?.pid ?? 'PID'}   # then ask again: another answers, and it comes back after ${RESTART_MS / 1000} s

Ctrl-C stops it.`)
  const stop = async () => {
    await unwatch()
    await running.stop()
  }
  await runUntilSignal(stop, {
    onStopping: () => {
      isStopping = true
      if (!flags.json) say('\nStopping: outboxes are published, homes handed over …')
    },
  })
}

async function s3(): Promise<void> {
  const config = configOf('up', {})
  const logger = loggerOf(config, 'up')
  const { objectReserveBytes, startEmbeddedS3 } = await import('../objects/embedded/server.ts')
  const { S3ObjectStore } = await import('../objects/s3.ts')
  const server = await startEmbeddedS3({
    folder: config.dataDir,
    host: '127.0.0.1',
    port: config.s3Port,
    region: config.s3Region,
    accessKey: config.s3AccessKey ?? fail('PERCOLATE_S3_ACCESS_KEY is missing.'),
    secretKey: config.s3SecretKey ?? fail('PERCOLATE_S3_SECRET_KEY is missing.'),
    reserveBytes: objectReserveBytes(config),
    logger,
  })
  const store = new S3ObjectStore({
    endpoint: server.endpoint,
    region: config.s3Region,
    bucket: config.s3Bucket,
    accessKey: config.s3AccessKey!,
    secretKey: config.s3SecretKey!,
  })
  for (let attempt = 0; attempt < 20; attempt++) {
    try {
      await store.prepare()
      break
    } catch {
      await systemTime.sleep(100)
    }
  }
  store.close()
  await runUntilSignal(() => server.stop(), { stopMsMax: config.stopMs })
}
