import { openAsBlob } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import type { Command } from 'commander'
import { problemOf } from '../../client/client.ts'
import { PercolateClientError } from '../../client/errors.ts'
import type { publicJob } from '../jobs/model.ts'
import { addClientFlags, type ClientFlags, gatewayOf, guarded } from './common.ts'
import { fail, oneLine, Progress, printJson, printTable, remarkWidth, say } from './output.ts'

type Job = ReturnType<typeof publicJob>

interface Outcome {
  readonly file: string
  job?: Job
  error?: string
}

const UPLOADS_AT_ONCE = 4
/** For how long one request waits for a job; the client gives up after 30 s. */
const WAIT = '20s'
const BUSY_ATTEMPTS_MAX = 30
const BUSY_WAIT_MS = 1000

/** `percolate ingest FILE…`: uploads files and directories and waits until they can be found. */
export function addIngestCommand(program: Command): void {
  addClientFlags(program.command('ingest <files...>'))
    .description('upload documents (a directory: all in it) and wait until they are searchable')
    .option('-c, --category <name>', 'category of what is stored')
    .option('--no-wait', 'return when the uploads are acknowledged')
    .addHelpText(
      'after',
      '\nExamples:\n  percolate ingest handbook.pdf -t acme\n  percolate ingest ~/Documents/contracts -t acme -c contracts --json',
    )
    .action(guarded(ingest))
}

async function ingest(paths: string[], flags: ClientFlags & { category?: string; wait: boolean }): Promise<void> {
  const files = (await Promise.all(paths.map(expand))).flat()
  if (files.length === 0)
    fail(`There are no files to upload in ${paths.join(', ')} (what begins with a dot is left out).`)
  const outcomes: Outcome[] = files.map(file => ({ file }))
  const progress = new Progress(files.length)
  let finished = 0
  let next = 0
  const lane = async () => {
    while (next < outcomes.length) {
      const outcome = outcomes[next++]!
      try {
        outcome.job = await upload(outcome.file, flags)
        if (flags.wait) await waitFor(outcome, flags)
      } catch (error) {
        outcome.error = error instanceof Error ? error.message : String(error)
      }
      progress.update(++finished, basename(outcome.file))
    }
  }
  await Promise.all(Array.from({ length: UPLOADS_AT_ONCE }, lane))
  progress.end()
  report(outcomes, flags)
}

async function expand(path: string): Promise<string[]> {
  const info = await stat(path).catch(() => fail(`${path} does not exist.`))
  if (!info.isDirectory()) return [resolve(path)]
  const entries = await readdir(path, { recursive: true, withFileTypes: true })
  return entries
    .filter(entry => entry.isFile() && !entry.name.startsWith('.'))
    .map(entry => resolve(join(entry.parentPath, entry.name)))
    .sort()
}

async function upload(file: string, flags: ClientFlags & { category?: string }): Promise<Job> {
  const form = new FormData()
  form.set('uri', pathToFileURL(file).href)
  if (flags.category) form.set('category', flags.category)
  // Read from disk as it is sent; never whole in memory.
  form.set('file', await openAsBlob(file), basename(file))
  for (let attempt = 1; ; attempt++) {
    let response: Response
    try {
      response = await fetch(new URL('/upload', flags.gateway), {
        method: 'POST',
        headers: { 'x-tenant-id': flags.tenant },
        body: form,
      })
    } catch (cause) {
      throw new PercolateClientError(`${flags.gateway} does not answer; is Percolate running there (--gateway)?`, {
        code: 'UNREACHABLE',
        retryable: true,
        cause,
      })
    }
    const text = await response.text()
    if (response.ok) return JSON.parse(text) as Job
    const problem = problemOf(response.status, text)
    if (!problem.retryable || attempt >= BUSY_ATTEMPTS_MAX) throw problem
    await sleep(BUSY_WAIT_MS)
  }
}

async function waitFor(outcome: Outcome, flags: ClientFlags): Promise<void> {
  const gateway = gatewayOf(flags)
  while (outcome.job!.status === 'queued' || outcome.job!.status === 'running') {
    outcome.job = await gateway.request<Job>('GET', `/jobs/${outcome.job!.job_id}`, { query: { wait: WAIT } })
  }
}

function report(outcomes: readonly Outcome[], flags: ClientFlags): void {
  const bad = outcomes.filter(
    ({ job, error }) =>
      error !== undefined || job?.status === 'failed' || job?.status === 'dead' || job?.status === 'cancelled',
  )
  if (flags.json) {
    printJson({
      files: outcomes.length,
      failed: bad.length,
      results: outcomes.map(({ file, job, error }) => ({
        ...job,
        file,
        ...(error ? { error: { detail: error } } : {}),
      })),
    })
  } else {
    printTable(
      ['file', 'status', 'chunks', 'remark'],
      outcomes.map(({ file, job, error }) => [
        oneLine(basename(file), 50),
        error ? 'refused' : (job?.status ?? ''),
        job?.done ?? '',
        oneLine(error ?? job?.error?.detail ?? '', remarkWidth()),
      ]),
    )
    say(
      `${outcomes.length - bad.length} of ${outcomes.length} files are in${bad.length > 0 ? `, ${bad.length} are not` : ''}.`,
    )
  }
  if (bad.length > 0) process.exitCode = 1
}
