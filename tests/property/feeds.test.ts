import { describe, expect, it } from 'vitest'
import { type ChangeEvent, ChangeOperations } from '../../src/api/operations/changes.ts'
import type { OperationsContext } from '../../src/api/operations/context.ts'
import { PercolateError } from '../../src/base/errors.ts'
import { parseTenantId } from '../../src/base/ids.ts'
import { createLogger } from '../../src/base/logger.ts'
import type { Time } from '../../src/base/time.ts'
import { type Clock, compareClocks, parseClock } from '../../src/clock/hlc.ts'
import { planDelete, planEntity } from '../../src/rem/plan.ts'
import { exportCopy, readSkipped } from '../../src/replication/export.ts'
import type { TransferPart } from '../../src/replication/peer.ts'
import { importTransfer, mergeTransferred } from '../../src/replication/transfer.ts'
import { HeavyReads } from '../../src/session/heavy-reads.ts'
import { ANY } from '../../src/session/request.ts'
import { Session } from '../../src/session/session.ts'
import { decodeEntry, decodeRecord, type Entry } from '../../src/storage/codec.ts'
import { parseRecordKey, prefixes, prefixRange, space } from '../../src/storage/keys.ts'
import { collect } from '../../src/storage/kv.ts'
import { MemoryKv } from '../../src/storage/memory.ts'
import { TenantPool } from '../../src/tenant/pool.ts'
import { wipeCopy } from '../../src/tenant/state.ts'
import { Tenant } from '../../src/tenant/tenant.ts'

/** Random lives of three copies and of clients that follow them: a client always knows everything that the copy which it follows has, or is told to read anew. */

/** One life only. */
const SEED = process.env.FEED_SEED
const ID = parseTenantId('t')
/** Of a transfer; the copies have some dozens. */
const PART_RECORDS = 3
const logger = createLogger({ level: 'silent', role: 'test' })

/** mulberry32. */
function randomFrom(seed: number) {
  let state = seed
  const next = () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
  const below = (n: number) => Math.floor(next() * n)
  return { chance: (p: number) => next() < p, below, pick: <T>(items: readonly T[]): T => items[below(items.length)]! }
}

/** A disk: what is on it stays when the database is closed. */
class Disk extends MemoryKv {
  override async close(): Promise<void> {}
}

class Copy {
  readonly pool: TenantPool
  readonly feeds: ChangeOperations
  readonly #disk = new Disk()
  readonly #time: Time
  isMade = false

