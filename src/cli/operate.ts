import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { Command } from 'commander'
import { PercolateClient } from '../../client/client.ts'
import { parseTenantId } from '../base/ids.ts'
import { LIST_LIMIT_MAX } from '../base/limits.ts'
import { systemTime } from '../base/time.ts'
import { clientDefaults } from '../config/environment.ts'
import type { publicJob } from '../jobs/model.ts'
import { addClientFlags, type ClientFlags, configOf, gatewayOf, guarded } from './common.ts'
import { fail, oneLine, printJson, printTable, say } from './output.ts'
import { readiness } from './readiness.ts'

type Job = ReturnType<typeof publicJob>

/** `percolate status`, `jobs`, `check`: the operator's commands. */
export function addOperateCommands(program: Command): void {
  addClientFlags(program.command('status'))
    .description('say whether node and gateway are ready')
    .addHelpText('after', '\nExample:\n  percolate status --json')
    .action(guarded(status))
  addClientFlags(program.command('jobs'))
    .description("list a tenant's jobs, with the reason of those that failed")
    .option('-s, --status <status>', 'only jobs in this state')
    .option('--retry <id>', 'start a failed or dead job over')
    .option('--cancel <id>', 'cancel a job')
    .addHelpText('after', '\nExamples:\n  percolate jobs -t acme -s dead\n  percolate jobs -t acme --retry 0b8e…')
    .action(guarded(jobs))
  program
    .command('check [tenants...]')
    .description('verify tenants on disk: records, postings, vectors, edges, outbox (Percolate must not be running)')
    .option('--data-dir <path>', 'data directory (default: PERCOLATE_DATA_DIR or ./data)')
    .option('--cluster <tenant>', 'compare the holders of a tenant in a running cluster instead')
    .option('--url <url>', 'any node of the cluster, or its router', clientDefaults().url)
    .option('--json', 'print JSON, for programs')
    .addHelpText(
      'after',
      '\nExamples:\n  percolate check acme --data-dir ./data\n  percolate check --cluster acme --url http://127.0.0.1:8080',
    )
    .action(guarded(check))
}

async function status(flags: ClientFlags): Promise<void> {
  const parts = await Promise.all([readiness('node', flags.url), readiness('gateway', flags.gateway)])
  if (flags.json) printJson(Object.fromEntries(parts.map(({ part, ...rest }) => [part, rest])))
  else {
    printTable(
      ['part', 'address', 'state', 'probes'],
      parts.map(({ part, url, state, probes }) => [
        part,
        url,
        state,
        probes.map(({ name, ok, detail }) => `${name} ${ok ? 'ok' : (detail ?? 'failed')}`).join(', '),
      ]),
    )
  }
  if (parts.some(({ state }) => state !== 'ready')) process.exitCode = 1
}

async function jobs(flags: ClientFlags & { status?: string; retry?: string; cancel?: string }): Promise<void> {
  const gateway = gatewayOf(flags)
  if (flags.retry)
    return showJob(await gateway.request<Job>('POST', `/jobs/${encodeURIComponent(flags.retry)}/retry`), flags)
  if (flags.cancel)
    return showJob(await gateway.request<Job>('DELETE', `/jobs/${encodeURIComponent(flags.cancel)}`), flags)
  const all = await allJobs(gateway)
  const shown = flags.status ? all.filter(job => job.status === flags.status) : all
  if (flags.json) return printJson({ results: shown })
  if (shown.length === 0) return say('No jobs.')
  printTable(
    ['job', 'status', 'stage', 'done', 'file', 'updated', 'reason'],
    shown.map(job => [
      job.job_id,
      job.status,
      job.stage,
      `${job.done}/${job.total}`,
      oneLine(job.file?.name ?? job.kind, 30),
      job.updated_at.slice(0, 19),
      job.error ? `${job.error.code}: ${job.error.detail}` : '',
    ]),
  )
}

/** Newest first, page by page. */
async function allJobs(gateway: PercolateClient): Promise<Job[]> {
  const all: Job[] = []
  for (let cursor: string | undefined; ; ) {
    const page = await gateway.request<{ results: Job[]; cursor?: string }>('GET', '/jobs', {
      query: { limit: LIST_LIMIT_MAX, cursor },
    })
    all.push(...page.results)
    if (page.cursor === undefined) return all
    cursor = page.cursor
  }
}

