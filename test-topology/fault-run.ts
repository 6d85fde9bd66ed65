import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { conditionalClient, HOT_ENTITIES, INITIAL, plainClient, resourceClient } from './faults/clients.ts'
import type { FaultContext } from './faults/context.ts'
import { openDoors } from './faults/doors.ts'
import { Feed } from './faults/feeds.ts'
import { type Idle, idleProblem, measureIdle } from './faults/idle.ts'
import { corruptions, type FaultKind, faultKinds, inflictions, obstacle } from './faults/kinds.ts'
import { Recorder } from './faults/recorder.ts'
import {
  type ConditionalVerdict,
  judgeConditional,
  judgeFeeds,
  lostResources,
  readBack,
  recover,
} from './faults/recovery.ts'
import { FaultWorld } from './faults/world.ts'
import { checkHistory } from './history.ts'
import { isDefect } from './lost-answers.ts'

export interface FaultRunOptions {
  readonly dataDir: string
  readonly faults: number
  readonly kinds?: readonly FaultKind[]
  readonly tenants?: number
  readonly clients?: number
  readonly seed?: number
  /** The nats-server to run; default: the one that setup fetched, or on PATH. */
  readonly natsServer?: string | undefined
  readonly onProgress?: (text: string) => void
}

export interface FaultReport {
  readonly violations: string[]
  readonly faults: Readonly<Record<string, number>>
  /** Kinds that this machine does not allow, and why. */
  readonly impossible: readonly string[]
  /** Faults whose moment did not come, with the reason. */
  readonly missed: readonly string[]
  readonly attempted: number
  readonly acknowledged: Readonly<Record<string, number>>
  readonly deletes: number
  readonly conditional: Omit<ConditionalVerdict, 'problems'>
  readonly resources: number
  /** Processes that ended by themselves and were started again; a node may twice for each database that was damaged: when RocksDB meets it, and when it opens it again. */
  readonly ended: readonly string[]
  readonly bookmarkedReads: number
  readonly feeds: { readonly events: number; readonly expired: number; readonly reconnects: number }
  readonly protocols: Readonly<Record<string, number>>
  readonly refused: Readonly<Record<string, number>>
  readonly idle: { readonly before: Idle; readonly after: Idle }
  readonly recoverySeconds: number
  readonly seconds: number
}

const SETTLE_MS = 1500
/** Between two faults, for repair. */
const PAUSE_MS = 400
/** Clients that write under conditions, for each tenant. */
const CONDITIONAL_CLIENTS = 3
const RESOURCE_CLIENTS = 2
const AGAIN_MAX = 3

const sleep = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

/** A real cluster under load and faults, with clients that remember everything; then everything heals, and the history is checked. */
export async function runFaults(options: FaultRunOptions): Promise<FaultReport> {
  const say = options.onProgress ?? (() => {})
  const startedAt = Date.now()
  const world = await FaultWorld.start({ dataDir: options.dataDir, natsServer: options.natsServer, say })
  const abandon = () => void world.stop().finally(() => process.exit(1))
  process.once('SIGINT', abandon).once('SIGTERM', abandon)
  try {
    return await new FaultRun(options, world, say).go(startedAt)
  } finally {
    process.off('SIGINT', abandon).off('SIGTERM', abandon)
    await world.stop()
  }
}

/** How often a node may end for one damaged database. */
const ENDS_PER_DAMAGE = 2

class FaultRun {
  readonly #options: FaultRunOptions
  readonly #world: FaultWorld
  readonly #say: (text: string) => void
  readonly #recorder: Recorder
  readonly #tenants: readonly string[]
  readonly #faults = new Map<FaultKind, number>()
  readonly #missed: string[] = []
  #isLoading = true

  constructor(options: FaultRunOptions, world: FaultWorld, say: (text: string) => void) {
    this.#options = options
    this.#world = world
    this.#say = say
    this.#recorder = new Recorder(options.seed ?? 1)
    this.#tenants = Array.from({ length: options.tenants ?? 4 }, (_, n) => `t${n}`)
  }

