const QUOTE = 0x22
const BACKSLASH = 0x5c
const COMMA = 0x2c
const LIST = 0x5b
const OBJECT = 0x7b

/**
 * Whether a JSON text has more than about `max` values, looked at without making them: parsing takes tens of milliseconds for some hundred thousand of them, this a fraction of one until it has seen
 * too many. Each value but the first of a list or an object comes after a comma; a list and an object count for themselves as well.
 */
export function hasMoreValues(json: Uint8Array, max: number): boolean {
  let values = 1
  let isText = false
  for (let at = 0; at < json.length; at++) {
    const byte = json[at]
    if (isText) {
      if (byte === BACKSLASH) at++
      else if (byte === QUOTE) isText = false
    } else if (byte === QUOTE) isText = true
    else if ((byte === COMMA || byte === LIST || byte === OBJECT) && ++values > max) return true
  }
  return false
}
