import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { get } from 'node:http'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Launched, launchUp } from '../../test-topology/launch.ts'
import { planOf, runPlan, type Target } from './connection.ts'
import { HonestClients } from './honest.ts'

export interface FuzzOptions {
  readonly dataDir: string
  readonly seed: number
  /** Clients that do what nobody should, and the number of the first: each has a plan by its number and the seed. */
  readonly connections: number
  readonly first?: number
  readonly say?: (line: string) => void
}

export interface FuzzReport {
  readonly connections: Readonly<Record<Target, number>>
  /** What was wrong; each names what to repeat it with. */
  readonly violations: string[]
  readonly acknowledged: number
  readonly refused: number
  readonly rssMibMax: number
  readonly recoverySeconds: number
  readonly seconds: number
}

/** At once. */
const CLIENTS = 40
/** What the process may take at most: it has two hundred when it starts. */
export const RSS_MIB_MAX = 900
/** Within which all is let go of that a client has left behind. */
const RECOVERY_MS_MAX = 20_000
/** What the parts of a process, and honest clients, keep or have now and then beyond what was there when it began. */
const SPARE = new Map([
  ['sockets', 4],
  ['percolate_connections{server="http"}', 1],
])
const LOOK_MS = 200
const PAGE_BYTES = 4096
const MIB = 1024 * 1024
/** What counts what clients hold (docs/metrics.md). */
const HELD = [
  /^percolate_connections\{.*\}$/,
  /^percolate_grpc_calls$/,
  /^percolate_held_body_bytes$/,
  /^percolate_held_answer_bytes$/,
  /^percolate_change_feeds(_forwarded)?$/,
  /^percolate_heavy_reads(_waiting)?$/,
  /^percolate_uploads_streaming$/,
  /^percolate_directory_lookups_waiting$/,
]

/**
 * A real `percolate up`, with its `nats-server`, whose ports of gRPC and HTTP/1.1 are sent what a seed makes of their grammars, while honest clients write and read beside it. It has to live, and to log no error;
 * honest clients are answered rightly, and nothing that was acknowledged is missing; everything that the others held is let go of when they have gone; and its memory stays bounded.
 *
 * What is sent, in which pieces, and how each client goes is the seed's; when the pieces arrive is not, and some of what can go wrong depends on that: a seed that failed may have to be repeated.
 */