  async go(startedAt: number): Promise<FaultReport> {
    const world = this.#world
    const recorder = this.#recorder
    const { addresses } = world.cluster
    const wanted = this.#options.kinds ?? faultKinds
    const impossible = [...new Set(wanted)].flatMap(kind => {
      const reason = obstacle(kind, world)
      return reason === undefined ? [] : [`${kind}: ${reason}`]
    })
    for (const text of impossible) this.#say(`NOT POSSIBLE HERE: ${text}`)
    const kinds = wanted.filter(kind => obstacle(kind, world) === undefined)
    const doors = openDoors(addresses)
    const feeds: Feed[] = []
    try {
      for (const tenant of this.#tenants)
        for (const entity of HOT_ENTITIES)
          await retried(() => doors.router[0]!.putEntity(tenant, entity, INITIAL, { durability: 'replicated' }))
      const settled = await recover(world, this.#tenants)
      const before = await measureIdle(world)
      for (const [n, tenant] of this.#tenants.entries())
        feeds.push(new Feed(tenant, addresses.nodes, n, false), new Feed(tenant, addresses.nodes, n + 1, true))
      const context = { world, doors, recorder, tenants: this.#tenants, isLoading: () => this.#isLoading }
      const clients = [
        ...Array.from({ length: this.#options.clients ?? 8 }, (_, n) => plainClient(context, n)),
        ...Array.from({ length: CONDITIONAL_CLIENTS * this.#tenants.length }, (_, n) => conditionalClient(context, n)),
        ...Array.from({ length: RESOURCE_CLIENTS }, (_, n) => resourceClient(context, n)),
      ]
      await sleep(SETTLE_MS)
      await this.#inflictAll(kinds, context)
      this.#isLoading = false
      await Promise.all(clients)

      const recovered = await recover(world, this.#tenants)
      const { final, problems } = await readBack(world, recorder)
      const conditional = await judgeConditional(world, recorder)
      const lost = await lostResources(world, recorder)
      const silent = await judgeFeeds(feeds, recorder)
      await Promise.all(feeds.map(feed => feed.stop()))
      await sleep(SETTLE_MS)
      const after = await measureIdle(world)
      const busy = idleProblem(before, after)
      await recorder.save(join(this.#options.dataDir, 'history.json'))
      return this.#report({
        violations: [
          ...settled.problems,
          ...recovered.problems,
          ...problems,
          ...checkHistory(recorder.promised, final),
          ...conditional.problems,
          ...lost,
          ...silent,
          ...[...recorder.refused].flatMap(([what, times]) =>
            isDefect(what) ? [`clients got what no document has, or a defect, ${times} times: ${what}`] : [],
          ),
          ...(busy === undefined ? [] : [busy]),
          ...(world.ended.length > ENDS_PER_DAMAGE * this.#damaged
            ? world.ended.map(text => `a process ended by itself: ${text}`)
            : []),
        ],
        impossible,
        conditional,
        feeds,
        idle: { before, after },
        recoverySeconds: recovered.ms / 1000,
        seconds: (Date.now() - startedAt) / 1000,
      })
    } finally {
      this.#isLoading = false
      await Promise.all(feeds.map(feed => feed.stop()))
      doors.close()
    }
  }

  async #inflictAll(kinds: readonly FaultKind[], context: FaultContext): Promise<void> {
    const { faults } = this.#options
    for (let n = 0; n < faults; n++) await this.#inflict(kinds[n % kinds.length]!, context, `${n + 1} of ${faults}`)
    // Some need a moment that did not come; a kind that was to be there has to be there.
    for (let again = 0; again < AGAIN_MAX; again++)
      for (const kind of kinds.slice(0, faults))
        if (!this.#faults.has(kind)) await this.#inflict(kind, context, 'once more')
  }

  async #inflict(kind: FaultKind, context: FaultContext, which: string): Promise<void> {
    const startedAt = Date.now()
    const missed = await inflictions[kind](context)
    if (typeof missed === 'string') this.#missed.push(`${kind}: ${missed}`)
    else this.#faults.set(kind, (this.#faults.get(kind) ?? 0) + 1)
    await sleep(PAUSE_MS)
    const note = typeof missed === 'string' ? ` MISSED (${missed})` : ''
    const seconds = ((Date.now() - startedAt) / 1000).toFixed(1)
    this.#say(`fault ${which}: ${kind}${note}, ${seconds} s; ${this.#recorder.history.writes.length} writes`)
  }

  /** How many databases have been damaged. */
  get #damaged(): number {
    return corruptions.reduce((sum, kind) => sum + (this.#faults.get(kind) ?? 0), 0)
  }

  #report({
    conditional,
    feeds,
    ...rest
  }: Pick<FaultReport, 'violations' | 'impossible' | 'idle' | 'recoverySeconds' | 'seconds'> & {
    readonly conditional: ConditionalVerdict
    readonly feeds: readonly Feed[]
  }): FaultReport {
    const { history, resources, protocols, refused } = this.#recorder
    const acked = history.writes.filter(write => write.acked !== undefined)
    const levels = new Map<string, number>()
    for (const { acked: done } of acked) levels.set(done!.reached, (levels.get(done!.reached) ?? 0) + 1)
    const { problems: _, ...figures } = conditional
    const sum = (of: (feed: Feed) => number) => feeds.reduce((total, feed) => total + of(feed), 0)
    return {
      ...rest,
      faults: Object.fromEntries(this.#faults),
      missed: this.#missed,
      attempted: history.writes.length,
      acknowledged: Object.fromEntries(levels),
      deletes: acked.filter(({ action }) => action === 'delete').length,
      conditional: figures,
      resources: resources.length,
      ended: this.#world.ended,
      bookmarkedReads: history.reads.length,
      feeds: {
        events: sum(feed => feed.events),
        expired: sum(feed => feed.expiries),
        reconnects: sum(feed => feed.reconnects),
      },
      protocols: Object.fromEntries(protocols),
      refused: Object.fromEntries(refused),
    }
  }
}

async function retried(write: () => Promise<{ readonly kind: string }>): Promise<void> {
  for (let attempt = 0; attempt < 20; attempt++) {
    if ((await write()).kind === 'done') return
    await sleep(500)
  }
  throw new Error('the cluster takes no write before the first fault')
}

if (process.argv[1]?.endsWith('fault-run.js')) {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { 'nats-server': { type: 'string' }, kinds: { type: 'string' } },
  })
  const kinds = values.kinds?.split(',')
  const unknown = kinds?.filter(kind => !(faultKinds as readonly string[]).includes(kind)) ?? []
  if (unknown.length > 0) {
    console.error(`--kinds: there is no ${unknown.join(', ')}; there are: ${faultKinds.join(', ')}`)
    process.exit(2)
  }
  const [dataDir = './data/fault-run', faults = String(faultKinds.length), seed = '1'] = positionals
  const report = await runFaults({
    dataDir,
    faults: Number(faults),
    seed: Number(seed),
    natsServer: values['nats-server'],
    ...(kinds === undefined ? {} : { kinds: kinds as FaultKind[] }),
    onProgress: text => console.error(text),
  })
  console.log(JSON.stringify(report, undefined, 2))
  process.exit(report.violations.length === 0 ? 0 : 1)
}
