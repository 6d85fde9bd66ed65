import { readFile, writeFile } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Command, InvalidArgumentError } from 'commander'
import { parseTenantId } from '../src/base/ids.ts'
import { makeFolder } from '../src/base/make-folder.ts'
import { guarded, runUntilSignal } from '../src/cli/common.ts'
import { fail, Progress, printJson, printTable, say } from '../src/cli/output.ts'
import { ask } from './ask.ts'
import { parseOverride } from './autoscaler/scaled-object.ts'
import { askTopology, ControlServer, type TopologyState } from './control.ts'
import { documents, upload, waitForJobs } from './jobs.ts'
import { measureLag } from './lag.ts'
import { LiveTable } from './live-table.ts'
import { Load, percentile } from './load.ts'
import { type ReportPart, readRecord, renderReport } from './report.ts'
import { scenarios } from './scenarios/all.ts'
import { entriesOf } from './scenarios/routing.ts'
import { holdersOf } from './scenarios/scaling.ts'
import { holdersEqual, runScenario } from './scenarios/scenario.ts'
import { DEFAULT_SCALING, TestTopology } from './topology.ts'

const whole =
  (least: number, most: number) =>
  (text: string): number => {
    const value = Number(text)
    if (!Number.isInteger(value) || value < least || value > most)
      throw new InvalidArgumentError(`must be a whole number from ${least} to ${most}.`)
    return value
  }
const SPEED_MAX = 300
const speed = (text: string): number => {
  const value = Number(text)
  if (!(value >= 1 && value <= SPEED_MAX)) throw new InvalidArgumentError(`must be a number from 1 to ${SPEED_MAX}.`)
  return value
}
const collect = (text: string, all: readonly string[]): readonly string[] => [...all, text]

const JOBS_MS_MAX = 600_000
const OBSERVE_MS = 500

interface Flags {
  readonly dataDir: string
  readonly json?: boolean
}

