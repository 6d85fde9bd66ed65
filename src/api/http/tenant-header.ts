import { TENANT_ID_PATTERN } from '../../base/limits.ts'
import type { Condition } from './conditions.ts'

const TENANT = { type: 'string', description: 'The tenant.', pattern: TENANT_ID_PATTERN, example: 'acme' }

/** The header that every request of a tenant has, for the OpenAPI document; the tenant hook is what checks it. */
export const tenantHeader = { type: 'object', required: ['X-Tenant-ID'], properties: { 'X-Tenant-ID': TENANT } }

const CONDITIONS = {
  'if-match': {
    'If-Match': {
      type: 'string',
      description:
        'An ETag that an answer gave, several, or `*`: 412 unless the record is so now. With one record only. Of an entity it asks nothing of the edges.',
    },
  },
  'if-none-match': {
    'If-None-Match': {
      type: 'string',
      description:
        'On a write `*`: 412 when the record exists. On a read an ETag: 304 when the answer would be the same, with the edges that an entity shows.',
    },
  },
}

/** The headers of a route that decides on conditions. */
export const conditionalHeaders = (conditions: readonly Condition[]) => ({
  ...tenantHeader,
  properties: Object.assign({ 'X-Tenant-ID': TENANT }, ...conditions.map(name => CONDITIONS[name])),
})
