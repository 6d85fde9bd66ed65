import { beforeAll, describe, expect, it } from 'vitest'
import { EntityOperations } from '../../../src/api/operations/entities.ts'
import { MomentOperations } from '../../../src/api/operations/moments.ts'
import { parseTenantId } from '../../../src/base/ids.ts'
import { PAGE_BYTES_MAX } from '../../../src/base/limits.ts'
import { createLogger } from '../../../src/base/logger.ts'
import { systemTime } from '../../../src/base/time.ts'
import { HeavyReads } from '../../../src/session/heavy-reads.ts'
import { ANY } from '../../../src/session/request.ts'
import { Session } from '../../../src/session/session.ts'
import type { KvEntry, KvRange } from '../../../src/storage/kv.ts'
import { MemoryKv } from '../../../src/storage/memory.ts'
import { TenantPool } from '../../../src/tenant/pool.ts'
import { openMemoryTenant } from '../../support/memory-tenant.ts'

/** Counts the bytes of the values that are read, and gives ranges in small chunks, as the disk does. */
class WeighedKv extends MemoryKv {
  bytes = 0

  override async *chunks(range: KvRange): AsyncIterable<KvEntry[]> {
    for await (const chunk of super.chunks(range))
      for (let at = 0; at < chunk.length; at += 4) {
        const part = chunk.slice(at, at + 4)
        for (const [, value] of part) this.bytes += value.length
        yield part
      }
  }

  override async getMany(keys: readonly Buffer[]) {
    const found = await super.getMany(keys)
    for (const value of found) this.bytes += value?.length ?? 0
    return found
  }
}

const MIB = 1024 * 1024
const kv = new WeighedKv()
const heavyReads = new HeavyReads({ heavyReadsMax: 1, heavyReadsWaitingMax: 100 })
const tenant = parseTenantId('t')
const pool = new TenantPool({
  time: systemTime,
  logger: createLogger({ level: 'silent', role: 'test' }),
  openMax: 1,
  memoryBytesMax: 1e9,
  tenantBytes: 1,
  idleMs: 1e6,
  waitMsMax: 1000,
  exists: async () => true,
  open: id => openMemoryTenant(id, {}, kv),
})
const context = { pool, time: systemTime, heavyReads } as never
const entities = new EntityOperations(context)
const moments = new MomentOperations(context)
const session = (access: 'read' | 'write' = 'read', signal = new AbortController().signal) =>
  new Session(
    { tenant, access, consistency: ANY, asOf: undefined, forwardedBy: undefined },
    {
      signal,
      get hasEnded() {
        return signal.aborted
      },
    },
  )
const settle = () => new Promise(resolve => setImmediate(resolve))
const bytesOf = async (work: () => Promise<unknown>) => {
  kv.bytes = 0
  await work()
  return kv.bytes
}
/** What is read while all places are taken; then whether the read waited for one. */
async function whileTaken(work: () => Promise<unknown>): Promise<{ bytes: number; waited: boolean }> {
  let end = () => {}
  const taken = heavyReads.run(session(), () => new Promise<void>(resolve => (end = resolve)))
  await settle()
  kv.bytes = 0
  let isDone = false
  const asked = work().finally(() => {
    isDone = true
  })
  while (!isDone && heavyReads.waiting === 0) await settle()
  const answer = { bytes: kv.bytes, waited: !isDone }
  end()
  await Promise.all([taken, asked])
  return answer
}

beforeAll(async () => {
  const text = 'x'.repeat(60_000)
  const hub = Array.from({ length: 200 }, (_, n) => ({ type: 'e', to: `end${n}`, properties: { text } }))
  await entities.put(session('write'), [{ id: 'hub', edges: hub }])
  await entities.put(session('write'), [{ id: 'small', edges: hub.slice(0, 60).map(({ type, to }) => ({ type, to })) }])
  for (const property of ['a', 'b', 'c'])
    for (let n = 0; n < 60; n += 20)
      await entities.put(
        session('write'),
        Array.from({ length: 20 }, (_, m) => ({
          id: `big${n + m}`,
          type: 'big',
          name: `node ${n + m}`,
          properties: { [property]: text },
        })),
      )
  await entities.put(session('write'), [
    { id: 'star', edges: Array.from({ length: 60 }, (_, n) => ({ type: 'e', to: `big${n}` })) },
  ])
  await moments.append(
    session('write'),
    Array.from({ length: 1000 }, (_, n) => ({ id: `m${n}`, type: 't', entities: ['e'] })),
  )
})