/** `percolate test-topology`: the whole system as real processes on one machine, and what is done to it. */
export function topologyProgram(): Command {
  const program = new Command('percolate test-topology')
    .description(
      'Percolate as in a cluster, as real processes on this machine: three zones, nodes and workers scaled by the ScaledObjects of k8s/, a real Prometheus. "up" runs it, the other commands use what runs; "scenario" runs one of its own.',
    )
    .showHelpAfterError('(percolate test-topology --help lists commands)')
    .addHelpText(
      'after',
      '\nExamples:\n  percolate test-topology up --speed 30\n  percolate test-topology simulate-tenants 50 --seconds 60\n  percolate test-topology scenario scale-to-zero\n  percolate test-topology scenario all --out report.html',
    )
  const command = (usage: string, description: string) =>
    program
      .command(usage)
      .description(description)
      .option('--data-dir <path>', 'where the topology keeps everything', './data/topology')
      .option('--json', 'print JSON, for programs')

  command('up', 'run it until Ctrl-C, with a live table on a terminal')
    .option('--speed <factor>', 'divide every waiting window by this; 1 is as in production', speed, 30)
    .option('--zones <number>', 'zones', whole(1, 3), 3)
    .option('--nats <number>', 'nats-servers: 1 or 3', whole(1, 3), 3)
    .option('--replicas <number>', 'copies of each tenant', whole(1, 5), 2)
    .option('--scaling <file>', 'manifest with the ScaledObjects', DEFAULT_SCALING)
    .option(
      '--set <change>',
      'change a ScaledObject, such as percolate-node.minReplicaCount=1; repeatable',
      collect,
      [],
    )
    .option('--nodes <number>', 'this many nodes all the time, instead of the autoscaler', whole(0, 10))
    .option('--workers <number>', 'this many workers all the time, with --nodes', whole(0, 10), 0)
    .action(guarded(up))
  command('simulate-tenant <tenant>', 'read and write as one tenant, and say what came of it')
    .option('--seconds <number>', 'for how long', whole(1, 3600), 10)
    .option('--clients <number>', 'clients at once', whole(1, 64), 2)
    .action(guarded((tenant: string, flags: LoadFlags) => simulate([parseTenantId(tenant)], flags)))
  command('simulate-tenants <count>', 'read and write as many tenants')
    .option('--seconds <number>', 'for how long', whole(1, 3600), 10)
    .option('--clients <number>', 'clients at once', whole(1, 64), 8)
    .action(
      guarded((count: string, flags: LoadFlags) =>
        simulate(
          Array.from({ length: countOf(count) }, (_, n) => `tenant-${n}`),
          flags,
        ),
      ),
    )
  command('submit-jobs <count>', 'upload documents and wait until their jobs have ended')
    .option('-t, --tenant <id>', 'tenant', 'jobs')
    .action(guarded(submitJobs))
  command('submit-upload <file>', 'upload a file and wait until it is searchable')
    .option('-t, --tenant <id>', 'tenant', 'uploads')
    .action(guarded(submitUpload))
  command('verify-affinity [tenant]', "check that a tenant's requests enter one node")
    .option('--requests <number>', 'requests', whole(1, 1_000_000), 1000)
    .action(guarded(verifyAffinity))
  command('check-replication [tenant]', 'write on one holder, read on another, and compare the holders')
    .option('--writes <number>', 'writes', whole(1, 100_000), 100)
    .action(guarded(checkReplication))
  command('observe-scaling', 'watch nodes, workers and what asks for them; with --json a line every half second')
    .option('--seconds <number>', 'for how long; until Ctrl-C by default', whole(1, 86_400))
    .action(guarded(observe))
  command('kill <name>', 'kill -9 a process, or all of a zone (zone-2); it comes back as a pod would')
    .option('--down <seconds>', 'stay away for this long', whole(0, 3600), 0)
    .action(guarded(kill))
  command('partition <name>', 'cut a node, or the nodes of a zone, off')
    .option('--from <whom>', 'nats, peers or all', 'all')
    .option('--seconds <number>', 'for how long', whole(1, 3600), 5)
    .action(guarded(partition))
  command('report', 'write a page with plots of what happened in this data directory')
    .option('--out <file>', 'HTML file', 'topology-report.html')
    .action(guarded(report))
  command(
    'scenario <names...>',
    `run scenarios, each with a verdict: ${scenarios.map(({ name }) => name).join(', ')}, or all`,
  )
    .option('--speed <factor>', 'divide every waiting window by this; 1 is as in production', speed, 60)
    .option('--out <file>', 'where the page with verdicts, figures and plots goes (default: in the data directory)')
    .action(guarded(runScenarios))
  return program
}

function countOf(text: string): number {
  const count = Number(text)
  if (!Number.isInteger(count) || count < 1 || count > 10_000) fail('COUNT must be a whole number from 1 to 10000.')
  return count
}

interface UpFlags extends Flags {
  readonly speed: number
  readonly zones: number
  readonly nats: number
  readonly replicas: number
  readonly scaling: string
  readonly set: readonly string[]
  readonly nodes?: number
  readonly workers: number
}

