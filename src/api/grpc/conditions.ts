import type { Metadata } from '@grpc/grpc-js'
import { PercolateError } from '../../base/errors.ts'
import { checkTags, parseIfNoneMatch } from '../operations/conditions.ts'
import type { Message } from './messages.ts'

/** The fields of messages that are conditions. */
export type ConditionField = 'if_match' | 'if_none_match'

/** Conditions as metadata, under the names that they have in HTTP. */
const FIELDS: Readonly<Record<string, ConditionField | undefined>> = {
  'if-match': 'if_match',
  'if-none-match': 'if_none_match',
  'if-modified-since': undefined,
  'if-unmodified-since': undefined,
  'if-range': undefined,
}

/**
 * Puts the conditions of a call's metadata into its message, where the node that decides finds them, whoever forwards it. `fields`: those that the method decides on; a call with another condition
 * is refused, since done without it, it would be another call. INVALID_ARGUMENT, also when metadata and message differ. True when there is a condition.
 */
export function takeConditions(
  metadata: Metadata,
  request: Message | undefined,
  fields: readonly ConditionField[],
): boolean {
  for (const [name, field] of Object.entries(FIELDS)) {
    const values = metadata.get(name)
    if (values.length === 0) continue
    const value = values.map(String).join(', ')
    if (!request || !field || !fields.includes(field))
      throw new PercolateError(
        'INVALID_ARGUMENT',
        `The metadata ${name} cannot be decided on by this method; leave it out. if-match goes with deletes and with PutEntities of one entity, if-none-match with the latter.`,
        { field: name },
      )
    if (request[field] !== undefined && request[field] !== value)
      throw new PercolateError(
        'INVALID_ARGUMENT',
        `The metadata ${name} and the field ${field} differ; send one of them.`,
        { field: name },
      )
    request[field] = value
  }
  if (typeof request?.if_match === 'string') checkTags(request.if_match, 'if_match')
  if (request?.if_none_match !== undefined) parseIfNoneMatch(request.if_none_match, 'if_none_match')
  return fields.some(field => request?.[field] !== undefined)
}
