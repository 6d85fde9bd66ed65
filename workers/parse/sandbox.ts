import { type ChildProcess, spawn } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { isErrorCode, PercolateError } from '../../src/base/errors.ts'
import { PACKAGE_FOLDER } from '../../src/base/version.ts'
import type { Mention } from '../extract/entities.ts'
import type { Chunk } from './chunk.ts'
import type { SandboxMessage, SandboxRequest } from './sandbox-protocol.ts'

export interface SandboxOptions {
  readonly timeoutMs: number
  /** Heap of the child; it is also killed when its whole memory exceeds this by more than {@link RSS_MARGIN_BYTES}. */
  readonly memoryBytes: number
  readonly parseBytesMax: number
  readonly chunkChars: number
}

export interface ParsedFile {
  readonly type: string
  readonly title: string | undefined
  readonly chunks: readonly Chunk[]
  readonly mentions: readonly Mention[]
}

const CHUNKS_MAX = 50_000
/** Beside the heap: code, stacks, buffers. */
const RSS_MARGIN_BYTES = 384 * 1024 * 1024
const RSS_CHECK_MS = 200
const LINE_BYTES_MAX = 4 * 1024 * 1024

const childPath = fileURLToPath(
  new URL(
    import.meta.url.endsWith('.ts') ? '../../dist/workers/parse/sandbox-child.js' : './sandbox-child.js',
    import.meta.url,
  ),
)
const packages = dirname(dirname(createRequire(import.meta.url).resolve('pdfjs-dist/package.json')))

/**
 * Parses a file in a process of its own, so that no document can take the worker down, hold its event loop, or read what it may not: no
 * environment, file reads limited to the program and the file (Node's permission model), no writes, bounded heap, memory and time.
 */
export async function parseInSandbox(
  path: string,
  file: { name: string; contentType: string | null },
  options: SandboxOptions,
  signal: AbortSignal,
): Promise<ParsedFile> {
  const permission = process.allowedNodeEnvironmentFlags.has('--permission')
    ? '--permission'
    : '--experimental-permission'
  const child = spawn(
    process.execPath,
    [
      permission,
      ...[`${PACKAGE_FOLDER}/*`, `${packages}/*`, path].map(folder => `--allow-fs-read=${folder}`),
      '--no-warnings',
      `--max-old-space-size=${Math.round(options.memoryBytes / 1024 / 1024)}`,
      childPath,
    ],
    { env: {}, stdio: ['pipe', 'pipe', 'pipe'], cwd: PACKAGE_FOLDER },
  )
  const request: SandboxRequest = {
    path,
    ...file,
    outputBytesMax: options.parseBytesMax,
    chunkChars: options.chunkChars,
    chunksMax: CHUNKS_MAX,
  }
  child.stdin.on('error', () => {})
  child.stdin.end(JSON.stringify(request))
  let stopped: PercolateError | undefined
  const stop = (reason: PercolateError) => {
    stopped ??= reason
    child.kill('SIGKILL')
  }
  const timer = setTimeout(
    () =>
      stop(
        new PercolateError(
          'DOCUMENT_TOO_COSTLY',
          `${file.name} took longer than ${options.timeoutMs / 1000} s to parse (PERCOLATE_PARSE_TIMEOUT_MS).`,
        ),
      ),
    options.timeoutMs,
  )
  const memory = setInterval(
    () => void checkMemory(child, options.memoryBytes + RSS_MARGIN_BYTES, () => stop(outOfMemory(file.name, options))),
    RSS_CHECK_MS,
  )
  const abort = () => stop(new PercolateError('CANCELLED', 'The worker is stopping.'))
  signal.addEventListener('abort', abort, { once: true })
  if (signal.aborted) abort()
  try {
    return await collectAnswer(child, file.name, options, () => stopped)
  } finally {
    clearTimeout(timer)
    clearInterval(memory)
    signal.removeEventListener('abort', abort)
    child.kill('SIGKILL')
  }
}

async function collectAnswer(
  child: ChildProcess,
  name: string,
  options: SandboxOptions,
  stopped: () => PercolateError | undefined,
): Promise<ParsedFile> {
  const chunks: Chunk[] = []
  let ending: Exclude<SandboxMessage, { kind: 'chunk' }> | undefined
  let complaint = ''
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    complaint = (complaint + text).slice(-4000)
  })
  const exited = new Promise<void>(resolve => child.once('close', () => resolve()))
  for await (const line of createInterface({ input: child.stdout!, crlfDelay: Number.POSITIVE_INFINITY })) {
    if (line.length > LINE_BYTES_MAX)
      throw new PercolateError('DOCUMENT_TOO_COSTLY', `${name} has a part that is too large.`)
    const message = JSON.parse(line) as SandboxMessage
    if (message.kind === 'chunk') chunks.push(message.chunk)
    else ending = message
  }
  await exited
  const reason = stopped()
  if (reason) throw reason
  if (ending?.kind === 'error')
    throw new PercolateError(isErrorCode(ending.code) ? ending.code : 'DOCUMENT_DAMAGED', ending.detail)
  if (ending?.kind === 'done') return { type: ending.type, title: ending.title, chunks, mentions: ending.mentions }
  if (
    /heap out of memory|Allocation failed|allocation failed/.test(complaint) ||
    child.signalCode === 'SIGKILL' ||
    child.signalCode === 'SIGABRT'
  )
    throw outOfMemory(name, options)
  throw new PercolateError('DOCUMENT_DAMAGED', `${name} made its parser end without an answer.`, {
    cause: new Error(complaint),
  })
}

const outOfMemory = (name: string, options: SandboxOptions): PercolateError =>
  new PercolateError(
    'DOCUMENT_TOO_COSTLY',
    `${name} needs more memory to parse than PERCOLATE_PARSE_MEMORY_BYTES, ${options.memoryBytes} bytes.`,
  )

/** Linux only; elsewhere the heap limit has to do. */
async function checkMemory(child: ChildProcess, bytesMax: number, exceeded: () => void): Promise<void> {
  if (process.platform !== 'linux' || child.pid === undefined) return
  const pages = Number(
    (await readFile(join('/proc', String(child.pid), 'statm'), 'utf8').catch(() => '0 0')).split(' ')[1],
  )
  if (pages * 4096 > bytesMax) exceeded()
}
