const CONTROLS = /[\u0000-\u001f\u007f-\u009f]+/g

/**
 * Text from outside made fit for a name, a title or an id: one line, without control characters and lone surrogates, and at most `bytesMax`
 * bytes of UTF-8, cut between characters. May be empty.
 */
export function cleanLine(text: string, bytesMax: number): string {
  const line = text.toWellFormed().replace(CONTROLS, ' ').replace(/\s+/g, ' ').trim()
  if (Buffer.byteLength(line) <= bytesMax) return line
  let bytes = 0
  let at = 0
  for (const character of line) {
    bytes += Buffer.byteLength(character)
    if (bytes > bytesMax) break
    at += character.length
  }
  return line.slice(0, at).trim()
}
