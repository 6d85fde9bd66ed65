import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { PACKAGE_FOLDER } from '../src/base/version.ts'

/** A real `percolate up` in a process group of its own, on free ports. */
export interface Launched {
  readonly url: string
  readonly gateway: string
  readonly grpc: string
  readonly pid: number
  readonly natsPid: number
  readonly child: ChildProcess
  output(): string
  /** SIGTERM; resolves to the exit code. */
  stop(): Promise<number | null>
  /** SIGKILL to the whole process group; resolves when it is gone. */
  kill(): Promise<void>
}

export interface LaunchOptions {
  readonly dataDir: string
  readonly args?: readonly string[]
  readonly env?: Readonly<Record<string, string>>
  /** A program to run it under, such as strace with its flags. */
  readonly under?: readonly string[]
  readonly readyMsMax?: number
}

const FREE_PORTS = ['--http-port', '0', '--grpc-port', '0', '--gateway-port', '0']

/** Starts `percolate up` and resolves when it says that it is ready; rejects with its output when it ends before. */
export async function launchUp(options: LaunchOptions): Promise<Launched> {
  const command = [
    ...(options.under ?? []),
    process.execPath,
    join(PACKAGE_FOLDER, 'bin', 'percolate.mjs'),
    'up',
    '--data-dir',
    options.dataDir,
    ...FREE_PORTS,
    ...(options.args ?? []),
  ]
  const child = spawn(command[0]!, command.slice(1), {
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...options.env },
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output = (output + text).slice(-200_000)
    })
  }
  const exited = new Promise<number | null>(resolve => child.once('exit', code => resolve(code)))
  let ended = false
  void exited.then(() => {
    ended = true
  })
  for (
    const until = Date.now() + (options.readyMsMax ?? 60_000);
    !output.includes('Ctrl-C stops it');
    await sleep(20)
  ) {
    if (ended || Date.now() > until) {
      if (!ended) process.kill(-child.pid!, 'SIGKILL')
      throw new Error(`percolate up did not get ready:\n${output}`)
    }
  }
  const found = (pattern: RegExp) => pattern.exec(output)?.[1] ?? ''
  return {
    url: found(/API\s+(http\S+)/),
    gateway: found(/uploads\s+(http\S+)\/upload/),
    grpc: found(/gRPC\s+(\S+)/),
    natsPid: Number(found(/nats-server \S+, pid (\d+)/)),
    pid: child.pid!,
    child,
    output: () => output,
    stop: async () => {
      child.kill('SIGTERM')
      return exited
    },
    kill: async () => {
      process.kill(-child.pid!, 'SIGKILL')
      await exited
    },
  }
}

/** Runs a command of the CLI to its end. */
export async function runCli(
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, [join(PACKAGE_FOLDER, 'bin', 'percolate.mjs'), ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  const code = await new Promise<number | null>(resolve => child.once('close', resolve))
  return { code, stdout, stderr }
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}
