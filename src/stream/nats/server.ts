import { type ChildProcess, execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { PercolateError } from '../../base/errors.ts'
import type { Logger } from '../../base/logger.ts'
import { makeFolder } from '../../base/make-folder.ts'
import { superviseChild } from '../../base/supervise.ts'

export interface EmbeddedNatsOptions {
  readonly folder: string
  readonly host: string
  /** 0 takes a free one. */
  readonly port: number
  /** Path of the program; default: found by {@link findNatsServer}. */
  readonly program: string | undefined
  /** Where `npm run setup` puts what it fetches. */
  readonly cacheFolder: string
  readonly searchPath: string
  readonly logger: Logger
  /** Called when the server ends without being asked to. */
  readonly onExit: (reason: string) => void
}

export interface EmbeddedNats {
  /** With the token that only this data directory's owner can read. */
  readonly url: string
  readonly version: string
  readonly pid: number
  /** Where the server tells of its health, for {@link JetStreamWatch}: a path that nobody else knows. */
  readonly monitorUrl: string
  /** Stops it, by force when it does not stop by itself, and starts it on the same port with the same token. Rejects when it does not start: then it may be asked for again. */
  restart(): Promise<void>
  stop(): Promise<void>
}

interface Running {
  readonly child: ChildProcess
  readonly exited: Promise<void>
  readonly port: number
  readonly pid: number
  readonly monitorUrl: string
}

const START_MS_MAX = 20_000
const STOP_MS_MAX = 10_000
/** A server whose JetStream waits for a lock that nobody lets go does not stop by itself. */
const RESTART_STOP_MS_MAX = 3000
/**
 * What streams set aside together may be more than the disk has: here the disk is shared with the databases, whose reserve stops writes before it is full. The server's own default, three quarters
 * of what is free, would refuse streams to tenants long before.
 */
export const FILE_STORE_BYTES = 2 ** 43
/** Larger than the default of 1 MiB, with room for an outbox entry of one large record. */
const PAYLOAD_BYTES_MAX = 8 * 1024 * 1024

export function findNatsServer(options: Pick<EmbeddedNatsOptions, 'program' | 'cacheFolder' | 'searchPath'>): string {
  if (options.program !== undefined) {
    if (existsSync(options.program)) return options.program
    throw new PercolateError('CONFIG_INVALID', `PERCOLATE_NATS_SERVER is ${options.program}, which does not exist.`)
  }
  const candidates = [...options.searchPath.split(delimiter), '/usr/sbin', '/usr/local/sbin', options.cacheFolder]
    .filter(Boolean)
    .map(folder => join(folder, 'nats-server'))
  const found = candidates.find(candidate => existsSync(candidate))
  if (found) return found
  throw new PercolateError(
    'CONFIG_INVALID',
    'nats-server is not on this machine. Run "npm run setup", install it ("apt-get install nats-server", "brew install nats-server"), or set PERCOLATE_NATS_URL to a running one.',
  )
}

/**
 * A real nats-server as a child: JetStream on disk, loopback, a random token. It runs in a process group of its own, so that Ctrl-C reaches us first
 * and it last, under a shell that waits on our end of a pipe: when we die, however we die, the pipe closes and it is stopped.
 */
export async function startEmbeddedNats(options: EmbeddedNatsOptions): Promise<EmbeddedNats> {
  const program = findNatsServer(options)
  const version = /v?(\d+\.\d+\.\d+)/.exec(execFileSync(program, ['--version'], { encoding: 'utf8' }))?.[1] ?? 'unknown'
  await makeFolder(options.folder, { setting: 'PERCOLATE_DATA_DIR' })
  await stopLeftover(options)
  const secrets = { token: randomBytes(24).toString('base64url'), monitorPath: randomBytes(24).toString('base64url') }
  let running: Running | undefined
  /** The one that is being stopped: its end is no news. */
  let ending: Running | undefined
  const launch = async (port: number) => {
    const started = await launched(program, { ...options, port }, secrets, version)
    running = started
    const { exited, log } = started
    void exited.then(() => {
      if (ending !== started) options.onExit(log.at(-1) ?? 'no reason given')
    })
    return started
  }
  const end = async (waitMs: number) => {
    if (!running) return
    const { child, exited, pid } = running
    ending = running
    running = undefined
    child.stdin!.end()
    await Promise.race([exited, sleep(waitMs, undefined, { ref: false })])
    if (child.exitCode === null && child.signalCode === null) {
      kill(pid, 'SIGKILL')
      await exited
    }
    await rm(join(options.folder, 'nats-server.pid'), { force: true })
  }
  const { port } = await launch(options.port)
  let last = running!
  // One after another: who stops it does so when it has been started again.
  let turn: Promise<void> = Promise.resolve()
  const inTurn = (task: () => Promise<void>): Promise<void> => {
    const done = turn.then(task)
    turn = done.catch(() => {})
    return done
  }
  let isStopped = false
  return {
    url: `nats://${secrets.token}@${options.host}:${port}`,
    version,
    get pid() {
      return last.pid
    },
    get monitorUrl() {
      return last.monitorUrl
    },
    restart: () =>
      inTurn(async () => {
        if (isStopped) return
        await end(RESTART_STOP_MS_MAX)
        last = await launch(port)
      }),
    stop: () => {
      isStopped = true
      return inTurn(() => end(STOP_MS_MAX))
    },
  }
}

async function launched(
  program: string,
  options: EmbeddedNatsOptions,
  secrets: Secrets,
  version: string,
): Promise<Running & { readonly log: readonly string[] }> {
  const portsFolder = join(options.folder, 'ports')
  await rm(portsFolder, { recursive: true, force: true })
  await mkdir(portsFolder)
  const configPath = join(options.folder, 'nats-server.conf')
  await writeFile(configPath, serverConfig(options, secrets, portsFolder, version), { mode: 0o600 })
  const log: string[] = []
  const child = superviseChild([program, '-c', configPath], { name: 'percolate-nats' })
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    log.push(...text.split('\n').filter(line => /\[(ERR|FTL|WRN)\]|nats-server:/.test(line)))
    log.splice(0, log.length - 20)
  })
  const exited = new Promise<void>(resolve => child.once('exit', () => resolve()))
  const { port, pid, monitorPort } = await started(child, portsFolder, options, log, exited)
  return {
    child,
    exited,
    log,
    port,
    pid,
    monitorUrl: `http://${options.host}:${monitorPort}/${secrets.monitorPath}`,
  }
}

