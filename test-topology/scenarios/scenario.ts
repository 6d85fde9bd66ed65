import { readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { ask } from '../ask.ts'
import { TestTopology, type TopologyEvent, type TopologyOptions, type TopologySample } from '../topology.ts'

export interface ScenarioContext {
  readonly dataDir: string
  /** Divides every waiting window; 1: as in production. */
  readonly speed: number
  readonly say: (text: string) => void
}

export interface Scenario {
  readonly name: string
  readonly title: string
  readonly run: (context: ScenarioContext, verdict: VerdictBuilder) => Promise<void>
}

export interface Verdict {
  readonly scenario: string
  readonly title: string
  readonly passed: boolean
  readonly checks: readonly Check[]
  readonly figures: Readonly<Record<string, number | string>>
  readonly seconds: number
  readonly speed: number
  readonly samples: readonly TopologySample[]
  readonly events: readonly TopologyEvent[]
}
export interface Check {
  readonly text: string
  readonly passed: boolean
  /** A figure that depends on the machine: a miss is shown, and fails nothing. */
  readonly isAim: boolean
}

/** Collects what a scenario finds. */
export class VerdictBuilder {
  readonly checks: Check[] = []
  readonly figures: Record<string, number | string> = {}
  samples: readonly TopologySample[] = []
  events: readonly TopologyEvent[] = []

  check(text: string, passed: boolean): void {
    this.checks.push({ text, passed, isAim: false })
  }

  aim(text: string, passed: boolean): void {
    this.checks.push({ text, passed, isAim: true })
  }

  figure(name: string, value: number | string): void {
    this.figures[name] = typeof value === 'number' ? Math.round(value * 1000) / 1000 : value
  }
}

/** Runs a scenario in a folder of its own; what goes wrong on the way is a check that failed. */
export async function runScenario(scenario: Scenario, context: ScenarioContext): Promise<Verdict> {
  const verdict = new VerdictBuilder()
  const startedAt = performance.now()
  const dataDir = join(context.dataDir, scenario.name)
  await rm(dataDir, { recursive: true, force: true })
  try {
    await scenario.run({ ...context, dataDir }, verdict)
  } catch (error) {
    verdict.check(`runs to its end: ${error instanceof Error ? error.message : String(error)}`, false)
  }
  return {
    scenario: scenario.name,
    title: scenario.title,
    passed: verdict.checks.length > 0 && verdict.checks.every(({ passed, isAim }) => passed || isAim),
    checks: verdict.checks,
    figures: verdict.figures,
    seconds: Math.round((performance.now() - startedAt) / 100) / 10,
    speed: context.speed,
    samples: verdict.samples,
    events: verdict.events,
  }
}

/** A topology for the time of `work`. */
export async function withTopology(
  context: ScenarioContext,
  verdict: VerdictBuilder,
  options: Omit<TopologyOptions, 'dataDir' | 'speed'>,
  work: (topology: TestTopology) => Promise<void>,
): Promise<void> {
  const topology = await TestTopology.prepare({
    ...options,
    dataDir: context.dataDir,
    speed: context.speed,
    onEvent: ({ text }) => context.say(text),
  })
  try {
    await topology.start()
    await work(topology)
  } finally {
    await topology.stop()
    verdict.samples = topology.samples
    verdict.events = topology.events
    const warnings = await leakWarnings(join(context.dataDir, 'logs'))
    verdict.check(`no process warns of a leak ${warnings.slice(0, 3).join('; ')}`.trim(), warnings.length === 0)
  }
}

/** What Node.js says when listeners or timers pile up. */
async function leakWarnings(folder: string): Promise<string[]> {
  const found: string[] = []
  for (const name of await readdir(folder)) {
    const text = await readFile(join(folder, name), 'utf8')
    for (const line of text.match(/^.*(?:MaxListenersExceeded|TimeoutOverflow)Warning.*$/gm) ?? [])
      found.push(`${name}: ${line.slice(0, 200)}`)
  }
  return found
}

/** Waits for something that scaling brings about. Windows are in production's seconds, divided by the speed; processes start in real time. */
export async function until(
  what: string,
  { speed }: ScenarioContext,
  windowS: number,
  isSo: () => Promise<boolean> | boolean,
): Promise<void> {
  const end = Date.now() + (windowS * 1000) / speed + PROCESS_MS_MAX
  while (!(await isSo())) {
    if (Date.now() > end) throw new Error(`${what}: this did not come about in time`)
    await sleep(50)
  }
}

/** What starting, draining and catching up may take, whatever the speed. */
const PROCESS_MS_MAX = 60_000

/** The holders of a tenant are equal, and at least two. */
export async function holdersEqual(api: string, tenant: string): Promise<boolean> {
  const answer = await ask(`${api}/api/v1/replication/check`, 'GET', { 'x-tenant-id': tenant }).catch(() => undefined)
  return answer?.body?.equal === true && answer.body.comparisons.length > 0 && answer.body.unreachable.length === 0
}
