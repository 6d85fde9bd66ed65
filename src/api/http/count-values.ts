const QUOTE = 0x22
const BACKSLASH = 0x5c
const COMMA = 0x2c
const OPEN_LIST = 0x5b
const CLOSE_LIST = 0x5d
const OPEN_OBJECT = 0x7b
const CLOSE_OBJECT = 0x7d

/** What a body nests at most: a good deal more than any that is taken. A parser takes most of a second for a million levels. */
export const BODY_DEPTH_MAX = 64

export interface TooMuch {
  readonly of: 'values' | 'levels'
  /** The member of the outermost object in which the bound is passed, `body` where it is in none. */
  readonly member: string
}

/**
 * Whether a JSON text has more than about `max` values, or nests deeper than {@link BODY_DEPTH_MAX}, looked at without making them: parsing takes tens of milliseconds for some hundred thousand of them, this a
 * fraction of one until it has seen too many. Each value but the first of a list or an object comes after a comma; a list and an object count for themselves as well.
 */
export function memberWithTooMuch(json: Uint8Array, max: number): TooMuch | undefined {
  let values = 1
  let depth = 0
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
    else if (byte === COMMA || byte === OPEN_LIST || byte === OPEN_OBJECT) {
      if (byte !== COMMA) depth++
      const of = ++values > max ? 'values' : depth > BODY_DEPTH_MAX ? 'levels' : undefined
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
