import { PercolateError } from './errors.ts'
import { checkId } from './ids.ts'
import { METADATA_BYTES_MAX, METADATA_DEPTH_MAX } from './limits.ts'

/** Metadata or properties: bounded JSON whose keys are safe to carry. */
export function checkObject<T>(object: { readonly [key: string]: unknown }, field: string): { [key: string]: T } {
  checkDepth(object, field, 1)
  const bytes = Buffer.byteLength(JSON.stringify(object))
  if (bytes > METADATA_BYTES_MAX)
    throw new PercolateError(
      'BODY_TOO_LARGE',
      `${field} has ${bytes} bytes as JSON; at most ${METADATA_BYTES_MAX} are allowed. Leave out what is not needed, or store long texts as resources.`,
      { field },
    )
  return object as { [key: string]: T }
}

function checkDepth(value: unknown, field: string, depth: number): void {
  if (typeof value === 'string') {
    if (!value.isWellFormed())
      throw new PercolateError('INVALID_ARGUMENT', `${field} must be well-formed Unicode (it has a lone surrogate).`, {
        field,
      })
    return
  }
  if (typeof value === 'number') {
    if (!Number.isFinite(value))
      throw new PercolateError('INVALID_ARGUMENT', `${field} is not a finite number.`, { field })
    return
  }
  if (value === null || typeof value !== 'object') return
  if (depth > METADATA_DEPTH_MAX)
    throw new PercolateError('INVALID_ARGUMENT', `${field} is nested deeper than ${METADATA_DEPTH_MAX} levels.`, {
      field,
    })
  if (Array.isArray(value)) {
    value.forEach((item, n) => {
      checkDepth(item, `${field}[${n}]`, depth + 1)
    })
    return
  }
  for (const [key, item] of Object.entries(value)) {
    if (key === '__proto__')
      throw new PercolateError('INVALID_ARGUMENT', `${field} must not have a key "__proto__".`, { field })
    checkId(key === '' ? ' ' : key, `a key of ${field}`)
    checkDepth(item, `${field}.${key}`, depth + 1)
  }
}
