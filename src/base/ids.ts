import { createHash, randomBytes } from 'node:crypto'
import { PercolateError } from './errors.ts'
import { ID_BYTES_MAX, TENANT_ID_PATTERN } from './limits.ts'

declare const tenantBrand: unique symbol
/** A checked tenant id: `[a-z0-9][a-z0-9_-]{0,62}`. No dots, so that it is one NATS token; no slashes, so that it is one folder name. */
export type TenantId = string & { readonly [tenantBrand]: true }

const tenantPattern = new RegExp(TENANT_ID_PATTERN)

export const isTenantId = (value: string): value is TenantId => tenantPattern.test(value)

export function parseTenantId(value: unknown): TenantId {
  if (value === undefined || value === '') {
    throw new PercolateError(
      'TENANT_MISSING',
      'Send the header X-Tenant-ID with the id of your tenant, such as "X-Tenant-ID: acme".',
      {
        field: 'X-Tenant-ID',
      },
    )
  }
  if (typeof value !== 'string' || !tenantPattern.test(value)) {
    throw new PercolateError(
      'TENANT_INVALID',
      'X-Tenant-ID must be 1 to 63 characters of a-z, 0-9, "_" and "-", starting with a letter or digit, and be sent once.',
      { field: 'X-Tenant-ID' },
    )
  }
  return value as TenantId
}

const CONTROL = /[\u0000-\u001f\u007f-\u009f]/

/**
 * Checks a user-given id. Slashes, dots inside, and any script or emoji are fine, since keys escape them and no id becomes a path; refused
 * are what cannot round-trip (lone surrogates, control characters) and what HTTP clients rewrite in a URL (`.` and `..`).
 */
export function checkId(value: string, field: string, bytesMax: number = ID_BYTES_MAX): string {
  const fail = (why: string) => new PercolateError('INVALID_ARGUMENT', `${field} ${why}`, { field })
  if (value.length === 0) throw fail('must not be empty.')
  if (CONTROL.test(value)) throw fail('must not contain control characters (such as NUL or a line break).')
  if (!value.isWellFormed()) throw fail('must be well-formed Unicode (it has a lone surrogate).')
  if (value === '.' || value === '..') throw fail('must not be "." or "..", which HTTP clients rewrite.')
  if (Buffer.byteLength(value) > bytesMax) throw fail(`must be at most ${bytesMax} bytes of UTF-8.`)
  return value
}

/** Bits of a UUID that say which version it is, and by whom the rest is laid out (https://www.rfc-editor.org/rfc/rfc9562#section-5.7). */
const UUID_7 = 0x70
const UUID_VARIANT = 0x80

/** A UUID that begins with its time (version 7): later ones have greater texts; within a millisecond they are in no order. */
export function timedId(wallMs: number): string {
  const bytes = randomBytes(16)
  bytes.writeUIntBE(wallMs, 0, 6)
  bytes[6] = UUID_7 | (bytes[6]! & 0x0f)
  bytes[8] = UUID_VARIANT | (bytes[8]! & 0x3f)
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}

/** First 16 bytes of SHA-256 over length-prefixed parts, as 32 hex digits. */
export function derivedId(...parts: (string | Buffer)[]): string {
  const hash = createHash('sha256')
  const length = Buffer.alloc(4)
  for (const part of parts) {
    const bytes = typeof part === 'string' ? Buffer.from(part) : part
    length.writeUInt32BE(bytes.length)
    hash.update(length).update(bytes)
  }
  return hash.digest('hex').slice(0, 32)
}
