import type { ChildProcess } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { createServer, type Server } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { errorMessage, PercolateError } from '../base/errors.ts'
import { superviseChild } from '../base/supervise.ts'
import { environment } from '../config/environment.ts'
import { LogFile } from './log-file.ts'

export interface ProgramSpec {
  readonly name: string
  /** A function is asked at each start. */
  readonly command: readonly string[] | (() => readonly string[])
  readonly env: Readonly<Record<string, string>>
  /** Standard output and error go here. */
  readonly logPath: string
  /** Resolves when it is ready; rejects or never resolves when it is not. */
  readonly ready: () => Promise<boolean>
}

const STOP_MS_MAX = 60_000
const READY_MS_MAX = 60_000
const TAIL_LINES = 8

/** One real process of a local cluster: started, killed, started again, stopped. */
export class Program {
  readonly spec: ProgramSpec
  #child: ChildProcess | undefined
  #pid: number | undefined
  #exited: Promise<void> = Promise.resolve()
  readonly #tail: string[] = []
  #isWanted = false
  onExit: (name: string, reason: string) => void = () => {}

  constructor(spec: ProgramSpec) {
    this.spec = spec
  }

  /** Of the program itself, not of what watches over it. */
  get pid(): number | undefined {
    return this.#pid
  }

  get isRunning(): boolean {
    return this.#child !== undefined
  }

  /** `env` goes over the specification's, for this start only. */
  launch(env: Readonly<Record<string, string>> = {}): void {
    if (this.#child) return
    const { name, command, env: usual, logPath } = this.spec
    this.#isWanted = true
    const child = superviseChild(typeof command === 'function' ? command() : command, {
      name: `percolate-${name}`,
      env: { ...environment(), ...usual, ...env },
      stdout: 'pipe',
    })
    this.#child = child
    const log = new LogFile(logPath)
    // What it said last comes after its exit.
    child.once('close', () => log.end())
    const pidKnown = new Promise<void>(resolve => {
      for (const stream of [child.stdout!, child.stderr!]) {
        stream.setEncoding('utf8').on('data', (text: string) => {
          log.write(text)
          for (const line of text.split('\n')) {
            const match = /^supervised (\d+)$/.exec(line)
            if (match) {
              this.#pid = Number(match[1])
              resolve()
            } else if (line.trim() !== '') this.#tail.push(line)
          }
          this.#tail.splice(0, this.#tail.length - TAIL_LINES)
        })
      }
    })
    void pidKnown
    this.#exited = new Promise(resolve => {
      child.once('exit', code => {
        this.#child = undefined
        this.#pid = undefined
        if (this.#isWanted)
          this.onExit(name, `it ended with ${code ?? 'a signal'}: ${this.#tail.at(-1) ?? 'no reason given'}`)
        resolve()
      })
    })
  }

  /** Starts it and waits until it is ready. */
  async start(): Promise<void> {
    this.launch()
    await this.whenReady()
  }

  whenReady(msMax = READY_MS_MAX): Promise<void> {
    return this.until(this.spec.ready, msMax)
  }

  /** Waits for something that it does. */
  async until(isDone: () => Promise<boolean>, msMax = READY_MS_MAX): Promise<void> {
    const { name } = this.spec
    for (const until = Date.now() + msMax; Date.now() < until; await sleep(50)) {
      if (!this.#child) break
      if (await isDone().catch(() => false)) return
    }
    throw new PercolateError(
      'INTERNAL',
      `${name} did not get ready${this.#tail.length > 0 ? `; it said:\n  ${this.#tail.join('\n  ')}` : ''}`,
    )
  }

  /** A signal to the program; the process stays one of the cluster. SIGKILL resolves when it is gone. */
  async signal(signal: NodeJS.Signals): Promise<void> {
    for (let waited = 0; this.#child && this.#pid === undefined && waited < 2000; waited += 10) await sleep(10)
    if (this.#pid === undefined) return
    if (signal === 'SIGKILL') this.#isWanted = false
    try {
      process.kill(this.#pid, signal)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH')
        throw new PercolateError('INTERNAL', `${this.spec.name} can't be signalled: ${errorMessage(error)}`)
    }
    if (signal === 'SIGKILL') await this.#exited
  }

  /** SIGTERM, and SIGKILL when that takes too long. */
  async stop(): Promise<void> {
    this.#isWanted = false
    const child = this.#child
    if (!child) return
    await this.signal('SIGCONT')
    child.stdin?.end()
    const timer = setTimeout(() => void this.signal('SIGKILL'), STOP_MS_MAX)
    await this.#exited
    clearTimeout(timer)
  }
}

/** Below the ranges from which Linux and macOS take ports for outgoing connections, so that none of those is in the way when a process comes back. */
const PORT_MIN = 12_000
const PORT_MAX = 32_000
const PORT_ATTEMPTS_MAX = 2000

/** Ports that are free now, on loopback. */
export async function freePorts(count: number): Promise<number[]> {
  const servers = new Map<number, Server>()
  for (let attempt = 0; servers.size < count; attempt++) {
    if (attempt > PORT_ATTEMPTS_MAX)
      throw new PercolateError('INTERNAL', `No ${count} free ports were found from ${PORT_MIN} to ${PORT_MAX}.`)
    const port = randomInt(PORT_MIN, PORT_MAX)
    const server = createServer()
    const isFree = await new Promise<boolean>(resolve => {
      server.once('error', () => resolve(false))
      server.listen(port, '127.0.0.1', () => resolve(true))
    })
    if (isFree) servers.set(port, server)
  }
  await Promise.all([...servers.values()].map(server => new Promise(resolve => server.close(resolve))))
  return [...servers.keys()]
}
