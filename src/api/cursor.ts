import { createHash } from 'node:crypto'
import { PercolateError } from '../base/errors.ts'
import { TIME_MS_MAX, TIME_MS_MIN } from '../storage/keys.ts'

/**
 * Opaque cursors: a position, bound by a digest to the tenant, the listing and its parameters. The digest is no secret: a forged cursor gives only a
 * position in the caller's own tenant; it catches a cursor that is used with another query.
 */
export function encodeCursor(scope: CursorScope, position: readonly (string | number)[]): string {
  return Buffer.from(JSON.stringify([1, digest(scope), ...position])).toString('base64url')
}

export interface CursorScope {
  readonly tenant: string
  readonly listing: string
  readonly parameters: unknown
}

/** A part of a position. An `offset` is a number from 0, a `time` one that keys can hold. */
export type CursorPart = 'string' | 'offset' | 'time'

/** The position, or INVALID_CURSOR. `types` are those of its parts. */
export function decodeCursor(scope: CursorScope, cursor: string, types: readonly CursorPart[]): (string | number)[] {
  const invalid = (why: string) =>
    new PercolateError('INVALID_CURSOR', `cursor ${why}; start again without it.`, { field: 'cursor' })
  let parts: unknown
  try {
    parts = JSON.parse(Buffer.from(cursor, 'base64url').toString())
  } catch {
    throw invalid('is not one that this API gave')
  }
  if (!Array.isArray(parts) || parts[0] !== 1 || parts.length !== types.length + 2)
    throw invalid('is not one that this API gave')
  if (parts[1] !== digest(scope)) throw invalid('belongs to another listing, query or tenant')
  const position = parts.slice(2)
  for (const [n, type] of types.entries()) {
    if (!isPart(position[n], type)) throw invalid('is not one that this API gave')
  }
  return position as (string | number)[]
}

function isPart(value: unknown, type: CursorPart): boolean {
  if (type === 'string') return typeof value === 'string'
  if (!Number.isSafeInteger(value)) return false
  const [least, most] = type === 'time' ? [TIME_MS_MIN, TIME_MS_MAX] : [0, Number.MAX_SAFE_INTEGER]
  return (value as number) >= least && (value as number) <= most
}

const digest = (scope: CursorScope): string =>
  createHash('sha256')
    .update(JSON.stringify([scope.tenant, scope.listing, scope.parameters]))
    .digest('base64url')
    .slice(0, 12)
