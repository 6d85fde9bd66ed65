import { BODY_PARTS_MAX } from '../../base/limits.ts'

const QUOTE = 0x22
const BACKSLASH = 0x5c
const COMMA = 0x2c
const OPEN_LIST = 0x5b
const CLOSE_LIST = 0x5d
const OPEN_OBJECT = 0x7b
const CLOSE_OBJECT = 0x7d
const COLON = 0x3a

/** What a body nests at most: a good deal more than any that is taken. A parser takes most of a second for a million levels. */
export const BODY_DEPTH_MAX = 64

/** Members of one object, or items of one list: more than metadata of the largest size has, and than an embedding of the most components. */
export const ENTRIES_MAX = 32_768

export interface TooMuch {
  /** `entries`: of one object or list. `parts`: members, objects and lists of the whole body. */
  readonly of: 'values' | 'levels' | 'entries' | 'parts'
  /** The member of the outermost object in which the bound is passed, `body` where it is in none. */
  readonly member: string
}

/**
 * Whether a JSON text has more than about `max` values, more than {@link BODY_PARTS_MAX} members, objects and lists, or more than {@link ENTRIES_MAX} in one object or list, or nests deeper than {@link BODY_DEPTH_MAX};
 * looked at without making them: parsing takes a fifth of a second for some hundred thousand, this a fraction of it until it has seen too many. Each value but the first of a list or an object comes after a comma; a list
 * and an object count for themselves as well.
 */
export function memberWithTooMuch(json: Uint8Array, max: number): TooMuch | undefined {
  let values = 1
  let parts = 0
  let depth = 0
  /** In the objects and lists that are open, by depth. */
  const commas = new Uint32Array(BODY_DEPTH_MAX + 1)
  let textFrom = -1
  /** Where the last text stands that was directly in the outermost object: the name of the member that a list or an object follows. */
  let name: readonly [from: number, to: number] | undefined
  for (let at = 0; at < json.length; at++) {
    const byte = json[at]
    if (textFrom >= 0) {
      if (byte === BACKSLASH) at++
      else if (byte === QUOTE) {
        if (depth === 1) name = [textFrom, at + 1]
        textFrom = -1
      }
      continue
    }
    if (byte === QUOTE) textFrom = at
    else if (byte === CLOSE_LIST || byte === CLOSE_OBJECT) depth--
    else if (byte === COMMA || byte === COLON || byte === OPEN_LIST || byte === OPEN_OBJECT) {
      let of: TooMuch['of'] | undefined
      if (byte !== COLON && ++values > max) of = 'values'
      if (byte !== COMMA && ++parts > BODY_PARTS_MAX) of = 'parts'
      if (byte === COMMA) {
        if (depth > 0 && ++commas[depth]! >= ENTRIES_MAX) of = 'entries'
      } else if (byte !== COLON) {
        if (++depth > BODY_DEPTH_MAX) of = 'levels'
        else commas[depth] = 0
      }
      if (of) return { of, member: depth > 1 && name ? textOf(json.subarray(...name)) : 'body' }
    }
  }
  return undefined
}

function textOf(json: Uint8Array): string {
  try {
    return String(JSON.parse(Buffer.from(json).toString()))
  } catch {
    return 'body'
  }
}
