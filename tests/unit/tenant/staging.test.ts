import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { parseTenantId } from '../../../src/base/ids.ts'
import { opToRecord } from '../../../src/rem/merge.ts'
import type { Op } from '../../../src/rem/record.ts'
import { prefixes, prefixRange, space } from '../../../src/storage/keys.ts'
import { collect } from '../../../src/storage/kv.ts'
import { MemoryKv } from '../../../src/storage/memory.ts'
import { checkTenant, INDEX_SPACES } from '../../../src/tenant/check.ts'
import type { Tenant } from '../../../src/tenant/tenant.ts'
import { openMemoryTenant } from '../../support/memory-tenant.ts'
import { turnsDuring } from '../../support/turns.ts'

/** Counts how often a value is asked for. */
class ReadsKv extends MemoryKv {
  reads = 0

  override async get(key: Buffer): Promise<Buffer | undefined> {
    this.reads++
    return super.get(key)
  }
}

const open = (kv = new MemoryKv()) => openMemoryTenant(parseTenantId('t'), {}, kv, { changesMax: 1000 })

const text = fc.constantFrom('one', 'two words', 'three')
const property = fc.oneof(text, fc.constant(null), fc.dictionary(text, fc.integer(), { maxKeys: 2 }))
const clock = fc.record({ wall: fc.integer({ min: 1, max: 4 }), counter: fc.constant(0), origin: fc.constant('c') })
const fieldsOf = {
  entity: fc.record(
    { type: text, name: text, 'alias:a': fc.boolean(), 'alias:b': fc.boolean(), 'property:p': property },
    { requiredKeys: [] },
  ),
  edge: fc.record({ weight: fc.integer(), 'property:p': property }, { requiredKeys: [] }),
  moment: fc.record({ time: fc.nat(), type: text, entities: fc.array(text, { maxLength: 2 }) }),
}
const keyOf = {
  entity: fc.constantFrom(['a'], ['b']),
  edge: fc.constantFrom(['a', 'to', 'b'], ['b', 'to', 'a']),
  moment: fc.constantFrom(['m'], ['n']),
}
const op = fc
  .constantFrom('entity' as const, 'edge' as const, 'moment' as const)
  .chain(kind =>
    fc.record({
      kind: fc.constant(kind),
      key: keyOf[kind],
      action: fc.constantFrom('put' as const, 'put' as const, 'del' as const),
      clock,
      fields: fieldsOf[kind],
    }),
  )
  .map(({ fields, ...rest }) => ({ ...rest, fields: rest.action === 'del' ? {} : fields })) as fc.Arbitrary<Op>

const INDEXES = [space.record, ...INDEX_SPACES]
const stored = async (kv: MemoryKv) =>
  (await Promise.all(INDEXES.map(one => collect(kv, prefixRange(prefixes.space(one))))))
    .flat()
    .map(([key, value]) => [key.toString('latin1'), value.toString('latin1')])

const apply = (tenant: Tenant, ops: readonly Op[]) => tenant.write(() => ({ ops, result: undefined }))

describe('a command of several ops', () => {
  it('leaves what its ops would leave one by one, whichever records they share, and is one entry as it was given', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(op, { maxLength: 6 }),
        fc.array(op, { minLength: 1, maxLength: 12 }),
        async (before, ops) => {
          const [together, apart] = [new MemoryKv(), new MemoryKv()]
          const [tenant, other] = [await open(together), await open(apart)]
          for (const one of [tenant, other]) for (const earlier of before) await apply(one, [earlier])
          const entries = (await changes(together)).length
          await apply(tenant, ops)
          let isNews = false
          for (const one of ops)
            isNews = (await other.change(staging => staging.mergeRecord(one, opToRecord(one), []))) || isNews
          expect(await stored(together)).toEqual(await stored(apart))
          expect((await checkTenant(tenant)).problems).toEqual([])
          expect((await changes(together)).length - entries).toBe(isNews ? 1 : 0)
        },
      ),
      { numRuns: 150 },
    )
  })
})

const changes = (kv: MemoryKv) => collect(kv, prefixRange(prefixes.space(space.change)))

/** One entity named by every op, which has many properties already. */
const many = 4000
const often = (): Op[] =>
  Array.from({ length: many }, (_, n) => ({
    kind: 'entity',
    key: ['often'],
    action: 'put',
    clock: { wall: 10, counter: 0, origin: 'c' },
    fields:
      n === 0
        ? Object.fromEntries(Array.from({ length: 2000 }, (_, p) => [`property:${p}`, { n: p }]))
        : { 'property:0': { n } },
  }))

describe('a record that a command names many times', () => {
  it('is read, merged and indexed once', async () => {
    const kv = new ReadsKv()
    const tenant = await open(kv)
    kv.reads = 0
    const startedAt = performance.now()
    await apply(tenant, often())
    expect(kv.reads).toBeLessThan(10)
    // One by one they take half a minute.
    expect(performance.now() - startedAt).toBeLessThan(5000)
    // Of one clock the value that is the last by its text stands.
    const record = await tenant.record({ kind: 'entity', key: ['often'] })
    expect(record?.fields.get('property:0')?.value).toEqual({ n: 9 })
  })

  it('is gathered with turns for others in between', async () => {
    const tenant = await open()
    expect(await turnsDuring(() => apply(tenant, often()))).toBeGreaterThan(many / 2)
  })
})
