import { beforeAll, describe, expect, it } from 'vitest'
import { parseTenantId } from '../../../src/base/ids.ts'
import { BATCH_ITEMS_MAX, QUERY_TERMS_MAX } from '../../../src/base/limits.ts'
import { Slicer } from '../../../src/base/slice.ts'
import { extractiveAnswer } from '../../../src/chat/answer.ts'
import { gatherContext } from '../../../src/chat/context.ts'
import { HashingEmbedder } from '../../../src/embedding/hashing.ts'
import { planDelete, planEntity, planResource } from '../../../src/rem/plan.ts'
import type { Op } from '../../../src/rem/record.ts'
import { candidateIds, candidates } from '../../../src/search/candidates.ts'
import { findEntities } from '../../../src/search/entities.ts'
import { parseFilter } from '../../../src/search/filter.ts'
import { type SearchRequest, search } from '../../../src/search/search.ts'
import { traverse } from '../../../src/search/traverse.ts'
import { space } from '../../../src/storage/keys.ts'
import type { KvRange } from '../../../src/storage/kv.ts'
import { MemoryKv } from '../../../src/storage/memory.ts'
import type { Tenant } from '../../../src/tenant/tenant.ts'
import { PIECE_CHARS } from '../../../src/text/pieces.ts'
import { openMemoryTenant } from '../../support/memory-tenant.ts'
import { turnsDuring } from '../../support/turns.ts'

/** Counts what is asked of the store. */
class CountedKv extends MemoryKv {
  ranges = new Map<number, number>()
  mostAtOnce = 0

  override chunks(range: KvRange) {
    const first = range.gte[0]!
    this.ranges.set(first, (this.ranges.get(first) ?? 0) + 1)
    return super.chunks(range)
  }

  override getMany(keys: readonly Buffer[]) {
    const first = keys[0]?.[0]
    if (first === space.record || first === space.idByDocNo) this.mostAtOnce = Math.max(this.mostAtOnce, keys.length)
    return super.getMany(keys)
  }

  reset(): void {
    this.ranges = new Map()
    this.mostAtOnce = 0
  }
}

const DOCUMENTS = 12
/** Long, and of few words, so that it is stored at once. */
const LONG = 'A pump has a valve. '.repeat(2000)
const embedder = new HashingEmbedder()
const request = (query: string, rest: Partial<SearchRequest> = {}): SearchRequest => ({
  query,
  mode: 'text',
  offset: 0,
  limit: 100,
  ...rest,
})
const write = (tenant: Tenant, plan: (clock: Parameters<typeof planResource>[1]) => Op[]) =>
  tenant.write(({ clock }) => ({ ops: plan(clock), result: undefined }))