function showJob(job: Job, flags: ClientFlags): void {
  if (flags.json) printJson(job)
  else say(`${job.job_id} is ${job.status}.`)
}

interface CheckFlags {
  readonly dataDir?: string
  readonly cluster?: string
  readonly url: string
  readonly json?: boolean
}

interface ClusterCheck {
  readonly tenant: string
  readonly equal: boolean
  readonly unreachable: string[]
  readonly comparisons: {
    nodes: [string, string]
    verdict: string
    differences: { kind: string; key: string[]; only: string | null }[]
  }[]
}

/** Holders against one another; the first differences by name. */
async function checkCluster(tenant: string, flags: CheckFlags): Promise<void> {
  const client = new PercolateClient({ url: flags.url, tenant, attemptsMax: 2 })
  const result = await client.request<ClusterCheck>('GET', '/api/v1/replication/check')
  if (flags.json) printJson(result)
  else {
    if (result.comparisons.length === 0) say(`${tenant} has one complete copy; there is nothing to compare.`)
    else
      printTable(
        ['tenant', 'holders', 'verdict', 'first difference'],
        result.comparisons.map(({ nodes, verdict, differences: [first] }) => [
          tenant,
          nodes.join(', '),
          verdict === 'behind' ? 'changes are on their way; try again in a moment' : verdict,
          first ? `${first.kind} ${first.key.join(' ')}${first.only ? ` (only on ${first.only})` : ''}` : '',
        ]),
      )
    for (const node of result.unreachable) say(`${node} could not be asked.`)
  }
  if (!result.equal) process.exitCode = 1
}

async function check(tenants: string[], flags: CheckFlags): Promise<void> {
  if (flags.cluster !== undefined) return checkCluster(parseTenantId(flags.cluster), flags)
  const config = configOf('up', { ...flags })
  if (!existsSync(join(config.dataDir, 'node'))) fail(`${config.dataDir} is not a Percolate data directory.`)
  const [{ DataDir }, { Tenant }, { openRocksKv }, { checkTenant }] = await Promise.all([
    import('../tenant/data-dir.ts'),
    import('../tenant/tenant.ts'),
    import('../storage/rocksdb.ts'),
    import('../tenant/check.ts'),
  ])
  const dataDir = await DataDir.open(config.dataDir, undefined)
  const reports = []
  /** Whose making was cut short: a folder without a database. */
  const unmade: string[] = []
  try {
    for (const id of tenants.length > 0 ? tenants.map(parseTenantId) : await dataDir.tenants()) {
      if (!(await dataDir.hasTenant(id))) {
        if (tenants.length > 0) fail(`${config.dataDir} holds no tenant ${id}.`)
        unmade.push(id)
        continue
      }
      const kv = await dataDir.ballast.lend(() =>
        openRocksKv(dataDir.tenantPath(id), {
          createIfMissing: false,
          writeBufferBytes: config.writeBufferBytes,
          blockCacheBytes: config.blockCacheBytes,
        }),
      )
      const tenant = await Tenant.open(id, kv, {
        time: systemTime,
        origin: dataDir.origin,
        outboxEnabled: true,
        outboxBytesMax: config.outboxBytesMax,
        recordCacheBytes: 1e6,
        onCommit: () => {},
      })
      reports.push(await checkTenant(tenant))
      await tenant.close()
    }
  } finally {
    await dataDir.close()
  }
  if (flags.json) printJson({ tenants: reports, unmade })
  else {
    printTable(
      ['tenant', 'resources', 'entities', 'edges', 'moments', 'postings', 'vectors', 'outbox', 'problems'],
      reports.map(({ tenant, counts, problems }) => [
        tenant,
        counts.resource,
        counts.entity,
        counts.edge,
        counts.moment,
        counts.postings,
        counts.vectors,
        counts.outbox,
        problems.length,
      ]),
    )
    for (const { tenant, problems } of reports)
      for (const problem of problems.slice(0, 50)) say(`${tenant}: ${problem}`)
    for (const tenant of unmade)
      say(`${tenant}: its making was cut short before anything was written; its first write makes it.`)
  }
  if (reports.some(({ problems }) => problems.length > 0)) process.exitCode = 1
}