  constructor(name: string, time: Time, changesMax: number) {
    this.#time = time
    this.pool = new TenantPool({
      time,
      logger,
      openMax: 4,
      memoryBytesMax: 1e9,
      tenantBytes: 1,
      idleMs: 0,
      waitMsMax: 1000,
      exists: async () => this.isMade,
      open: async () =>
        Tenant.open(ID, this.#disk, {
          time,
          origin: `${name}.d`,
          incarnation: '000000000001-0000000000000000',
          changesMax,
          outboxEnabled: true,
          outboxBytesMax: 1e9,
          recordCacheBytes: 1e6,
          onCommit: () => {
            this.isMade = true
          },
        }),
    })
    const heavyReads = new HeavyReads({ heavyReadsMax: 1, heavyReadsWaitingMax: 100 })
    this.feeds = new ChangeOperations({ pool: this.pool, time, logger, heavyReads } as OperationsContext, {
      feedsMax: 100,
      tenantFeedsMax: 100,
    })
  }

  use<T>(work: (tenant: Tenant) => Promise<T>): Promise<T> {
    return this.pool.use(ID, work, { create: true })
  }

  restart(): Promise<boolean> {
    return this.pool.exclusive(ID, async () => {})
  }

  wipe(): Promise<boolean> {
    return this.pool.exclusive(ID, () => wipeCopy(this.#disk, this.#time))
  }

  /** The latest clock of every record. */
  state(): Promise<Map<string, Clock>> {
    return this.use(async tenant => {
      const state = new Map<string, Clock>()
      for (const [key, value] of await collect(tenant, prefixRange(prefixes.space(space.record)))) {
        const { kind, key: parts } = parseRecordKey(key)
        const record = decodeRecord(value)
        if (record.del && kind === 'entity') note(state, deletion(parts[0]!), record.del)
        for (const clock of [record.put, record.del, ...[...record.fields.values()].map(field => field.clock)])
          if (clock) note(state, [kind, ...parts].join(' '), clock)
      }
      return state
    })
  }
}

function note(known: Map<string, Clock>, name: string, clock: Clock): void {
  const before = known.get(name)
  if (!before || compareClocks(before, clock) < 0) known.set(name, clock)
}

const deletion = (id: string) => `deletion ${id}`

interface Counts {
  delivered: number
  expired: number
  resumed: number
  /** Times that what a silent feed had told was compared with its copy. */
  compared: number
}

/** What somebody who follows knows. */
class Client {
  known = new Map<string, Clock>()
  cursor: string | undefined
  copy: Copy | undefined
  #events: AsyncGenerator<ChangeEvent> | undefined
  readonly #counts: Counts

  constructor(counts: Counts) {
    this.#counts = counts
  }

  async open(copy: Copy, cursor: string | undefined): Promise<void> {
    await this.close()
    this.copy = copy
    if (cursor === undefined || cursor === 'earliest') this.known = new Map()
    const controller = new AbortController()
    const request = { tenant: ID, access: 'read', consistency: ANY, asOf: undefined, forwardedBy: undefined } as const
    const call = new Session(request, { signal: controller.signal, hasEnded: false })
    this.#events = copy.feeds.follow(call, { cursor, field: 'cursor' }, 0)
    if (cursor !== undefined && cursor !== 'earliest') {
      this.#counts.resumed++
      return
    }
    await this.#step()
    // It reads what there is after the feed has begun.
    for (const [name, clock] of await copy.state()) note(this.known, name, clock)
  }

  async close(): Promise<void> {
    await this.#events?.return(undefined)
    this.#events = undefined
  }

  /** A few events, or all that there are; then it knows what the copy has. */
  async follow(most: number): Promise<void> {
    if (!this.#events) return
    let quiet = 0
    for (let n = 0; n < most && quiet < 2; n++) {
      const before = this.cursor
      const isNews = await this.#step()
      if (isNews === undefined) return
      quiet = isNews || this.cursor !== before ? 0 : quiet + 1
    }
    if (quiet < 2) return
    // What is here ahead of the vector is told of when the vector comes to it, if not before.
    if (await this.copy!.use(async tenant => tenant.state.ahead !== undefined)) return
    this.#counts.compared++
    for (const [name, clock] of await this.copy!.state()) {
      if (!this.#knows(name, clock))
        throw new Error(`the feed is silent, and its reader never heard of ${name} at ${JSON.stringify(clock)}`)
    }
  }

  #knows(name: string, clock: Clock): boolean {
    const isKnown = (one: string) => {
      const known = this.known.get(one)
      return known !== undefined && compareClocks(known, clock) >= 0
    }
    const [kind, id, , to] = name.split(' ')
    // Copies forget an edge that the delete of one of its ends hides, each in its own time: the delete says it all.
    return isKnown(name) || (kind === 'edge' && (isKnown(deletion(id!)) || isKnown(deletion(to!))))
  }

  /** Whether something changed; undefined: it was told to read anew, and did. */
  async #step(): Promise<boolean | undefined> {
    try {
      const { value } = await this.#events!.next()
      const { cursor, changes } = value as ChangeEvent
      if (cursor !== '') this.cursor = cursor
      for (const { kind, id, type, to, action, clock } of changes ?? []) {
        const at = parseClock(clock)!
        note(this.known, [kind, id, ...(type === undefined ? [] : [type, to])].join(' '), at)
        if (kind === 'entity' && action === 'del') note(this.known, deletion(id), at)
      }
      this.#counts.delivered += changes?.length ?? 0
      return changes !== undefined
    } catch (error) {
      if (!(error instanceof PercolateError) || error.code !== 'CHANGES_EXPIRED') throw error
      this.#counts.expired++
      this.#events = undefined
      this.cursor = error.extra!.cursor!
      this.known = await this.copy!.state()
      return undefined
    }
  }
}

async function live(seed: number, counts: Counts): Promise<void> {
  const random = randomFrom(seed)
  let now = 1_000_000
  const time: Time = {
    now: () => ++now,
    monotonic: () => ++now,
    sleep: async () => {},
    random: bytes => Buffer.from(Array.from({ length: bytes }, () => random.below(256))),
  }
  const changesMax = random.pick([4, 12, 1000, 1000])
  const copies = ['a', 'b', 'c'].map(name => new Copy(name, time, changesMax))
  const clients = Array.from({ length: 3 }, () => new Client(counts))
  const stream = new Map<string, Map<number, Entry>>()
  for (const copy of copies) await copy.use(async tenant => tenant.change(async () => {}))

  let isQuiet = false
  const write = async (copy: Copy) => {
    const id = `e${random.below(8)}`
    await copy.use(async tenant => {
      if (tenant.isJoining) return
      await tenant.write(({ clock }) => ({
        ops: random.chance(0.25)
          ? [planDelete('entity', id, clock)]
          : planEntity(
              {
                id,
                properties: { [`p${random.below(3)}`]: now },
                ...(random.chance(0.3) ? { edges: [{ type: 'knows', to: `e${random.below(8)}` }] } : {}),
              },
              clock,
            ),
        result: undefined,
      }))
      for (const [, value] of await collect(tenant, prefixRange(prefixes.space(space.outbox)))) {
        const entry = decodeEntry(value)
        stream.set(entry.origin, (stream.get(entry.origin) ?? new Map()).set(entry.sequence, entry))
      }
    })
  }
  const deliver = (copy: Copy, most: number) =>
    copy.use(async tenant => {
      if (tenant.isJoining) return
      const given = await readSkipped(tenant)
      for (const [origin, entries] of stream) {
        for (const [name, sequence] of given)
          if (name === origin && random.chance(0.5)) await tenant.apply(entries.get(sequence)!)
        for (let n = 0; n < most; n++) {
          const next = entries.get((tenant.vector.get(origin) ?? 0) + 1)
          if (!next || random.chance(0.1)) break
          expect(await tenant.apply(next)).toBe('applied')
        }
      }
    })
  const giveUp = (copy: Copy) =>
    copy.use(async tenant => {
      const origin = random.pick([...stream.keys()])
      const last = tenant.vector.get(origin) ?? 0
      if (tenant.isJoining || !stream.get(origin)?.has(last + 1) || origin === tenant.origin) return
      await tenant.change(async staging => staging.joinVector(new Map([[origin, last + 1]]), [[origin, last + 1]]))
    })
  const reconcile = async (copy: Copy, from: Copy, isWhole: boolean) => {
    const parts = async function* (): AsyncGenerator<TransferPart> {
      const all: TransferPart[] = []
      for await (const part of exportCopy(work => from.use(work), 'x', undefined, PART_RECORDS)) {
        all.push(part)
        // Writers go on while a copy is sent, part by part.
        if (!isQuiet && random.chance(0.4))
          await from.use(tenant =>
            tenant.write(({ clock }) => ({
              ops: planEntity({ id: `e${random.below(8)}`, properties: { late: now } }, clock),
              result: undefined,
            })),
          )
      }
      yield* isWhole ? all : all.slice(0, -1)
    }
    const { isJoining, given } = await copy.use(async tenant => ({
      isJoining: tenant.isJoining,
      given: await readSkipped(tenant),
    }))
    // As the reconciler takes back what was given up: from a copy that has all of it.
    const hasAll = await from.use(
      async other =>
        (await readSkipped(other)).length === 0 && given.every(([origin, n]) => (other.vector.get(origin) ?? 0) >= n),
    )
    let isDone = true
    try {
      await importTransfer(work => copy.use(work), parts(), { resumable: isJoining })
    } catch (error) {
      if (isWhole) throw error
      isDone = false
    }
    if (isDone && given.length > 0 && hasAll) await copy.use(tenant => tenant.change(staging => staging.regain(given)))
    // What it wrote meanwhile goes out as everything does.
    if (!isQuiet) await write(from)
  }
  const repair = (copy: Copy, from: Copy) =>
    copy.use(async tenant => {
      if (tenant.isJoining) return
      const records = []
      for await (const part of exportCopy(work => from.use(work), 'x', undefined))
        if ('records' in part) records.push(...part.records)
      const upTo = await from.use(async other => new Map(other.reach))
      await mergeTransferred(tenant, records, upTo)
    })

  for (let step = 0; step < 80; step++) {
    const copy = random.pick(copies)
    const other = random.pick(copies.filter(one => one !== copy))
    const isOtherWhole = await other.use(async tenant => !tenant.isJoining)
    const what = random.below(100)
    if (what < 30) await write(copy)
    else if (what < 50) await deliver(copy, 1 + random.below(3))
    else if (what < 60) isOtherWhole && (await reconcile(copy, other, random.chance(0.6)))
    else if (what < 63) await giveUp(copy)
    else if (what < 66) isOtherWhole && (await repair(copy, other))
    else if (what < 70) await copy.restart()
    else if (what < 72) {
      if (!isOtherWhole) continue
      await copy.wipe()
      if (random.chance(0.3)) await reconcile(copy, other, false)
      await reconcile(copy, other, true)
    } else {
      const client = random.pick(clients)
      if (await copy.use(async tenant => tenant.isJoining)) continue
      if (client.cursor === undefined || random.chance(0.05))
        await client.open(copy, random.pick([undefined, 'earliest']))
      else if (random.chance(0.3)) await client.open(copy, client.cursor)
      await client.follow(random.pick([1, 3, 1000, 1000]))
    }
  }
  isQuiet = true
  for (let round = 0; round < 3; round++)
    for (const copy of copies) {
      await deliver(copy, 1000)
      for (const other of copies) if (other !== copy) await reconcile(copy, other, true)
    }
  for (const copy of copies) expect(await copy.use(async tenant => tenant.state.ahead)).toBeUndefined()
  for (const client of clients) {
    if (client.cursor === undefined) continue
    await client.follow(10_000)
    const copy = random.pick(copies)
    await client.open(copy, client.cursor)
    await client.follow(10_000)
    await client.close()
  }
}

describe('a change feed', () => {
  it('tells everything that its copy learns, in whatever way, or ends with a cursor', async () => {
    const counts = { delivered: 0, expired: 0, resumed: 0, compared: 0 }
    const [from, lives] = SEED === undefined ? [1, 40] : [Number(SEED), 1]
    for (let seed = from; seed < from + lives; seed++)
      await live(seed, counts).catch(error => {
        throw new Error(`FEED_SEED=${seed}: ${error instanceof Error ? error.stack : String(error)}`)
      })
    if (SEED !== undefined) return
    expect(counts.delivered).toBeGreaterThan(lives * 10)
    expect(counts.compared).toBeGreaterThan(lives * 3)
    // Reading anew is dear: where the log is long enough, the feed mostly goes on.
    expect(counts.expired).toBeGreaterThan(0)
    expect(counts.expired).toBeLessThan(counts.resumed * 0.75)
  })
})
