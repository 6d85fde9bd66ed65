import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  KeyReader,
  keyAfter,
  keys,
  newestFirst,
  parseRecordKey,
  prefixes,
  prefixRange,
  readNewestFirst,
  textPart,
} from '../../../src/storage/keys.ts'

const hex = (bytes: Buffer) => bytes.toString('hex')

describe('key layout, version 1: golden bytes', () => {
  it.each([
    [keys.meta('tenant'), '0174656e616e74'],
    [keys.record({ kind: 'resource', key: ['ab'] }), '100161620001'],
    [keys.record({ kind: 'edge', key: ['a', 't', 'b'] }), '1003610001740001620001'],
    [keys.record({ kind: 'moment', key: ['\u0000'] }), '100400ff0001'],
    [keys.vector('m', 258), '116d000100000102'],
    [keys.docNoById('a'), '20610001'],
    [keys.idByDocNo(1), '2100000001'],
    [keys.posting(1, 'word', 2), '2201776f7264000100000002'],
    [keys.resourceByTime(0, 'a'), '237fffffffffff610001'],
    [keys.embeddingPending('a'), '24610001'],
    [keys.entityByName('n', 'i'), '306e0001690001'],
    [keys.entityByType('t', 'i'), '31740001690001'],
    [keys.entityByTrigram('abc', 'n', 'i'), '3261626300016e0001690001'],
    [keys.edgeIn('b', 't', 'a'), '33620001740001610001'],
    [keys.momentByTime(1, 'm'), '407ffffffffffe6d0001'],
    [keys.momentByType('t', 1, 'm'), '417400017ffffffffffe6d0001'],
    [keys.momentByParent('p', 1, 'm'), '427000017ffffffffffe6d0001'],
    [keys.momentByReference('entity', 'e', 1, 'm'), '43026500017ffffffffffe6d0001'],
    [keys.outbox(258), '500000000000000102'],
    [keys.versionVector('n.d'), '516e2e640001'],
  ])('%#', (key, golden) => {
    expect(hex(key)).toBe(golden)
  })
})

describe('text parts', () => {
  it('come back as they were, whatever they contain', () => {
    fc.assert(
      fc.property(fc.array(fc.string({ unit: 'binary' }), { minLength: 1, maxLength: 4 }), parts => {
        const reader = new KeyReader(Buffer.concat([Buffer.from([0]), ...parts.map(textPart)]))
        expect(parts.map(() => reader.text())).toEqual(parts)
        expect(reader.ended).toBe(true)
      }),
    )
  })

  it('sort like their bytes, and a prefix range holds exactly what starts with it', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }), (a, b) => {
        expect(Math.sign(Buffer.compare(textPart(a), textPart(b)))).toBe(
          Math.sign(Buffer.compare(Buffer.from(a), Buffer.from(b))),
        )
        const { gte, lt } = prefixRange(prefixes.entityNames(a))
        const key = keys.entityByName(b, 'id')
        expect(Buffer.compare(gte, key) <= 0 && Buffer.compare(key, lt) < 0).toBe(
          Buffer.from(b).subarray(0, Buffer.byteLength(a)).equals(Buffer.from(a)),
        )
      }),
    )
  })

  it('keep the edges of one entity apart from those of every other', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', minLength: 1 }), fc.string({ unit: 'binary', minLength: 1 }), (a, b) => {
        fc.pre(a !== b)
        const { gte, lt } = prefixRange(prefixes.edgesFrom(a))
        const other = keys.record({ kind: 'edge', key: [b, 't', 'x'] })
        expect(Buffer.compare(gte, other) <= 0 && Buffer.compare(other, lt) < 0).toBe(false)
      }),
    )
  })
})

describe('other parts', () => {
  it('times sort newest first and come back', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: -(2 ** 46), max: 2 ** 46 }),
        fc.integer({ min: -(2 ** 46), max: 2 ** 46 }),
        (a, b) => {
          expect(Math.sign(Buffer.compare(newestFirst(a), newestFirst(b)))).toBe(Math.sign(b - a))
          expect(readNewestFirst(newestFirst(a), 0)).toBe(a)
        },
      ),
    )
  })

  it('names a record by its key', () => {
    expect(parseRecordKey(keys.record({ kind: 'edge', key: ['a/b', 't', '😀'] }))).toEqual({
      kind: 'edge',
      key: ['a/b', 't', '😀'],
    })
  })

  it('ends a prefix of 0xFF bytes above all of its keys', () => {
    expect(hex(keyAfter(Buffer.from([1, 0xff, 0xff])))).toBe('02')
    expect(Buffer.compare(keyAfter(Buffer.from([0xff])), Buffer.from([0xff, 1]))).toBe(1)
  })
})
