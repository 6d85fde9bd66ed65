import { deflateRawSync } from 'node:zlib'
import fc from 'fast-check'
import { Unpackr } from 'msgpackr'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { BOOKMARK_CHARS_MAX } from '../../../src/base/limits.ts'
import { COUNTER_MAX, ORIGIN_PATTERN, WALL_MAX } from '../../../src/clock/hlc.ts'
import { type Bookmark, encodeBookmark, parseBookmark, parseFeedCursor } from '../../../src/session/bookmark.ts'
import { NAMES_MAX, SKIPPED_MAX } from '../../../src/session/position-bytes.ts'
import { packValue } from '../../../src/storage/codec.ts'

const textOf = (bytes: Buffer): string => {
  const plain = bytes.toString('base64url')
  return plain.length <= 8192
    ? plain
    : Buffer.concat([Buffer.of(0), deflateRawSync(bytes, { level: 9 })]).toString('base64url')
}
const hex = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex')
const joined = (...parts: (string | Buffer)[]): Buffer =>
  Buffer.concat(parts.map(part => (typeof part === 'string' ? hex(part) : part)))
const packed = (...fields: unknown[]): Buffer => packValue([1, 'i', ...fields])
/** The head of a list of so many fields, of which these are the first. */
const listOf = (fields: number, ...first: (string | Buffer)[]): Buffer =>
  joined((0x90 + fields).toString(16), '01 a169', ...first)
const names = (from: number, to: number): Record<string, number> =>
  Object.fromEntries(Array.from({ length: to - from }, (_, n) => [`n.${from + n}`, 1]))

afterEach(() => vi.restoreAllMocks())

/** Refused, as both, and by nothing that looks at more than the bytes and as many names as a position may have. */
function expectRefused(bytes: Buffer, what: string): void {
  const general = vi.spyOn(Unpackr.prototype, 'unpack')
  const checked = vi.spyOn(ORIGIN_PATTERN, 'test')
  const text = textOf(bytes)
  expect(text.length, what).toBeLessThanOrEqual(BOOKMARK_CHARS_MAX)
  expect(() => parseBookmark(text, 'bookmark'), what).toThrow(expect.objectContaining({ code: 'INVALID_BOOKMARK' }))
  expect(() => parseFeedCursor(text, 'cursor'), what).toThrow(expect.objectContaining({ code: 'INVALID_CURSOR' }))
  expect(general, what).not.toHaveBeenCalled()
  expect(checked.mock.calls.length, what).toBeLessThanOrEqual(2 * NAMES_MAX)
  vi.restoreAllMocks()
}

const origin = fc
  .tuple(
    fc.constantFrom('n1', 'percolate-node-small-7', 'N:x'),
    fc.string({ unit: fc.constantFrom(...'0af9-.'), maxLength: 180 }),
  )
  .map(([node, rest]) => `${node}.${rest}`.slice(0, 192))
const sequence = fc.oneof(
  fc.integer({ min: 1, max: 300 }),
  fc.constantFrom(127, 128, 255, 256, 65_535, 65_536, 2 ** 32 - 1, 2 ** 32, 2 ** 32 + 1, Number.MAX_SAFE_INTEGER),
  fc.maxSafeNat().map(n => n + (n === 0 ? 1 : 0)),
)
const vector = (maxLength: number) =>
  fc.uniqueArray(fc.tuple(origin, sequence), { selector: ([name]) => name, maxLength }).map(entries => new Map(entries))
/** As a tenant has them whose copies were made anew so often that its positions are compressed. */
const manyOrigins = fc
  .uniqueArray(fc.integer({ min: 0, max: 2 ** 32 - 1 }), { minLength: 300, maxLength: 500, size: 'max' })
  .map(
    copies => new Map(copies.map(copy => [`n1.00c0ffee.${copy.toString(16).padStart(8, '0')}`, 1 + (copy % 70_000)])),
  )
