import { randomBytes } from 'node:crypto'
import { PercolateClient } from '../client/client.ts'
import { timeoutSignal } from '../src/base/timeout.ts'
import { type Launched, launchUp, runCli } from './launch.ts'

export interface KillSeriesOptions {
  readonly dataDir: string
  readonly rounds: number
  readonly writers: number
  /** Longest time under load before a kill. */
  readonly loadMsMax: number
  readonly say: (line: string) => void
}

export interface KillSeriesReport {
  readonly kills: number
  readonly acknowledgedWrites: number
  readonly acknowledgedUploads: number
  /** Why writes were not acknowledged, and how often. */
  readonly refusals: Readonly<Record<string, number>>
  readonly lost: string[]
  readonly problems: string[]
  readonly unfinishedJobs: string[]
}

/** How long a kill waits for an acknowledgement. */
const ACKNOWLEDGED_MS_MAX = 20_000
/** Records that are acknowledged before such a kill, and with them an upload. */
const NEW_WRITES_MIN = 12
const TENANTS = ['kill-a', 'kill-b', 'kill-c']

/**
 * Writes, deletes and uploads against a real `percolate up` and kills its whole process group with -9, again and again. Every acknowledgement
 * is remembered; after each kill the data on disk is checked, after the last one every acknowledged write is read back.
 */
export async function killSeries(options: KillSeriesOptions): Promise<KillSeriesReport> {
  const expected = new Map<string, { tenant: string; id: string; content: string | undefined }>()
  const uploads: { tenant: string; job: string }[] = []
  const problems: string[] = []
  const refusals = new Map<string, number>()
  for (let round = 1; round <= options.rounds; round++) {
    const up = await launchUp({
      dataDir: options.dataDir,
      env: { PERCOLATE_LOG_LEVEL: 'error', PERCOLATE_JOB_ACK_WAIT_MS: '1000', PERCOLATE_JOB_ATTEMPTS_MAX: '50' },
    })
    let running = true
    const load = [
      ...Array.from({ length: options.writers }, (_, n) =>
        writer(up, TENANTS[n % TENANTS.length]!, () => running, expected, refusals),
      ),
      uploader(up, TENANTS[round % TENANTS.length]!, () => running, uploads),
    ]
    const [writesBefore, uploadsBefore] = [expected.size, uploads.length]
    await new Promise(resolve => setTimeout(resolve, Math.random() * options.loadMsMax))
    // Every second kill comes when there is something new to lose, however slow the machine is.
    const until = Date.now() + ACKNOWLEDGED_MS_MAX
    while (
      round % 2 === 0 &&
      Date.now() < until &&
      (expected.size < writesBefore + NEW_WRITES_MIN || uploads.length === uploadsBefore)
    )
      await new Promise(resolve => setTimeout(resolve, 10))
    await up.kill()
    running = false
    await Promise.all(load)
    const checked = await runCli(['check', '--data-dir', options.dataDir, '--json'])
    if (checked.stdout === '')
      throw new Error(`round ${round}: the check ended with ${checked.code}: ${checked.stderr}`)
    const found = (JSON.parse(checked.stdout) as { tenants: { tenant: string; problems: string[] }[] }).tenants.flatMap(
      ({ tenant, problems: list }) => list.map(problem => `round ${round}, ${tenant}: ${problem}`),
    )
    problems.push(...found)
    options.say(
      `kill ${round}/${options.rounds}: ${expected.size} acknowledged writes, ${uploads.length} uploads, ${found.length} problems on disk`,
    )
  }
  const up = await launchUp({
    dataDir: options.dataDir,
    env: { PERCOLATE_LOG_LEVEL: 'error', PERCOLATE_JOB_ACK_WAIT_MS: '1000', PERCOLATE_JOB_ATTEMPTS_MAX: '50' },
  })
  const lost = await readBack(up, expected)
  const unfinishedJobs = await jobsEnd(up, uploads)
  await up.stop()
  return {
    kills: options.rounds,
    acknowledgedWrites: expected.size,
    acknowledgedUploads: uploads.length,
    refusals: Object.fromEntries(refusals),
    lost,
    problems,
    unfinishedJobs,
  }
}

