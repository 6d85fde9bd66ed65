import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { PercolateError } from '../../../src/base/errors.ts'
import { parseTenantId } from '../../../src/base/ids.ts'
import { systemTime } from '../../../src/base/time.ts'
import { compareClocks } from '../../../src/clock/hlc.ts'
import { planDelete, planEntity, planMoment, planResource } from '../../../src/rem/plan.ts'
import { decodeEntry } from '../../../src/storage/codec.ts'
import { prefixes, prefixRange, space } from '../../../src/storage/keys.ts'
import { collect, type KvOperation, type KvOperations, type KvWrite } from '../../../src/storage/kv.ts'
import { MemoryKv } from '../../../src/storage/memory.ts'
import { checkTenant } from '../../../src/tenant/check.ts'
import { Tenant } from '../../../src/tenant/tenant.ts'

class CountingKv extends MemoryKv {
  writes: (readonly KvOperation[])[] = []
  synced = 0
  failNext = false

  override async write(operations: KvOperations, options: KvWrite): Promise<void> {
    await systemTime.sleep(1)
    if (this.failNext) {
      this.failNext = false
      throw new PercolateError('STORAGE_FAILED', 'disk full')
    }
    await super.write(operations, options)
    this.writes.push([...operations])
    if (options.sync) this.synced++
  }
}

async function open(options: { outboxBytesMax?: number } = {}) {
  const kv = new CountingKv()
  const tenant = await Tenant.open(parseTenantId('t'), kv, {
    time: systemTime,
    origin: 'n.d',
    outboxEnabled: true,
    outboxBytesMax: 1e9,
    recordCacheBytes: 1e6,
    onCommit: () => {},
    ...options,
  })
  kv.writes = []
  kv.synced = 0
  return { kv, tenant }
}
const resource = (content: string) => ({
  uri: 'u',
  ordinal: 0,
  content,
  name: null,
  category: 'c',
  metadata: { k: content.length },
})
const put = (tenant: Tenant, content: string) =>
  tenant.write(({ clock }) => ({ ops: [planResource(resource(content), clock)], result: content }))
const outbox = async (kv: MemoryKv) =>
  (await collect(kv, prefixRange(prefixes.space(space.outbox)))).map(([, value]) => decodeEntry(value))

describe('the clock of a tenant', () => {
  const ahead = () => ({ wall: Date.now() + 9000, counter: 0, origin: 'client' })
  const refused = () => {
    throw new PercolateError('NOT_FOUND', 'there is nothing to delete')
  }

  it('is not moved by a command that is refused, whatever it says of the time', async () => {
    const { tenant } = await open()
    const before = Date.now()
    for (const options of [{ asOf: ahead() }, { above: ahead() }])
      await expect(tenant.write(refused, options)).rejects.toMatchObject({ code: 'NOT_FOUND' })
    const clock = await tenant.write(({ clock }) => ({ ops: planEntity({ id: 'a' }, clock), result: clock }))
    expect(clock.wall).toBeGreaterThanOrEqual(before)
    expect(clock.wall).toBeLessThan(before + 5000)
  })

  it('is moved by one that stands: what comes after it is later', async () => {
    for (const name of ['asOf', 'above'] as const) {
      const { tenant } = await open()
      const given = ahead()
      await tenant.write(({ clock }) => ({ ops: planEntity({ id: 'a' }, clock), result: clock }), { [name]: given })
      const [next, last] = await Promise.all(
        ['b', 'c'].map(id => tenant.write(({ clock }) => ({ ops: planEntity({ id }, clock), result: clock }))),
      )
      expect(next!.wall).toBe(given.wall)
      expect(compareClocks(next!, given)).toBeGreaterThan(0)
      expect(compareClocks(last!, next!)).toBeGreaterThan(0)
    }
  })
})

