import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { S3Error } from './errors.ts'

/** AWS Signature Version 4 for S3, checked: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html */

export interface Credentials {
  readonly accessKey: string
  readonly secretKey: string
  readonly region: string
}

/** What the body's decoder needs of a verified request. */
export interface Verified {
  /** The value of `x-amz-content-sha256`. */
  readonly payloadHash: string
  /** For signed chunks: the key, and the signature that the first chunk continues. */
  readonly signingKey: Buffer
  readonly seedSignature: string
  readonly scope: string
  readonly timestamp: string
}

/** A request's target as it came over the wire: `URL` would resolve dot segments, which a key may contain. */
export interface RawUrl {
  readonly rawPath: string
  readonly searchParams: URLSearchParams
}

const SKEW_MS_MAX = 15 * 60_000
const PRESIGNED_S_MAX = 7 * 86_400

export function verify(request: IncomingMessage, url: RawUrl, credentials: Credentials, nowMs: number): Verified {
  return url.searchParams.has('X-Amz-Signature')
    ? verifyPresigned(request, url, credentials, nowMs)
    : verifyHeader(request, url, credentials, nowMs)
}

function verifyHeader(request: IncomingMessage, url: RawUrl, credentials: Credentials, nowMs: number): Verified {
  const authorization = request.headers.authorization
  if (!authorization) throw new S3Error('AccessDenied', 'The request is not signed.')
  const match = /^AWS4-HMAC-SHA256 Credential=([^,\s]+),\s*SignedHeaders=([^,\s]+),\s*Signature=([0-9a-f]{64})$/.exec(
    authorization,
  )
  if (!match) throw new S3Error('AuthorizationHeaderMalformed', 'The Authorization header is not AWS4-HMAC-SHA256.')
  const timestamp = header(request, 'x-amz-date') ?? ''
  const atMs = parseTimestamp(timestamp)
  if (Math.abs(atMs - nowMs) > SKEW_MS_MAX)
    throw new S3Error('RequestTimeTooSkewed', "The request's time differs too much from the server's.")
  const payloadHash = header(request, 'x-amz-content-sha256')
  if (payloadHash === undefined) throw new S3Error('InvalidRequest', 'The header x-amz-content-sha256 is missing.')
  const signedHeaders = match[2]!.split(';')
  if (!signedHeaders.includes('host')) throw new S3Error('AccessDenied', 'The host header is not signed.')
  return finish({
    request,
    url,
    credentials,
    credential: match[1]!,
    signedHeaders,
    signature: match[3]!,
    timestamp,
    payloadHash,
    query: canonicalQuery(url),
  })
}

function verifyPresigned(request: IncomingMessage, url: RawUrl, credentials: Credentials, nowMs: number): Verified {
  const parameter = (name: string) => url.searchParams.get(name) ?? ''
  if (parameter('X-Amz-Algorithm') !== 'AWS4-HMAC-SHA256')
    throw new S3Error('AuthorizationQueryParametersError', 'X-Amz-Algorithm must be AWS4-HMAC-SHA256.')
  const timestamp = parameter('X-Amz-Date')
  const expiresS = Number(parameter('X-Amz-Expires'))
  if (!Number.isInteger(expiresS) || expiresS < 1 || expiresS > PRESIGNED_S_MAX)
    throw new S3Error('AuthorizationQueryParametersError', 'X-Amz-Expires must be 1 to 604800 seconds.')
  const atMs = parseTimestamp(timestamp)
  if (nowMs > atMs + expiresS * 1000) throw new S3Error('AccessDenied', 'Request has expired.')
  if (atMs > nowMs + SKEW_MS_MAX) throw new S3Error('RequestTimeTooSkewed', 'The request is signed in the future.')
  return finish({
    request,
    url,
    credentials,
    credential: parameter('X-Amz-Credential'),
    signedHeaders: parameter('X-Amz-SignedHeaders').split(';'),
    signature: parameter('X-Amz-Signature'),
    timestamp,
    payloadHash: header(request, 'x-amz-content-sha256') ?? 'UNSIGNED-PAYLOAD',
    query: canonicalQuery(url, 'X-Amz-Signature'),
  })
}

