import type { TSchema } from '@sinclair/typebox'
import { Ajv, type ErrorObject, type ValidateFunction } from 'ajv'
import addFormatsModule from 'ajv-formats'
import { PercolateError } from '../base/errors.ts'

const addFormats = addFormatsModule as unknown as (ajv: Ajv) => Ajv

/** Bodies are taken as they are; query strings are all text, so numbers and booleans are read out of it. */
export const bodyAjv = addFormats(new Ajv({ allErrors: false, useDefaults: false, coerceTypes: false, strict: false }))
export const queryAjv = addFormats(new Ajv({ allErrors: false, useDefaults: false, coerceTypes: true, strict: false }))

const compiled = new WeakMap<TSchema, ValidateFunction>()

/** Checks a value against a schema, or throws INVALID_ARGUMENT that names the field and the remedy. */
export function check<T>(schema: TSchema, value: unknown, what: string): T {
  let validate = compiled.get(schema)
  if (!validate) {
    const { $id: _id, ...anonymous } = schema
    validate = bodyAjv.compile(anonymous)
    compiled.set(schema, validate)
  }
  if (!validate(value)) throw validationError(validate.errors ?? [], what)
  return value as T
}

/** `/resources/3/content` → `resources[3].content`. */
const fieldPath = (pointer: string): string =>
  pointer
    .split('/')
    .slice(1)
    .map(part => part.replaceAll('~1', '/').replaceAll('~0', '~'))
    .reduce((path, part) => (/^\d+$/.test(part) ? `${path}[${part}]` : path === '' ? part : `${path}.${part}`), '')

export function validationError(errors: readonly ErrorObject[], what: string): PercolateError {
  const error = pickTelling(errors)
  if (!error) return new PercolateError('INVALID_ARGUMENT', `The ${what} is not valid.`)
  const at = fieldPath(error.instancePath)
  const params = error.params as {
    additionalProperty?: string
    missingProperty?: string
    allowedValue?: unknown
    allowedValues?: unknown[]
  }
  if (error.keyword === 'additionalProperties') {
    const field = join(at, params.additionalProperty!)
    return new PercolateError(
      'INVALID_ARGUMENT',
      `${field} is not a known field of the ${what}; remove it or check its spelling.`,
      { field },
    )
  }
  if (error.keyword === 'required') {
    const field = join(at, params.missingProperty!)
    return new PercolateError('INVALID_ARGUMENT', `${field} is missing from the ${what}.`, { field })
  }
  const field = at === '' ? what : at
  if (at === '' && error.keyword === 'type')
    return new PercolateError('INVALID_ARGUMENT', `The ${what} must be a JSON object, as /docs shows it.`, { field })
  return new PercolateError('INVALID_ARGUMENT', `${field} ${complaint(error, params)}.`, { field })
}

/** What Ajv says, with the remedy where its words have none. */
function complaint(
  { keyword, message, params: { limit } }: ErrorObject,
  { allowedValue, allowedValues }: { allowedValue?: unknown; allowedValues?: unknown[] },
): string {
  if (allowedValues) return `${message} (${allowedValues.join(', ')})`
  if (keyword === 'const') return `must be ${JSON.stringify(allowedValue)}, or left out`
  const items = limit === 1 ? 'item' : 'items'
  const characters = limit === 1 ? 'character' : 'characters'
  if (keyword === 'minItems') return `must have at least ${limit} ${items}`
  if (keyword === 'maxItems') return `has more than ${limit} ${items}; send them in several requests`
  if (keyword === 'minLength')
    return `must have at least ${limit} ${characters}; leave it out if there is nothing to say`
  if (keyword === 'maxLength') return `has more than ${limit} ${characters}; shorten it`
  return message ?? 'is not valid'
}

/** Of a union's errors, the one deepest in the value, and of those a list of the constants allowed. */
function pickTelling(errors: readonly ErrorObject[]): ErrorObject | undefined {
  const constants = errors.filter(error => error.keyword === 'const')
  if (constants.length > 1) {
    const allowedValues = constants.map(error => (error.params as { allowedValue: unknown }).allowedValue)
    return { ...constants[0]!, message: 'must be one of', params: { allowedValues } }
  }
  const choice = errors.find(error => error.keyword === 'enum')
  if (choice) return { ...choice, message: 'must be one of' }
  const types = errors.filter(error => error.keyword === 'type')
  if (types.length > 1 && new Set(types.map(error => error.instancePath)).size === 1) {
    const names = types.map(error => (error.params as { type: string }).type)
    return { ...types[0]!, message: `must be ${names.join(' or ')}` }
  }
  return [...errors].sort((a, b) => b.instancePath.length - a.instancePath.length)[0]
}

const join = (path: string, name: string): string => (path === '' ? name : `${path}.${name}`)
