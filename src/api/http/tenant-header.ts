import { TENANT_ID_PATTERN } from '../../base/limits.ts'

/** The header that every request of a tenant has, for the OpenAPI document; the tenant hook is what checks it. */
export const tenantHeader = {
  type: 'object',
  required: ['X-Tenant-ID'],
  properties: {
    'X-Tenant-ID': { type: 'string', description: 'The tenant.', pattern: TENANT_ID_PATTERN, example: 'acme' },
  },
}
