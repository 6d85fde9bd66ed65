import { describe, expect, it } from 'vitest'
import { assertAllFit } from '../../../src/api/operations/entity-sizes.ts'
import { Slicer } from '../../../src/base/slice.ts'
import { opToRecord } from '../../../src/rem/merge.ts'
import { type EntityCommand, planEntity } from '../../../src/rem/plan.ts'
import type { LwwRecord, RecordRef } from '../../../src/rem/record.ts'
import { turnsDuring } from '../../support/turns.ts'

const clock = { wall: 1, counter: 0, origin: 'c' }

/** Looks at a request; the names of the records that are read for it. */
async function look(commands: readonly EntityCommand[], known?: LwwRecord): Promise<string[]> {
  const read: string[] = []
  const context = {
    read: async ({ key }: RecordRef) => {
      read.push(key.join(' '))
      return known
    },
  }
  const ops = commands.map(command => planEntity(command, clock))
  await assertAllFit(commands, ops, context, new Slicer())
  return read
}

const properties = (count: number, value: unknown = null) =>
  Object.fromEntries(Array.from({ length: count }, (_, n) => [`p${n}`, value])) as { [key: string]: null }

describe('what a request makes of entities and edges', () => {
  it('is looked at once for each record, however often it is named', async () => {
    const edges = Array.from({ length: 1000 }, () => ({ type: 'to', to: 'b', properties: properties(1) }))
    const commands = Array.from({ length: 40 }, (_, n) => ({
      id: 'a',
      edges: n === 0 ? [{ type: 'to', to: 'b', properties: properties(1900) }, ...edges.slice(1)] : edges,
    }))
    const startedAt = performance.now()
    expect(await look(commands)).toEqual(['a', 'a to b'])
    // Merged and measured for each op they take more than a minute.
    expect(performance.now() - startedAt).toBeLessThan(10_000)
  })

  it('lets others have their turns in between', async () => {
    const edges = Array.from({ length: 50 }, (_, n) => ({ type: 'to', to: `b${n}`, properties: properties(1) }))
    expect(await turnsDuring(() => look([{ id: 'a', edges }]))).toBeGreaterThan(90)
  })

  it('is refused where several parts of it are too large together, with the field that comes last', async () => {
    const part = (n: number, value = 'x'.repeat(50_000)) => ({ type: 'to', to: 'b', properties: { [`p${n}`]: value } })
    await expect(look([{ id: 'a', edges: [part(0), part(1)] }])).resolves.toBeDefined()
    await expect(look([{ id: 'a', edges: [part(0), part(1), part(2)] }])).rejects.toMatchObject({
      code: 'BODY_TOO_LARGE',
      field: 'edges[2].properties',
    })
    await expect(look([0, 1, 2].map(n => ({ id: 'a', edges: [part(n)] })))).rejects.toMatchObject({
      field: 'entities[2].edges[0].properties',
    })
    const large = (n: number) => ({ id: 'a', properties: part(n).properties })
    await expect(look([0, 1, 2, 3, 4, 5].map(large))).rejects.toMatchObject({ field: 'entities[5].properties' })
  })

  it('may become smaller where it is too large already', async () => {
    const known = opToRecord({
      ...planEntity({ id: 'a', properties: properties(6, 'x'.repeat(50_000)) }, { ...clock, wall: 0 })[0]!,
    })
    await expect(look([{ id: 'a', properties: { p0: null } }], known)).resolves.toEqual(['a'])
    await expect(look([{ id: 'a', properties: { more: 'text' } }], known)).rejects.toMatchObject({
      field: 'properties',
    })
  })
})
