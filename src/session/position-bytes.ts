import { ORIGIN_PATTERN } from '../clock/hlc.ts'

/**
 * Origins and tellers in one position, all together, a name that is there twice counted twice. 12,288 characters hold some 1,700 different origins
 * when they differ in nothing but 32 random bits, and 600 as they usually are; what a feed told ahead names some of the vector's again.
 */
export const NAMES_MAX = 4096
/** Values of fields that this version does not know: as many names, each in a list with a number. */
export const SKIPPED_MAX = 3 * NAMES_MAX
/** UTF-8 bytes of an incarnation or a mark; those that are given have 29 and 33. */
const TEXT_BYTES_MAX = 256
/** Of an origin; see `ORIGIN_PATTERN`. */
const NAME_BYTES_MAX = 192

/** How MessagePack writes what has a length: in the token itself, in one byte behind it, in two. Those of four bytes are longer than any position. */
interface Sized {
  readonly fixed: number
  readonly fixedMax: number
  readonly byte?: number
  readonly word: number
}
const MAP: Sized = { fixed: 0x80, fixedMax: 15, word: 0xde }
const LIST: Sized = { fixed: 0x90, fixedMax: 15, word: 0xdc }
const TEXT: Sized = { fixed: 0xa0, fixedMax: 31, byte: 0xd9, word: 0xda }

const POSITIVE_BELOW = 0x80
const NEGATIVE_FROM = 0xe0
const FLOAT64 = 0xcb
const FLOAT64_BYTES = 8
/** Taken for the token where there are no more bytes: one that MessagePack never uses. */
const END = 0xc1
/** Unsigned numbers by their token, with the bytes behind it. */
const UINT_BYTES: ReadonlyMap<number, number> = new Map([
  [0xcc, 1],
  [0xcd, 2],
  [0xce, 4],
])
/** What else has a length of its own, by its token: nil, false, true, floats, and numbers with a sign or of 64 bits. */
const OTHER_BYTES: ReadonlyMap<number, number> = new Map([
  [0xc0, 0],
  [0xc2, 0],
  [0xc3, 0],
  [0xca, 4],
  [FLOAT64, FLOAT64_BYTES],
  [0xcf, 8],
  [0xd0, 1],
  [0xd1, 2],
  [0xd2, 4],
  [0xd3, 8],
])
/** `undefined`, as our encoder writes it: an extension of one byte, its type 0 and that byte 0. No other extension is read. */
const UNDEFINED = [0xd4, 0, 0] as const
const UINT32_MAX = 2 ** 32 - 1

/**
 * Reads the bytes of a position, which anybody may have made: the MessagePack that `encodeBookmark` writes and nothing else of it, from the first byte to the
 * last, each of them once. Every method throws where something else stands.
 */
export class PositionBytes {
  readonly #bytes: Buffer
  #at = 0
  #names = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  /** The number of items that follow. */
  list(): number {
    return this.#length(LIST)
  }

  /** Of an incarnation or a mark. */
  text(): string {
    return this.#text(TEXT_BYTES_MAX)
  }

  /** An origin, or a teller, which is one. */
  name(): string {
    if (++this.#names > NAMES_MAX) throw new Error('more names than a position has')
    const name = this.#text(NAME_BYTES_MAX)
    if (!ORIGIN_PATTERN.test(name)) throw new Error('not an origin')
    return name
  }

  /** A whole number from 0. */
  count(max = Number.MAX_SAFE_INTEGER): number {
    const token = this.#unsigned(1)
    const bytes = UINT_BYTES.get(token)
    const value =
      token < POSITIVE_BELOW ? token : bytes ? this.#unsigned(bytes) : token === FLOAT64 ? this.#large() : undefined
    if (value === undefined || value > max) throw new Error('not a count')
    return value
  }

  /** What stands at 0 says nothing, and is left out. */
  vector(): Map<string, number> {
    const vector = new Map<string, number>()
    for (let left = this.#length(MAP); left > 0; left--) {
      const origin = this.name()
      const sequence = this.count()
      if (vector.has(origin)) throw new Error('an origin twice')
      if (sequence > 0) vector.set(origin, sequence)
    }
    return vector
  }

  /** Passes over `undefined`; false: something else follows. */
  isNothing(): boolean {
    if (!UNDEFINED.every((byte, n) => this.#bytes[this.#at + n] === byte)) return false
    this.#at += UNDEFINED.length
    return true
  }

  /** Passes over so many values, which a later version may have added; without recursion, so that their depth does not matter. */
  skip(values: number): void {
    let passed = 0
    for (let left = values; left > 0; left--) {
      if (++passed > SKIPPED_MAX) throw new Error('more than a position has')
      left += this.#skipToken()
    }
  }

  end(): void {
    if (this.#at !== this.#bytes.length) throw new Error('more behind it')
  }

  /** The number of values that the one at hand is made of. */
  #skipToken(): number {
    if (this.isNothing()) return 0
    const token = this.#bytes[this.#at] ?? END
    if (isOf(LIST, token)) return this.#length(LIST)
    if (isOf(MAP, token)) return 2 * this.#length(MAP)
    if (isOf(TEXT, token)) this.#pass(this.#length(TEXT))
    else this.#pass(1 + bytesBehind(token))
    return 0
  }

  #text(bytesMax: number): string {
    const bytes = this.#length(TEXT)
    if (bytes > bytesMax) throw new Error('a text too long')
    const from = this.#pass(bytes)
    return this.#bytes.toString('utf8', from, this.#at)
  }

  #length(sized: Sized): number {
    const token = this.#unsigned(1)
    if (!isOf(sized, token)) throw new Error('something else')
    if (token === sized.byte) return this.#unsigned(1)
    return token === sized.word ? this.#unsigned(2) : token - sized.fixed
  }

  #unsigned(bytes: number): number {
    return this.#bytes.readUIntBE(this.#pass(bytes), bytes)
  }

  /** Smaller ones are not written so. */
  #large(): number {
    const value = this.#bytes.readDoubleBE(this.#pass(FLOAT64_BYTES))
    if (!Number.isSafeInteger(value) || value <= UINT32_MAX) throw new Error('not a large number')
    return value
  }

  /** Where the bytes begin that are passed over. */
  #pass(bytes: number): number {
    const from = this.#at
    if (bytes > this.#bytes.length - from) throw new Error('cut off')
    this.#at += bytes
    return from
  }
}

const isOf = ({ fixed, fixedMax, byte, word }: Sized, token: number): boolean =>
  (token >= fixed && token <= fixed + fixedMax) || token === byte || token === word

/** Of a number, nil, true or false. */
function bytesBehind(token: number): number {
  if (token < POSITIVE_BELOW || token >= NEGATIVE_FROM) return 0
  const bytes = UINT_BYTES.get(token) ?? OTHER_BYTES.get(token)
  if (bytes === undefined) throw new Error('not of a position')
  return bytes
}
