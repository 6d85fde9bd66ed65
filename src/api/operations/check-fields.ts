import { PercolateError } from '../../base/errors.ts'
import { checkId } from '../../base/ids.ts'
import { CONTENT_BYTES_MAX, NAME_BYTES_MAX } from '../../base/limits.ts'
import { TIME_MS_MAX, TIME_MS_MIN } from '../../storage/keys.ts'

/** Checks that a JSON schema can't make: bytes, depth, Unicode, numbers. Each error names the field. */

/** What to do about a content that is too large, and about a name. */
const SPLIT = 'Split it into chunks, or upload it as a file.'
const SHORTEN = 'Shorten it, and put the long text into the content or the metadata.'

/** Text that is stored to be found. */
export const checkContent = (text: string, field: string): string => checkText(text, field, CONTENT_BYTES_MAX, SPLIT)

/** A name of any characters, as resources and moments have it. */
export const checkTitle = (text: string, field: string): string => checkText(text, field, NAME_BYTES_MAX, SHORTEN)

function checkText(text: string, field: string, bytesMax: number, remedy: string): string {
  if (!text.isWellFormed())
    throw new PercolateError('INVALID_ARGUMENT', `${field} must be well-formed Unicode (it has a lone surrogate).`, {
      field,
    })
  const bytes = Buffer.byteLength(text)
  if (bytes > bytesMax) {
    throw new PercolateError(
      'BODY_TOO_LARGE',
      `${field} has ${bytes} bytes; at most ${bytesMax} are allowed. ${remedy}`,
      { field },
    )
  }
  return text
}

export function checkName(text: string, field: string, bytesMax: number): string {
  return checkId(text, field, bytesMax)
}

/** Finite also as 32-bit floats, which is how vectors are stored. */
export function checkEmbedding(components: readonly number[], field: string): Float32Array {
  const vector = Float32Array.from(components)
  const bad = vector.findIndex(component => !Number.isFinite(component))
  if (bad >= 0)
    throw new PercolateError('EMBEDDING_INVALID', `${field}[${bad}] is not a finite 32-bit number.`, {
      field: `${field}[${bad}]`,
    })
  return vector
}

const ISO_TIME = /^[+-]?\d{4,6}(-\d{2}(-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:?\d{2})?)?)?)?$/i

/** ISO 8601 text (without a zone: UTC), or milliseconds, to milliseconds. */
export function parseTime(value: string | number, field: string): number {
  let timeMs = Number.NaN
  if (typeof value === 'number') timeMs = value
  else if (/^-?\d{5,}$/.test(value)) timeMs = Number(value)
  else if (ISO_TIME.test(value))
    timeMs = Date.parse(/T/i.test(value) && !/(Z|[+-]\d{2}:?\d{2})$/i.test(value) ? `${value}Z` : value)
  if (!Number.isSafeInteger(timeMs) || timeMs < TIME_MS_MIN || timeMs > TIME_MS_MAX) {
    throw new PercolateError(
      'INVALID_ARGUMENT',
      `${field} must be an ISO 8601 time such as 2026-11-20T12:00:00Z, or milliseconds since the epoch.`,
      { field },
    )
  }
  return timeMs
}
