import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { mkdtempSync } from 'node:fs'
import { readFile, rm, stat } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { isErrorCode, PercolateError } from '../../src/base/errors.ts'
import { PACKAGE_FOLDER } from '../../src/base/version.ts'
import type { Mention } from '../extract/entities.ts'
import { AnswerBytes, CHUNKS_MAX, readAnswer, textBytesMax } from './answer.ts'
import type { Chunk } from './chunk.ts'
import type { SandboxMessage, SandboxRequest } from './sandbox-protocol.ts'

export interface SandboxOptions {
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

export interface ParseRequest {
  readonly name: string
  readonly contentType: string | null
  /** How much of a processor's time parsing may take once the file is there; on the clock {@link WAITING_FACTOR} times as much, since others may have the processor. Where that is not known, the clock alone counts. */
  readonly timeoutMs: number
  /** The settings that say so, for the error. */
  readonly timeoutSettings: string
  readonly signal: AbortSignal
}

/** Beside the heap: code, stacks, buffers. */
const RSS_MARGIN_BYTES = 384 * 1024 * 1024
const CHECK_MS = 200
/** A process that has had less of the processor than its document may take is ended after this many times that on the clock, and tried again. */
const WAITING_FACTOR = 10
/** Of `/proc/<pid>/task/<pid>/stat`: so many a second on every Linux. */
const CPU_TICK_MS = 10
/** Loading the parsers takes half a second of a whole core; a machine that needs this long is out of order. */
const READY_MS_MAX = 60_000

const childPath = fileURLToPath(
  new URL(
    import.meta.url.endsWith('.ts') ? '../../dist/workers/parse/sandbox-child.js' : './sandbox-child.js',
    import.meta.url,
  ),
)
const packages = dirname(dirname(createRequire(import.meta.url).resolve('pdfjs-dist/package.json')))
const permission = process.allowedNodeEnvironmentFlags.has('--permission')
  ? '--permission'
  : '--experimental-permission'

/**
 * What starts a parser so that the system ends it when its worker is gone, however that ended: one that is busy sees nothing of it. With util-linux 2.33 or newer (PR_SET_PDEATHSIG, which looks at the thread that starts it: the main one
 * here); nothing elsewhere.
 */
let endsWithUs: readonly string[] | undefined
function endingWithUs(): readonly string[] {
  const command = ['/usr/bin/setpriv', '--pdeathsig', 'KILL']
  endsWithUs ??= spawnSync(command[0]!, [...command.slice(1), '/bin/true']).status === 0 ? command : []
  return endsWithUs
}

/**
 * A process for one document, so that none can take the worker down, hold its event loop, read what it may not, or see another tenant's: no
 * environment, file reads limited to the program and the one file (Node's permission model), no writes, bounded heap, memory and time. It
 * loads its parsers before it is needed, parses once, and is killed.
 */
export class Sandbox {
  /** Where the document is to be put. */
  readonly path: string
  readonly #folder: string
  readonly #options: SandboxOptions
  readonly #child: ChildProcess
  readonly #exited: Promise<void>
  readonly #lines: AsyncIterableIterator<string>
  readonly #ready: Promise<void>
  readonly #answerBytes = new AnswerBytes()
  #saysTooMuch = false
  #complaint = ''