const mark = fc.string({ unit: fc.constantFrom(...'0af.unsre'), maxLength: 40 })
const position: fc.Arbitrary<Bookmark> = fc
  .record(
    {
      incarnation: fc.constantFrom('', '000000000001-0000000000000000', 'i'),
      vector: fc.oneof(vector(3), vector(40), manyOrigins),
      lost: mark,
      ahead: fc.array(fc.record({ teller: origin, vector: vector(4) }), { minLength: 1, maxLength: 8 }),
      lacks: fc.array(fc.tuple(origin, sequence), { minLength: 1, maxLength: 32 }),
      clock: fc.record({
        wall: fc.oneof(fc.integer({ min: 0, max: WALL_MAX }), fc.constantFrom(0, 2 ** 32 - 1, 2 ** 32, WALL_MAX)),
        counter: fc.integer({ min: 0, max: COUNTER_MAX }),
      }),
    },
    { requiredKeys: ['incarnation', 'vector'] },
  )
  .filter(one => encodeBookmark(one).length <= BOOKMARK_CHARS_MAX)

describe('a position of ours', () => {
  it('is read as it was written, whatever it has', () => {
    let compressed = 0
    fc.assert(
      fc.property(position, one => {
        const text = encodeBookmark(one)
        if (Buffer.from(text, 'base64url')[0] === 0) compressed++
        const { clock, ...withoutClock } = one
        expect([one, withoutClock]).toContainEqual(parseBookmark(text, 'bookmark'))
      }),
    )
    expect(compressed).toBeGreaterThan(0)
  })

  it('is read as the general decoder reads it', () => {
    fc.assert(
      fc.property(position, one => {
        const bytes = packValue([1, one.incarnation, Object.fromEntries(one.vector), one.lost, undefined, one.lacks])
        const [, incarnation, vector, lost, , lacks] = new Unpackr({ useRecords: false }).unpack(bytes) as unknown[]
        const read = parseBookmark(textOf(bytes), 'bookmark')
        expect([read.incarnation, Object.fromEntries(read.vector), read.lost, read.lacks]).toEqual([
          incarnation,
          vector,
          lost,
          lacks,
        ])
      }),
    )
  })

  it('is read as every version wrote it: golden', () => {
    const read = (text: string) => parseBookmark(hex(text).toString('base64url'), 'bookmark')
    const vector = new Map([['n.d', 1]])
    expect(read('93 01 a169 81 a36e2e64 01')).toEqual({ incarnation: 'i', vector })
    expect(read('94 01 a169 81 a36e2e64 01 a26666')).toEqual({ incarnation: 'i', vector, lost: 'ff' })
    expect(read('95 01 a169 81 a36e2e64 01 d40000 91 92 a36d2e64 81 a36e2e64 cd0100')).toEqual({
      incarnation: 'i',
      vector,
      ahead: [{ teller: 'm.d', vector: new Map([['n.d', 256]]) }],
    })
    expect(read('97 01 a169 81 a36e2e64 01 a0 d40000 91 92 a36e2e64 05 92 cb4270000000000000 07')).toEqual({
      incarnation: 'i',
      vector,
      lost: '',
      lacks: [['n.d', 5]],
      clock: { wall: 2 ** 40, counter: 7 },
    })
  })

  it('of a version to come is read as far as this one knows it', () => {
    const known = { 'n.d': 1 }
    const more = [{ deep: [[['x'.repeat(300), -5, -500, -70_000, 1.5, true, null, undefined]]] }, 2 ** 40]
    const bytes = packed(known, 'ff', undefined, undefined, [1, 2], ...more)
    expect(parseBookmark(textOf(bytes), 'bookmark')).toEqual({
      incarnation: 'i',
      vector: new Map([['n.d', 1]]),
      lost: 'ff',
      clock: { wall: 1, counter: 2 },
    })
    expectRefused(bytes.subarray(0, -1), 'cut off in what is not known')
    const many = (values: number) => packed({}, undefined, undefined, undefined, undefined, Array(values - 1).fill(1))
    expect(parseBookmark(textOf(many(SKIPPED_MAX)), 'bookmark').vector.size).toBe(0)
    expectRefused(many(SKIPPED_MAX + 1), 'too many values')
    expectRefused(joined(listOf(9, '80 d40000 d40000 d40000 d40000 d40000'), 'd4 6500 90'), 'an error there')
  })

  it('has as many names as fit, and nothing of those at 0', () => {
    const half = NAMES_MAX / 2
    const bytes = packed(names(0, half - 1), undefined, [['n.t', names(0, half)]])
    const { vector, ahead } = parseBookmark(textOf(bytes), 'bookmark')
    expect([vector.size, ahead![0]!.vector.size]).toEqual([half - 1, half])
    const zeros = packed({ a: 0, b: 1 }, undefined, [['n.t', { a: 0 }]], [['a', 0]])
    expect(parseBookmark(textOf(zeros), 'bookmark')).toEqual({
      incarnation: 'i',
      vector: new Map([['b', 1]]),
      ahead: [{ teller: 'n.t', vector: new Map() }],
    })
  })
})