async function up(flags: UpFlags): Promise<void> {
  if (flags.nats === 2) fail('--nats must be 1 or 3: two servers have no majority when one is gone.')
  const isRunning = await askTopology(resolve(flags.dataDir), 'GET', '/state').then(
    () => true,
    () => false,
  )
  if (isRunning) fail(`A topology runs with ${flags.dataDir} already; stop it, or give another --data-dir.`)
  const table = !flags.json && process.stdout.isTTY ? new LiveTable() : undefined
  const topology = await TestTopology.prepare({
    dataDir: resolve(flags.dataDir),
    speed: flags.speed,
    zones: flags.zones,
    nats: flags.nats,
    replicas: flags.replicas,
    scaling: resolve(flags.scaling),
    overrides: flags.set.map(parseOverride),
    ...(flags.nodes === undefined ? {} : { fixed: { nodes: flags.nodes, workers: flags.workers } }),
    onEvent: ({ atMs, text }) => {
      if (table?.isOn) return
      if (flags.json) process.stderr.write(`${JSON.stringify({ atMs, event: text })}\n`)
      else say(`· ${text}`)
    },
  })
  const control = new ControlServer(topology)
  try {
    await topology.start()
    await control.start()
  } catch (error) {
    await topology.stop()
    throw error
  }
  const state = () => askTopology(topology.options.dataDir, 'GET', '/state')
  if (flags.json) printJson(await state())
  else say(`\n${describe(await state())}\n`)
  table?.start(state)
  await runUntilSignal(
    async () => {
      await control.stop()
      await topology.stop()
      const path = join(topology.options.dataDir, 'report.html')
      await writeFile(path, renderReport([await readRecord(topology.options.dataDir)], new Date()))
      if (!flags.json) say(`The report is ${path}.`)
    },
    {
      onStopping: () => {
        table?.stop()
        if (!flags.json) say('\nStopping …')
      },
    },
  )
}

const describe = ({ addresses, speed: factor }: TopologyState): string =>
  `  API          ${addresses.api}
  gRPC         ${addresses.grpc}
  uploads      ${addresses.gateway}/upload
  router       ${addresses.router}
  Prometheus   ${addresses.prometheus}
  time         windows divided by ${factor}

Try, in another terminal:
  bin/percolate.mjs test-topology simulate-tenants 50 --seconds 60
  bin/percolate.mjs test-topology submit-jobs 20
  bin/percolate.mjs test-topology kill zone-2 --down 10`

interface LoadFlags extends Flags {
  readonly seconds: number
  readonly clients: number
}

async function simulate(tenants: readonly string[], flags: LoadFlags): Promise<void> {
  const { addresses } = await askTopology(resolve(flags.dataDir), 'GET', '/state')
  const load = new Load({
    api: addresses.api,
    grpc: addresses.grpc,
    tenants,
    clients: flags.clients,
    pauseMs: 10,
    timeoutMs: 90_000,
  })
  const progress = new Progress(flags.seconds)
  for (let second = 0; second < flags.seconds; second++) {
    await sleep(1000)
    const { requests, failed } = load.figures()
    progress.update(second + 1, `${requests} requests, ${failed} failed`)
  }
  const figures = await load.stop()
  progress.end()
  const entered = tenants.map(tenant => ({ tenant, nodes: load.entriesOf(tenant) }))
  if (flags.json) printJson({ ...figures, entered })
  else {
    printTable(
      ['requests', 'failed', 'p50 ms', 'p99 ms', 'longest ms', 'tenants that entered one node'],
      [
        [
          figures.requests,
          figures.failed,
          figures.p50Ms.toFixed(1),
          figures.p99Ms.toFixed(1),
          figures.maxMs.toFixed(0),
          `${entered.filter(({ nodes }) => nodes.length <= 1).length} of ${tenants.length}`,
        ],
      ],
    )
    for (const text of figures.failures) say(text)
  }
  if (figures.failed > 0) process.exitCode = 1
}

interface TenantFlags extends Flags {
  readonly tenant: string
}

async function submitJobs(count: string, flags: TenantFlags): Promise<void> {
  const { gateway } = (await askTopology(resolve(flags.dataDir), 'GET', '/state')).addresses
  const tenant = parseTenantId(flags.tenant)
  const files = documents(countOf(count))
  const startedAt = performance.now()
  const ids: string[] = []
  for (const file of files) ids.push(await upload(gateway, tenant, file))
  await finishJobs(gateway, tenant, ids, startedAt, flags)
}

