import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { parseTenantId } from '../../../src/base/ids.ts'
import { systemTime } from '../../../src/base/time.ts'
import { planEntity } from '../../../src/rem/plan.ts'
import type { KvRange } from '../../../src/storage/kv.ts'
import { MemoryKv } from '../../../src/storage/memory.ts'
import { ChangeReader, type FeedPosition, LogGap } from '../../../src/tenant/change-reader.ts'
import { Tenant } from '../../../src/tenant/tenant.ts'

class ReadsKv extends MemoryKv {
  ranges = 0

  override chunks(range: KvRange) {
    this.ranges++
    return super.chunks(range)
  }
}

const openOn = (kv: MemoryKv, changesMax: number) =>
  Tenant.open(parseTenantId('acme'), kv, {
    time: systemTime,
    origin: 'n.d',
    incarnation: '000000000001-0000000000000000',
    outboxEnabled: true,
    outboxBytesMax: 1e9,
    recordCacheBytes: 1e6,
    changesMax,
    onCommit: () => {},
  })
const put = (tenant: Tenant, id: string) =>
  tenant.write(({ clock }) => ({ ops: planEntity({ id }, clock), result: undefined }))

describe('a position that the log does not reach', () => {
  it('is refused without reading the log again', async () => {
    const kv = new ReadsKv()
    const tenant = await openOn(kv, 300)
    for (let n = 0; n < 100; n++) await put(tenant, `e${n}`)
    const early = (await ChangeReader.start(tenant, 'now')).position
    for (let n = 0; n < 350; n++) await put(tenant, `e${n}`)
    const forged: FeedPosition[] = [
      { vector: new Map([['x1', 5]]), lost: '' },
      early,
      // Where nothing came past the vector.
      { vector: tenant.vector, lost: '~0123456789abcdef' },
      { vector: new Map([[tenant.origin, 200]]), lost: '~0123456789abcdef' },
    ]
    await expect(ChangeReader.start(tenant, forged[0]!)).rejects.toThrow(LogGap)
    for (let n = 0; n < 3; n++) {
      kv.ranges = 0
      // Only the marks of what came since are not known yet.
      for (const position of forged.slice(0, 2))
        await expect(ChangeReader.startNear(tenant, position)).rejects.toThrow(LogGap)
      expect(kv.ranges).toBe(0)
      for (const position of forged.slice(2))
        await expect(ChangeReader.startNear(tenant, position)).rejects.toThrow(LogGap)
      await put(tenant, `later ${n}`)
    }
  })

  it('is the same, whatever is known of the log', { timeout: 60_000 }, async () => {
    type Step = 'write' | 'apply' | 'merge' | 'regain' | 'join' | 'remember' | 'ask'
    const step = fc.oneof(
      { weight: 6, arbitrary: fc.constantFrom<Step>('write', 'apply') },
      { weight: 4, arbitrary: fc.constantFrom<Step>('merge', 'regain', 'join', 'remember', 'ask') },
    )
    const seen = { begun: 0, refused: 0 }
    const outcome = async (tenant: Tenant, from: FeedPosition): Promise<unknown> => {
      try {
        const reader = await ChangeReader.start(tenant, from)
        const told = []
        while (reader.isBehind(tenant)) told.push(...(await reader.read(tenant)))
        seen.begun++
        return told
      } catch (error) {
        if (!(error instanceof LogGap)) throw error
        seen.refused++
        // Of two reasons either one may be told.
        return 'refused'
      }
    }
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { minLength: 5, maxLength: 60 }),
        fc.integer({ min: 2, max: 12 }),
        async (steps, changesMax) => {
          const kv = new MemoryKv()
          const tenant = await openOn(kv, changesMax)
          const positions: FeedPosition[] = [{ vector: new Map([['x1', 5]]), lost: '' }]
          let sequence = 0
          let [n, salt] = [0, 0]
          const clock = () => ({ wall: Date.now(), counter: n, origin: 'o.d' })
          const record = () => {
            const at = clock()
            return { put: at, del: undefined, fields: new Map([['type', { clock: at, value: `t${n}` }]]) }
          }
          for (const one of steps) {
            n++
            const upTo = new Map(tenant.vector).set('o.d', sequence + 3)
            if (one === 'write') await put(tenant, `e${n}`)
            if (one === 'apply') {
              const ops = planEntity({ id: `e${n}` }, clock())
              await tenant.apply({
                incarnation: tenant.identity.incarnation,
                origin: 'o.d',
                sequence: ++sequence,
                ops,
              } as never)
            }
            if (one === 'merge' || one === 'regain')
              await tenant.merge(
                [{ ref: { kind: 'entity', key: [`m${n}`] }, record: record(), vectors: [] } as never],
                one === 'merge' ? tenant.vector : upTo,
                {
                  regains: one === 'regain',
                },
              )
            if (one === 'join') {
              await tenant.change(async staging => staging.joinVector(upTo, salt++ % 2 ? [] : [['o.d', sequence + 1]]))
              sequence += 3
            }
            if (one === 'remember') positions.push((await ChangeReader.start(tenant, 'now')).position)
            if (one === 'remember')
              positions.push((await ChangeReader.start(await openOn(kv, changesMax), 'earliest')).position)
            if (one === 'ask' || n === steps.length)
              for (const position of positions)
                expect(await outcome(tenant, position)).toEqual(await outcome(await openOn(kv, changesMax), position))
          }
        },
      ),
      { numRuns: 60 },
    )
    expect(seen.begun).toBeGreaterThan(100)
    expect(seen.refused).toBeGreaterThan(100)
  })
})

it('one reading of the log is bounded by the changes in it, and by its bytes: large writes come one by one', async () => {
  const tenant = await openOn(new MemoryKv(), 1000)
  /** What each reading brings, from the last position on. */
  const readings = async (write: () => Promise<unknown>): Promise<number[]> => {
    const reader = await ChangeReader.start(tenant, 'now')
    await write()
    const sizes = []
    while (reader.isBehind(tenant))
      sizes.push((await reader.read(tenant)).reduce((sum, { changes = [] }) => sum + changes.length, 0))
    return sizes
  }
  const put = (count: number, name: (n: number) => string) =>
    tenant.write(({ clock }) => ({
      ops: Array.from({ length: count }, (_, n) => planEntity({ id: name(n) }, clock)).flat(),
      result: undefined,
    }))
  const many = async (writes: number, count: number, idLength: number) => {
    for (let w = 0; w < writes; w++) await put(count, n => `${w}-${n}-`.padEnd(idLength, 'x'))
  }
  expect(await readings(() => many(5, 1200, 8))).toEqual([1200, 1200, 1200, 1200, 1200])
  expect(await readings(() => many(5, 400, 8))).toEqual([1200, 800])
  // More than half of the bytes of a reading each.
  expect(await readings(() => many(5, 200, 700))).toEqual([200, 200, 200, 200, 200])
  expect(await readings(() => many(150, 1, 8))).toEqual([128, 22])
})