describe('the right to decide', () => {
  const entity = (tenant: Tenant, id: string, guard?: { aboveMs: number; check: (wallMs: number) => void }) =>
    tenant.write(({ clock }) => ({ ops: planEntity({ id, type: 't' }, clock), result: clock }), { guard })

  it('is asked for again when the batch is complete; who lost it fails alone, and nothing of it is written', async () => {
    const { kv, tenant } = await open()
    let planned = 0
    const refuse = {
      aboveMs: 0,
      check: () => {
        // Not before all of the group was planned.
        planned++
        throw new PercolateError('HOME_UNAVAILABLE', 'the lease is over')
      },
    }
    const outcomes = await Promise.allSettled([
      entity(tenant, 'a'),
      entity(tenant, 'b', refuse),
      entity(tenant, 'c', { aboveMs: 0, check: () => {} }),
    ])
    expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
    expect(planned).toBe(1)
    expect(kv.synced).toBe(1)
    const ids = (await outbox(kv)).flatMap(({ ops }) => ops.map(({ key }) => key[0]))
    expect(new Set(ids)).toEqual(new Set(['a', 'c']))
    expect((await checkTenant(tenant)).problems).toEqual([])
  })

  it('begins above the clock that another home may have decided with', async () => {
    const { tenant } = await open()
    const aboveMs = Date.now() + 3000
    const clock = await entity(tenant, 'a', { aboveMs, check: () => {} })
    expect(clock.wall).toBeGreaterThan(aboveMs)
  })

  it('is needed for a refusal too', async () => {
    const { tenant } = await open()
    const over = new PercolateError('HOME_UNAVAILABLE', 'the lease is over')
    const refused = tenant.write(
      () => {
        throw new PercolateError('PRECONDITION_FAILED', 'it is another version')
      },
      {
        guard: {
          aboveMs: 0,
          check: () => {
            throw over
          },
        },
      },
    )
    await expect(refused).rejects.toBe(over)
  })

  it('is asked for no clock by a refusal, which writes nothing with the one that it was planned with', async () => {
    const { tenant } = await open()
    const asked: number[] = []
    const refused = tenant.write(
      () => {
        throw new PercolateError('PRECONDITION_FAILED', 'it is another version')
      },
      {
        asOf: { wall: Date.now() + 9900, counter: 0, origin: 'client' },
        guard: { aboveMs: 0, check: wallMs => void asked.push(wallMs) },
      },
    )
    await expect(refused).rejects.toMatchObject({ code: 'PRECONDITION_FAILED' })
    expect(asked).toEqual([0])
  })
})

