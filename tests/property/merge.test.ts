import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { isVisible, mergeOp, mergeRecords, opToRecord, RecordFold } from '../../src/rem/merge.ts'
import { EMPTY_RECORD, type Op } from '../../src/rem/record.ts'
import { encodeRecord } from '../../src/storage/codec.ts'

const clock = fc.record({
  wall: fc.integer({ min: 0, max: 5 }),
  counter: fc.integer({ min: 0, max: 2 }),
  origin: fc.constantFrom('a.1', 'b.1'),
})
const op = fc.record({
  kind: fc.constant('entity' as const),
  key: fc.constant(['e']),
  action: fc.constantFrom('put' as const, 'set' as const, 'del' as const),
  clock,
  fields: fc.dictionary(
    fc.constantFrom('x', 'y', 'z'),
    fc.oneof(
      fc.integer(),
      fc.string(),
      fc.constant(null),
      fc.array(fc.integer()),
      fc.dictionary(fc.string(), fc.integer()),
    ),
  ),
}) as fc.Arbitrary<unknown> as fc.Arbitrary<Op>
const bytes = (record: Parameters<typeof encodeRecord>[0]) => encodeRecord(record).toString('hex')
const apply = (ops: readonly Op[]) => ops.reduce(mergeOp, EMPTY_RECORD)

describe('merge', () => {
  it('is commutative, associative and idempotent', () => {
    fc.assert(
      fc.property(fc.array(op), fc.array(op), fc.array(op), (a, b, c) => {
        const [x, y, z] = [apply(a), apply(b), apply(c)]
        expect(bytes(mergeRecords(x, y))).toBe(bytes(mergeRecords(y, x)))
        expect(bytes(mergeRecords(mergeRecords(x, y), z))).toBe(bytes(mergeRecords(x, mergeRecords(y, z))))
        expect(bytes(mergeRecords(x, x))).toBe(bytes(x))
      }),
    )
  })

  it('ends in the same bytes for any order of the same ops, any number of times', () => {
    fc.assert(
      fc.property(
        fc
          .array(op, { maxLength: 8 })
          .chain(ops =>
            fc.tuple(fc.constant(ops), fc.shuffledSubarray(ops, { minLength: ops.length }), fc.shuffledSubarray(ops)),
          ),
        ([ops, shuffled, again]) => {
          expect(bytes(apply([...shuffled, ...again]))).toBe(bytes(apply(ops)))
        },
      ),
    )
  })

  it('comes to the same when the ops of a record are gathered first', () => {
    fc.assert(
      fc.property(fc.array(op), fc.array(op), (before, ops) => {
        const fold = new RecordFold()
        for (const one of ops) fold.add(one)
        expect(bytes(fold.record)).toBe(bytes(apply(ops)))
        expect(bytes(mergeRecords(apply(before), fold.record))).toBe(bytes(apply([...before, ...ops])))
      }),
    )
  })

  it('shows nothing from before a delete, and is invisible until a later put', () => {
    fc.assert(
      fc.property(fc.array(op), clock, (ops, at) => {
        const record = mergeRecords(
          apply(ops),
          opToRecord({ kind: 'entity', key: ['e'], action: 'del', clock: { ...at, wall: 6 }, fields: {} }),
        )
        expect(isVisible(record)).toBe(false)
        expect(record.fields.size).toBe(0)
        const back = mergeOp(record, {
          kind: 'entity',
          key: ['e'],
          action: 'put',
          clock: { ...at, wall: 7 },
          fields: { x: 1 },
        })
        expect(isVisible(back)).toBe(true)
        expect([...back.fields.keys()]).toEqual(['x'])
      }),
    )
  })

  it('does not let a set bring back what was deleted', () => {
    const at = (wall: number) => ({ wall, counter: 0, origin: 'a' })
    const ref = { kind: 'resource' as const, key: ['r'], fields: {} }
    const record = apply([
      { ...ref, action: 'put', clock: at(1) },
      { ...ref, action: 'del', clock: at(2) },
      { ...ref, action: 'set', clock: at(3), fields: { x: 1 } },
    ])
    expect(isVisible(record)).toBe(false)
  })
})
