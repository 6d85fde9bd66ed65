import { PercolateError } from '../base/errors.ts'
import { FILTER_CHARS_MAX, FILTER_CLAUSES_MAX, FILTER_DEPTH_MAX, FILTER_VALUES_MAX } from '../base/limits.ts'
import type { Value } from '../rem/record.ts'
import type { Resource } from '../rem/views.ts'

/** A condition on a resource's category, uri, name or metadata. */
export type Filter =
  | { readonly op: 'and' | 'or'; readonly clauses: readonly Filter[] }
  | { readonly op: 'not'; readonly clause: Filter }
  | { readonly op: Comparison; readonly field: string; readonly value: Value }

const comparisons = ['eq', 'ne', 'in', 'gt', 'gte', 'lt', 'lte', 'prefix', 'exists'] as const
export type Comparison = (typeof comparisons)[number]
const isComparison = (name: string): name is Comparison => (comparisons as readonly string[]).includes(name)

const invalid = (message: string) => new PercolateError('INVALID_ARGUMENT', message, { field: 'filter' })
const tooManyClauses = () => invalid(`filter has more than ${FILTER_CLAUSES_MAX} clauses.`)

/**
 * Parses the `filter` parameter: a JSON object, as text or parsed, or the short form `field:value,field:value`. In the object, keys are fields (`category`, `uri`,
 * `name`, `metadata.<path>`; any other key means metadata), values are scalars or `{"gte": 3, "in": […], …}`; `and`, `or` take lists, `not` an object.
 */
export function parseFilter(given: string | Record<string, unknown>): Filter {
  let clauses = 0
  let values = 0
  let characters = 0
  const count = (filter: Filter): Filter => {
    if (++clauses > FILTER_CLAUSES_MAX) throw tooManyClauses()
    if ('field' in filter) {
      const operands = Array.isArray(filter.value) ? filter.value : [filter.value]
      values += operands.length
      if (values > FILTER_VALUES_MAX)
        throw invalid(`filter lists more than ${FILTER_VALUES_MAX} values; ask in several requests.`)
      for (const value of operands) {
        if (value !== null && typeof value === 'object')
          throw invalid(`filter: a list for ${filter.field} must have text, numbers, true, false or null in it.`)
        characters += filter.field.length + (typeof value === 'string' ? value.length : 8)
      }
      if (characters > FILTER_CHARS_MAX)
        throw invalid(`filter has more than ${FILTER_CHARS_MAX} characters of text; ask in several requests.`)
    }
    return filter
  }
  if (typeof given !== 'string') return parseObject(given, count, 0)
  const trimmed = given.trim()
  if (!trimmed.startsWith('{')) return parseShort(trimmed, count)
  let json: unknown
  try {
    json = JSON.parse(trimmed)
  } catch {
    throw invalid(
      'filter is not valid JSON; write for example {"category":"report","page":{"gte":3}} or category:report.',
    )
  }
  return parseObject(json, count, 0)
}

type Count = (filter: Filter) => Filter

function parseShort(text: string, count: Count): Filter {
  const clauses = text.split(',').map(part => {
    const at = part.search(/[:=]/)
    const name = part.slice(0, Math.max(0, at)).trim()
    const value = part.slice(at + 1).trim()
    if (at < 0 || !/^\S+$/.test(name) || !/^.+$/.test(value))
      throw invalid('filter must be a JSON object, or clauses such as category:report,lang:en.')
    const field = fieldName(name)
    const asText: Filter = { op: 'eq', field, value }
    const typed = /^(true|false|-?\d+(\.\d+)?)$/.test(value) ? (JSON.parse(value) as Value) : undefined
    if (typed === undefined || !field.startsWith('metadata.')) return count(asText)
    // The short form has no quotes: 3 may have been stored as a number or as text.
    return count({ op: 'or', clauses: [count({ op: 'eq', field, value: typed }), asText] })
  })
  return clauses.length === 1 ? clauses[0]! : { op: 'and', clauses }
}

function parseObject(json: unknown, count: Count, depth: number): Filter {
  if (json === null || typeof json !== 'object' || Array.isArray(json)) throw invalid('filter must be a JSON object.')
  if (depth > FILTER_DEPTH_MAX) throw invalid(`filter is nested deeper than ${FILTER_DEPTH_MAX} levels.`)
  const clauses: Filter[] = []
  for (const [key, value] of entriesOf(json)) {
    if (key === 'and' || key === 'or') {
      if (!Array.isArray(value) || value.length === 0) throw invalid(`filter.${key} must be a list of filters.`)
      if (value.length > FILTER_CLAUSES_MAX) throw tooManyClauses()
      clauses.push(count({ op: key, clauses: value.map(item => parseObject(item, count, depth + 1)) }))
    } else if (key === 'not') {
      clauses.push(count({ op: 'not', clause: parseObject(value, count, depth + 1) }))
    } else if (key === 'metadata' && value !== null && typeof value === 'object' && !Array.isArray(value)) {
      for (const [name, inner] of entriesOf(value)) clauses.push(...parseField(`metadata.${name}`, inner, count))
    } else {
      clauses.push(...parseField(fieldName(key), value, count))
    }
  }
  if (clauses.length === 1) return clauses[0]!
  return { op: 'and', clauses }
}

