import { PercolateError } from '../../src/base/errors.ts'
import { parseTenantId, type TenantId } from '../../src/base/ids.ts'
import { Slicer } from '../../src/base/slice.ts'
import { type Clock, compareClocks, formatClock } from '../../src/clock/hlc.ts'
import { planDelete, planEntity } from '../../src/rem/plan.ts'
import type { LwwRecord, Op, RecordRef } from '../../src/rem/record.ts'
import { type Durability, durabilities } from '../../src/replication/replica.ts'
import { type SimAnswer, SimCluster, type SimNode, type SimRequest, TIMES } from './cluster.ts'
import { SimObjects } from './objects.ts'
import { World } from './world.ts'

export interface SleepOptions {
  readonly seed: number
  readonly nodes?: number
  /** The first so many nodes wake again. */
  readonly wake?: number
  readonly tenants?: number
  /** Asleep for longer than streams keep what they have: the snapshots alone tell. */
  readonly isLong?: boolean
  readonly trace?: boolean
}

export interface SleepResult {
  readonly violations: string[]
  /** Acknowledged writes, by level. */
  readonly acknowledged: ReadonlyMap<Durability, number>
  /** Tenants of which no copy was on a node that woke. */
  readonly elsewhere: number
  /** Until every tenant could be read, milliseconds after the first node was started. */
  readonly readableMs: number
  readonly trace: readonly string[]
}

interface Acked {
  readonly tenant: TenantId
  readonly ref: RecordRef
  readonly clock: Clock
  readonly isDelete: boolean
}

const KEYS = 4
const WRITES = 12
const STREAM_AGE_MS = 60_000
/** After the first node was started again, every tenant can be read within this time. */
export const READABLE_MS_MAX = 30_000
const DRAIN_MS = 10_000

/** A tier that is put to sleep while it is written to, all its nodes at once, and of which a few nodes wake: each tenant can be read again soon, with all that was acknowledged. */
export async function sleepAndWake(options: SleepOptions): Promise<SleepResult> {
  Slicer.sliceMs = Number.POSITIVE_INFINITY
  return new Sleep(options).go()
}

class Sleep {
  readonly #options: Required<SleepOptions>
  readonly #world: World
  readonly #cluster: SimCluster
  readonly #tenants: TenantId[]
  readonly #acked: Acked[] = []
  readonly #levels = new Map<Durability, number>()
  readonly #violations: string[] = []

  constructor(options: SleepOptions) {
    this.#options = { nodes: 10, wake: 3, tenants: 12, isLong: false, trace: false, ...options }
    this.#world = new World(options.seed)
    const settings = { ...TIMES, replicas: 3, syncMaxAgeMs: STREAM_AGE_MS }
    this.#cluster = new SimCluster(this.#world, this.#options.nodes, settings, 2, new SimObjects())
    if (this.#options.trace) this.#cluster.trace = []
    this.#tenants = Array.from({ length: this.#options.tenants }, (_, n) => parseTenantId(`t${n}`))
  }

  async go(): Promise<SleepResult> {
    const world = this.#world
    const { wake, isLong } = this.#options
    for (const node of this.#cluster.nodes) node.start()
    await world.run(3500)
    for (let n = 0; n < WRITES / 2; n++) await this.#round(200)
    await world.run(3000)
    await this.#sleep()
    const elsewhere = this.#elsewhere()
    await world.run(isLong ? STREAM_AGE_MS * 2 : 10_000)
    const wokenAtMs = world.nowMs
    for (const node of this.#cluster.nodes.slice(0, wake)) node.start()
    await this.#readAll(wokenAtMs)
    return {
      violations: this.#violations,
      acknowledged: this.#levels,
      elsewhere,
      readableMs: world.nowMs - wokenAtMs,
      trace: this.#cluster.trace ?? [],
    }
  }

  /** A write to each tenant, on any node. */
  async #round(ms: number): Promise<void> {
    const { random } = this.#world
    for (const tenant of this.#tenants) {
      const open = this.#cluster.nodes.filter(({ process }) => process && !process.isClosed)
      if (open.length > 0) this.#world.at(random.int(0, ms), () => void this.#write(random.pick(open), tenant))
    }
    await this.#world.run(ms)
  }

  async #write(node: SimNode, tenant: TenantId): Promise<void> {
    const { random } = this.#world
    const id = `e${random.int(0, KEYS - 1)}`
    const ref: RecordRef = { kind: 'entity', key: [id] }
    const isDelete = random.chance(0.15)
    const write = (_: LwwRecord | undefined, clock: Clock): Op[] =>
      isDelete ? [planDelete('entity', id, clock)] : planEntity({ id, properties: { n: formatClock(clock) } }, clock)
    const answer = await this.#ask(node, { tenant, ref, write, durability: random.pick(durabilities) })
    if (!answer?.clock) return
    this.#acked.push({ tenant, ref, clock: answer.clock, isDelete })
    this.#levels.set(answer.reached, (this.#levels.get(answer.reached) ?? 0) + 1)
    this.#cluster.note(`acked ${tenant} ${id} ${formatClock(answer.clock)} ${answer.reached} by ${answer.node}`)
  }

  async #ask(node: SimNode, request: SimRequest): Promise<SimAnswer | undefined> {
    try {
      return await node.process?.handle(request, undefined)
    } catch (error) {
      if (!(error instanceof PercolateError)) this.#violations.push(`an operation failed with ${String(error)}`)
      return undefined
    }
  }