describe('tenant writer', () => {
  it('reads nothing for a command whose clock is settled', async () => {
    const { kv, tenant } = await open()
    await tenant.promiseFloor({ wall: Date.now(), counter: 0, origin: 'n.d' })
    let asked = 0
    kv.getMany = async keys => {
      asked += keys.length
      return keys.map(() => undefined)
    }
    const write = (wall: number) =>
      tenant.write(({ clock }) => ({ ops: planEntity({ id: 'a' }, clock), result: undefined }), {
        asOf: { wall, counter: 0, origin: 'client' },
        touches: [{ kind: 'entity', key: ['a'] }],
      })
    await expect(write(1)).rejects.toMatchObject({ code: 'CLOCK_SETTLED' })
    expect(asked).toBe(0)
    await write(Date.now() + 1000)
    expect(asked).toBeGreaterThan(0)
  })

  it('lets commands that wait share an fsync, each with its own outbox entry in sequence', async () => {
    const { kv, tenant } = await open()
    await Promise.all(Array.from({ length: 100 }, (_, n) => put(tenant, `text ${n}`)))
    expect(kv.synced).toBeLessThan(10)
    const entries = await outbox(kv)
    expect(entries.map(({ sequence }) => sequence)).toEqual(Array.from({ length: 100 }, (_, n) => n + 1))
    expect((await checkTenant(tenant)).problems).toEqual([])
  })

  it('writes record, indexes and outbox entry in one batch', async () => {
    const { kv, tenant } = await open()
    await put(tenant, 'one')
    expect(kv.writes.length).toBe(1)
    const spaces = new Set(kv.writes[0]!.map(({ key }) => key[0]))
    for (const expected of [
      space.record,
      space.posting,
      space.resourceByTime,
      space.outbox,
      space.versionVector,
      space.meta,
    ])
      expect(spaces).toContain(expected)
  })

  it('fails only the command that is refused while it is planned', async () => {
    const { tenant } = await open()
    const results = await Promise.allSettled([
      put(tenant, 'a'),
      tenant.write(() => {
        throw new PercolateError('PRECONDITION_FAILED', 'no')
      }),
      put(tenant, 'b'),
    ])
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
    expect(tenant.state.documents).toBe(2)
  })

  it('acknowledges nothing of a batch that could not be written, and marks the tenant for reopening', async () => {
    const { kv, tenant } = await open()
    kv.failNext = true
    await expect(put(tenant, 'a')).rejects.toMatchObject({ code: 'STORAGE_FAILED' })
    expect(tenant.state.documents).toBe(0)
    expect(tenant.broken).toBe(true)
  })

  it('marks the tenant for reopening also when what nobody waits for could not be written', async () => {
    const { kv, tenant } = await open()
    kv.failNext = true
    await expect(tenant.setCursor({ stream: 's', sequence: 1 })).rejects.toMatchObject({ code: 'STORAGE_FAILED' })
    expect(tenant.broken).toBe(true)
  })

  it('repeats a write without an effect, and with an old clock brings nothing back', async () => {
    const { kv, tenant } = await open()
    const asOf = { wall: 5, counter: 0, origin: 'upload' }
    const write = () =>
      tenant.write(({ clock }) => ({ ops: [planResource(resource('x'), clock)], result: undefined }), { asOf })
    await write()
    await write()
    expect((await outbox(kv)).length).toBe(1)
    await tenant.write(({ clock }) => ({
      ops: [planDelete('resource', planResource(resource('x'), clock).key[0]!, clock)],
      result: undefined,
    }))
    await write()
    expect(tenant.state.documents).toBe(0)
    expect((await checkTenant(tenant)).problems).toEqual([])
  })

  it('splits a large command into entries below the bound', async () => {
    const { kv, tenant } = await open()
    await tenant.write(({ clock }) => ({
      ops: Array.from({ length: 40 }, (_, n) => planResource(resource(`${n}${'x'.repeat(50_000)}`), clock)),
      result: undefined,
    }))
    const sizes = (await collect(kv, prefixRange(prefixes.space(space.outbox)))).map(([, value]) => value.length)
    expect(sizes.length).toBeGreaterThan(3)
    expect(Math.max(...sizes)).toBeLessThan(600 * 1024)
  })

  it('refuses writes when unpublished changes have reached their bound', async () => {
    const { tenant } = await open({ outboxBytesMax: 500 })
    await put(tenant, 'x'.repeat(500))
    await expect(put(tenant, 'y')).rejects.toMatchObject({ code: 'OUTBOX_FULL' })
  })

  it('keeps every index in step with its record, whatever is written and deleted', async () => {
    const word = fc.constantFrom('alpha', 'beta', 'gamma', 'delta')
    const command = fc.oneof(
      fc.record({
        kind: fc.constant('put' as const),
        n: fc.nat(5),
        words: fc.array(word, { maxLength: 4 }),
        category: fc.option(word),
        embedding: fc.boolean(),
      }),
      fc.record({ kind: fc.constant('del' as const), n: fc.nat(5) }),
      fc.record({
        kind: fc.constant('entity' as const),
        id: word,
        name: fc.option(word),
        alias: word,
        to: word,
        remove: fc.boolean(),
      }),
      fc.record({ kind: fc.constant('undo' as const), id: word }),
      fc.record({
        kind: fc.constant('moment' as const),
        id: word,
        timeMs: fc.nat(9),
        type: fc.option(word),
        refs: fc.array(word),
      }),
    )
    await fc.assert(
      fc.asyncProperty(fc.array(fc.array(command, { maxLength: 4 }), { maxLength: 8 }), async groups => {
        const { tenant } = await open()
        for (const group of groups) {
          await Promise.all(
            group.map(item =>
              tenant.write(({ clock }) => {
                if (item.kind === 'put') {
                  const embedding = item.embedding ? { model: 'm', vector: new Float32Array([item.n, 1]) } : undefined
                  return {
                    ops: [
                      planResource(
                        {
                          uri: 'u',
                          ordinal: item.n,
                          content: 'fixed words',
                          name: item.words.join(' '),
                          category: item.category,
                          metadata: { n: item.n },
                          embedding,
                        },
                        clock,
                      ),
                    ],
                    result: 0,
                  }
                }
                if (item.kind === 'del')
                  return {
                    ops: [
                      planDelete(
                        'resource',
                        planResource({ uri: 'u', ordinal: item.n, content: 'fixed words' }, clock).key[0]!,
                        clock,
                      ),
                    ],
                    result: 0,
                  }
                if (item.kind === 'entity')
                  return {
                    ops: planEntity(
                      {
                        id: item.id,
                        type: 't',
                        name: item.name,
                        aliases: [item.alias],
                        properties: { p: 1 },
                        edges: [{ type: 'e', to: item.to, remove: item.remove }],
                      },
                      clock,
                    ),
                    result: 0,
                  }
                if (item.kind === 'undo') return { ops: [planDelete('entity', item.id, clock)], result: 0 }
                return {
                  ops: [
                    planMoment(
                      { id: item.id, timeMs: item.timeMs, type: item.type, resources: item.refs, entities: item.refs },
                      clock,
                    ),
                  ],
                  result: 0,
                }
              }),
            ),
          )
        }
        expect((await checkTenant(tenant)).problems).toEqual([])
      }),
      { numRuns: 60 },
    )
  })

  it('has a check that finds what is wrong', async () => {
    const { kv, tenant } = await open()
    await put(tenant, 'alpha beta')
    const postings = await collect(kv, prefixRange(prefixes.space(space.posting)))
    await kv.write([{ type: 'del', key: postings[0]![0] }], { sync: true })
    expect((await checkTenant(tenant)).problems.join()).toMatch(/missing/)
    const index = await collect(kv, prefixRange(prefixes.space(space.resourceByTime)))
    await kv.write(
      [
        { type: 'del', key: index[0]![0] },
        { type: 'put', key: Buffer.concat([index[0]![0], Buffer.from('x')]), value: Buffer.alloc(0) },
      ],
      { sync: true },
    )
    expect((await checkTenant(tenant)).problems.length).toBe(3)
  })
})