describe('long reads leave the event loop to others in between', () => {
  const kv = new CountedKv()
  let tenant: Tenant

  beforeAll(async () => {
    tenant = await openMemoryTenant(parseTenantId('t'), {}, kv)
    const resource = (content: string, ordinal: number, category: string) =>
      ({ uri: 'u', ordinal, content, name: null, category, metadata: {} }) as const
    await write(tenant, clock =>
      Array.from({ length: DOCUMENTS }, (_, n) => planResource(resource(`${LONG}${n}`, n, 'long'), clock)),
    )
    for (let from = 0; from < 2000; from += BATCH_ITEMS_MAX)
      await write(tenant, clock =>
        Array.from({ length: BATCH_ITEMS_MAX }, (_, n) => planResource(resource('small', from + n, 'small'), clock)),
      )
    await write(tenant, clock =>
      Array.from({ length: 600 }, (_, n) =>
        planEntity(
          {
            id: `n${n}`,
            type: 't',
            name: `node ${n}`,
            edges: [7, 11, 13].map(factor => ({ type: 'e', to: `n${(n * factor + 1) % 600}` })),
          },
          clock,
        ),
      ).flat(),
    )
  })

  it('when a search makes the snippets of long texts', async () => {
    const turns = await turnsDuring(async () => {
      const { hits } = await search(tenant, embedder, request('pump valve'))
      expect(hits).toHaveLength(DOCUMENTS)
      for (const { snippet } of hits) expect(snippet).toContain('<mark>valve</mark>')
    })
    expect(turns).toBeGreaterThan((DOCUMENTS * 16 * 1024) / PIECE_CHARS - DOCUMENTS)
  })

  it('when a search scores and ranks many documents', async () => {
    const turns = await turnsDuring(() => search(tenant, embedder, request('small', { limit: 1 })))
    // Blocks of 256 documents, read and ranked.
    expect(turns).toBeGreaterThan(2 * (2000 / 256 - 1))
  })

  it('when a filter puts many documents together', async () => {
    const filter = parseFilter({ or: [{ category: 'small' }, { category: 'long' }], category: { in: ['small'] } })
    const turns = await turnsDuring(async () => expect((await candidates(tenant, filter))!.size).toBe(2000))
    expect(turns).toBeGreaterThan(2 * (2000 / 256))
  })

  it('when a filter of a listing has many ids', async () => {
    kv.reset()
    const turns = await turnsDuring(async () =>
      expect((await candidateIds(tenant, parseFilter('category:small'), new Slicer()))!.size).toBe(2000),
    )
    expect(turns).toBeGreaterThan(2000 / 256 + 2000 / 512 - 2)
    expect(kv.mostAtOnce).toBeLessThanOrEqual(512)
  })

  it('when a question is answered from long texts', async () => {
    const turns = await turnsDuring(async () => {
      const context = await gatherContext(tenant, embedder, 'What has a pump?', async () => [], {
        coverageMin: 0,
        signal: new AbortController().signal,
      })
      expect(context.passages.length).toBeGreaterThan(4)
      const { text } = await extractiveAnswer(context, new Slicer())
      expect(text).toContain('A pump has a valve.')
    })
    // Every piece for what the passages cover, and every sentence of those that are quoted from.
    expect(turns).toBeGreaterThan((DOCUMENTS * LONG.length) / PIECE_CHARS + 4 * 2000)
  })

  it('when names are compared, and entities walked', async () => {
    expect(await turnsDuring(() => findEntities(tenant, 'nodr 1xq', { limit: 10 }))).toBeGreaterThan(1500)
    expect(
      await turnsDuring(() => traverse(tenant, { start: 'n0', depth: 10, direction: 'both', limit: 1000 })),
    ).toBeGreaterThan(10)
  })

  it('and stop when nobody waits any more', async () => {
    for (const stopped of [
      (signal: AbortSignal) => search(tenant, embedder, request('pump valve', { signal })),
      (signal: AbortSignal) =>
        findEntities(tenant, 'nodr 1xq', { limit: 10, throwIfEnded: () => signal.throwIfAborted() }),
    ]) {
      const whole = await turnsDuring(() => stopped(new AbortController().signal))
      const controller = new AbortController()
      let turns = 0
      const turn = () => (++turns === 20 ? controller.abort(new Error('gone')) : setImmediate(turn))
      setImmediate(turn)
      expect(await turnsDuring(() => expect(stopped(controller.signal)).rejects.toThrow('gone'))).toBeLessThan(
        whole / 2,
      )
    }
  })

  it('looks up a bounded number of the words of a query, and says so', async () => {
    kv.reset()
    const unspaced = Array.from({ length: 4000 }, (_, n) => String.fromCharCode(0x4e00 + ((n * 7919) % 20_000)))
    const { warnings } = await search(tenant, embedder, request(`pump ${unspaced.join('')}`))
    expect(kv.ranges.get(space.posting)).toBe(QUERY_TERMS_MAX)
    expect(warnings).toEqual([expect.stringContaining(`first ${QUERY_TERMS_MAX} different words`)])
    expect((await search(tenant, embedder, request('pump valve'))).warnings).toEqual([])
  })

  it('looks up a bounded number of the trigrams of a name, and finds it all the same', async () => {
    const name = Array.from({ length: 300 }, (_, n) => String.fromCharCode(97 + ((n * n + n / 7) % 26))).join('')
    await write(tenant, clock => planEntity({ id: 'lengthy', name }, clock))
    kv.reset()
    const misspelt = `${name.slice(0, 20)}#${name.slice(21, 200)}${name.slice(201)}`.replace('#', 'zz')
    const [found] = await findEntities(tenant, misspelt, { limit: 3 })
    expect(found).toMatchObject({ entity: { id: 'lengthy' }, match: 'fuzzy' })
    expect(kv.ranges.get(space.entityByTrigram)).toBeLessThanOrEqual(64)
  })

  it('follows an edge that counts to what one that does not count led to before', async () => {
    await write(tenant, clock => [
      ...planEntity(
        {
          id: 'hub',
          edges: [
            { type: 'e', to: 'gone' },
            { type: 'e', to: 'other' },
          ],
        },
        clock,
      ),
      ...planEntity({ id: 'gone', name: 'gone' }, clock),
      ...planEntity({ id: 'other', edges: [{ type: 'e', to: 'missing' }] }, clock),
    ])
    await write(tenant, clock => [planDelete('entity', 'gone', clock)])
    await write(tenant, clock => [
      ...planEntity({ id: 'gone', name: 'back' }, clock),
      ...planEntity({ id: 'other', edges: [{ type: 'e', to: 'gone' }] }, clock),
    ])
    const walk = await traverse(tenant, { start: 'hub', depth: 3, direction: 'out', limit: 10 })
    expect(walk!.reached.map(({ entity, path }) => [entity.name, path])).toEqual([
      [null, ['hub', 'other']],
      ['back', ['hub', 'other', 'gone']],
    ])
    expect(walk!.edges.map(({ from, to }) => `${from}>${to}`)).toEqual(['hub>other', 'other>gone'])
    expect(await traverse(tenant, { start: 'missing', depth: 1, direction: 'out', limit: 10 })).toBe(undefined)
  })

  it('fetches a bounded number of records at once', async () => {
    kv.reset()
    const walk = await traverse(tenant, { start: 'n0', depth: 10, direction: 'both', limit: 1000 })
    expect(walk!.reached.length).toBeGreaterThan(100)
    await tenant.records(Array.from({ length: 600 }, (_, n) => ({ kind: 'entity', key: [`n${n}`] })))
    expect(kv.mostAtOnce).toBeLessThanOrEqual(64)
  })
})
