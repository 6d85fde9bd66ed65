import { describe, expect, it } from 'vitest'
import { parseTenantId } from '../../../src/base/ids.ts'
import { LARGE_BATCH_TEXT_BYTES } from '../../../src/base/limits.ts'
import { Slicer } from '../../../src/base/slice.ts'
import { opToRecord } from '../../../src/rem/merge.ts'
import { type EntityCommand, type MomentCommand, planEntity, planMoment } from '../../../src/rem/plan.ts'
import type { LwwRecord, Op } from '../../../src/rem/record.ts'
import { assertIndexesFit, asTextBytes, stagedByEntity, stagedByMoment } from '../../../src/tenant/staged-size.ts'
import { openMemoryTenant } from '../../support/memory-tenant.ts'

const clock = { wall: 1, counter: 0, origin: 'c' }

/** A name of which nearly each three characters are others. */
const name = (characters: number, seed: number): string => {
  let state = seed + 1
  return Array.from({ length: characters }, () => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    return 'abcdefghijklmnopqrstuvwxyz0123456789'[(state >>> 8) % 36]
  }).join('')
}
const id = (n: number) => name(512, n)
const named = (n: number): EntityCommand => ({
  id: id(n),
  aliases: Array.from({ length: 8 }, (_, m) => name(1024, 100 + 8 * n + m)),
})
const referring = (n: number): MomentCommand => ({
  id: id(n),
  timeMs: 1,
  entities: Array.from({ length: 1000 }, (_, m) => `e${m}`),
})

/** What a tenant's writer counts when it has staged the ops. */
async function stage(ops: readonly Op[]): Promise<number> {
  const tenant = await openMemoryTenant(parseTenantId('t'))
  return tenant.change(async staging => {
    await staging.apply(ops, clock)
    return staging.bytes
  })
}

const look = (ops: readonly Op[], stagedBytesMax: number, known?: LwwRecord) =>
  assertIndexesFit(ops, { read: async () => known, embedding: undefined, stagedBytesMax }, new Slicer())

describe('what a command takes while it is staged', () => {
  const cases = [
    ['names', [stagedByEntity(named(0))], planEntity(named(0), clock)],
    ['references', [stagedByMoment(referring(0))], [planMoment(referring(0), clock)]],
    [
      'edges',
      [stagedByEntity({ id: 'a', edges: Array.from({ length: 1000 }, (_, n) => ({ type: 't', to: id(n) })) })],
      planEntity({ id: 'a', edges: Array.from({ length: 1000 }, (_, n) => ({ type: 't', to: id(n) })) }, clock),
    ],
  ] as const

  it.each(cases)('is about what it is estimated to be by its %s', async (_, [estimate], ops) => {
    const staged = await stage(ops)
    expect(estimate).toBeGreaterThan(staged / 3)
    expect(estimate).toBeLessThan(1.5 * staged)
  })

  it('makes batches large whose entries are, and leaves small ones small', () => {
    expect(asTextBytes(stagedByEntity(named(0)))).toBeGreaterThan(LARGE_BATCH_TEXT_BYTES)
    const usual = { id: 'ada-lovelace', name: 'Ada Lovelace', aliases: ['Augusta Ada King'] }
    expect(asTextBytes(50 * stagedByEntity(usual))).toBeLessThan(LARGE_BATCH_TEXT_BYTES)
  })

  it.each(cases)(
    'is refused before it is staged where its entries alone are too much: %s',
    async (_, _estimate, ops) => {
      const staged = await stage(ops)
      await expect(look(ops, staged / 4)).rejects.toMatchObject({
        code: 'BODY_TOO_LARGE',
        message: expect.stringContaining('send fewer items'),
      })
      // What could be staged is never refused before.
      await look(ops, staged)
    },
  )

  it('is nothing where it is there already', async () => {
    const ops = planEntity(named(0), clock)
    await look(ops, 1000, opToRecord(ops[0]!))
  })
})