export async function fuzz(options: FuzzOptions): Promise<FuzzReport> {
  const { seed, connections, first = 0, say } = options
  const up = await launchUp({ dataDir: options.dataDir, env: { PERCOLATE_LOG_LEVEL: 'error' } })
  const begunMs = performance.now()
  const violations: string[] = []
  const honest = new HonestClients(up.url, up.grpc)
  const ports: Record<Target, number> = {
    grpc: Number(up.grpc.split(':').at(-1)),
    http: Number(new URL(up.url).port),
    gateway: Number(new URL(up.gateway).port),
  }
  const counts: Record<Target, number> = { grpc: 0, http: 0, gateway: 0 }
  let ended: string | undefined
  up.child.once('exit', (code, signal) => {
    ended = `the process ended (${signal ?? code})`
  })
  let rssMibMax = 0
  const sampler = setInterval(() => {
    rssMibMax = Math.max(rssMibMax, rssMib(up.pid) ?? 0)
  }, LOOK_MS)
  const under = new Set<number>()
  let recoverySeconds = 0
  try {
    await honest.warmUp()
    const before = await heldNow(up)
    honest.start()
    let next = first
    let last: number[] = []
    const client = async (): Promise<void> => {
      while (next < first + connections && ended === undefined) {
        const n = next++
        const plan = planOf(seed, n)
        under.add(n)
        if (await runPlan(plan, ports[plan.target])) counts[plan.target]++
        // Those that went last may have left behind what ends the process.
        last = [...last.slice(1 - CLIENTS), n]
        if (ended === undefined) under.delete(n)
        if ((n + 1) % 1000 === 0)
          say?.(`seed ${seed}: ${n + 1 - first} of ${connections} clients, ${honest.acknowledged} writes acknowledged`)
      }
    }
    await Promise.all(Array.from({ length: CLIENTS }, client))
    // What ends a process may take it a moment.
    await sleep(LOOK_MS)
    if (ended === undefined) {
      await honest.end()
      honest.close()
      const recoveringMs = performance.now()
      let left = await leftOver(up, before)
      while (left.length > 0 && ended === undefined && performance.now() - recoveringMs < RECOVERY_MS_MAX) {
        await sleep(LOOK_MS)
        left = await leftOver(up, before)
      }
      recoverySeconds = (performance.now() - recoveringMs) / 1000
      violations.push(...left.map(text => `${RECOVERY_MS_MAX / 1000} s after the last client has gone: ${text}`))
    }
    if (ended !== undefined) {
      const near = [...last, ...under].sort((a, b) => a - b)
      violations.push(
        `${ended}: clients ${near[0]} to ${near.at(-1)} were there or had just gone; it said: ${up.output().slice(-2000)}`,
      )
    } else violations.push(...honest.wrong)
    violations.push(...errorsIn(up.output()))
    if (rssMibMax > RSS_MIB_MAX)
      violations.push(`the process took ${rssMibMax.toFixed(0)} MiB, more than ${RSS_MIB_MAX}`)
  } finally {
    clearInterval(sampler)
    honest.close()
    if (ended === undefined) {
      const code = await up.stop()
      if (code !== 0) violations.push(`the process stopped with ${code}: ${up.output().slice(-2000)}`)
    } else killGroup(up.pid)
  }
  return {
    connections: counts,
    violations: violations.map(text => `seed ${seed}, ${connections} clients from ${first}: ${text}`),
    acknowledged: honest.acknowledged,
    refused: honest.refused,
    rssMibMax,
    recoverySeconds,
    seconds: (performance.now() - begunMs) / 1000,
  }
}

/** What the log has of errors, and what Node or a library says when something is wrong with the process. */
function errorsIn(output: string): string[] {
  const wrong = output
    .split('\n')
    .filter(line => /"level":(50|60)|uncaught|unhandled|assert|corrupt|FATAL|^\s+at .*:\d+:\d+/i.test(line))
  return [...new Set(wrong.map(line => `it said: ${line.slice(0, 500)}`))].slice(0, 10)
}

/** What a node has now of what clients hold; and the sockets of its process. */
async function heldNow(up: Launched): Promise<Map<string, number>> {
  const held = new Map<string, number>()
  for (const url of [up.url, up.gateway]) {
    const page = await pageOf(`${url}/metrics`)
    for (const line of page.split('\n')) {
      const [name = '', value] = line.split(' ')
      if (HELD.some(pattern => pattern.test(name))) held.set(name, Number(value))
    }
  }
  return held.set('sockets', socketsOf(up.pid))
}

/** A page over a connection of its own, which counts itself, before and after. */
function pageOf(url: string): Promise<string> {
  return new Promise((resolve, reject) => {
    get(url, { agent: false }, response => {
      text(response).then(resolve, reject)
    }).once('error', reject)
  })
}

async function leftOver(up: Launched, before: ReadonlyMap<string, number>): Promise<string[]> {
  const now = await heldNow(up)
  return [...now].flatMap(([name, value]) =>
    value > (before.get(name) ?? 0) + (SPARE.get(name) ?? 0)
      ? [`${name} is ${value}, and was ${before.get(name) ?? 0}`]
      : [],
  )
}

/** Where the system tells (Linux): else 0. */
function socketsOf(pid: number): number {
  const folder = `/proc/${pid}/fd`
  try {
    return readdirSync(folder).filter(name => isSocket(`${folder}/${name}`)).length
  } catch {
    return 0
  }
}

function isSocket(path: string): boolean {
  try {
    return readlinkSync(path).startsWith('socket:')
  } catch {
    return false
  }
}

function rssMib(pid: number): number | undefined {
  try {
    return (Number(readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[1]) * PAGE_BYTES) / MIB
  } catch {
    return undefined
  }
}

/** What the process has started goes with it. */
function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL')
  } catch {
    // Nothing is left of it.
  }
}