interface Secrets {
  readonly token: string
  /** Stands before every path of the monitoring endpoint, which knows no users and would tell the names of all tenants. */
  readonly monitorPath: string
}

function serverConfig(
  options: EmbeddedNatsOptions,
  { token, monitorPath }: Secrets,
  portsFolder: string,
  version: string,
): string {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  const quoted = (text: string) => JSON.stringify(text)
  return [
    `host: ${quoted(options.host)}`,
    `port: ${options.port === 0 ? -1 : options.port}`,
    `server_name: "percolate-embedded"`,
    `ports_file_dir: ${quoted(portsFolder)}`,
    `pid_file: ${quoted(join(options.folder, 'nats-server.pid'))}`,
    `authorization { token: ${quoted(token)} }`,
    `http: ${quoted(`${options.host}:-1`)}`,
    `http_base_path: ${quoted(`/${monitorPath}`)}`,
    `max_payload: ${PAYLOAD_BYTES_MAX}`,
    // From 2.10 on every write is fsynced before it is acknowledged; older servers do so every two minutes and have no setting for it.
    `jetstream { store_dir: ${quoted(join(options.folder, 'store'))}, max_file_store: ${FILE_STORE_BYTES}${major > 2 || minor >= 10 ? ', sync_interval: always' : ''} }`,
    '',
  ].join('\n')
}

async function started(
  child: ChildProcess,
  portsFolder: string,
  options: EmbeddedNatsOptions,
  log: readonly string[],
  exited: Promise<void>,
): Promise<{ port: number; pid: number; monitorPort: number }> {
  let ended = false
  void exited.then(() => {
    ended = true
  })
  const pidPath = join(options.folder, 'nats-server.pid')
  for (const until = Date.now() + START_MS_MAX; Date.now() < until && !ended; await sleep(20)) {
    const pid = Number(await readFile(pidPath, 'utf8').catch(() => '0'))
    if (pid === 0) continue
    const ports = await readFile(join(portsFolder, `nats-server_${pid}.ports`), 'utf8').catch(() => undefined)
    const urls = ports ? (JSON.parse(ports) as { nats?: string[]; monitoring?: string[] }) : undefined
    const [url] = urls?.nats ?? []
    const [monitor] = urls?.monitoring ?? []
    if (url && monitor) return { port: Number(new URL(url).port), pid, monitorPort: Number(new URL(monitor).port) }
  }
  child.stdin?.end()
  const why = log.at(-1) ?? (ended ? 'it ended at once' : 'it did not get ready in time')
  if (/address already in use/.test(why))
    throw new PercolateError(
      'PORT_IN_USE',
      `Port ${options.port} for the embedded nats-server (PERCOLATE_NATS_PORT) is in use.`,
    )
  throw new PercolateError('STREAM_UNAVAILABLE', `The embedded nats-server did not start: ${why.replace(/^.*\] /, '')}`)
}

/** A server that outlived its Percolate (killed with -9 a moment ago) holds the store: it is stopped, if it really is ours. */
async function stopLeftover(options: EmbeddedNatsOptions): Promise<void> {
  const pidPath = join(options.folder, 'nats-server.pid')
  const pid = Number(await readFile(pidPath, 'utf8').catch(() => '0'))
  if (pid > 0 && commandLine(pid).includes(join(options.folder, 'nats-server.conf'))) {
    options.logger.warn({ pid }, 'stopping a nats-server left over from an earlier run')
    kill(pid, 'SIGTERM')
    for (let waited = 0; waited < STOP_MS_MAX && kill(pid, 0); waited += 50) await sleep(50)
    if (kill(pid, 0)) kill(pid, 'SIGKILL')
  }
  await rm(pidPath, { force: true })
}

function commandLine(pid: number): string {
  try {
    return existsSync('/proc')
      ? readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ')
      : execFileSync('ps', ['-o', 'command=', '-p', String(pid)], { encoding: 'utf8' })
  } catch {
    return ''
  }
}

function kill(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    process.kill(pid, signal)
    return true
  } catch {
    return false
  }
}
