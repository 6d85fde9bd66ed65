/** Characters of a text that are analyzed between two looks at the time; well below a millisecond of work. */
export const PIECE_CHARS = 2048
/** How far back a piece may end at a space. Words that are longer are cut. */
const BACK_CHARS = 256

/** Stretches of a text, at most {@link PIECE_CHARS} long, that end at spaces where there are some. Where there are none, neighbours share a character, so that each pair of characters is whole in one of them. */
export function* piecesOf(text: string): Generator<{ readonly start: number; readonly end: number }> {
  let start = 0
  while (text.length - start > PIECE_CHARS) {
    const end = endOf(text, start + PIECE_CHARS)
    yield { start, end }
    start = isSpace(text, end) ? end : wholeCharacter(text, end - 1)
  }
  yield { start, end: text.length }
}

/** The last space shortly before `at`, or `at`. */
function endOf(text: string, at: number): number {
  for (let end = at; end > at - BACK_CHARS; end--) if (isSpace(text, end)) return end
  return wholeCharacter(text, at)
}

const isSpace = (text: string, at: number): boolean => text.charCodeAt(at) <= 0x20

/** Moves off the second half of a surrogate pair. */
export const wholeCharacter = (text: string, at: number): number => {
  const code = text.charCodeAt(at)
  return code >= 0xdc00 && code <= 0xdfff && at > 0 ? at - 1 : at
}