describe('reads of large records', () => {
  it('stop when the page is full, whatever they might list', async () => {
    let answer: Awaited<ReturnType<EntityOperations['get']>> | undefined
    const bytes = await bytesOf(async () => {
      answer = await entities.get(session(), 'hub')
    })
    expect(answer!.entity.edges_truncated).toBe(true)
    expect(answer!.entity.edges!.length).toBe(
      Math.floor(PAGE_BYTES_MAX / Buffer.byteLength(JSON.stringify(answer!.entity.edges![0]))),
    )
    // What was read before it went into its turn, the page, and a fetch that was more than the page takes.
    expect(bytes).toBeLessThan(PAGE_BYTES_MAX + 3 * MIB)
    for (const query of [
      { type: 'big', limit: 1000 },
      { name: 'node', limit: 1000 },
    ]) {
      const read = await bytesOf(() => entities.query(session(), query))
      expect([query, read < PAGE_BYTES_MAX + 5 * MIB]).toEqual([query, true])
    }
  })

  it('list everything over their pages, in order', async () => {
    for (const query of [{ type: 'big' }, { name: 'node' }]) {
      const whole: string[] = []
      const ids: string[] = []
      for (const [limit, into] of [
        [1, whole],
        [1000, ids],
      ] as const)
        for (let cursor: string | undefined, first = true; first || cursor; first = false) {
          const page: { results: { id: string }[]; cursor?: string } = await entities.query(session(), {
            ...query,
            limit,
            ...(cursor ? { cursor } : {}),
          })
          into.push(...page.results.map(({ id }) => id))
          cursor = page.cursor
        }
      expect(ids).toHaveLength(60)
      expect(ids).toEqual(whole)
    }
  })

  it('are bounded in a walk, which shows the nearest and says that it was cut', async () => {
    for (const id of ['hub', 'star']) {
      let walk: Awaited<ReturnType<EntityOperations['traverse']>> | undefined
      const bytes = await bytesOf(async () => {
        walk = await entities.traverse(session(), id, { limit: 1000 })
      })
      expect([id, walk!.truncated]).toEqual([id, true])
      expect(bytes).toBeLessThan(4 * PAGE_BYTES_MAX + 2 * MIB)
      if (id === 'star') expect(walk!.results.length).toBe(23)
    }
  })

  it('wait for their turn when they turn out to be large, and small ones do not', async () => {
    const small = await whileTaken(() => entities.get(session(), 'small'))
    expect(small.waited).toBe(false)
    for (const large of [
      () => entities.get(session(), 'hub'),
      () => entities.query(session(), { type: 'big' }),
      () => moments.query(session(), { entity: 'e', type: 'none', limit: 1 }),
    ]) {
      const { bytes, waited } = await whileTaken(large)
      expect(waited).toBe(true)
      expect(bytes).toBeLessThan(4 * MIB)
    }
    expect((await whileTaken(() => moments.query(session(), { entity: 'e', limit: 50 }))).waited).toBe(false)
  })

  it('are not waited for in the answer of a write, which stands: it lists fewer edges', async () => {
    const answers = await Promise.all(['hub', 'small'].map(id => entities.get(session(), id)))
    let written: (typeof answers)[number] | undefined
    const { bytes, waited } = await whileTaken(async () => {
      written = await entities.getWritten(session('write'), 'hub')
    })
    expect([waited, bytes < 3 * MIB]).toEqual([false, true])
    const { edges, ...rest } = written!.entity
    expect(rest).toEqual({ ...answers[0]!.entity, edges: undefined })
    // Of the same record, and of another answer.
    const [ofRecord, ofEdges] = answers[0]!.etag.split('-')
    expect(written!.etag.startsWith(`${ofRecord}-`)).toBe(true)
    expect(written!.etag.endsWith(ofEdges!)).toBe(false)
    expect(rest.edges_truncated).toBe(true)
    expect(edges!.length).toBeGreaterThan(0)
    expect(edges).toEqual(answers[0]!.entity.edges!.slice(0, edges!.length))
    expect(await entities.getWritten(session('write'), 'small')).toEqual(answers[1])
  })

  it('stop when their client goes', async () => {
    const whole = await bytesOf(() => moments.query(session(), { entity: 'e', type: 'none' }))
    const gone = new AbortController()
    const bytes = await bytesOf(async () => {
      const asked = moments.query(session('read', gone.signal), { entity: 'e', type: 'none' })
      asked.catch(() => {})
      while (kv.bytes === 0) await settle()
      gone.abort()
      await expect(asked).rejects.toMatchObject({ code: 'CANCELLED' })
    })
    expect(bytes).toBeLessThan(whole / 4)
  })
})