describe('a forged position is refused without being worked on', () => {
  it.each([
    ['undefined with another filler', 'd4 0001'],
    ['an error', 'd4 6500 90'],
    ['a set', 'd4 7300 90'],
    ['a pattern', 'd4 7800 92 a161 a0'],
    ['a record', 'd4 7240 91 a161 01'],
    ['a record of two bytes', 'd5 724000 91 a161 01'],
    ['an id', 'd6 6900000001 90'],
    ['a pointer', 'd6 7000000001'],
    ['bundled strings', 'd6 6200000006 01 a161 a162'],
    ['a typed array', 'c7 05 74 06 00000001'],
    ['a large number', 'c7 01 42 01'],
    ['a time', 'd6 ff 00000000'],
    ['an unknown extension', 'c7 01 05 00'],
    ['an extension of 16 bytes', `d8 01 ${'00'.repeat(16)}`],
    ['a large extension', 'c8 0001 42 01'],
    ['a larger one', 'c9 00000001 42 01'],
    ['nil', 'c0'],
    ['the token that is never used', 'c1'],
    ['true', 'c3'],
    ['bytes', 'c4 01 00'],
    ['a short float', 'ca 3f800000'],
    ['a float', 'cb 3ff8000000000000'],
    ['a whole number as a float', 'cb 3ff0000000000000'],
    ['a number too large', 'cb 4340000000000000'],
    ['one that is none', 'cb 7ff8000000000000'],
    ['a number of 64 bits', 'cf 0000000000000001'],
    ['a negative number', 'ff'],
    ['a negative number of 8 bits', 'd0 ff'],
    ['a negative number of 64 bits', 'd3 ffffffffffffffff'],
    ['a string of 32 bits', 'db 00000001 61'],
    ['a list of 32 bits', 'dd 00000000'],
    ['a map of 32 bits', 'df 00000000'],
    ['a list that is longer than everything', 'dc ffff'],
  ])('%s, wherever it stands', (_, value) => {
    expectRefused(hex(value), 'alone')
    expectRefused(joined('93', value, 'a169 80'), 'version')
    expectRefused(joined('93 01', value, '80'), 'incarnation')
    expectRefused(joined('93 01 a169', value), 'vector')
    expectRefused(joined('93 01 a169 81', value, '01'), 'origin')
    expectRefused(joined('93 01 a169 81 a161', value), 'sequence')
    expectRefused(listOf(4, '80', value), 'lost')
    expectRefused(listOf(5, '80 a0', value), 'ahead')
    expectRefused(listOf(5, '80 a0 91', value), 'item of ahead')
    expectRefused(listOf(5, '80 a0 91 92', value, '80'), 'teller')
    expectRefused(listOf(5, '80 a0 91 92 a161', value), 'its vector')
    expectRefused(listOf(6, '80 a0 90', value), 'lacks')
    expectRefused(listOf(6, '80 a0 90 91 92 a161', value), 'what is lacking')
    expectRefused(listOf(7, '80 a0 90 90', value), 'clock')
    expectRefused(listOf(7, '80 a0 90 90 92', value, '00'), 'reading')
  })

  it('cut off anywhere, or with more behind it', () => {
    const whole = packed({ 'n.d': 300, 'n.e': 2 ** 40 }, 'ff', [['n.t', { 'n.d': 70_000 }]], [['n.d', 4]], [2 ** 40, 9])
    expect(parseBookmark(textOf(whole), 'bookmark').vector.size).toBe(2)
    for (let length = 0; length < whole.length; length++) {
      const cut = whole.subarray(0, length)
      if (length > 0) expectRefused(cut, `${length} bytes`)
    }
    for (const more of ['00', 'c0', '90', 'd40000', 'd6 7000000001']) expectRefused(joined(whole, more), more)
  })

  it.each([
    ['a version of another kind', joined('93 02 a169 80')],
    ['two fields', joined('92 01 a169')],
    ['an origin that is none', packed({ 'a b': 1 })],
    ['an origin that is empty', packed({ '': 1 })],
    ['an origin too long', packed({ ['x'.repeat(193)]: 1 })],
    ['an origin twice', joined('93 01 a169 82 a161 01 a161 02')],
    ['a teller that is none', packed({}, undefined, [['a b', {}]])],
    ['a told item of one', packed({}, undefined, [['a']])],
    ['a told item of three', packed({}, undefined, [['a', {}, 1]])],
    ['a lacking origin that is none', packed({}, undefined, undefined, [['a b', 1]])],
    ['an incarnation too long', packValue([1, 'i'.repeat(257), {}])],
    ['a mark too long', packed({}, 'f'.repeat(257))],
    ['a reading of one', packed({}, undefined, undefined, undefined, [1])],
    ['a wall too late', packed({}, undefined, undefined, undefined, [WALL_MAX + 1, 0])],
    ['a counter too high', packed({}, undefined, undefined, undefined, [1, COUNTER_MAX + 1])],
    ['one name too many', packed(names(0, NAMES_MAX + 1))],
    ['one name too many, a teller', packed(names(0, NAMES_MAX), undefined, [['n.t', {}]])],
    ['one name too many, told', packed(names(0, NAMES_MAX - 1), undefined, [['n.t', { a: 1 }]])],
    ['one name too many, lacking', packed(names(0, NAMES_MAX), undefined, undefined, [['n.d', 1]])],
    ['tellers of nothing', packed({}, undefined, Array(NAMES_MAX + 1).fill(['n', {}]))],
  ])('%s', (what, bytes) => expectRefused(bytes, what))

  it('lists of lists that double with every level, made of pointers, and a byte too many', () => {
    const levels = Array.from({ length: 6 }, (_, n) =>
      joined(
        `d6 69 ${(n + 1).toString(16).padStart(8, '0')} 9a`,
        ...Array(10).fill(`d6 70 ${n.toString(16).padStart(8, '0')}`),
      ),
    )
    expectRefused(joined('9f 01 a169 80 a0 90 90 92 00 00', 'd6 6900000000 90', ...levels, 'c0 c0', '00'), 'pointers')
  })

  it('ids of ids, and lists in lists, however deep', () => {
    const ids = Array.from({ length: 1000 }, (_, n) => `d6 69 ${n.toString(16).padStart(8, '0')}`)
    expectRefused(listOf(5, '80 a0', ...ids, '90'), 'ids')
    expectRefused(listOf(5, '80 a0', '91'.repeat(100_000)), 'lists')
    expectRefused(listOf(8, '80 a0 90 90 92 00 00', '91'.repeat(100_000)), 'lists where anything may be')
    expectRefused(listOf(8, '80 a0 90 90 92 00 00', 'dc ffff'.repeat(30_000)), 'long lists there')
  })

  it('tellers that all point to the same vector', () => {
    const one = joined('92 a16e d6 6900000000', packValue(names(0, 400)))
    const others = Array(500).fill('92 a16e d6 7000000000') as string[]
    expectRefused(listOf(5, '80 a0 dc 01f5', one, ...others), 'tellers')
  })

  it('thousands of errors, each with a stack', () => {
    expectRefused(listOf(5, '80 a0 dc 1f40', 'd4 6500 90'.repeat(8000)), 'errors')
  })
})