  /** As a supervisor that takes a tier to zero: every node is told to go in the same moment, goes on answering while it hands over, and then takes nothing any more. */
  async #sleep(): Promise<void> {
    const { random } = this.#world
    let left = this.#cluster.nodes.length
    for (const node of this.#cluster.nodes) {
      const process = node.process!
      const drain = async () => {
        await process.time.sleep(random.int(0, 300))
        await process.replica.beginDrain()
        await process.replica.handOff(DRAIN_MS / 2)
        process.isClosed = true
        while (process.handling > 0) await process.time.sleep(10)
        await process.replica.drain(DRAIN_MS)
      }
      void drain()
        .catch(error => this.#violations.push(`an operation failed with ${String(error)}: a drain`))
        .finally(() => {
          left--
          process.kill()
        })
    }
    for (let n = 0; n < WRITES / 2; n++) await this.#round(150)
    if (!(await this.#world.runUntil(() => left === 0, 10 * DRAIN_MS)))
      this.#violations.push(`after waking, ${left} nodes have not even gone to sleep`)
  }

  #elsewhere(): number {
    const woken = new Set<SimNode>(this.#cluster.nodes.slice(0, this.#options.wake))
    return this.#tenants.filter(tenant => ![...woken].some(({ disk }) => disk.databases.has(tenant))).length
  }

  /** Every record that was acknowledged, until it is seen: a refusal is asked again, and so is an answer from a copy that is behind. */
  async #readAll(sinceMs: number): Promise<void> {
    const latest = new Map<string, Acked>()
    for (const acked of this.#acked) {
      const name = `${acked.tenant} ${acked.ref.key[0]}`
      const known = latest.get(name)
      if (!known || compareClocks(acked.clock, known.clock) > 0) latest.set(name, acked)
    }
    const { nodes, world } = this.#cluster
    const reads = [...latest.values()].map(async acked => {
      const time = world.timeOf({ skewMs: 0, isDead: false })
      let last = 'nobody answers'
      while (world.nowMs - sinceMs < READABLE_MS_MAX) {
        const node = world.random.pick(nodes.filter(({ process }) => process))
        const answer = node && (await this.#ask(node, { tenant: acked.tenant, ref: acked.ref }))
        if (answer && sees(answer.record, acked)) return
        if (answer) last = `${answer.node} answers with an older state`
        await time.sleep(100)
      }
      this.#violations.push(
        `after waking, ${acked.tenant} cannot be read within ${READABLE_MS_MAX / 1000} s: ${acked.ref.key[0]} at ${formatClock(acked.clock)}, ${last}`,
      )
    })
    await world.settle(Promise.all(reads), READABLE_MS_MAX * 2)
  }
}

/** That clock, or a later one. A delete may have been forgotten by all. */
function sees(record: LwwRecord | undefined, { clock, isDelete }: Acked): boolean {
  if (!record) return isDelete
  return [record.put, record.del].some(seen => seen !== undefined && compareClocks(seen, clock) >= 0)
}
