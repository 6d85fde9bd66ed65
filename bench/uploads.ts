import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PercolateClient } from '../client/client.ts'
import { systemTime } from '../src/base/time.ts'
import { type Launched, launchUp } from '../test-topology/launch.ts'
import { makeDocx, makePdf, makeXlsx } from '../tests/support/documents.ts'
import { Sandbox } from '../workers/parse/sandbox.ts'

/**
 * How long a document takes from the answer to its upload until search finds it, and a folder of them, on a real `percolate up`; beside what starting
 * a parser process takes in the same run, which is what each document would wait for at least if none were kept ready. `npm run bench:uploads`.
 */
const ROUNDS = 5
const FOLDER_FILES = 32
const LANES = 4
/** Between two documents: the next parser process gets ready meanwhile. */
const PAUSE_MS = 2500
const MIB = 1024 * 1024

const kinds: readonly (readonly [name: string, make: (mark: string) => Promise<Buffer> | Buffer])[] = [
  ['note.txt', mark => Buffer.from(`A note about the ${mark}. The fee is two percent.`)],
  ['page.md', mark => Buffer.from(`# The ${mark}\n\nThe deposit is refunded after inspection.\n`)],
  ['page.pdf', mark => makePdf([{ heading: `The ${mark}`, lines: ['The warranty lasts 24 months from delivery.'] }])],
  // The same document each time: its name tells the rounds apart.
  ['handbook.docx', () => makeDocx()],
]

async function upload(up: Launched, tenant: string, name: string, content: Buffer): Promise<string> {
  const form = new FormData()
  form.set('file', new Blob([content as never]), name)
  const response = await fetch(`${up.gateway}/upload`, {
    method: 'POST',
    headers: { 'x-tenant-id': tenant },
    body: form,
  })
  return ((await response.json()) as { job_id: string }).job_id
}

async function ended(up: Launched, tenant: string, job: string): Promise<void> {
  for (;;) {
    const response = await fetch(`${up.gateway}/jobs/${job}?wait=30s`, { headers: { 'x-tenant-id': tenant } })
    const { status } = (await response.json()) as { status: string }
    if (status === 'completed') return
    if (status !== 'queued' && status !== 'running') throw new Error(`A job of the benchmark is ${status}.`)
  }
}

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!

async function startOfParser(): Promise<number> {
  const took: number[] = []
  for (let n = 0; n < ROUNDS; n++) {
    const from = performance.now()
    const sandbox = new Sandbox({ memoryBytes: 256 * MIB, parseBytesMax: MIB, chunkChars: 1200 })
    await sandbox.ready
    took.push(performance.now() - from)
    await sandbox.close()
  }
  return median(took)
}

async function main(): Promise<void> {
  const dataDir = mkdtempSync(join(tmpdir(), 'percolate-bench-'))
  const up = await launchUp({ dataDir, env: { PERCOLATE_LOG_LEVEL: 'error' } })
  try {
    const startMs = await startOfParser()
    console.log(`${'start of a parser process'.padEnd(34)} ${startMs.toFixed(0).padStart(8)} ms`)
    const client = new PercolateClient({ url: up.url, tenant: 'bench' })
    await ended(up, 'bench', await upload(up, 'bench', 'first.txt', Buffer.from('The first document of a tenant.')))
    for (const [name, make] of kinds) {
      const took: number[] = []
      for (let round = 0; round < ROUNDS; round++) {
        await systemTime.sleep(PAUSE_MS)
        const content = await make(`mark${round}`)
        const job = await upload(up, 'bench', `${round}-${name}`, content)
        const from = performance.now()
        await ended(up, 'bench', job)
        took.push(performance.now() - from)
        const { results } = await client.search({ query: 'fee deposit warranty vacation', limit: 50 })
        if (!results.some(({ metadata }) => metadata.document === `${round}-${name}`))
          throw new Error(`${round}-${name} is completed and not found.`)
      }
      const p50 = median(took)
      console.log(
        `${`searchable after its upload: ${name}`.padEnd(34)} ${p50.toFixed(0).padStart(8)} ms  = ${(p50 / startMs).toFixed(2)} of the start of a parser process  (max ${Math.max(...took).toFixed(0)})`,
      )
    }
    const all = [...kinds, ['catalogue.xlsx', () => makeXlsx()] as const]
    const files = await Promise.all(
      Array.from({ length: FOLDER_FILES }, async (_, n) => {
        const [name, make] = all[n % all.length]!
        return { name: `${n}-${name}`, content: await make(`mark${n}`) }
      }),
    )
    const from = performance.now()
    const lane = async () => {
      for (let file = files.pop(); file; file = files.pop())
        await ended(up, 'folder', await upload(up, 'folder', file.name, file.content))
    }
    await Promise.all(Array.from({ length: LANES }, lane))
    const took = performance.now() - from
    console.log(
      `${`a folder of ${FOLDER_FILES} mixed files`.padEnd(34)} ${(took / 1000).toFixed(1).padStart(8)} s   = ${(took / startMs / FOLDER_FILES).toFixed(2)} starts of a parser process a file`,
    )
  } finally {
    await up.stop()
    rmSync(dataDir, { recursive: true, force: true })
  }
}

await main()
