import { createHash } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { BOOKMARK_CHARS_MAX } from '../../../src/base/limits.ts'
import { vectorToObject } from '../../../src/clock/vector.ts'
import { encodeBookmark, parseBookmark, parseFeedCursor } from '../../../src/session/bookmark.ts'
import { packValue, unpackValue } from '../../../src/storage/codec.ts'

/** A vector as a tenant has it whose copies were made anew so many times. */
function vectorOf(origins: number): Map<string, number> {
  const vector = new Map<string, number>()
  for (let n = 0; n < origins; n++) {
    const digest = createHash('sha256').update(String(n)).digest('hex')
    vector.set(
      `percolate-node-small-${n % 10}.${digest.slice(0, 8)}.${digest.slice(8, 16)}`,
      1 + ((n * 7919) % 100_000),
    )
  }
  return vector
}

const incarnation = '0193a1b2c3d4-0011223344556677'
/** As versions wrote it that compressed none. */
const textBefore = (...rest: unknown[]) => packValue([1, incarnation, ...rest] as never).toString('base64url')

describe('a cursor or bookmark of a tenant with many origins', () => {
  it('is taken as it was given, and no longer than the head of a request may be', () => {
    for (const origins of [1, 150, 195, 300, 500]) {
      const cursor = { incarnation, vector: vectorOf(origins), lost: '00112233aabbccdd' }
      const text = encodeBookmark(cursor)
      expect(text).toMatch(/^[A-Za-z0-9_-]+$/)
      expect(text.length, `${origins} origins`).toBeLessThanOrEqual(BOOKMARK_CHARS_MAX)
      expect(parseFeedCursor(text, 'cursor')).toEqual(cursor)
      const bookmark = { incarnation, vector: cursor.vector }
      expect(parseBookmark(encodeBookmark(bookmark), 'bookmark')).toEqual(bookmark)
    }
  })

  it('is one that other versions read, as long as those would take it at all', () => {
    const vector = vectorOf(120)
    expect(textBefore(vectorToObject(vector)).length).toBeGreaterThan(6000)
    expect(encodeBookmark({ incarnation, vector })).toBe(textBefore(vectorToObject(vector)))
    expect(parseFeedCursor(textBefore(vectorToObject(vector), 'ff'), 'cursor')).toEqual({
      incarnation,
      vector,
      lost: 'ff',
    })
  })

  it('has the clock behind what versions before read of it', () => {
    const bookmark = { incarnation, vector: vectorOf(2), clock: { wall: 1_795_000_000_000, counter: 7 } }
    const text = encodeBookmark(bookmark)
    expect(parseBookmark(text, 'bookmark')).toEqual(bookmark)
    const [version, , , lost, told] = unpackValue(Buffer.from(text, 'base64url')) as unknown[]
    expect([version, lost, told]).toEqual([1, undefined, undefined])
    for (const clock of [
      { wall: -1, counter: 0 },
      { wall: 2 ** 48, counter: 0 },
      { wall: 1, counter: 0.5 },
    ])
      expect(() => parseBookmark(encodeBookmark({ ...bookmark, clock }), 'bookmark')).toThrow(/bookmark must be one/)
  })

  it('is without the clock where that would make it too long to be taken', () => {
    const clock = { wall: 1_795_000_000_000, counter: 7 }
    const noise = createHash('sha512').update('noise').digest('base64')
    const named = [...vectorOf(700)]
    let [origins, chars] = [500, 0]
    const of = (chars: number) => ({
      incarnation,
      vector: new Map(named.slice(0, origins)),
      lost: noise.slice(0, chars),
    })
    const fits = (chars: number) => encodeBookmark(of(chars)).length <= BOOKMARK_CHARS_MAX
    while (fits(0)) origins++
    origins--
    while (fits(chars + 1)) chars++
    const text = encodeBookmark({ ...of(chars), clock })
    expect(text.length).toBeLessThanOrEqual(BOOKMARK_CHARS_MAX)
    expect(parseFeedCursor(text, 'cursor')).toEqual(of(chars))
    origins -= 2
    expect(parseFeedCursor(encodeBookmark({ ...of(0), clock }), 'cursor').clock).toEqual(clock)
  })

  it('that is none is refused: cut off, too long, or unpacking to more than any has', () => {
    const text = encodeBookmark({ incarnation, vector: vectorOf(300), lost: '' })
    const bomb = encodeBookmark({ incarnation, vector: new Map(), lost: 'x'.repeat(2_000_000) })
    expect(bomb.length).toBeLessThan(BOOKMARK_CHARS_MAX)
    for (const bad of [text.slice(0, -8), `${text}AAAA`.padEnd(BOOKMARK_CHARS_MAX + 1, 'A'), bomb, 'AA', 'AAAA'])
      expect(() => parseFeedCursor(bad, 'cursor'), bad.slice(0, 20)).toThrow(/cursor must be one that a feed/)
  })
})