function parseField(field: string, value: unknown, count: Count): Filter[] {
  if (Array.isArray(value)) return [count({ op: 'in', field, value: value as Value })]
  if (value === null || typeof value !== 'object') return [count({ op: 'eq', field, value: value as Value })]
  return Array.from(entriesOf(value), ([op, operand]) => {
    if (!isComparison(op))
      throw invalid(`filter: ${field} has no comparison "${op}"; use one of ${comparisons.join(', ')}.`)
    if (op === 'in' && !Array.isArray(operand)) throw invalid(`filter: ${field}.in must be a list.`)
    if (op === 'prefix' && typeof operand !== 'string') throw invalid(`filter: ${field}.prefix must be text.`)
    if (op === 'exists' && typeof operand !== 'boolean') throw invalid(`filter: ${field}.exists must be true or false.`)
    if (op !== 'in' && operand !== null && typeof operand === 'object')
      throw invalid(`filter: ${field}.${op} must be text, a number, true, false or null.`)
    return count({ op, field, value: operand as Value })
  })
}

/** One after the other, so that who counts can stop: an object with tens of thousands of members takes long to list as pairs. */
function* entriesOf(object: object): Generator<[string, unknown]> {
  for (const key of Object.keys(object)) yield [key, (object as Record<string, unknown>)[key]]
}

const fieldName = (key: string): string =>
  key === 'category' || key === 'uri' || key === 'name' || key.startsWith('metadata.') ? key : `metadata.${key}`

/** Whether a resource meets the filter. A list in metadata meets a comparison when one of its elements does. */
export function matches(filter: Filter, resource: Resource): boolean {
  switch (filter.op) {
    case 'and':
      return filter.clauses.every(clause => matches(clause, resource))
    case 'or':
      return filter.clauses.some(clause => matches(clause, resource))
    case 'not':
      return !matches(filter.clause, resource)
    case 'ne':
      return !valuesAt(resource, filter.field).some(value => same(value, filter.value))
    case 'exists':
      return valuesAt(resource, filter.field).some(value => value !== null) === filter.value
    default: {
      const {
        op,
        field,
        value: operand,
      } = filter as { op: Exclude<Comparison, 'ne' | 'exists'>; field: string; value: Value }
      return valuesAt(resource, field).some(value => compare(op, value, operand))
    }
  }
}

function compare(op: Exclude<Comparison, 'ne' | 'exists'>, value: Value, operand: Value): boolean {
  switch (op) {
    case 'eq':
      return same(value, operand)
    case 'in':
      return membersOf(operand as readonly Value[]).has(value)
    case 'prefix':
      return typeof value === 'string' && value.startsWith(operand as string)
    default: {
      if (typeof value !== typeof operand || (typeof value !== 'number' && typeof value !== 'string')) return false
      const [a, b] = [value, operand as typeof value]
      return op === 'gt' ? a > b : op === 'gte' ? a >= b : op === 'lt' ? a < b : a <= b
    }
  }
}

/** The lists of filters as sets, since they are looked up for every document and every element of its lists. */
const members = new WeakMap<readonly Value[], ReadonlySet<Value>>()
function membersOf(list: readonly Value[]): ReadonlySet<Value> {
  let set = members.get(list)
  if (set === undefined) {
    set = new Set(list)
    members.set(list, set)
  }
  return set
}

const same = (a: Value, b: Value): boolean => a === b

/** The scalars at a field: none when absent; several for a list. */
function valuesAt(resource: Resource, field: string): Value[] {
  if (field === 'category') return [resource.category]
  if (field === 'uri') return [resource.uri === '' ? null : resource.uri]
  if (field === 'name') return [resource.name]
  const path = field.slice('metadata.'.length)
  if (Object.hasOwn(resource.metadata, path)) return flatten(resource.metadata[path]!)
  let values: Value[] = [resource.metadata as Value]
  for (const part of path.split('.')) {
    values = values.flatMap(value => {
      const object = value as { [key: string]: Value } | null
      return object !== null && typeof object === 'object' && Object.hasOwn(object, part) ? flatten(object[part]!) : []
    })
  }
  return values.length > 0 ? values : [null]
}

/** Lists in lists, flat: a filter may look at the same one for each of its clauses. */
const flattened = new WeakMap<readonly Value[], Value[]>()

function flatten(value: Value): Value[] {
  if (!Array.isArray(value)) return [value]
  const known = flattened.get(value)
  if (known) return known
  const flat = value.some(Array.isArray) ? value.flatMap(flatten) : value
  flattened.set(value, flat)
  return flat
}