type Expected = Map<string, { tenant: string; id: string; content: string | undefined }>

async function writer(
  up: Launched,
  tenant: string,
  running: () => boolean,
  expected: Expected,
  refusals: Map<string, number>,
): Promise<void> {
  const client = new PercolateClient({ url: up.url, tenant, attemptsMax: 1, timeoutMs: 5000 })
  const mine: string[] = []
  while (running()) {
    try {
      const batch = Array.from({ length: Math.random() < 0.2 ? 20 : 1 }, () => ({
        content: `note ${randomBytes(8).toString('hex')} about durable writes`,
        category: 'kill',
      }))
      const { ids } = await client.putResources(batch)
      for (const [n, id] of ids.entries()) expected.set(`${tenant}/${id}`, { tenant, id, content: batch[n]!.content })
      mine.push(...ids)
      if (Math.random() < 0.2) {
        const id = mine[Math.floor(Math.random() * mine.length)]!
        // Until the answer is here the delete may have happened or not.
        const known = expected.get(`${tenant}/${id}`)
        expected.delete(`${tenant}/${id}`)
        await client.deleteResource(id).catch(error => {
          if ((error as { code?: string }).code !== 'NOT_FOUND' || known?.content !== undefined) throw error
        })
        expected.set(`${tenant}/${id}`, { tenant, id, content: undefined })
      }
    } catch (error) {
      // Killed, or about to be: nothing was acknowledged.
      const text = `${(error as { code?: string }).code} ${(error as Error).message}`.replaceAll(up.url, 'it')
      refusals.set(text, (refusals.get(text) ?? 0) + 1)
      await new Promise(resolve => setTimeout(resolve, 20))
    }
  }
}

async function uploader(
  up: Launched,
  tenant: string,
  running: () => boolean,
  uploads: { tenant: string; job: string }[],
): Promise<void> {
  while (running()) {
    try {
      const form = new FormData()
      form.set('file', new Blob([`Uploaded text ${randomBytes(8).toString('hex')}. `.repeat(20)]), 'note.txt')
      const response = await fetch(`${up.gateway}/upload`, {
        method: 'POST',
        headers: { 'x-tenant-id': tenant },
        body: form,
        signal: timeoutSignal(5000),
      })
      if (response.status === 202) uploads.push({ tenant, job: ((await response.json()) as { job_id: string }).job_id })
    } catch {
      // Not acknowledged.
    }
    await new Promise(resolve => setTimeout(resolve, 400))
  }
}

async function readBack(up: Launched, expected: Expected): Promise<string[]> {
  const lost: string[] = []
  const all = [...expected.values()]
  for (let at = 0; at < all.length; at += 50) {
    await Promise.all(
      all.slice(at, at + 50).map(async ({ tenant, id, content }) => {
        const client = new PercolateClient({ url: up.url, tenant })
        const found = await client.getResource(id).then(
          resource => resource.content,
          () => undefined,
        )
        if (found !== content) lost.push(`${tenant}/${id}: ${found === undefined ? 'is missing' : 'is back'}`)
      }),
    )
  }
  return lost
}

const STALLED_MS = 60_000

/** Every acknowledged upload ends: completed, or failed or dead with a reason. Waits as long as some still do. */
async function jobsEnd(up: Launched, uploads: readonly { tenant: string; job: string }[]): Promise<string[]> {
  let open = [...uploads]
  for (let giveUpAt = Date.now() + STALLED_MS; open.length > 0 && Date.now() < giveUpAt; ) {
    await new Promise(resolve => setTimeout(resolve, 500))
    const still: typeof open = []
    for (const upload of open) {
      const response = await fetch(`${up.gateway}/jobs/${upload.job}`, { headers: { 'x-tenant-id': upload.tenant } })
      const { status } = (await response.json()) as { status?: unknown }
      if (status !== 'completed' && status !== 'dead' && status !== 'failed') still.push(upload)
    }
    if (still.length < open.length) giveUpAt = Date.now() + STALLED_MS
    open = still
  }
  return open.map(({ tenant, job }) => `${tenant}/${job}`)
}