async function submitUpload(path: string, flags: TenantFlags): Promise<void> {
  const { gateway } = (await askTopology(resolve(flags.dataDir), 'GET', '/state')).addresses
  const tenant = parseTenantId(flags.tenant)
  const content = await readFile(path).catch(() => fail(`${path} cannot be read.`))
  const startedAt = performance.now()
  await finishJobs(
    gateway,
    tenant,
    [await upload(gateway, tenant, { name: basename(path), content })],
    startedAt,
    flags,
  )
}

async function finishJobs(
  gateway: string,
  tenant: string,
  ids: readonly string[],
  startedAt: number,
  flags: Flags,
): Promise<void> {
  const progress = new Progress(ids.length)
  const jobs = await waitForJobs(gateway, tenant, ids, JOBS_MS_MAX, ended => progress.update(ended, 'jobs have ended'))
  progress.end()
  const completed = jobs.filter(({ status }) => status === 'completed').length
  const seconds = (performance.now() - startedAt) / 1000
  if (flags.json) printJson({ tenant, jobs, completed, seconds })
  else say(`${completed} of ${ids.length} jobs are completed, after ${seconds.toFixed(1)} s.`)
  if (completed < ids.length) process.exitCode = 1
}

async function verifyAffinity(tenant: string | undefined, flags: Flags & { requests: number }): Promise<void> {
  const { api } = (await askTopology(resolve(flags.dataDir), 'GET', '/state')).addresses
  const entries = await entriesOf(api, parseTenantId(tenant ?? 'affinity'), flags.requests)
  const share = (100 * Math.max(...entries.values())) / flags.requests
  const passed = share > 95
  if (flags.json) printJson({ passed, share, entries: Object.fromEntries(entries) })
  else {
    printTable(['entry node', 'requests'], [...entries])
    say(`${share.toFixed(1)} % of ${flags.requests} requests enter one node: ${passed ? 'passed' : 'failed'}.`)
  }
  if (!passed) process.exitCode = 1
}

async function checkReplication(tenant: string | undefined, flags: Flags & { writes: number }): Promise<void> {
  const { api, nodes } = (await askTopology(resolve(flags.dataDir), 'GET', '/state')).addresses
  const id = parseTenantId(tenant ?? 'replication')
  const headers = { 'x-tenant-id': id }
  await ask(`${api}/api/v1/entities/check`, 'PUT', headers, { name: 'check' }, 90_000)
  let holders: string[] = []
  for (let attempt = 0; attempt < 300 && !(holders.length > 1 && (await holdersEqual(api, id))); attempt++) {
    await sleep(100)
    holders = await holdersOf(api, id)
  }
  if (holders.length < 2) fail(`${id} has ${holders.length} complete copies; there is nothing to compare.`)
  const [writer, reader] = holders.map(holder => nodes.find(({ name }) => name === holder)!)
  const { lagsMs, missing } = await measureLag(id, writer!, reader!, flags.writes)
  await sleep(500)
  const equal = await holdersEqual(api, id)
  const figures = { writes: flags.writes, missing, p50Ms: percentile(lagsMs, 50), p99Ms: percentile(lagsMs, 99) }
  if (flags.json) printJson({ tenant: id, holders, equal, ...figures })
  else {
    printTable(
      ['tenant', 'holders', 'lag p50 ms', 'lag p99 ms', 'they are'],
      [[id, holders.join(', '), figures.p50Ms.toFixed(1), figures.p99Ms.toFixed(1), equal ? 'equal' : 'different']],
    )
  }
  if (missing > 0 && !flags.json) say(`${missing} writes did not appear on ${reader!.name}.`)
  if (!equal || missing > 0) process.exitCode = 1
}

