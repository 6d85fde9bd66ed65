import fc from 'fast-check'
import { describe, expect, it, vi } from 'vitest'
import type { LwwRecord } from '../../../src/rem/record.ts'
import {
  decodeEntry,
  decodeRecord,
  encodeEntry,
  encodeRecord,
  packValue,
  unpackValue,
} from '../../../src/storage/codec.ts'
import { decodeBlock, encodeBlock } from '../../../src/storage/postings.ts'

const clock = (wall: number, counter = 0, origin = 'n.d') => ({ wall, counter, origin })

describe('bytes of version 1: golden', () => {
  it('records', () => {
    const record: LwwRecord = {
      put: clock(1),
      del: clock(0),
      fields: new Map([
        ['b', { clock: clock(1), value: { x: [1, null, true] } }],
        ['a', { clock: clock(2, 3), value: 'é' }],
      ]),
    }
    expect(encodeRecord(record).toString('hex')).toBe(
      '0194939300 00a36e2e649301 00a36e2e649302 03a36e2e640100 96a16102a2c3a9 a16201 81a17893 01c0c3'.replaceAll(
        ' ',
        '',
      ),
    )
    expect(decodeRecord(encodeRecord(record))).toEqual(record)
  })

  it('entries', () => {
    const entry = {
      tenant: 't',
      incarnation: 'i',
      origin: 'n.d',
      sequence: 1,
      ops: [{ kind: 'resource' as const, key: ['r'], action: 'put' as const, clock: clock(1), fields: { f: 1 } }],
    }
    expect(encodeEntry(entry).toString('hex')).toBe('0195a174a169a36e2e640191950091a17201930100a36e2e6492a16601')
    expect(decodeEntry(encodeEntry(entry))).toEqual(entry)
  })

  it('posting blocks', () => {
    const postings = [
      { docNo: 256, frequency: 1, length: 10 },
      { docNo: 300, frequency: 200, length: 1000 },
    ]
    expect(encodeBlock(1, postings).toString('hex')).toBe('00010a2bc801e807')
    expect(decodeBlock(1, encodeBlock(1, postings))).toEqual(postings)
  })

  it('refuses another version, and what does not decode', () => {
    expect(() => decodeRecord(Buffer.from([2, 0x90]))).toThrow(/format 2/)
    expect(() => decodeRecord(Buffer.from([1, 0xc1]))).toThrow()
    expect(() => decodeBlock(0, Buffer.from([0x80]))).toThrow(/middle of a number/)
  })
})

describe('records', () => {
  it('have one encoding, whatever the order in which fields were set', () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(fc.tuple(fc.string(), fc.integer({ min: 0, max: 9 }), fc.jsonValue()), {
          selector: ([name]) => name,
        }),
        fields => {
          const entries = fields.map(
            ([name, wall, value]) =>
              [name, { clock: clock(wall), value: JSON.parse(JSON.stringify(value)) as never }] as const,
          )
          const one: LwwRecord = { put: clock(1), del: undefined, fields: new Map(entries) }
          const two: LwwRecord = { ...one, fields: new Map([...entries].reverse()) }
          expect(encodeRecord(one).equals(encodeRecord(two))).toBe(true)
        },
      ),
    )
  })
})

describe('stored values', () => {
  const bytes = (hex: string) => Buffer.from(hex.replaceAll(' ', ''), 'hex')

  it('are what we write: undefined among it, and no other extension that makes objects or refers to some', () => {
    const value = [undefined, null, true, -1, 2 ** 40, 1.5, 'é', Buffer.of(1), { a: [{}] }, 100]
    expect(unpackValue(packValue(value))).toEqual(value)
    for (const [what, hex] of [
      ['an error', 'd4 6500 93 a5 4572726f72 a0 c0'],
      ['a set', 'd4 7300 90'],
      ['a pattern', 'd4 7800 92 a161 a0'],
      ['a record', 'd4 7240 91 a161 01'],
      ['a record of two bytes', 'd5 724000 91 a161 01'],
      ['an id', 'd6 6900000001 90'],
      ['a pointer', '92 d6 6900000001 90 d6 7000000001'],
      ['bundled strings', 'd6 6200000004 c1 01 a161 a162'],
      ['a typed array', 'c7 05 74 06 00000001'],
      ['a large number', 'c7 01 42 01'],
      ['an unknown extension', 'c7 01 05 00'],
    ] as const) {
      expect(() => unpackValue(bytes(hex)), what).toThrow(expect.objectContaining({ code: 'DATA_CORRUPT' }))
      expect(() => decodeEntry(bytes(`01 95 a174 a169 a36e2e64 01 ${hex}`)), what).toThrow(
        expect.objectContaining({ code: 'DATA_CORRUPT' }),
      )
    }
    expect(unpackValue(packValue(value)), 'what was refused left nothing behind').toEqual(value)
  })

  it('with a byte too many are refused before that is told with all that they refer to', () => {
    const told = vi.spyOn(JSON, 'stringify')
    const levels = Array.from({ length: 5 }, (_, n) => {
      const id = (of: number) => of.toString(16).padStart(8, '0')
      return `d6 69 ${id(n + 1)} 9a ${`d6 70 ${id(n)}`.repeat(10)}`
    })
    expect(() => unpackValue(bytes(`96 d6 6900000000 90 ${levels.join('')} 00`))).toThrow(/does not decode/)
    expect(told).not.toHaveBeenCalled()
    vi.restoreAllMocks()
  })
})