  constructor(options: SandboxOptions) {
    this.#options = options
    this.#folder = mkdtempSync(join(tmpdir(), 'percolate-'))
    this.path = join(this.#folder, 'document')
    const [command, ...before] = [...endingWithUs(), process.execPath]
    this.#child = spawn(
      command!,
      [
        ...before,
        permission,
        ...[`${PACKAGE_FOLDER}/*`, `${packages}/*`, this.path].map(folder => `--allow-fs-read=${folder}`),
        '--no-warnings',
        `--max-old-space-size=${Math.round(options.memoryBytes / 1024 / 1024)}`,
        childPath,
      ],
      { env: {}, stdio: ['pipe', 'pipe', 'pipe'], cwd: PACKAGE_FOLDER },
    )
    const child = this.#child
    child.stdin!.on('error', () => {})
    child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.#complaint = (this.#complaint + text).slice(-4000)
    })
    this.#exited = new Promise(resolve => {
      child.once('close', () => resolve())
      child.once('error', () => resolve())
    })
    child.stdout!.on('data', (piece: Buffer) => {
      if (this.#answerBytes.add(piece)) return
      this.#saysTooMuch = true
      child.kill('SIGKILL')
    })
    this.#lines = createInterface({ input: child.stdout!, crlfDelay: Number.POSITIVE_INFINITY })[
      Symbol.asyncIterator
    ]() as AsyncIterableIterator<string>
    this.#ready = this.#lines.next().then(({ done, value }) => {
      if (done || (JSON.parse(value) as SandboxMessage).kind !== 'ready')
        throw new PercolateError('INTERNAL', 'A parser process did not start.', { cause: new Error(this.#complaint) })
    })
    this.#ready.catch(() => {})
  }

  get pid(): number | undefined {
    return this.#child.pid
  }

  /** Resolves when the process has loaded its parsers; rejects when it can't. */
  get ready(): Promise<void> {
    return this.#ready
  }

  get exited(): Promise<void> {
    return this.#exited
  }

  /** Parses the file at {@link path}; only once. The process is gone afterwards, whatever happened. */
  async parse(request: ParseRequest): Promise<ParsedFile> {
    const { name, contentType, timeoutMs, timeoutSettings, signal } = request
    const options = this.#options
    let stopped: PercolateError | undefined
    const stop = (reason: PercolateError) => {
      stopped ??= reason
      this.#child.kill('SIGKILL')
    }
    const abort = () =>
      stop(
        signal.reason instanceof PercolateError
          ? signal.reason
          : new PercolateError('CANCELLED', 'The worker is stopping.'),
      )
    signal.addEventListener('abort', abort, { once: true })
    if (signal.aborted) abort()
    let timer = setTimeout(() => stop(new PercolateError('INTERNAL', 'A parser process did not start.')), READY_MS_MAX)
    let checks: NodeJS.Timeout | undefined
    try {
      await this.#ready.catch(error => {
        throw stopped ?? error
      })
      clearTimeout(timer)
      if (!stopped && (this.#child.exitCode !== null || this.#child.signalCode !== null))
        throw new PercolateError('INTERNAL', 'A parser process ended before it had anything to parse.')
      const usedBefore = await processorMs(this.#child.pid)
      const isCounted = usedBefore !== undefined
      const clockMs = timeoutMs * (isCounted ? WAITING_FACTOR : 1)
      timer = setTimeout(
        () =>
          stop(
            isCounted
              ? new PercolateError(
                  'INTERNAL',
                  `${name} was not parsed within ${clockMs / 1000} s, and its parser did not get the ${timeoutMs / 1000} s of a processor that it may take: the machine has too much to do, or the parser hangs.`,
                )
              : new PercolateError(
                  'DOCUMENT_TOO_COSTLY',
                  `${name} took longer than ${clockMs / 1000} s to parse, what a document of its size may take (${timeoutSettings}).`,
                ),
          ),
        clockMs,
      )
      checks = setInterval(() => {
        void checkMemory(this.#child, options.memoryBytes + RSS_MARGIN_BYTES, () => stop(outOfMemory(name, options)))
        void processorMs(this.#child.pid).then(used => {
          if (isCounted && used !== undefined && used - usedBefore > timeoutMs)
            stop(
              new PercolateError(
                'DOCUMENT_TOO_COSTLY',
                `${name} took more than ${timeoutMs / 1000} s of a processor to parse, what a document of its size may take (${timeoutSettings}).`,
              ),
            )
        })
      }, CHECK_MS)
      const { size } = await stat(this.path).catch(() => ({ size: 0 }))
      const textMax = textBytesMax(size)
      this.#answerBytes.allow(textMax)
      const message: SandboxRequest = {
        path: this.path,
        name,
        contentType,
        outputBytesMax: options.parseBytesMax,
        chunkChars: options.chunkChars,
        chunksMax: CHUNKS_MAX,
        textBytesMax: textMax,
      }
      this.#child.stdin!.end(JSON.stringify(message))
      return await this.#answer(message, () => stopped)
    } finally {
      clearTimeout(timer)
      clearInterval(checks)
      signal.removeEventListener('abort', abort)
      await this.close()
    }
  }

  /** Kills the process and removes the document. */
  async close(): Promise<void> {
    this.#child.kill('SIGKILL')
    await rm(this.#folder, { recursive: true, force: true })
  }

  async #answer(request: SandboxRequest, isStopped: () => PercolateError | undefined): Promise<ParsedFile> {
    const { name } = request
    const stopped = () => isStopped() ?? (this.#saysTooMuch ? tooLarge(name) : undefined)
    const { chunks, ending } = await readAnswer(this.#lines, request)
    const reason = stopped()
    if (reason) throw reason
    if (ending?.kind === 'error')
      throw new PercolateError(isErrorCode(ending.code) ? ending.code : 'DOCUMENT_DAMAGED', ending.detail)
    if (ending?.kind === 'done') return { type: ending.type, title: ending.title, chunks, mentions: ending.mentions }
    await this.#exited
    const late = stopped()
    if (late) throw late
    if (
      /heap out of memory|Allocation failed|allocation failed/.test(this.#complaint) ||
      this.#child.signalCode === 'SIGKILL' ||
      this.#child.signalCode === 'SIGABRT'
    )
      throw outOfMemory(name, this.#options)
    throw new PercolateError('DOCUMENT_DAMAGED', `${name} made its parser end without an answer.`, {
      cause: new Error(this.#complaint),
    })
  }
}

const tooLarge = (name: string): PercolateError =>
  new PercolateError('DOCUMENT_TOO_COSTLY', `${name} has a part that is too large, or makes too much text; split it.`)

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

/**
 * The processor time that the main thread of a process has had: that is where a document is parsed. What collects garbage and compiles beside it
 * may take more than that again. Undefined: it is not known (elsewhere than on Linux), or the process is gone.
 */
export async function processorMs(pid: number | undefined): Promise<number | undefined> {
  if (process.platform !== 'linux' || pid === undefined) return undefined
  const path = join('/proc', String(pid), 'task', String(pid), 'stat')
  const stat = await readFile(path, 'utf8').catch(() => undefined)
  // The second field, the name, is in parentheses and may hold anything; `utime` and `stime` are fields 14 and 15.
  const fields = stat?.slice(stat.lastIndexOf(')') + 2).split(' ')
  return fields && (Number(fields[11]) + Number(fields[12])) * CPU_TICK_MS
}
