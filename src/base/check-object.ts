import { PercolateError } from './errors.ts'
import { checkId } from './ids.ts'
import { METADATA_BYTES_MAX, METADATA_DEPTH_MAX } from './limits.ts'

/** Metadata or properties: bounded JSON whose keys are safe to carry. */
export function checkObject<T>(object: { readonly [key: string]: unknown }, field: string): { [key: string]: T } {
  new Checker(field).check(object, field, 1)
  const bytes = Buffer.byteLength(JSON.stringify(object))
  if (bytes > METADATA_BYTES_MAX) throw tooLarge(field, `${bytes}`)
  return object as { [key: string]: T }
}

const tooLarge = (field: string, bytes: string): PercolateError =>
  new PercolateError(
    'BODY_TOO_LARGE',
    `${field} has ${bytes} bytes as JSON; at most ${METADATA_BYTES_MAX} are allowed. Leave out what is not needed, or store long texts as resources.`,
    { field },
  )

class Checker {
  readonly #root: string
  /** How much longer the JSON may get: what is far too large is not looked at to its end. */
  #bytesLeft = METADATA_BYTES_MAX

  constructor(root: string) {
    this.#root = root
  }

  check(value: unknown, field: string, depth: number): void {
    this.#count(1)
    if (typeof value === 'string') {
      this.#count(value.length)
      if (!value.isWellFormed())
        throw new PercolateError(
          'INVALID_ARGUMENT',
          `${field} must be well-formed Unicode (it has a lone surrogate).`,
          {
            field,
          },
        )
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
      for (const [n, item] of value.entries()) this.check(item, `${field}[${n}]`, depth + 1)
      return
    }
    for (const key in value) {
      if (!Object.hasOwn(value, key)) continue
      this.#count(key.length)
      if (key === '__proto__')
        throw new PercolateError('INVALID_ARGUMENT', `${field} must not have a key "__proto__".`, { field })
      checkId(key === '' ? ' ' : key, `a key of ${field}`)
      this.check((value as { readonly [key: string]: unknown })[key], `${field}.${key}`, depth + 1)
    }
  }

  #count(bytesMin: number): void {
    this.#bytesLeft -= bytesMin
    if (this.#bytesLeft < 0) throw tooLarge(this.#root, `more than ${METADATA_BYTES_MAX}`)
  }
}
