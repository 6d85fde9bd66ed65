import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Clock } from '../../../src/clock/hlc.ts'
import { hasAll, restated, saidBy } from '../../../src/rem/late.ts'
import { isVisible, mergeOp, mergeRecords } from '../../../src/rem/merge.ts'
import { EMPTY_RECORD, type LwwRecord, type Op } from '../../../src/rem/record.ts'

const at = (wall: number): Clock => ({ wall, counter: 0, origin: 'o' })
const NOW = at(1000)
const ref = { kind: 'entity', key: ['e'] } as const

type Said = readonly [action: Op['action'], wall: number, fields?: Record<string, string>]

const opsOf = (said: readonly Said[]): Op[] =>
  said.map(([action, wall, fields = {}]) => ({ ...ref, key: [...ref.key], action, clock: at(wall), fields }))

const recordOf = (said: readonly Said[]): LwwRecord => opsOf(said).reduce(mergeOp, EMPTY_RECORD)

/** What a reader sees of a record after what was said too late has been applied to it. */
function applied(before: readonly Said[], late: readonly Said[]): Record<string, unknown> | undefined {
  const record = recordOf(before)
  const [said] = saidBy(opsOf(late))
  const op = restated(said!, record, NOW)
  const after = op ? mergeOp(record, op) : record
  return isVisible(after) ? Object.fromEntries([...after.fields].map(([name, { value }]) => [name, value])) : undefined
}

describe('a write that came too late, applied as of now', () => {
  it.each<[string, Said[], Said[], Record<string, string> | undefined]>([
    ['brings what nobody has', [], [['put', 5, { a: 'late' }]], { a: 'late' }],
    [
      'leaves what was written later',
      [['put', 9, { a: 'new' }]],
      [['put', 5, { a: 'late', b: 'late' }]],
      { a: 'new', b: 'late' },
    ],
    ['overwrites what was written earlier', [['put', 3, { a: 'old' }]], [['put', 5, { a: 'late' }]], { a: 'late' }],
    [
      'does not bring back what was deleted later',
      [
        ['put', 3],
        ['del', 9],
      ],
      [['put', 5, { a: 'late' }]],
      undefined,
    ],
    ['deletes what is older', [['put', 3, { a: 'old' }]], [['del', 5]], undefined],
    ['does not delete what was made later', [['put', 9, { a: 'new' }]], [['del', 5]], { a: 'new' }],
    [
      'deletes what only got its embedding later',
      [
        ['put', 3],
        ['set', 9, { a: 'new' }],
      ],
      [['del', 5]],
      undefined,
    ],
    ['does not show what was never made', [], [['set', 5, { a: 'late' }]], undefined],
    [
      'says nothing of what is gone anyway',
      [
        ['put', 3],
        ['del', 9],
      ],
      [['del', 5]],
      undefined,
    ],
    [
      'brings what was made again after a delete',
      [],
      [
        ['set', 7, { a: 'again' }],
        ['put', 7],
        ['del', 5],
      ],
      { a: 'again' },
    ],
    ['changes nothing where it has arrived', [['put', 5, { a: 'late' }]], [['put', 5, { a: 'late' }]], { a: 'late' }],
  ])('%s', (_, before, late, seen) => {
    expect(applied(before, late)).toEqual(seen)
  })

  const said = fc.array(
    fc.tuple(
      fc.constantFrom<Op['action']>('put', 'set', 'del'),
      fc.integer({ min: 1, max: 9 }),
      fc.dictionary(fc.constantFrom('a', 'b', 'c'), fc.constantFrom('x', 'y'), { maxKeys: 2, noNullPrototype: true }),
    ),
    { minLength: 1, maxLength: 5 },
  )

  it('come to the same in whichever order several are applied', () => {
    fc.assert(
      fc.property(said, said, said, fc.boolean(), (before, one, two, isFirst) => {
        // No two writes have one clock: those of the second are a half later.
        const lates = [
          saidBy(opsOf(one))[0]!,
          saidBy(opsOf(two.map(([action, wall, fields]) => [action, wall + 0.5, fields])))[0]!,
        ]
        const order = isFirst ? [0, 1] : [1, 0]
        let record = recordOf(before.map(([action, wall, fields]) => [action, wall + 0.25, fields]))
        const wanted = mergeRecords(mergeRecords(record, lates[0]!.record), lates[1]!.record)
        for (const [turn, n] of order.entries()) {
          const others = turn === 0 ? lates[order[1]!]!.record : EMPTY_RECORD
          const op = restated(lates[n]!, record, at(1000 + turn), { others })
          if (op) record = mergeOp(record, op)
        }
        const seen = (of: LwwRecord) =>
          isVisible(of) ? Object.fromEntries([...of.fields].map(([k, { value }]) => [k, value])) : undefined
        // A delete that something later stands on leaves what it would have taken from the record.
        if (seen(wanted) === undefined) expect(seen(record)).toBeUndefined()
        else expect(seen(record)).toMatchObject(seen(wanted)!)
      }),
    )
  })

  it('keeps registers for a record that is made later', () => {
    const [one] = saidBy(opsOf([['set', 5, { a: 'late' }]]))
    expect(restated(one!, EMPTY_RECORD, NOW)).toMatchObject({ action: 'set', fields: { a: 'late' } })
  })

  it('does not bring back an edge whose end was deleted later', () => {
    const edge = { kind: 'edge', key: ['a', 'knows', 'b'] } as const
    const [one] = saidBy([{ ...edge, key: [...edge.key], action: 'put', clock: at(5), fields: {} }])
    const end = (del: number) => ({ ...EMPTY_RECORD, put: at(12), del: at(del) })
    expect(restated(one!, EMPTY_RECORD, NOW, { ends: [end(9), EMPTY_RECORD] })).toBeUndefined()
    expect(restated(one!, EMPTY_RECORD, NOW, { ends: [EMPTY_RECORD, end(4)] })).toMatchObject({
      action: 'put',
      clock: NOW,
    })
  })

  it('changes no register that was written later, and nothing once it is there', () => {
    fc.assert(
      fc.property(said, said, (before, late) => {
        const record = recordOf(before)
        const [one] = saidBy(opsOf(late))
        const op = restated(one!, record, NOW)
        if (!op) return
        expect(hasAll(record, one!.record)).toBe(false)
        for (const name of Object.keys(op.fields)) {
          const theirs = one!.record.fields.get(name)!
          const mine = record.fields.get(name)
          expect(op.fields[name]).toEqual(theirs.value)
          expect(mine === undefined || mine.clock.wall <= theirs.clock.wall).toBe(true)
        }
        if (op.action === 'del') expect(Math.max(0, record.put?.wall ?? 0)).toBeLessThanOrEqual(one!.record.del!.wall)
        const after = mergeOp(record, op)
        expect(hasAll(after, { ...one!.record, del: undefined }) || op.action === 'del').toBe(true)
      }),
    )
  })
})