async function observe(flags: Flags & { seconds?: number }): Promise<void> {
  const dataDir = resolve(flags.dataDir)
  const state = () => askTopology(dataDir, 'GET', '/state')
  await state()
  const until = flags.seconds === undefined ? Number.POSITIVE_INFINITY : Date.now() + flags.seconds * 1000
  const table = !flags.json && process.stdout.isTTY ? new LiveTable() : undefined
  table?.start(state)
  let last = ''
  while (Date.now() < until) {
    const { sample } = await state()
    if (flags.json && sample) process.stdout.write(`${JSON.stringify(sample)}\n`)
    else if (!table && sample) {
      const { atMs: _, ...rest } = sample
      if (JSON.stringify(rest) !== last)
        say(
          `nodes ${rest.nodes.ready}/${rest.nodes.wanted}  workers ${rest.workers.ready}/${rest.workers.wanted}  tenants ${rest.tenants ?? '?'}  jobs ${rest.jobs ?? '?'}`,
        )
      last = JSON.stringify(rest)
    }
    await sleep(OBSERVE_MS)
  }
  table?.stop()
}

async function kill(name: string, flags: Flags & { down: number }): Promise<void> {
  const body = { name, downMs: flags.down * 1000 }
  const { killed } = await askTopology<{ killed: string[] }>(resolve(flags.dataDir), 'POST', '/kill', body)
  if (flags.json) printJson({ killed })
  else say(killed.length > 0 ? `Killed ${killed.join(', ')}.` : `${name} does not run now.`)
}

async function partition(name: string, flags: Flags & { from: string; seconds: number }): Promise<void> {
  if (!['nats', 'peers', 'all'].includes(flags.from)) fail('--from must be nats, peers or all.')
  const body = { name, from: flags.from, ms: flags.seconds * 1000 }
  const { cut } = await askTopology<{ cut: string[] }>(resolve(flags.dataDir), 'POST', '/partition', body)
  if (flags.json) printJson({ cut })
  else say(`${cut.join(', ')} cut off from ${flags.from} for ${flags.seconds} s.`)
}

async function report(flags: Flags & { out: string }): Promise<void> {
  const record = await readRecord(resolve(flags.dataDir))
  if (record.samples.length === 0) fail(`${flags.dataDir} has no record of a topology.`)
  await writeFile(flags.out, renderReport([record], new Date()))
  if (flags.json) printJson(record)
  else say(`${resolve(flags.out)}: ${record.samples.length} samples, ${record.events.length} events.`)
}

async function runScenarios(names: readonly string[], flags: Flags & { speed: number; out?: string }): Promise<void> {
  const chosen = names.includes('all')
    ? scenarios
    : names.map(
        name =>
          scenarios.find(scenario => scenario.name === name) ??
          fail(
            `There is no scenario ${JSON.stringify(name)}; there are ${scenarios.map(each => each.name).join(', ')}.`,
          ),
      )
  const parts: ReportPart[] = []
  for (const scenario of chosen) {
    if (!flags.json) say(`${scenario.name}: ${scenario.title}`)
    const verdict = await runScenario(scenario, {
      dataDir: join(resolve(flags.dataDir), 'scenarios'),
      speed: flags.speed,
      say: text => {
        if (!flags.json) say(`  · ${text}`)
      },
    })
    const { samples, events, ...rest } = verdict
    parts.push({ title: scenario.title, verdict: rest, samples, events })
    if (flags.json) continue
    for (const { text, passed, isAim } of verdict.checks)
      say(`  ${passed ? '✓' : isAim ? '~' : '✗'} ${text}${isAim && !passed ? ' (an aim)' : ''}`)
    printTable(['figure', 'value'], Object.entries(verdict.figures))
    say(`${scenario.name} ${verdict.passed ? 'passed' : 'FAILED'} after ${verdict.seconds} s.\n`)
  }
  const path = resolve(flags.out ?? join(flags.dataDir, 'scenarios', 'report.html'))
  // A scenario that could not even begin has made no folder.
  await makeFolder(dirname(path), { setting: '--out', mode: 0o755 })
  await writeFile(path, renderReport(parts, new Date()))
  if (flags.json) printJson(parts.map(({ verdict }) => verdict))
  else say(`The report is ${path}.`)
  if (parts.some(({ verdict }) => !verdict!.passed)) process.exitCode = 1
}
