import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { PercolateClient } from '../../client/client.ts'
import type { ResourceOutput } from '../../src/api/schemas.ts'
import { PACKAGE_FOLDER } from '../../src/base/version.ts'
import { launchUp, runCli } from '../../test-topology/launch.ts'

/**
 * Known-item search: real documents that Debian packages ship, questions that copy none of their sentences. Ingests all of them with the command
 * line and asks; beside it SQLite FTS5 over the same chunks. `npm run bench:known-item`
 */
const corpus = JSON.parse(readFileSync(join(PACKAGE_FOLDER, 'bench', 'known-item', 'corpus.json'), 'utf8')) as {
  packages: Record<string, string[]>
  questions: [question: string, document: string][]
}
const cache = join(PACKAGE_FOLDER, '.cache', 'known-item')
const TENANT = 'known-item'

export interface Quality {
  readonly reciprocalRank: number
  readonly recallAt3: number
  readonly recallAt10: number
  readonly missed: string[]
}

export interface KnownItemReport {
  readonly documents: number
  readonly failed: number
  readonly chunks: number
  readonly questions: number
  readonly ingestS: number
  readonly modes: Record<string, Quality>
}

export async function knownItem(say: (line: string) => void): Promise<KnownItemReport> {
  const documents = fetchDocuments(say)
  const dataDir = mkdtempSync(join(tmpdir(), 'percolate-known-item-'))
  const up = await launchUp({ dataDir, env: { PERCOLATE_LOG_LEVEL: 'error' } })
  try {
    const startedAt = performance.now()
    const { stdout } = await runCli([
      'ingest',
      documents,
      '--url',
      up.url,
      '--gateway',
      up.gateway,
      '-t',
      TENANT,
      '--json',
    ])
    const ingestS = (performance.now() - startedAt) / 1000
    const ingested = JSON.parse(stdout) as {
      files: number
      failed: number
      results: { file: string; status: string; error?: { detail: string } }[]
    }
    for (const { file, status, error } of ingested.results)
      if (status !== 'completed') say(`not ingested: ${basename(file)}: ${error?.detail ?? status}`)
    const client = new PercolateClient({ url: up.url, tenant: TENANT })
    const chunks = await allChunks(client)
    const modes: Record<string, Quality> = {}
    for (const mode of ['hybrid', 'text', 'vector']) {
      modes[mode] = await measure(async question =>
        (await client.search({ query: question, mode, limit: 50 })).results.map(({ metadata }) =>
          String(metadata.document),
        ),
      )
    }
    const fts = ftsRanker(chunks)
    if (fts) modes['SQLite FTS5'] = await measure(async question => fts(question))
    else say('sqlite3 is not installed: no comparison with FTS5')
    return {
      documents: ingested.files,
      failed: ingested.failed,
      chunks: chunks.length,
      questions: corpus.questions.length,
      ingestS,
      modes,
    }
  } finally {
    await up.stop()
    rmSync(dataDir, { recursive: true, force: true })
  }
}

/** Rank of a document: that of its best chunk among the documents named so far. */
async function measure(rank: (question: string) => Promise<string[]>): Promise<Quality> {
  let reciprocal = 0
  let at3 = 0
  let at10 = 0
  const missed: string[] = []
  for (const [question, document] of corpus.questions) {
    const position = [...new Set(await rank(question))].indexOf(document)
    if (position >= 0) reciprocal += 1 / (position + 1)
    if (position >= 0 && position < 3) at3++
    else missed.push(`${question} (${document}: ${position < 0 ? 'not found' : `rank ${position + 1}`})`)
    if (position >= 0 && position < 10) at10++
  }
  const total = corpus.questions.length
  return { reciprocalRank: reciprocal / total, recallAt3: at3 / total, recallAt10: at10 / total, missed }
}

async function allChunks(client: PercolateClient): Promise<ResourceOutput[]> {
  const chunks: ResourceOutput[] = []
  let cursor: string | undefined
  do {
    const page = await client.listResources({ limit: 500, cursor })
    chunks.push(...page.results)
    cursor = page.cursor
  } while (cursor !== undefined)
  return chunks
}

/** SQLite's FTS5 with its Porter tokenizer and bm25, any of the question's words. */
function ftsRanker(chunks: readonly ResourceOutput[]): ((question: string) => string[]) | undefined {
  if (spawnSync('sqlite3', ['--version']).status !== 0) return undefined
  const folder = mkdtempSync(join(tmpdir(), 'percolate-fts-'))
  const database = join(folder, 'fts.db')
  const quote = (text: string) => `'${text.replaceAll("'", "''").replaceAll('\u0000', '')}'`
  const rows = chunks.map(
    ({ name, content, metadata }) =>
      `INSERT INTO t VALUES (${quote(String(metadata.document))}, ${quote(`${name ?? ''}\n${content}`)});`,
  )
  execFileSync('sqlite3', [database], {
    input: `CREATE VIRTUAL TABLE t USING fts5(document UNINDEXED, body, tokenize = 'porter unicode61');\nBEGIN;\n${rows.join('\n')}\nCOMMIT;\n`,
    maxBuffer: 1e9,
  })
  return question => {
    const words = question.match(/[\p{L}\p{N}]+/gu) ?? []
    const match = words.map(word => `"${word}"`).join(' OR ')
    const out = execFileSync('sqlite3', [database], {
      input: `SELECT document FROM t WHERE t MATCH ${quote(match)} ORDER BY bm25(t) LIMIT 50;\n`,
      encoding: 'utf8',
    })
    return out.split('\n').filter(Boolean)
  }
}

/** Packages by apt (no root, nothing is installed), unpacked into the cache. */
function fetchDocuments(say: (line: string) => void): string {
  const folder = join(cache, 'documents')
  const files = Object.values(corpus.packages).flat()
  const target = (file: string) => join(folder, basename(file).replace(/\.gz$/, ''))
  if (files.every(file => existsSync(target(file)))) return folder
  mkdirSync(folder, { recursive: true })
  const work = join(cache, 'work')
  rmSync(work, { recursive: true, force: true })
  mkdirSync(work, { recursive: true })
  say(`fetching ${Object.keys(corpus.packages).length} Debian packages for their documents`)
  execFileSync('apt-get', ['-o', 'APT::Sandbox::User=', 'download', ...Object.keys(corpus.packages)], {
    cwd: work,
    stdio: 'pipe',
  })
  for (const deb of readdirSync(work).filter(name => name.endsWith('.deb')))
    execFileSync('dpkg', ['-x', deb, 'unpacked'], { cwd: work })
  for (const file of files) {
    const bytes = readFileSync(join(work, 'unpacked', file))
    writeFileSync(target(file), file.endsWith('.gz') ? gunzipSync(bytes) : bytes)
  }
  rmSync(work, { recursive: true, force: true })
  return folder
}

export function printKnownItem(report: KnownItemReport, say: (line: string) => void): void {
  say(
    `${report.documents} documents, ${report.failed} failed, ${report.chunks} chunks in ${report.ingestS.toFixed(1)} s; ${report.questions} questions`,
  )
  for (const [mode, { reciprocalRank, recallAt3, recallAt10 }] of Object.entries(report.modes)) {
    say(
      `${mode.padEnd(12)} MRR ${reciprocalRank.toFixed(3)}  recall@3 ${recallAt3.toFixed(3)}  recall@10 ${recallAt10.toFixed(3)}`,
    )
  }
  for (const question of report.modes.hybrid?.missed ?? []) say(`  not in the first three: ${question}`)
}

if (process.argv[1]?.endsWith('known-item/run.js')) printKnownItem(await knownItem(console.log), console.log)