interface Claim {
  readonly request: IncomingMessage
  readonly url: RawUrl
  readonly credentials: Credentials
  readonly credential: string
  readonly signedHeaders: readonly string[]
  readonly signature: string
  readonly timestamp: string
  readonly payloadHash: string
  readonly query: string
}

function finish(claim: Claim): Verified {
  const parts = claim.credential.split('/')
  const [date, region, service, terminator] = parts.slice(-4)
  const accessKey = parts.slice(0, -4).join('/')
  if (accessKey !== claim.credentials.accessKey)
    throw new S3Error('InvalidAccessKeyId', 'The access key id is not known here.')
  if (
    date !== claim.timestamp.slice(0, 8) ||
    service !== 's3' ||
    terminator !== 'aws4_request' ||
    region !== claim.credentials.region
  ) {
    throw new S3Error(
      'AuthorizationHeaderMalformed',
      `The credential scope must be <date>/${claim.credentials.region}/s3/aws4_request.`,
    )
  }
  const scope = `${date}/${region}/${service}/${terminator}`
  const canonical = [
    claim.request.method,
    // The path as it came over the wire: S3 signs it as it is, encoded once.
    claim.url.rawPath,
    claim.query,
    ...claim.signedHeaders.map(name => `${name}:${(header(claim.request, name) ?? '').trim().replace(/ +/g, ' ')}`),
    '',
    claim.signedHeaders.join(';'),
    claim.payloadHash,
  ].join('\n')
  const signingKey = ['aws4_request', 's3', region!, date!].reduceRight<Buffer>(
    (key, part) => hmac(key, part),
    Buffer.from(`AWS4${claim.credentials.secretKey}`),
  )
  const expected = hmac(
    signingKey,
    ['AWS4-HMAC-SHA256', claim.timestamp, scope, sha256(canonical)].join('\n'),
  ).toString('hex')
  if (!equal(expected, claim.signature)) throw new S3Error('SignatureDoesNotMatch', 'The signature does not match.')
  return {
    payloadHash: claim.payloadHash,
    signingKey,
    seedSignature: claim.signature,
    scope,
    timestamp: claim.timestamp,
  }
}

/** Signature of one chunk of a signed stream, which continues the one before. */
export function chunkSignature(verified: Verified, previous: string, chunkHash: string): string {
  const text = ['AWS4-HMAC-SHA256-PAYLOAD', verified.timestamp, verified.scope, previous, sha256(''), chunkHash].join(
    '\n',
  )
  return hmac(verified.signingKey, text).toString('hex')
}

export function equal(a: string, b: string): boolean {
  const [x, y] = [Buffer.from(a), Buffer.from(b)]
  return x.length === y.length && timingSafeEqual(x, y)
}

const hmac = (key: Buffer, text: string): Buffer => createHmac('sha256', key).update(text).digest()
const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')

function header(request: IncomingMessage, name: string): string | undefined {
  const value = request.headers[name]
  return Array.isArray(value) ? value.join(',') : value
}

function parseTimestamp(text: string): number {
  const match = /^(\d{4})(\d{2})(\d{2})T(\d{2})(\d{2})(\d{2})Z$/.exec(text)
  if (!match) throw new S3Error('AccessDenied', 'The request time is missing or malformed.')
  const [, year, month, day, hour, minute, second] = match.map(Number)
  return Date.UTC(year!, month! - 1, day!, hour!, minute!, second!)
}

function canonicalQuery(url: RawUrl, without?: string): string {
  const encode = (text: string) =>
    encodeURIComponent(text).replace(/[!'()*]/g, character => `%${character.charCodeAt(0).toString(16).toUpperCase()}`)
  return [...url.searchParams]
    .filter(([name]) => name !== without)
    .map(([name, value]) => `${encode(name)}=${encode(value)}`)
    .sort()
    .join('&')
}
